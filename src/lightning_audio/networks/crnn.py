"""Residual convolutions, then LSTM layers where wanted, for CTC: one row of logits for every few frames.

A CRNN (Shi et al. 2015, arXiv:1507.05717) of the residual blocks of `cnn2d` and the LSTM of `bilstm`.
Without LSTM layers a row of logits depends on the receptive field of the convolutions, 0.4 s as it comes: it
knows less of what makes a word, and carries further to voices that were never heard.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.networks.base import strided
from lightning_audio.networks.cnn2d import ResidualNetwork
from lightning_audio.networks.layers import Dropout, PaddedLSTM, lengths_to_read


class CRNN(ResidualNetwork):
    """Residual stages behind a stem, LSTM layers, and a linear head for every frame.

    Raises:
        UserError: there is not one stride for each width.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        widths: Sequence[int] = (32, 64, 96),
        strides: Sequence[Sequence[int]] = ((1, 1), (2, 2), (2, 1)),
        hidden: int = 128,
        layers: int = 0,
        dropout: float = 0.3,
    ) -> None:
        if len(widths) != len(strides):
            raise UserError(
                f"network.widths has {len(widths)} stages and network.strides {len(strides)}: "
                "give one [features, time] for each."
            )
        super().__init__(in_shape[0], widths, [(features, time) for features, time in strides])
        features = strided(in_shape[1], 2, *[stride for stride, _ in strides])
        outputs = [widths[-1] * features] + [2 * hidden] * layers
        self.lstms = nn.ModuleList(PaddedLSTM(width, hidden) for width in outputs[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in outputs[1:])
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(outputs[-1], num_outputs)

    def named_stages(self) -> dict[str, list[nn.Module]]:
        stages = super().named_stages()
        head = stages.pop("head")
        for number, (lstm, norm) in enumerate(zip(self.lstms, self.norms, strict=True)):
            stages[f"lstms.{number}"] = [lstm, norm]
        return {**stages, "head": head}

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames in, frames out, both `(B,)`."""
        return strided(lengths, 2, *self.time_strides)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T', num_outputs)`."""
        x, _ = self.maps(x, lengths)
        lengths = self.output_lengths(lengths)
        x = self.dropout(x.flatten(1, 2).transpose(1, 2))
        read = lengths_to_read(lengths) if self.lstms else lengths
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            x = self.dropout(norm(lstm(x, read)))
        return self.head(x), lengths
