"""Augmented views of clips that are computed once and kept: as many as an option says, not one an epoch."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

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
    """

    augment: Augment
    seed: int
    number: int

    def __call__(self, waveforms: Tensor, lengths: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)`, lengths and rows `(B,)` on the CPU -> waveforms and lengths."""
        training, started = self.augment.training, self.augment.started
        self.augment.train().started = True
        changed = []
        with torch.random.fork_rng(devices=[]):
            for waveform, length, row in zip(waveforms, lengths.tolist(), rows.tolist(), strict=True):
                torch.manual_seed(zlib.crc32(f"{self.seed} view {self.number} of {row}".encode()))
                one = self.augment.changed(waveform[None, :length], torch.tensor([length]))
                changed.append(one[0][0, : int(one[1])])
        self.augment.train(training).started = started
        return pad_waveforms(changed)
