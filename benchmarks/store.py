"""Building a WaveStore from files, against decoding and resampling them alone.

ESC-10 as Ogg, resampled to half its rate, and Speech Commands as WAV, which is only read; noise in files of
the same sizes where the data root lacks them. The files are in the page cache; the store goes to the disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from timing import arguments, interleaved, report

from lightning_audio import build, config
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import clips_of
from lightning_audio.data.decode import decode, decode_clips
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError

QUICK_CLIPS = 48
# Overrides, then rate and seconds, number and suffix of the files that stand in.
CORPORA = {
    "ESC-10, Ogg": (["data=esc50", "data.subset=esc10", "data.sample_rate=22050"], 44100, 5, 400, ".ogg"),
    "Speech Commands, WAV": (["data=speech_commands"], 16000, 1, 2697, ".wav"),
}


class Busy:
    """How busy all cores are while contenders run: CPU time per second and core, for each round."""

    def __init__(self) -> None:
        self.shares: dict[str, list[float]] = {}

    def watch(self, name: str, work: Callable[[], object]) -> Callable[[], None]:
        def watched() -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            self.shares.setdefault(name, []).append(cpu / wall / (os.cpu_count() or 1))

        return watched

    def measured(self) -> dict[str, list[float]]:
        """Without the round that warmed up."""
        return {name: shares[1:] for name, shares in self.shares.items()}


def noise_files(folder: Path, rate: int, seconds: int, count: int, suffix: str) -> list[Clip]:
    """Clips of noise in files of their own."""
    rng, clips = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number}{suffix}"
        soundfile.write(path, 0.1 * rng.standard_normal(rate * seconds), rate)
        clips.append(Clip(str(number), str(path)))
    return clips


def consume(clips: Sequence[Clip], rate: int) -> None:
    for _ in decode_clips(clips, rate):
        pass


def one_by_one(clips: Sequence[Clip], rate: int) -> None:
    for clip in clips:
        decode(clip.path, rate, clip.start, clip.duration)


def compare(title: str, clips: Sequence[Clip], rate: int, folder: Path, repeats: int) -> None:
    busy, cache = Busy(), folder / "cache"
    works: dict[str, Callable[[], object]] = {
        "decoded alone, all cores": lambda: consume(clips, rate),
        "decoded alone, one by one": lambda: one_by_one(clips, rate),
        "the store, built": lambda: WaveStore.open(clips, rate, cache),
    }
    contenders = {name: busy.watch(name, work) for name, work in works.items()}
    seconds = interleaved(contenders, repeats, lambda: shutil.rmtree(cache, ignore_errors=True))
    assert WaveStore.open(clips, rate, cache).ids == tuple(sorted(clip.id for clip in clips))
    target, columns = {"the store, built": "<= 1.3"}, {"share of all cores": busy.measured()}
    report(f"Building the store, {title} at {rate} Hz", seconds, len(clips), target, columns)


def main() -> None:
    options = arguments(__doc__ or "", repeats=9)
    with tempfile.TemporaryDirectory() as temporary:
        for name, (overrides, *sizes, suffix) in CORPORA.items():
            cfg = config.compose_config([*overrides, f"paths.cache={temporary}/corpora"])
            folder, title = Path(temporary) / name, name
            try:
                corpus = build.corpus(cfg)
                corpus.prepare()
                clips: Sequence[Clip] = clips_of(corpus)
            except UserError:  # it is not there
                source, seconds, count = sizes
                clips = noise_files(folder, source, seconds, QUICK_CLIPS if options.quick else count, suffix)
                title = f"noise of the sizes of {name}"
            if options.quick:
                clips = clips[:: -(-len(clips) // QUICK_CLIPS)]
            compare(title, clips, cfg.data.sample_rate, folder, options.repeats)


if __name__ == "__main__":
    main()
