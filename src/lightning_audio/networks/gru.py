"""A small recurrent network: gated recurrent units (Cho et al. 2014, arXiv:1406.1078) behind a convolution.

One that answers for every frame runs on a stream, as in Arik et al. 2017, Convolutional Recurrent Neural
Networks for Small-Footprint Keyword Spotting (arXiv:1703.05390), but without a look ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mean_over_time
from lightning_audio.networks.base import Network, strided
from lightning_audio.networks.layers import Dropout


class State(NamedTuple):
    """Where a stream stands: what a `GRU` needs of all that it has seen."""

    context: Tensor  # (B, C, kernel - 1): the last frames, which the next convolution looks back on
    seen: int  # frames in all
    hidden: Tensor | None  # (layers, B, hidden); None before the first frame that came out


class GRU(Network):
    """A convolution over time, recurrent layers, and a linear layer on each frame or on the mean of a clip.

    No frame sees a later one, unless it is bidirectional.

    Raises:
        UserError: `per_frame` is asked for with `bidirectional`.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        stem: int = 64,
        kernel: int = 5,
        stride: int = 2,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.1,
        bidirectional: bool = False,
        per_frame: bool = False,
    ) -> None:
        super().__init__()
        if per_frame and bidirectional:
            raise UserError(
                "network.per_frame is for streams, which can't be read from their end: set "
                "network.bidirectional=false."
            )
        channels = in_shape[0] * in_shape[1]
        self.kernel, self.stride = (kernel, stride) if stem else (1, 1)
        self.bidirectional, self.per_frame = bidirectional, per_frame
        self.stem = nn.Conv1d(channels, stem, kernel, stride, bias=False) if stem else None
        self.stem_norm = nn.LayerNorm(stem) if stem else None
        between = dropout if layers > 1 else 0.0
        self.gru = nn.GRU(stem or channels, hidden, layers, True, True, between, bidirectional)
        width = hidden * (2 if bidirectional else 1)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, or `(B, T', num_outputs)`."""
        x = self._embed(functional.pad(x.flatten(1, -2), (self.kernel - 1, 0)))
        lengths = strided(lengths, self.stride)
        if self.bidirectional:  # what reads from the end has to start at the end of each clip
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            y, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        else:
            y, _ = self.gru(x)
        y = self.norm(y)
        if self.per_frame:
            return self.head(self.dropout(y)), lengths
        mean = mean_over_time(y.mT, lengths)
        return self.head(self.dropout(mean)), torch.ones_like(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """As in `Network`, where it is built with `per_frame`."""
        return strided(lengths, self.stride) if self.per_frame else super().output_lengths(lengths)

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """As in `Network`, where it is built with `per_frame`."""
        if not self.per_frame:
            raise NotImplementedError("A GRU runs on a stream only with network.per_frame=true.")
        x = x.flatten(1, -2)
        back = self.kernel - 1
        context, seen, hidden = state or State(x.new_zeros(len(x), x.shape[1], back), 0, None)
        known = torch.cat([context, x], -1)
        after = known[..., known.shape[-1] - back :], seen + x.shape[-1]
        due = known[..., -seen % self.stride :]  # from what the next frame that comes out looks back on
        if due.shape[-1] < self.kernel:
            return x.new_zeros(len(x), 0, self.head.out_features), State(*after, hidden)
        y, hidden = self.gru(self._embed(due), hidden)
        return self.head(self.dropout(self.norm(y))), State(*after, hidden)

    def _embed(self, x: Tensor) -> Tensor:
        """`(B, C, kernel - 1 + T)` -> `(B, T', C')`."""
        if self.stem is None or self.stem_norm is None:
            return x.transpose(1, 2)
        return functional.relu(self.stem_norm(self.stem(x).transpose(1, 2)))
