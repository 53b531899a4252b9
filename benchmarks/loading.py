"""Batches of 32 clips: gathered from a WaveStore, against files that are decoded again in every epoch.

ESC-10 where the data root has it, otherwise the demo corpus. The files are in the page cache, as they are
from the second epoch on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import soundfile
import soxr
import torch
from timing import arguments, interleaved, report
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_audio import build, config
from lightning_audio.data.batch import pad_waveforms, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.module import AudioDataModule
from lightning_audio.data.sampling import BatchLoader, BatchSampler
from lightning_audio.errors import UserError

BATCH_SIZE = 32
QUICK_CLIPS = 96


class Files(Dataset):
    """What one writes first: an item is read from its file when it is asked for."""

    def __init__(self, clips: Sequence[Clip], sample_rate: int) -> None:
        self.clips, self.sample_rate = clips, sample_rate

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, position: int) -> Tensor:
        samples, source_rate = soundfile.read(self.clips[position].path, dtype="float32", always_2d=True)
        mono = samples.mean(axis=1)
        if source_rate != self.sample_rate:
            mono = soxr.resample(mono, source_rate, self.sample_rate)
        return torch.from_numpy(np.ascontiguousarray(mono))


def corpus(store: str) -> AudioDataModule:
    """ESC-10 or the demo corpus, ready to load from `disk` or `memory`."""
    try:
        return opened(["data=esc50", "data.subset=esc10", "data.sample_rate=22050"], store)
    except UserError:  # it is not there
        return opened(["data=demo"], store)


def opened(overrides: Sequence[str], store: str) -> AudioDataModule:
    data = build.datamodule(config.compose_config([*overrides, f"loader.store={store}"]))
    data.prepare_data()
    data.setup()
    return data


def from_store(data: AudioDataModule, clips: int) -> Callable[[], int]:
    loader = BatchLoader(data.splits["train"], BatchSampler(clips, BATCH_SIZE, shuffle=True))
    return lambda: sum(len(samples_to_float(batch.waveforms)) for batch in loader)


def from_files(data: AudioDataModule, clips: int, workers: int) -> Callable[[], int]:
    loader = DataLoader(
        Files(data.splits["train"].clips[:clips], data.sample_rate),
        BATCH_SIZE,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=pad_waveforms,
    )
    return lambda: sum(len(waveforms) for waveforms, _ in loader)


def main() -> None:
    options = arguments(__doc__ or "", repeats=7)
    data, in_memory = corpus("disk"), corpus("memory")
    clips = min(len(data.splits["train"]), QUICK_CLIPS if options.quick else 320)
    contenders = {
        "WaveStore on disk": from_store(data, clips),
        "WaveStore in memory": from_store(in_memory, clips),
        "files, no worker": from_files(data, clips, workers=0),
        "files, 2 workers": from_files(data, clips, workers=2),
    }
    assert {work() for work in contenders.values()} == {clips}
    title = f"Batches of {BATCH_SIZE}, {type(data.corpus).__name__} at {data.sample_rate} Hz"
    report(title, interleaved(contenders, options.repeats), clips)


if __name__ == "__main__":
    main()
