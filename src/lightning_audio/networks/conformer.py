"""Conformer (Gulati et al. 2020, arXiv:2005.08100) behind strided convolutions, for CTC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.models.conformer import ConformerLayer

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.networks.base import Network
from lightning_audio.networks.layers import Subsampling


class Conformer(Network):
    """Subsampling, a linear layer to the width of the model, conformer layers and a linear head.

    The layers are those of `torchaudio.models.Conformer`, without a positional encoding: they know the
    order of the frames from their convolutions alone. In torchaudio these see, beyond the end of a clip, what
    became of the padding; here they see zeros. Batch normalisation stays, since group normalisation, the
    other choice there, takes its mean over time and so over the padding.

    Raises:
        UserError: the heads do not divide the width, or the kernel is even.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        channels: int = 32,
        strides: Sequence[int] = (2, 2),
        width: int = 144,
        heads: int = 4,
        feedforward: int = 576,
        layers: int = 8,
        kernel: int = 31,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"network.heads={heads} do not divide network.width={width}: change one of the two."
            )
        if kernel % 2 == 0:
            raise UserError(f"network.kernel={kernel} has no frame in its middle: set it to an odd number.")
        self.subsampling = Subsampling(in_shape, channels, strides)
        self.embedding = nn.Sequential(nn.Linear(self.subsampling.width, width), nn.Dropout(dropout))
        self.layers = nn.ModuleList(Layer(width, feedforward, heads, kernel, dropout) for _ in range(layers))
        self.head = nn.Linear(width, num_outputs)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.subsampling.output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T', num_outputs)`."""
        x, lengths = self.subsampling(x, lengths)
        padding = ~frame_mask(lengths, x.shape[1])
        x = self.embedding(x).transpose(0, 1)
        for layer in self.layers:
            x = layer(x, padding)
        return self.head(x.transpose(0, 1)), lengths


class Layer(ConformerLayer):
    """A layer of torchaudio's into which padding does not leak."""

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """`x` `(T, B, D)`, `padding` `(B, T)`, True behind a clip."""
        x = x + self.ffn1(x) / 2
        attended = self.self_attn_layer_norm(x)
        if torch.jit.is_tracing():
            attended = _attend(self.self_attn, attended, padding)
        else:
            attended, _ = self.self_attn(
                attended, attended, attended, key_padding_mask=padding, need_weights=False
            )
        x = x + self.self_attn_dropout(attended)
        x = x + _convolve(self.conv_module, x, padding)
        x = x + self.ffn2(x) / 2
        return self.final_layer_norm(x)


def _attend(module: nn.MultiheadAttention, x: Tensor, padding: Tensor) -> Tensor:
    """What the module gives, which itself would fix the number of frames in a graph."""
    frames, clips, width = x.shape
    projected = functional.linear(x, module.in_proj_weight, module.in_proj_bias)
    heads = projected.reshape(frames, clips, 3, module.num_heads, module.head_dim).permute(2, 1, 3, 0, 4)
    queries, keys, values = heads.unbind(0)
    likeness = queries @ keys.transpose(-1, -2) / math.sqrt(module.head_dim)
    weights = likeness.masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
    return module.out_proj((weights @ values).permute(2, 0, 1, 3).reshape(frames, clips, width))


def _convolve(module: Any, x: Tensor, padding: Tensor) -> Tensor:
    """The convolution module, whose depthwise convolution finds zeros in the padding."""
    gated = module.sequential[:2](module.layer_norm(x).permute(1, 2, 0))
    return module.sequential[2:](gated.masked_fill(padding[:, None], 0.0)).permute(2, 0, 1)
