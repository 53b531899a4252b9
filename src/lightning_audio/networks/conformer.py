"""Conformer (Gulati et al. 2020, arXiv:2005.08100) behind strided convolutions, for CTC."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.models.conformer import ConformerLayer

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask, in_export
from lightning_audio.networks.chunks import ChunkedNetwork
from lightning_audio.networks.layers import Dropout, Subsampling, dropout


class Conformer(ChunkedNetwork):
    """Subsampling, a linear layer to the width of the model, conformer layers and a linear head.

    The layers are those of `torchaudio.models.Conformer`, without a positional encoding: they know the
    order of the frames from their convolutions alone. In torchaudio these see, beyond the end of a clip, what
    became of the padding; here they see zeros. Batch normalisation stays, since group normalisation, the
    other choice there, takes its mean over time and so over the padding.

    With `chunk`, a row attends to those of its own chunk and of `left_chunks` before it, and the convolutions
    see zeros beyond the end of the chunk (Li et al. 2023, Dynamic Chunk Convolution, arXiv:2304.09325).

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
        chunk: int | None = None,
        left_chunks: int = 8,
    ) -> None:
        super().__init__(chunk, strides)
        if width % heads:
            raise UserError(
                f"network.heads={heads} do not divide network.width={width}: change one of the two."
            )
        if kernel % 2 == 0:
            raise UserError(f"network.kernel={kernel} has no frame in its middle: set it to an odd number.")
        self.subsampling = Subsampling(in_shape, channels, strides)
        self.embedding = nn.Sequential(nn.Linear(self.subsampling.width, width), Dropout(dropout))
        self.layers = nn.ModuleList(Layer(width, feedforward, heads, kernel, dropout) for _ in range(layers))
        self.left = left_chunks * (chunk or 0)
        self.head = nn.Linear(width, num_outputs)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.subsampling.output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T', num_outputs)`."""
        x, lengths = self.subsampling(x, lengths)
        padding = ~frame_mask(lengths, x.shape[1])
        x = self.embedding(x).transpose(0, 1)
        for layer in cast("Iterable[Layer]", self.layers):
            x = layer.in_chunks(x, padding, self.chunk, self.left) if self.chunk else layer(x, padding)
        return self.head(x.transpose(0, 1)), lengths

    def kept_at_start(self, x: Tensor) -> Any:
        width = self.head.in_features
        layers = cast("Iterable[Layer]", self.layers)
        return [(x.new_zeros(0, len(x), width), x.new_zeros(len(x), width, layer.reach)) for layer in layers]

    def rows_of_chunk(self, x: Tensor, back: int, kept: Any) -> tuple[Tensor, Any]:
        x, _ = self.subsampling(x, x.new_full((len(x),), x.shape[-1]).long())
        x, after = self.embedding(x[:, back:]).transpose(0, 1), []
        for layer, (rows, before) in zip(cast("Iterable[Layer]", self.layers), kept, strict=True):
            x, state = layer.step(x, rows, before, self.left)
            after.append(state)
        return self.head(x.transpose(0, 1)), after


class Layer(ConformerLayer):
    """A layer of torchaudio's into which padding does not leak, and which may hear chunk by chunk."""

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """`x` `(T, B, D)`, `padding` `(B, T)`, True behind a clip."""
        x = x + self.ffn1(x) / 2
        attended = self.self_attn_layer_norm(x)
        if in_export():
            attended = _attend(self.self_attn, attended, attended, ~padding[:, None, None])
        else:
            attended, _ = self.self_attn(
                attended, attended, attended, key_padding_mask=padding, need_weights=False
            )
        x = x + self.self_attn_dropout(attended)
        gated = _gated(self.conv_module, x).masked_fill(padding[:, None], 0.0)
        x = x + self.conv_module.sequential[2:](gated).permute(2, 0, 1)
        x = x + self.ffn2(x) / 2
        return self.final_layer_norm(x)

    def in_chunks(self, x: Tensor, padding: Tensor, chunk: int, left: int) -> Tensor:
        """The same where a row sees its own chunk and `left` rows before it, and nothing beyond."""
        x = x + self.ffn1(x) / 2
        known = self.self_attn_layer_norm(x)
        row = torch.arange(len(x), device=x.device)
        first = row // chunk * chunk
        near = (row < first[:, None] + chunk) & (row >= first[:, None] - left)
        # A row of padding sees itself: of nothing there is no mean.
        seen = (near & ~padding[:, None] | torch.eye(len(x), dtype=torch.bool, device=x.device))[:, None]
        x = x + self.self_attn_dropout(_attend(self.self_attn, known, known, seen))
        gated = _gated(self.conv_module, x).masked_fill(padding[:, None], 0.0)
        back = self.reach
        pieces = functional.pad(gated, (back, -len(x) % chunk)).unfold(-1, back + chunk, chunk)
        clips, width, count, _ = pieces.shape
        pieces = pieces.transpose(1, 2).reshape(clips * count, width, -1)
        convolved = self._convolve(pieces).reshape(clips, count, width, chunk).transpose(1, 2)
        x = x + self._behind(convolved.reshape(clips, width, -1)[..., : len(x)])
        x = x + self.ffn2(x) / 2
        return self.final_layer_norm(x)

    def step(self, x: Tensor, rows: Tensor, before: Tensor, left: int) -> tuple[Tensor, Any]:
        """The next chunk `(T, B, D)`, and what to keep for the one behind it: rows `(T', B, D)` that it will
        attend to, and those that its convolution looks back on, `(B, D, reach)`."""
        x = x + self.ffn1(x) / 2
        own = self.self_attn_layer_norm(x)
        rows = torch.cat([rows, own])
        x = x + _attend(self.self_attn, own, rows, None)
        gated = torch.cat([before, _gated(self.conv_module, x)], -1)
        x = x + self._behind(self._convolve(gated))
        x = x + self.ffn2(x) / 2
        after = rows[-left:] if left else rows[:0], gated[..., gated.shape[-1] - self.reach :]
        return self.final_layer_norm(x), tuple(part.clone() for part in after)

    @property
    def reach(self) -> int:
        """Rows to which the convolution looks on either side."""
        return self.conv_module.sequential[2].kernel_size[0] // 2

    def _convolve(self, x: Tensor) -> Tensor:
        """The depthwise convolution of `(N, D, reach + k)`, behind which there are zeros -> `(N, D, k)`."""
        layer = self.conv_module.sequential[2]
        x = functional.pad(x, (0, self.reach))
        return functional.conv1d(x, layer.weight, layer.bias, groups=layer.groups)

    def _behind(self, x: Tensor) -> Tensor:
        """What the convolution module makes of what its depthwise one said, `(B, D, T)` -> `(T, B, D)`."""
        return self.conv_module.sequential[3:](x).permute(2, 0, 1)


def _attend(module: nn.MultiheadAttention, x: Tensor, keys: Tensor, seen: Tensor | None) -> Tensor:
    """What the module gives for `x` `(T, B, D)` that sees `keys` `(S, B, D)`, and in a graph as outside.

    `seen`, broadcast to `(B, heads, T, S)`, says which: the module itself takes another mask, and would fix
    the number of frames in a graph.
    """
    (frames, clips, width), heads = x.shape, module.num_heads
    weight, bias = module.in_proj_weight, module.in_proj_bias
    asked = functional.linear(x, weight[:width], bias[:width]).reshape(frames, clips, heads, -1)
    told = functional.linear(keys, weight[width:], bias[width:]).reshape(keys.shape[0], clips, 2, heads, -1)
    queries, (keys, values) = asked.permute(1, 2, 0, 3), told.permute(2, 1, 3, 0, 4)
    likeness = queries @ keys.transpose(-1, -2) / math.sqrt(module.head_dim)
    if seen is not None:
        likeness = likeness.masked_fill(~seen, -torch.inf)
    weights = dropout(likeness.softmax(-1), module.dropout, module.training)
    return module.out_proj((weights @ values).permute(2, 0, 1, 3).reshape(frames, clips, width))


def _gated(module: Any, x: Tensor) -> Tensor:
    """What the depthwise convolution of the module is given: `(T, B, D)` -> `(B, D, T)`."""
    return module.sequential[:2](module.layer_norm(x).permute(1, 2, 0))
