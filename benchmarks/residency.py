"""An epoch of one-second clips through the Trainer: the store on the device, against loaders with workers.

85,000 clips where there is CUDA, fewer elsewhere; BC-ResNet tau 1 and M5 with their front ends, no
augmentation. Stores are synthesised. Where there is CUDA, it also says how much of the time kernels ran and
how often a step waited for the device.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from scale import EpochClock, make_store
from timing import arguments, report

from lightning_audio import build, config
from lightning_audio.data.batch import Batch, pad_waveforms
from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.sampler import BatchLoader
from lightning_audio.data.targets import ClassIndex
from lightning_audio.reports.tables import markdown_table
from lightning_audio.training.run import quiet

SAMPLE_RATE = 16000
LABELS = tuple(f"word {number:02d}" for number in range(12))
BATCH_SIZE = 100
NETWORKS = {
    "BC-ResNet tau 1": ("experiment=speech_commands_bc_resnet", "network.tau=1"),
    "M5": ("experiment=speech_commands_m5",),
}
PROFILED_BATCHES = 100
CUDA = torch.cuda.is_available()


class Words(Corpus):
    """Clips of one second, a WAV file each."""

    labels = LABELS

    def __init__(self, root: str, count: int) -> None:
        super().__init__(root, f"{root}/cache", SAMPLE_RATE)
        self.count = count

    def prepare(self) -> None:
        """Noise in files, and as a store beside them."""
        rng = np.random.default_rng(0)
        for clip in self.clips():
            Path(clip.path).parent.mkdir(exist_ok=True)
            soundfile.write(clip.path, rng.integers(-9999, 9999, SAMPLE_RATE, dtype=np.int16), SAMPLE_RATE)
        make_store(self.clips(), SAMPLE_RATE, self.cache, SAMPLE_RATE, sparse=False)

    def clips(self) -> list[Clip]:
        """All of them to train on but for one batch."""
        return [
            Clip(
                f"word-{number:06d}",
                str(self.root / f"{number % 100:02d}" / f"{number}.wav"),
                labels=(LABELS[number % len(LABELS)],),
                split="test" if number < BATCH_SIZE else "train",
            )
            for number in range(self.count + BATCH_SIZE)
        ]


class Opened(Words):
    """The same, made already."""

    def prepare(self) -> None:
        """Nothing is missing."""


class FromFiles(AudioDataModule):
    """What one writes without a store: workers decode the files of a batch, in every epoch anew."""

    def loader(
        self, split: str, shuffle: bool = False, batch_size: int | None = None, *options: bool, **named: bool
    ) -> BatchLoader:
        loader = super().loader(split, shuffle, batch_size, *options, **named)
        clips = loader.dataset

        def decoded(positions: Sequence[int]) -> Batch:
            paths = [clips.clips[position].path for position in positions]  # type: ignore[attr-defined]
            samples = [torch.from_numpy(soundfile.read(path, dtype="int16")[0]) for path in paths]
            waveforms, lengths = pad_waveforms(samples)
            ids = tuple(clips.clips[position].id for position in positions)  # type: ignore[attr-defined]
            return Batch(waveforms, lengths, clips.encoded[positions].long(), ids)  # type: ignore[attr-defined]

        return BatchLoader(
            _Decoding(decoded, len(self.splits[split])),
            loader.sampler,
            threads=self.workers,
            pin_memory=CUDA,
        )


class _Decoding(torch.utils.data.Dataset):
    def __init__(self, decoded: Callable[[Sequence[int]], Batch], length: int) -> None:
        self.decoded, self.length = decoded, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, positions: list[int]) -> Batch:
        return self.decoded(positions)


class Work:
    """One way to feed one network: `epoch` trains two, and gives the seconds of the second."""

    def __init__(
        self, overrides: Sequence[str], corpus: Corpus, kind: type[AudioDataModule], **loader: Any
    ) -> None:
        self.cfg = config.compose_config([*overrides, "augment=none", "normalize=none"])
        self.data = kind(corpus, ClassIndex, BATCH_SIZE, **loader)
        self.data.prepare_data()
        self.data.setup()

    def fit(self, callbacks: Sequence[pl.Callback] = (), **options: Any) -> None:
        trainer = pl.Trainer(
            accelerator="gpu" if CUDA else "cpu",
            devices=1,
            callbacks=[*callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
        trainer.fit(build.task(self.cfg, self.data), self.data)

    def epoch(self) -> float:
        clock = SynchronisedClock()
        self.fit([clock], max_epochs=2)
        return clock.seconds[-1]


class SynchronisedClock(EpochClock):
    """Waits for the device before it looks."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        _synchronize()
        super().on_train_epoch_start(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        _synchronize()
        super().on_train_epoch_end(trainer)


def _synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


class KernelShare(SynchronisedClock):
    """Profiles the second epoch: `share` of its time in which kernels ran, `waits` for the device a step."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        if trainer.current_epoch == 1:
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profile.start()
            self.caught = warnings.catch_warnings(record=True)
            self.warned = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            torch.cuda.set_sync_debug_mode("default")
            self.waits = sum("synchroniz" in str(one.message) for one in self.warned or ()) / PROFILED_BATCHES
            self.caught.__exit__(None, None, None)
        super().on_train_epoch_end(trainer)
        if trainer.current_epoch == 1:
            self.profile.stop()
            kernels = sum(event.self_device_time_total for event in self.profile.key_averages()) / 1e6
            self.share = kernels / self.seconds[-1]


def report_kernels(works: dict[str, Work]) -> None:
    rows = []
    for name, work in works.items():
        seen = KernelShare()
        work.fit([seen], max_epochs=2, limit_train_batches=PROFILED_BATCHES)
        rows.append(
            {
                "": name,
                "time in kernels": f"{seen.share:.0%}",
                "waits for the device a step": f"{seen.waits:.1f}",
            }
        )
    print(f"\n{torch.cuda.get_device_name()}, {PROFILED_BATCHES} batches\n\n{markdown_table(rows)}")


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    quiet()
    clips = (8500 if CUDA else 400) if options.quick else (85_000 if CUDA else 2000)
    workers = min(16, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as root:
        Words(root, clips).prepare()
        corpus = Opened(root, clips)
        for network, overrides in NETWORKS.items():
            works = {
                "store on the device": Work(overrides, corpus, AudioDataModule, store="device"),
                f"store on disk, {workers} workers": Work(
                    overrides, corpus, AudioDataModule, workers=workers
                ),
                f"files, {workers} workers": Work(overrides, corpus, FromFiles, workers=workers),
            }
            seconds: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(options.repeats):  # the first of the two epochs of each warms up
                for name, work in works.items():
                    seconds[name].append(work.epoch())
            device = torch.cuda.get_device_name() if CUDA else "the CPU"
            report(f"{network} on {device}, an epoch", seconds, clips)
            rows = [
                {"": name, "clips per second": f"{clips / min(own):,.0f} to {clips / max(own):,.0f}"}
                for name, own in seconds.items()
            ]
            print(f"\n{markdown_table(rows)}")
            if CUDA:
                report_kernels(works)
            print()


if __name__ == "__main__":
    main()
