"""Bidirectional LSTM behind strided convolutions, for CTC: one row of logits for every few frames.

The stack of Amodei et al. 2016, Deep Speech 2 (arXiv:1512.02595), small, with layer normalisation (Ba et al.
2016, arXiv:1607.06450) in place of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.networks.base import Network, strided
from lightning_audio.networks.layers import PaddedLSTM, Subsampling, lengths_to_read


class BiLSTM(Network):
    """Subsampling, LSTM layers that read both ways, each with layer norm and dropout, and a linear head."""

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        channels: int = 32,
        strides: Sequence[int] = (2, 2),
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.1,
        stack: int = 1,
    ) -> None:
        super().__init__()
        self.subsampling, self.stack = Subsampling(in_shape, channels, strides), stack
        widths = [self.subsampling.width * stack] + [2 * hidden] * layers
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.lstms = nn.ModuleList(PaddedLSTM(width, hidden) for width in widths[:-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden, num_outputs)

    def named_stages(self) -> dict[str, list[nn.Module]]:
        read = zip(self.lstms, self.norms[1:], strict=True)
        layers = {f"lstms.{number}": list(pair) for number, pair in enumerate(read)}
        return {"subsampling": [self.subsampling, self.norms[0]], **layers, "head": [self.head]}

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return strided(self.subsampling.output_lengths(lengths), self.stack)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T', num_outputs)`."""
        x, lengths = self.subsampling(x, lengths)
        if self.stack > 1:
            x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
            x = x.reshape(x.shape[0], -1, self.stack * x.shape[2])
            lengths = strided(lengths, self.stack)
        x, read = self.dropout(self.norms[0](x)), lengths_to_read(lengths)
        for norm, lstm in zip(self.norms[1:], self.lstms, strict=True):
            x = self.dropout(norm(lstm(x, read)))
        return self.head(x), lengths
