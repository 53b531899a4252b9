"""How well a language model knows its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lightning_audio.errors import UserError
from lightning_audio.metrics.base import Predictions, metric
from lightning_audio.metrics.intervals import Draws


class TokenLosses(Predictions):
    """Of each text the negative log-probability and the number of its tokens with its end, `(N, 2)`."""

    alone = True

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        super().__init__([row.get("group") for row in rows])
        self.losses = np.array([[row["loss"], row["tokens"]] for row in rows], float).reshape(-1, 2)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> Self:
        return cls(rows)

    def refuse_not_finite(self) -> None:
        if not np.isfinite(self.losses).all():
            raise UserError(
                "The language model gave no finite answer, so the training has diverged: lower optimizer.lr."
            )


@metric(better="min", unit="per token", counted=lambda texts: int(texts.losses[:, 1].sum()))
def perplexity(texts: TokenLosses, draws: Draws) -> NDArray:
    """The inverse of the geometric mean of the probabilities of all tokens, the ends of texts among them."""
    loss, tokens = np.moveaxis(draws.sums(texts.losses), -1, 0)
    return np.exp(loss / np.maximum(tokens, 1))
