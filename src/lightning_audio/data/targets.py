"""What a network is to answer for a clip, as numbers. A task names the encoding that its loss needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_audio.data.clip import Clip
from lightning_audio.errors import UserError


class ClassIndex:
    """One label of N as its index: `encode` gives `(B,)` int64."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.index = {label: number for number, label in enumerate(self.labels)}

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Raises UserError for a clip without exactly one known label."""
        for clip in clips:
            if len(clip.labels) != 1 or clip.labels[0] not in self.index:
                raise UserError(
                    f"Clip {clip.id!r} has the labels {list(clip.labels)}, but this task takes exactly one "
                    f"of the {len(self.labels)} labels of the corpus: mend its row."
                )
        return torch.tensor([self.index[clip.labels[0]] for clip in clips], dtype=torch.int64)
