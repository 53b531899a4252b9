"""Hypotheses with their scores, what every decoder is, and the decoder that takes the best path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said. All scores are natural logarithms.

    `tokens` are 0-based ids without blanks, `score` is what n-best lists are sorted by. `acoustic` is the
    log-probability of the tokens by CTC, over all of their alignments, and `lm` that of the language model,
    its end of sentence included and not weighted; -inf where a model cannot say them at all.
    """

    tokens: tuple[int, ...]
    text: str
    score: float
    acoustic: float
    lm: float = 0.0

    def as_dict(self) -> dict[str, str | float]:
        """Text and scores: an entry of an n-best list as it is written."""
        return {"text": self.text, "score": self.score, "acoustic": self.acoustic, "lm": self.lm}


class Decoder(Protocol):
    """Log-probabilities `(T, C)` of one utterance, cut to its length, on the CPU -> hypotheses.

    Output 0 is the blank and output i + 1 token i of the vocabulary.
    """

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        """Best first, at least one."""

    def score_of(self, log_probs: Tensor, tokens: Sequence[int]) -> Hypothesis:
        """The hypothesis that these tokens are, scored as those that are found."""


def ctc_log_probs(log_probs: Tensor, sequences: Sequence[Sequence[int]]) -> list[float]:
    """The log-probability by CTC of each token sequence, -inf where the frames are too few for it.

    Args:
        log_probs: `(T, C)`, output 0 the blank.
        sequences: ids of tokens, 0-based, without blanks.
    """
    if not len(log_probs):
        return [-math.inf if sequence else 0.0 for sequence in sequences]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    targets = torch.tensor([token + 1 for sequence in sequences for token in sequence], dtype=torch.int64)
    frames = torch.full_like(lengths, len(log_probs))
    # In double precision: sums over the alignments of a minute would lose digits that decide in n-best lists.
    shared = log_probs.double()[:, None].expand(-1, len(sequences), -1)
    losses = functional.ctc_loss(shared, targets, frames, lengths, blank=0, reduction="none")
    return [-loss for loss in losses.tolist()]


def checked(log_probs: Tensor, tokenizer: Tokenizer) -> Tensor:
    """The log-probabilities `(T, C)`, which fit the vocabulary.

    Raises:
        UserError: some are not a number.
        ValueError: the shape is another one.
    """
    outputs = len(tokenizer.vocabulary) + 1
    if log_probs.ndim != 2 or log_probs.shape[1] != outputs:
        raise ValueError(f"log_probs {tuple(log_probs.shape)} are not (T, {outputs})")
    if log_probs.isnan().any():
        raise UserError(
            "The network gave no finite answer for an utterance, so the training has diverged: lower "
            "optimizer.lr or clip the gradient with trainer.gradient_clip_val."
        )
    return log_probs


class Greedy:
    """The best path: the best output of each frame, repeats merged, blanks left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        path = checked(log_probs, self.tokenizer).argmax(-1).unique_consecutive().tolist()
        return [self.score_of(log_probs, [output - 1 for output in path if output])]

    def score_of(self, log_probs: Tensor, tokens: Sequence[int]) -> Hypothesis:
        (acoustic,) = ctc_log_probs(log_probs, [tokens])
        return Hypothesis(tuple(tokens), self.tokenizer.decode(tokens), acoustic, acoustic)
