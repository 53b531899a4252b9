"""Bidirectional LSTM behind strided convolutions, for CTC: one row of logits for every few frames.

The stack of Amodei et al. 2016, Deep Speech 2 (arXiv:1512.02595), small, with layer normalisation (Ba et al.
2016, arXiv:1607.06450) in place of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.networks.base import strided
from lightning_audio.networks.chunks import ChunkedNetwork
from lightning_audio.networks.layers import Dropout, PaddedLSTM, Subsampling, lengths_to_read


class BiLSTM(ChunkedNetwork):
    """Subsampling, LSTM layers that read both ways, each with layer norm and dropout, and a linear head.

    With `chunk`, what reads backwards begins at the end of each chunk of so many rows (Zhang et al. 2016,
    Highway Long Short-Term Memory RNNs for Distant Speech Recognition, arXiv:1510.08983: latency-controlled);
    with a chunk of 1 no row knows a later one.
    """

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
        chunk: int | None = None,
    ) -> None:
        super().__init__(chunk, strides, stack)
        self.subsampling, self.stack, self.hidden = Subsampling(in_shape, channels, strides), stack, hidden
        widths = [self.subsampling.width * stack] + [2 * hidden] * layers
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.lstms = nn.ModuleList(PaddedLSTM(width, hidden) for width in widths[:-1])
        self.dropout = Dropout(dropout)
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
        x, lengths = self._stacked(x), strided(lengths, self.stack)
        return self._read(x, lengths, None)[0], lengths

    def kept_at_start(self, x: Tensor) -> Any:
        return [(x.new_zeros(1, len(x), self.hidden),) * 2 for _ in self.lstms]

    def rows_of_chunk(self, x: Tensor, back: int, kept: Any) -> tuple[Tensor, Any]:
        x = self._stacked(self.subsampling(x, x.new_full((len(x),), x.shape[-1]).long())[0])[:, back:]
        return self._read(x, x.new_full((len(x),), x.shape[1]).long(), kept)

    def _stacked(self, x: Tensor) -> Tensor:
        """Rows `(B, T, width)` side by side, `stack` of them in one."""
        if self.stack == 1:
            return x
        if torch.compiler.is_exporting():  # which fixes how many are missing
            filled = functional.pad(x, (0, 0, 0, self.stack - 1))
            return torch.cat([filled[:, i : i + x.shape[1] : self.stack] for i in range(self.stack)], -1)
        x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        return x.reshape(x.shape[0], -1, self.stack * x.shape[2])

    def _read(self, x: Tensor, lengths: Tensor, kept: Any) -> tuple[Tensor, Any]:
        """Logits of rows, and the state of each layer behind them; `kept` is the one before them, if any."""
        x, after = self.dropout(self.norms[0](x)), []
        read = lengths_to_read(lengths)
        for i, (norm, lstm) in enumerate(zip(self.norms[1:], self.lstms, strict=True)):
            if self.chunk:
                x, state = cast(PaddedLSTM, lstm).chunked(x, lengths, self.chunk, kept and kept[i])
                after.append(state)
            else:
                x = lstm(x, read)
            x = self.dropout(norm(x))
        return self.head(x), after
