"""Layers of several networks: strided convolutions in front, and an LSTM that never reads padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.base import as_maps, strided

State = tuple[Tensor, Tensor] | None  # of one way of an LSTM; None at the beginning


class Subsampling(nn.Module):
    """3x3 convolutions that halve the features and divide the frames, then one vector for each frame.

    Args:
        in_shape: `(channels, features per frame)`.
        channels: of the convolutions.
        strides: of each in time; none: the frames stay as they are.
    """

    def __init__(self, in_shape: tuple[int, int], channels: int, strides: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.strides = tuple(strides)
        inputs = (in_shape[0], *[channels] * len(self.strides))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels, 3, (2, stride), padding=1)
            for width, stride in zip(inputs, self.strides, strict=False)
        )
        self.width = inputs[-1] * strided(in_shape[1], *[2] * len(self.strides))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames in, frames out, both `(B,)`."""
        return strided(lengths, *self.strides)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> `(B, T', width)` and lengths; padding does not leak into clips."""
        x = as_maps(x)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            lengths = strided(lengths, stride)
            x = mask_frames(functional.relu(convolution(x)), lengths)
        return x.flatten(1, 2).transpose(1, 2), lengths


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As PyTorch's. On a CPU by uniform numbers, since it is slow to draw from a Bernoulli distribution: 1.6
    million values take 6 ms in place of 25 on two cores of a Zen 4, a twelfth of a step of a BiLSTM."""
    if not (training and 0 < p < 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, p, training)
    kept = torch.rand_like(x, dtype=torch.float32).lt_(1 - p).mul_(1 / (1 - p))
    return x * kept.to(x.dtype)


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


def lengths_to_read(lengths: Tensor) -> Tensor:
    """Lengths for `PaddedLSTM`: on the CPU for cuDNN, fetched once for all layers, since that waits."""
    return lengths.cpu() if lengths.is_cuda else lengths


class PaddedLSTM(nn.LSTM):
    """A layer that reads both ways, the way back from the end of each clip, so that padding is never read.

    cuDNN does that with packed sequences. On a CPU these fall back to a small product for every frame, so
    there each clip is reversed within its own length and both ways run over the padded batch in oneDNN's
    fused kernels: a step of training takes 1.3 to 2.4 times less, the values are the same.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """`(B, T, width)`, `lengths_to_read` `(B,)` -> `(B, T, 2 * hidden)`; no meaning behind a clip."""
        return self.packed(x, lengths) if x.is_cuda else self.reversed(x, lengths)

    def packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        """By cuDNN, with lengths on the CPU."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(super().forward(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def reversed(self, x: Tensor, lengths: Tensor) -> Tensor:
        ahead, back = self.all_weights
        return torch.cat([self._one_way(x, ahead)[0], self._backwards(x, lengths, back)], -1)

    def chunked(
        self, x: Tensor, lengths: Tensor, chunk: int, state: State = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `forward`, where what reads backwards begins at the end of each chunk of so many rows.

        What reads forwards goes on from `state`, and its state behind the last row comes with the answer.
        """
        ahead, back = self.all_weights
        forwards, *after = self._one_way(x, ahead, state)
        rows, frames, width = x.shape
        pieces = functional.pad(x, (0, 0, 0, -frames % chunk)).reshape(-1, chunk, width)
        starts = torch.arange(0, frames, chunk, device=x.device)
        counts = (lengths[:, None] - starts).clamp(0, chunk).flatten()
        backwards = self._backwards(pieces, counts, back).reshape(rows, -1, self.hidden_size)[:, :frames]
        return torch.cat([forwards, backwards], -1), (after[0], after[1])

    def _backwards(self, x: Tensor, lengths: Tensor, weights: Sequence[Tensor]) -> Tensor:
        clips, frames = (torch.arange(size, device=x.device) for size in x.shape[:2])
        # The mirror image of a frame within its clip; behind the clip, where it does not matter, the first.
        mirror = (lengths[:, None] - 1 - frames).clamp(min=0) + x.shape[1] * clips[:, None]
        flat = mirror.flatten()

        def mirrored(rows: Tensor, width: int) -> Tensor:  # whole rows take a third of what `gather` does
            return rows.reshape(-1, width).index_select(0, flat).view_as(rows)

        read = self._one_way(mirrored(x, self.input_size), weights)[0]
        return mirrored(read, self.hidden_size)

    def _one_way(
        self, x: Tensor, weights: Sequence[Tensor], state: State = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if state is None:
            state = (x.new_zeros(1, x.shape[0], self.hidden_size),) * 2
        return torch.lstm(x, state, list(weights), True, 1, 0.0, self.training, False, True)
