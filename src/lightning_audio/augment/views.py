"""Augmented views of clips that are computed once and kept: as many as an option says, not one an epoch."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_audio.augment import Augment
from lightning_audio.data.batch import pad_waveforms


@dataclass(frozen=True)
class AugmentedView:
    """Waveforms as augmentation changes them, each by what its own clip draws: a pure function of
    (seed, number, row).

    Args:
        augment: of which the waveform transforms count.
        seed: of the run.
        number: which view it is.
        learned: `(N,)` of all rows: whether training may draw it; of the others, of which no view is read,
            one sample is left, so that it costs next to nothing.
    """

    augment: Augment
    seed: int
    number: int
    learned: Tensor

    def __call__(self, waveforms: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)`, lengths and rows `(B,)` on the CPU -> waveforms and lengths."""
        training, started = self.augment.training, self.augment.started
        self.augment.train().started = True
        changed = []
        with torch.random.fork_rng(devices=[]):
            for waveform, length, row in zip(waveforms, lengths.tolist(), rows.tolist(), strict=True):
                if not self.learned[row]:
                    changed.append(waveform[:1])
                    continue
                torch.manual_seed(zlib.crc32(f"{self.seed} view {self.number} of {row}".encode()))
                one = self.augment.changed(waveform[None, :length], torch.tensor([length]))
                changed.append(one[0][0, : int(one[1])])
        self.augment.train(training).started = started
        return pad_waveforms(changed)


def views_of(
    augment: Augment, told: Any, seed: int, count: int, learned: Tensor
) -> list[tuple[AugmentedView, Any]]:
    """`count` views, each with what it depends on, as JSON may hold it; `told` are options of `augment`.

    Recordings that it draws from are known by path, size and time of change, as clips are.
    """
    rows = hashlib.sha256(learned.numpy().tobytes()).hexdigest()
    heard = [path for module in augment.modules() for path in getattr(module, "recordings", ())]
    files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in heard]
    numbers = range(1, count + 1)
    return [(AugmentedView(augment, seed, n, learned), [told, seed, n, rows, *files]) for n in numbers]
