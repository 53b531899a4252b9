"""res15: dilated residual convolutions for keywords.

Tang & Lin 2018, Deep Residual Learning for Small-Footprint Keyword Spotting (arXiv:1710.10361).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.base import Network, as_maps
from lightning_audio.networks.norm import BatchNorm


class Res15(Network):
    """3x3 convolutions without biases that keep frequency and time, and the mean over both.

    The dilation doubles with every third of the `layers` behind the first, and every second one is added to
    what went in two layers before.
    """

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, maps: int = 45, layers: int = 13) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_shape[0], maps, 3, padding=1, bias=False)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(maps, maps, 3, padding=2 ** (number // 3), dilation=2 ** (number // 3), bias=False)
            for number in range(layers)
        )
        self.norms = nn.ModuleList(BatchNorm(maps, affine=False) for _ in range(layers))
        self.head = nn.Linear(maps, num_outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`, one frame a clip."""
        x = shortcut = mask_frames(functional.relu(self.first(as_maps(x))), lengths)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True), 1):
            x = functional.relu(convolution(x))
            if number % 2 == 0:
                x = shortcut = x + shortcut
            x = mask_frames(norm(x), lengths)
        return self.head(x.mean(2).sum(-1) / lengths[:, None]), torch.ones_like(lengths)
