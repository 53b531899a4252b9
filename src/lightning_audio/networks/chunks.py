"""Networks that hear a stream chunk by chunk: within a chunk they look ahead, beyond its end they do not.

Source: Zhang et al. 2020, Unified Streaming and Non-streaming Two-pass End-to-end Model (arXiv:2012.05481),
for chunks whose frames see each other and those before.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_audio.errors import UserError
from lightning_audio.networks.base import Network
from lightning_audio.networks.layers import Subsampling


class Heard(NamedTuple):
    """Where a stream stands: frames `(B, ..., n)` that a chunk still takes, the first `back` of which were
    heard before and are what its convolutions look back on; and what the layers keep of earlier chunks."""

    frames: Tensor
    back: int
    kept: Any


class ChunkedNetwork(Network):
    """What runs on a stream if it is built with `chunk`, the rows of logits that become known at once.

    Behind `super().__init__` a subclass sets `subsampling`, and says `rows_of_chunk`.

    Args:
        chunk: rows; None: the network sees the whole clip.
        strides: of the subsampling.
        stack: rows of the subsampling that become one.

    Raises:
        UserError: a convolution would look beyond the end of a chunk.
    """

    subsampling: Subsampling

    def __init__(self, chunk: int | None, strides: Sequence[int], stack: int = 1) -> None:
        super().__init__()
        if chunk and min(strides, default=2) < 2:
            raise UserError(
                f"network.strides={[*strides]} has a convolution that looks beyond the end of a chunk: set "
                "them to 2 or more, or network.chunk=null."
            )
        self.chunk, self.frames_a_row = chunk, prod(strides) * stack
        # What convolutions of three frames say of so many rows is not yet what it would be of the whole.
        self.rows_back = len(strides)

    @abstractmethod
    def rows_of_chunk(self, x: Tensor, back: int, kept: Any) -> tuple[Tensor, Any]:
        """Frames `(B, ..., n)` of a chunk, behind so many rows that were said before -> its logits `(B, k,
        C)`, and what the next chunk has to know; `kept` is None at the start."""

    def step(self, x: Tensor, state: Heard | None) -> tuple[Tensor, Heard]:
        """As in `Network`; logits come a chunk at a time."""
        if not self.chunk:
            raise NotImplementedError("It runs on a stream only with network.chunk.")
        frames, back, kept = state or Heard(x[..., :0], 0, None)
        frames, size = torch.cat([frames, x], -1), self.chunk * self.frames_a_row
        logits = []
        while frames.shape[-1] >= back + size:
            said, kept = self.rows_of_chunk(frames[..., : back + size], back // self.frames_a_row, kept)
            logits.append(said)
            end, back = back + size, min(self.rows_back * self.frames_a_row, back + size)
            frames = frames[..., end - back :]
        outputs = self.head.out_features  # type: ignore[union-attr]
        none = x.new_zeros(len(x), 0, outputs)  # type: ignore[arg-type]
        return torch.cat([none, *logits], 1), Heard(frames.clone(), back, kept)

    def finish(self, state: Heard) -> Tensor | None:
        """As in `Network`: the chunk that was begun."""
        frames, back, kept = state
        if frames.shape[-1] == back:
            return super().finish(state)
        logits, _ = self.rows_of_chunk(frames, back // self.frames_a_row, kept)
        return logits
