"""The prediction networks of a transducer: what it has said so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.data.targets import BLANK

State = tuple[Tensor, ...] | None  # of a predictor: its first axes are that of the sequences


class LSTMPredictor(nn.Module):
    """The prediction network of Graves 2012 (arXiv:1211.3711) and 2013 (arXiv:1303.5778): all that was said.

    Args:
        outputs: the blank, which stands for the beginning, and the tokens.
        width: of what is joined.
        hidden: units of the embedding and of the LSTM.
        layers: of the LSTM.
        dropout: on the embedding and on what comes out.
    """

    def __init__(
        self, outputs: int, width: int, hidden: int = 128, layers: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(outputs, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(hidden, width)

    def forward(self, said: Tensor) -> Tensor:
        """Outputs that were said, `(B, U)` -> `(B, U + 1, width)`, the first of nothing said yet."""
        x = self.dropout(self.embedding(functional.pad(said, (1, 0), value=BLANK)))
        return self.projection(self.dropout(self.lstm(x)[0]))

    def step(self, last: Tensor, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The last outputs `(N,)`, blank at the beginning, where `state` is None -> `(N, width)`, state."""
        given = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
        x, after = self.lstm(self.embedding(last)[:, None], given)
        return self.projection(x[:, 0]), tuple(part.transpose(0, 1) for part in after)


class StatelessPredictor(nn.Module):
    """One that knows the last tokens alone.

    Ghodsi et al. 2020, RNN-Transducer with Stateless Prediction Network.

    Args:
        context: how many tokens; others are those of `LSTMPredictor`.
    """

    def __init__(
        self, outputs: int, width: int, hidden: int = 128, context: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(outputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(context * hidden, width)

    def forward(self, said: Tensor) -> Tensor:
        """As `LSTMPredictor`."""
        x = self.dropout(self.embedding(functional.pad(said, (self.context, 0), value=BLANK)))
        return self.projection(x.unfold(1, self.context, 1).transpose(2, 3).flatten(2).relu())

    def step(self, last: Tensor, state: State) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `LSTMPredictor`."""
        before = last.new_full((len(last), self.context), BLANK) if state is None else state[0]
        known = torch.cat([before[:, 1:], last[:, None]], dim=1)
        return self.projection(self.embedding(known).flatten(1).relu()), (known,)


PREDICTORS: dict[str, type[LSTMPredictor] | type[StatelessPredictor]] = {
    "lstm": LSTMPredictor,
    "stateless": StatelessPredictor,
}
