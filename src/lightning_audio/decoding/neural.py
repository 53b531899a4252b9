"""A neural language model over the tokens of a recogniser, as beam searches ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_audio.decoding.search import Fusion
from lightning_audio.decoding.transducer import Predictor

BOUNDARY = 0  # the input before the first token and the output behind the last one; token i is i + 1


@dataclass(slots=True, eq=False)
class _Said:
    """What was said so far; `state` and `log_probs` of what follows, once they are asked for."""

    before: _Said | None
    last: int
    state: Any = None
    log_probs: list[float] | None = None


class NeuralModel:
    """A predictor whose width is that of its outputs: `Fusion`, and where it comes from.

    Its tokens are those of the recogniser, so that it judges any word, and each token at once.

    Args:
        predictor: in eval mode; logits of the end (output 0) and of the tokens.
        path: of the checkpoint.
    """

    unit = "tokens"
    lexicon: str | Path | Sequence[str] | None = None

    def __init__(self, predictor: Predictor, path: Path) -> None:
        self.predictor, self.path = predictor, path
        self.fusion: Fusion = self

    def start(self) -> _Said:
        return _Said(None, BOUNDARY)

    def step(self, state: _Said, token: int) -> tuple[_Said, float]:
        return _Said(state, token + 1), self._following(state)[token + 1]

    def ahead(self, state: _Said) -> float:
        return 0.0

    def end(self, state: _Said) -> float:
        return self._following(state)[BOUNDARY]

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens

    @torch.inference_mode()
    def _following(self, said: _Said) -> list[float]:
        """Of each output; those before `said` have been asked for already, since it came of them."""
        if said.log_probs is None:
            logits, said.state = self.predictor.step(
                torch.tensor([said.last]), said.before.state if said.before else None
            )
            said.log_probs = logits[0].float().log_softmax(-1).tolist()
        return said.log_probs
