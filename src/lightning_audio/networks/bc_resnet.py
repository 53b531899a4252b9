"""BC-ResNet: small keyword networks that think in one dimension and answer in two.

Kim et al. 2021, Broadcasted Residual Learning for Efficient Keyword Spotting (arXiv:2106.04140), with the
sub-spectral normalisation of Chang et al. 2021 (arXiv:2103.13620).

Activations are laid out as `(C, F, B, T)`. There the depthwise convolution over frequency is a product of one
small matrix for each channel with long rows, the pointwise one a single product, and sub-bands of a channel
are a view: on a CPU that takes a fraction of the time of depthwise convolutions on `(B, C, F, T)`. A graph
for other runtimes has these: they run fast there, and weigh less.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask, in_export
from lightning_audio.networks.base import Network, as_maps, strided
from lightning_audio.networks.norm import BatchNorm

BLOCKS = (2, 2, 4, 4)  # in the stages
WIDTHS = (16, 8, 12, 16, 20, 32)  # channels of the stem, the stages and the head at tau = 1
STRIDES = (1, 2, 2, 1)  # of the stages, in frequency
KERNEL = 5  # of stem and head


class Norm(nn.Module):
    """Batch normalisation of `(C, F, ...)` with statistics of its own for each of `bands` parts of F."""

    def __init__(self, channels: int, bands: int = 1) -> None:
        super().__init__()
        self.channels, self.norm = channels, BatchNorm(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.reshape(1, self.norm.num_features, -1)).view(x.shape)

    def in_graph(self, x: Tensor, mask: Tensor) -> Tensor:
        """The same of `(B, C, F, T)`; `mask` `(B, 1, 1, T)`."""
        clips, frames = mask.shape[0], mask.shape[3]  # of one tensor, so that they stand once in a graph
        parts = x.reshape(clips, self.norm.num_features, -1, frames)
        return self.norm(parts).reshape(clips, self.channels, -1, frames)


def pointwise(convolution: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with kernel 1, without bias, of `(C, ...)`."""
    return (convolution.weight.flatten(1) @ x.reshape(x.shape[0], -1)).view(-1, *x.shape[1:])


class Block(nn.Module):
    """A depthwise convolution over frequency, plus one over time of its mean over frequency.

    Args:
        channels_in, channels: where they differ there is no shortcut, but a pointwise convolution first.
        bands: features per frame that come in.
        sub_bands: parts of the frequency axis that are normalised each by itself.
        stride: in frequency.
        dilation: in time.
        dropout: of whole channels of what is broadcast.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        bands: int,
        sub_bands: int,
        stride: int,
        dilation: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.widen: nn.Conv2d | None = None
        if channels_in != channels:
            self.widen = nn.Conv2d(channels_in, channels, 1, bias=False)
            self.widen_norm = Norm(channels)
        self.frequency = nn.Conv2d(
            channels, channels, (3, 1), (stride, 1), (1, 0), groups=channels, bias=False
        )
        self.frequency_norm = Norm(channels, sub_bands)
        self.time = nn.Conv1d(channels, channels, 3, groups=channels, bias=False)
        self.time_norm = Norm(channels)
        self.mix = nn.Conv1d(channels, channels, 1, bias=False)
        self.dropout = nn.Dropout1d(dropout)
        rows = torch.arange(0, bands, stride)[:, None] + torch.tensor([-1, 0, 1])[:, None, None]
        # (3, F', F): which band each tap of the kernel takes for each band that comes out.
        self.register_buffer("taps", (rows == torch.arange(bands)).float(), persistent=False)

    taps: Tensor

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`(C, F, B, T)` -> `(C', F', B, T)`; `mask` `(B, T)` is 1 within clips."""
        y = x
        if self.widen is not None:
            y = functional.relu_(self.widen_norm(pointwise(self.widen, x)))
        filters = torch.einsum("ck,kij->cij", self.frequency.weight.flatten(1), self.taps)
        y = torch.bmm(filters, y.flatten(2)).view(y.shape[0], -1, *y.shape[2:])
        y = self.frequency_norm(y)
        z = self._over_time(y.mean(1) * mask)  # only here do frames see others
        z = self.dropout(pointwise(self.mix, functional.silu(self.time_norm(z))))
        y += z[:, None]
        if self.widen is None:
            y += x
        return functional.relu_(y)

    def in_graph(self, x: Tensor, mask: Tensor) -> Tensor:
        """`forward` of `(B, C, F, T)` -> `(B, C', F', T)`; `mask` `(B, 1, 1, T)`."""
        y = x if self.widen is None else functional.relu(self.widen_norm.norm(self.widen(x)))
        y = self.frequency_norm.in_graph(self.frequency(y), mask)
        # Over time in two dimensions, too: there runtimes have faster steps.
        over_time, mix = self.time.weight[:, :, None], self.mix.weight[..., None]
        size, groups = self.dilation, self.time.groups
        z = functional.conv2d(
            y.mean(2, keepdim=True) * mask, over_time, None, 1, (0, size), (1, size), groups
        )
        y = y + functional.conv2d(functional.silu(self.time_norm.norm(z)), mix)
        return functional.relu(y if self.widen is not None else y + x)

    def _over_time(self, z: Tensor) -> Tensor:
        """The depthwise convolution of `(C, B, T)`: three products, each of a shifted copy."""
        frames = z.shape[-1]
        z = functional.pad(z, (self.dilation, self.dilation))
        shifted = (z[..., tap * self.dilation :][..., :frames] for tap in range(3))
        weights = self.time.weight.permute(2, 0, 1)[..., None]
        first, second, third = (weight * part for weight, part in zip(weights, shifted, strict=True))
        return first + second + third


class BCResNet(Network):
    """Stem, four stages of broadcasted residual blocks, a convolution over all bands, mean over time.

    Raises:
        UserError: the bands of a stage can't be cut into `sub_bands`.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        tau: float = 2.0,
        sub_bands: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels, features = in_shape
        stem, *stages, head = (int(width * tau) for width in WIDTHS)
        self.stem = nn.Conv2d(channels, stem, KERNEL, (2, 1), KERNEL // 2, bias=False)
        self.stem_norm = Norm(stem)
        bands = [strided(features, 2)]
        for stride in STRIDES:
            bands.append(strided(bands[-1], stride))
        refuse_uneven(bands[1:], sub_bands, features)
        self.blocks = nn.ModuleList()
        for stage, (before, width) in enumerate(pairwise([stem, *stages])):
            for number in range(BLOCKS[stage]):
                shape = (width, width, bands[stage + 1]) if number else (before, width, bands[stage])
                stride = 1 if number else STRIDES[stage]
                self.blocks.append(Block(*shape, sub_bands, stride, 2**stage, dropout))
        last = stages[-1]
        self.collect = nn.Conv2d(
            last, last, (bands[-1], KERNEL), padding=(0, KERNEL // 2), groups=last, bias=False
        )
        self.mix = nn.Conv1d(last, head, 1, bias=False)
        self.mix_norm = Norm(head)
        self.head = nn.Linear(head, num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x = as_maps(x)
        mask = frame_mask(lengths, x.shape[-1]).to(x.dtype)
        if in_export():
            x = self._in_graph(x, mask[:, None, None])
            return self.head(x.sum((2, 3)) / lengths[:, None]), torch.ones_like(lengths)
        x = self.stem(x).permute(1, 2, 0, 3)
        x = functional.relu_(self.stem_norm(x))
        for block in self.blocks:
            x = block(x, mask)
        x = self.collect((x * mask).permute(2, 0, 1, 3)).squeeze(2).transpose(0, 1)
        x = functional.relu(self.mix_norm(pointwise(self.mix, x))) * mask
        return self.head(x.sum(-1).T / lengths[:, None]), torch.ones_like(lengths)

    def _in_graph(self, x: Tensor, mask: Tensor) -> Tensor:
        """What the mean is taken of, `(B, C, 1, T)`, zero behind the clips; `mask` `(B, 1, 1, T)`."""
        x = functional.relu(self.stem_norm.norm(self.stem(x)))
        for block in self.blocks:
            x = block.in_graph(x, mask)  # type: ignore[operator]
        x = functional.conv2d(self.collect(x * mask), self.mix.weight[..., None])
        return functional.relu(self.mix_norm.norm(x)) * mask


def refuse_uneven(bands: list[int], sub_bands: int, features: int) -> None:
    """Raises UserError where the bands of a stage can't be cut into `sub_bands` equal parts."""
    common = math.gcd(*bands)
    if sub_bands < 1 or common % sub_bands:
        fitting = [number for number in range(1, common + 1) if common % number == 0]
        near = min(fitting, key=lambda number: abs(number - sub_bands))
        raise UserError(
            f"network.sub_bands={sub_bands} does not divide the {', '.join(map(str, bands))} bands that "
            f"{features} features become in the stages: set it to {near}, or frontend.n_mels to 40."
        )
