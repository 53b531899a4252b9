"""A small residual CNN on spectrograms, for training from scratch.

Blocks as in He et al. 2016 (arXiv:1512.03385), pooling over time as the sum of mean and maximum as in Kong et
al. 2020 (PANNs, arXiv:1912.10211). Plain convolutions: on a CPU they run faster than depthwise ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.frontend.mask import frame_mask
from lightning_audio.networks.base import Network, as_maps

# In channels_last, the gradient of a 1x1 convolution with a stride writes past its memory on a CPU (PyTorch
# 2.14) where it has fewer channels and an even size. What it passes over is left out before it there.
FEW_CHANNELS = 8


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first divides frequency and time by `stride`, one or two."""

    def __init__(self, channels_in: int, channels: int, stride: int | tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.steps = (1, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride not in (1, (1, 1)) or channels != channels_in:
            if channels_in < FEW_CHANNELS:
                self.steps = (stride, stride) if isinstance(stride, int) else stride
            convolution = nn.Conv2d(
                channels_in, channels, 1, 1 if self.steps != (1, 1) else stride, bias=False
            )
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`(B, C, F, T)` -> `(B, C', F/stride, T/stride)`; `mask` `(B, 1, 1, T/stride)` is 1 within clips."""
        # What padding becomes behind a convolution and a norm is no longer 0: each layer clears it again.
        y = functional.relu(self.norm1(self.conv1(x))) * mask
        x = self.shortcut(x[:, :, :: self.steps[0], :: self.steps[1]])
        return functional.relu(self.norm2(self.conv2(y)) + x) * mask


class ResidualNetwork(Network):
    """A stem that halves frequency and time, then residual stages; a subclass says what becomes of them.

    Args:
        channels_in: of the features.
        widths: channels of the stages.
        strides: of each stage.
    """

    def __init__(
        self, channels_in: int, widths: Sequence[int], strides: Sequence[int | tuple[int, int]]
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels_in, widths[0], 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        sizes = zip([widths[0], *widths[:-1]], widths, strides, strict=True)
        self.stages = nn.ModuleList(Block(*size) for size in sizes)
        self.time_strides = [stride if isinstance(stride, int) else stride[1] for stride in strides]

    def maps(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> `(B, C', F', T')` and a mask `(B, 1, 1, T')`, 1 within clips."""
        x = as_maps(x)
        mask = frame_mask(lengths, x.shape[-1])[:, None, None, ::2]
        x = self.stem_norm(self.stem(x))
        mask = mask.to(x.dtype)  # of the maps, not of the features: float32 would undo autocast behind it
        x = functional.relu(x) * mask
        for stage, stride in zip(self.stages, self.time_strides, strict=True):
            mask = mask[..., ::stride]
            x = stage(x, mask)
        return x, mask


class CNN2d(ResidualNetwork):
    """Residual stages behind a stem, then mean and maximum over time."""

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        widths: Sequence[int] = (32, 64, 128, 256),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(in_shape[0], widths, [1] + [2] * (len(widths) - 1))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x, mask = self.maps(x, lengths)
        x, mask = x.mean(2), mask[:, :, 0]
        mean = x.sum(-1) / mask.sum(-1)
        pooled = mean + x.masked_fill(mask == 0, -torch.inf).amax(-1)
        return self.head(self.dropout(pooled)), torch.ones_like(lengths)
