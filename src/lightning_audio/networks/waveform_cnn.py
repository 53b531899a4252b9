"""M5, M11, M18 and M34-res: convolutional networks on raw waveforms.

Dai et al. 2017, Very Deep Convolutional Neural Networks for Raw Waveforms (arXiv:1610.00087). The first layer
is a bank of long filters, all others have kernels of 3; pooling by 4 makes up for the rate of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import in_export, mask_frames
from lightning_audio.networks.base import Network, strided
from lightning_audio.networks.norm import BatchNorm

POOL = 4


class OverTime(nn.Conv1d):
    """A convolution over time of `(B, C, 1, T)`, the parameters of which are those of `nn.Conv1d`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 1, T)` -> `(B, C', 1, T')`."""
        return functional.conv2d(
            x, self.weight[:, :, None], None, (1, self.stride[0]), (0, int(self.padding[0]))
        )


def side_by_side(x: Tensor) -> Tensor:
    """`(B, C, T)` -> `(B, C, 1, T)`, on a CPU with the channels of a frame side by side in memory.

    So is then all that comes out of convolutions: pooling and norms take a fraction of the time.
    """
    maps = x[:, :, None]
    if x.device.type != "cpu" or in_export():
        return maps
    # Not `contiguous`, for which one channel has both formats already.
    return torch.empty(maps.shape, dtype=x.dtype, memory_format=torch.channels_last).copy_(maps)


def convolution(channels_in: int, channels: int) -> nn.Sequential:
    """Kernel 3, as many frames out as in, normalised."""
    return nn.Sequential(OverTime(channels_in, channels, 3, padding=1, bias=False), BatchNorm(channels))


class Plain(nn.Module):
    """One convolution."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.convolution = convolution(channels_in, channels)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`(B, C, 1, T)` -> `(B, C', 1, T)`, 0 behind the clips."""
        return mask_frames(functional.relu(self.convolution(x)), lengths)


class Residual(nn.Module):
    """Two convolutions and a shortcut, which is a pointwise convolution where the channels change."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.first = convolution(channels_in, channels)
        self.second = convolution(channels, channels)
        self.shortcut: nn.Module = nn.Identity()
        if channels != channels_in:
            pointwise = OverTime(channels_in, channels, 1, bias=False)
            self.shortcut = nn.Sequential(pointwise, BatchNorm(channels))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`(B, C, 1, T)` -> `(B, C', 1, T)`, 0 behind the clips."""
        y = mask_frames(functional.relu(self.first(x)), lengths)
        return mask_frames(functional.relu(self.second(y) + self.shortcut(x)), lengths)


class WaveformCNN(Network):
    """A bank of filters, stages of blocks with pooling between them, the mean over time.

    The first filters take all channels and features of a frame, the one of waveforms or several.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        kernel: int = 80,
        stride: int = 4,
        filters: int = 128,
        widths: Sequence[int] = (128, 256, 512),
        blocks: Sequence[int] = (1, 1, 1),
        residual: bool = False,
        pool_last: bool = True,
    ) -> None:
        super().__init__()
        if not widths or len(widths) != len(blocks):
            raise UserError(
                f"network.widths={list(widths)} and network.blocks={list(blocks)} have to name the same "
                "stages: give one number each for every stage."
            )
        channels, features = in_shape
        self.kernel, self.stride, self.pool_last = kernel, stride, pool_last
        self.filters = OverTime(channels * features, filters, kernel, stride, bias=False)
        self.norm = BatchNorm(filters)
        block = Residual if residual else Plain
        self.stages = nn.ModuleList()
        for before, width, count in zip([filters, *widths[:-1]], widths, blocks, strict=True):
            self.stages.append(
                nn.ModuleList(block(width if number else before, width) for number in range(count))
            )
        self.head = nn.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x, lengths = self.embed(x, lengths)
        return self.head(x.sum(-1) / lengths[:, None]), torch.ones_like(lengths)

    def embed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the mean is taken of: `(B, C, T')`, 0 behind the clips, and lengths in its frames."""
        # One frame for every `stride` samples that are begun, so that a clip of one sample has one.
        x = side_by_side(functional.pad(x.flatten(1, -2), ((self.kernel - 1) // 2, self.kernel // 2)))
        lengths = strided(lengths, self.stride)
        x, lengths = pool(mask_frames(self.norm(self.filters(x)), lengths), lengths)
        x = functional.relu(x)  # behind the pooling it is the same, and a quarter of the work
        for number, stage in enumerate(self.stages, 1):
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, lengths)
            if number < len(self.stages) or self.pool_last:
                x, lengths = pool(x, lengths)
        return x[:, :, 0], lengths


def pool(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of 4 frames. Padding is 0: it does not count among what went through a ReLU, or will."""
    if torch.compiler.is_exporting():  # which fixes the length for `ceil_mode`
        return functional.max_pool2d(functional.pad(x, (0, POOL - 1)), (1, POOL)), strided(lengths, POOL)
    return functional.max_pool2d(x, (1, POOL), ceil_mode=True), strided(lengths, POOL)
