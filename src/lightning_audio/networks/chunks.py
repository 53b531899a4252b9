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
    """Where a stream stands: frames `(B, ..., n)` that were heard before and are what convolutions look back
    on; what the layers keep of earlier chunks; and frames of the chunk that has begun."""

    back: Tensor
    kept: Any
    waiting: Tensor


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
    def kept_at_start(self, x: Tensor) -> Any:
        """What there is of earlier chunks before the first of clips like `x`, `(B, ...)`."""

    @abstractmethod
    def rows_of_chunk(self, x: Tensor, back: int, kept: Any) -> tuple[Tensor, Any]:
        """Frames `(B, ..., n)` of a chunk, behind so many rows that were said before -> its logits `(B, k,
        C)`, and what the next chunk has to know."""

    def start(self, x: Tensor) -> Heard:
        """Before the first frame of clips like `x`, `(B, ..., n)`."""
        return Heard(x[..., :0], self.kept_at_start(x), x[..., :0])

    def whole_chunk(self, x: Tensor, back: Tensor, kept: Any) -> tuple[Tensor, Tensor, Any]:
        """The frames of a chunk, of which only the last may be a short one -> logits, and `back` and `kept`
        for the next."""
        frames = torch.cat([back, x], -1)
        logits, kept = self.rows_of_chunk(frames, back.shape[-1] // self.frames_a_row, kept)
        size = self.rows_back * self.frames_a_row
        return logits, frames[..., -size:] if size else x[..., :0], kept

    def step(self, x: Tensor, state: Heard | None) -> tuple[Tensor, Heard]:
        """As in `Network`; logits come a chunk at a time."""
        if not self.chunk:
            raise NotImplementedError("It runs on a stream only with network.chunk.")
        back, kept, waiting = state or self.start(x)
        waiting, size = torch.cat([waiting, x], -1), self.chunk * self.frames_a_row
        logits = [x.new_zeros(len(x), 0, self.head.out_features)]  # type: ignore[union-attr, arg-type]
        while waiting.shape[-1] >= size:
            said, back, kept = self.whole_chunk(waiting[..., :size], back, kept)
            logits.append(said)
            waiting = waiting[..., size:]
        return torch.cat(logits, 1), Heard(back.clone(), kept, waiting.clone())

    def finish(self, state: Heard) -> Tensor | None:
        """As in `Network`: the chunk that was begun."""
        back, kept, waiting = state
        return self.whole_chunk(waiting, back, kept)[0] if waiting.shape[-1] else super().finish(state)
