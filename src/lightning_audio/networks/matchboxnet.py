"""MatchboxNet: residual blocks of time-channel separable convolutions for keywords.

Majumdar & Ginsburg 2020, MatchboxNet: 1D Time-Channel Separable Convolutional Neural Network Architecture for
Speech Commands Recognition (arXiv:2004.08531).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.base import Network
from lightning_audio.networks.layers import Dropout
from lightning_audio.networks.norm import BatchNorm

ENDS = 128  # channels of the layers around the blocks
FIRST, LAST = 11, 29  # their kernels; the last one has every second frame


def pointwise(channels_in: int, channels: int) -> nn.Sequential:
    """A convolution that mixes channels, normalised."""
    return nn.Sequential(nn.Conv1d(channels_in, channels, 1, bias=False), BatchNorm(channels))


def separable(channels_in: int, channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution over time for each channel by itself, then one that mixes them, normalised."""
    depthwise = nn.Conv1d(
        channels_in,
        channels_in,
        kernel,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=channels_in,
        bias=False,
    )
    return nn.Sequential(depthwise, *pointwise(channels_in, channels))


class Block(nn.Module):
    """`repeat` separable convolutions, with a pointwise one as their shortcut."""

    def __init__(self, channels_in: int, channels: int, kernel: int, repeat: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            separable(channels if number else channels_in, channels, kernel) for number in range(repeat)
        )
        self.shortcut = pointwise(channels_in, channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`(B, C, T)` -> `(B, C', T)`, 0 behind the clips."""
        y = x
        for number, layer in enumerate(self.layers, 1):
            y = layer(y) + self.shortcut(x) if number == len(self.layers) else layer(y)
            y = mask_frames(self.dropout(functional.relu(y)), lengths)
        return y


class MatchboxNet(Network):
    """MatchboxNet-BxRxC: B blocks of R layers with C channels, and the mean over time.

    Raises:
        UserError: a kernel is even, or there is no block.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        kernels: Sequence[int] = (13, 15, 17),
        repeat: int = 2,
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not kernels or any(kernel % 2 == 0 for kernel in kernels) or repeat < 1:
            raise UserError(
                f"network.kernels={list(kernels)} with network.repeat={repeat} makes no blocks: give one odd "
                "number for each block, and 1 or more layers."
            )
        channels, features = in_shape
        self.first = separable(channels * features, ENDS, FIRST)
        sizes = pairwise([ENDS, *[width] * len(kernels)])
        self.blocks = nn.ModuleList(
            Block(*size, kernel, repeat, dropout) for size, kernel in zip(sizes, kernels, strict=True)
        )
        self.last = separable(width, ENDS, LAST, dilation=2)
        self.mix = pointwise(ENDS, ENDS)
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(ENDS, num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x = self.dropout(functional.relu(self.first(x.flatten(1, -2))))
        x = mask_frames(x, lengths)
        for block in self.blocks:
            x = block(x, lengths)
        x = self.dropout(functional.relu(self.last(x)))
        x = mask_frames(self.dropout(functional.relu(self.mix(x))), lengths)
        return self.head(x.sum(-1) / lengths[:, None]), torch.ones_like(lengths)
