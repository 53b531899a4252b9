"""What a network is to answer for a clip, as numbers. A task names the encoding that its loss needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_audio.data.clip import Clip
from lightning_audio.errors import UserError


class Targets(ABC):
    """An encoding of what is known of clips, for corpora with these labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.index = {label: number for number, label in enumerate(self.labels)}

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    @abstractmethod
    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Targets of the clips `(B, ...)`; raises UserError for a clip that they do not fit."""


class ClassIndex(Targets):
    """One label of N as its index: `encode` gives `(B,)` int64."""

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Raises UserError for a clip without exactly one known label."""
        for clip in clips:
            if len(clip.labels) != 1 or clip.labels[0] not in self.index:
                raise UserError(
                    f"Clip {clip.id!r} has the labels {list(clip.labels)}, but this task takes exactly one "
                    f"of the {len(self.labels)} labels of the corpus: mend its row."
                )
        return torch.tensor([self.index[clip.labels[0]] for clip in clips], dtype=torch.int64)


class MultiHot(Targets):
    """Any number of labels, also none: `encode` gives `(B, C)` float32, 1 where a clip has the label."""

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Raises UserError for a clip with an unknown label."""
        rows = torch.zeros(len(clips), self.num_outputs)
        for row, clip in zip(rows, clips, strict=True):
            if unknown := set(clip.labels) - self.index.keys():
                raise UserError(
                    f"Clip {clip.id!r} has the label {min(unknown)!r}, which is none of the "
                    f"{len(self.labels)} labels of the corpus: mend its row."
                )
            row[[self.index[label] for label in clip.labels]] = 1.0
        return rows
