"""Hypotheses with their scores, what every decoder is, and the decoder that takes the best path."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from lightning_audio.decoding.alignment import Rows, TokenSpan, token_frames
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said. All scores are natural logarithms.

    `tokens` are 0-based ids without blanks, `score` is what n-best lists are sorted by. `acoustic` is the
    log-probability of the tokens by the network, over all alignments where it has such, and `lm` that of the
    language model, its end of sentence included and not weighted; -inf where a model cannot say them at all.
    """

    tokens: tuple[int, ...]
    text: str
    score: float
    acoustic: float
    lm: float = 0.0

    def as_dict(self) -> dict[str, str | float]:
        """Text and scores: an entry of an n-best list as it is written."""
        return {"text": self.text, "score": self.score, "acoustic": self.acoustic, "lm": self.lm}


class TokenStream(ABC):
    """Tokens of one utterance as its rows come: what was said is not taken back.

    `tokens` are those so far but for what `forget` left out, with their `spans`; `frames` have come in all.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.spans: list[TokenSpan] = []
        self.frames = 0

    @abstractmethod
    def push(self, rows: Rows) -> None:
        """The next rows `(k, D)`."""

    def forget(self, count: int) -> None:
        """Leaves the first tokens out, of which nothing will be asked any more."""
        del self.tokens[:count], self.spans[:count]


class Decoder(ABC):
    """What a network says of one utterance, a row for each frame, `(T, D)` -> hypotheses.

    By CTC a row holds log-probabilities, output 0 being the blank and output i + 1 token i of the vocabulary.
    """

    tokenizer: Tokenizer

    @abstractmethod
    def __call__(self, rows: Rows) -> list[Hypothesis]:
        """Best first, at least one."""

    def many(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        """The same of several; a decoder may take them together."""
        return [self(rows) for rows in utterances]

    @abstractmethod
    def score_of(self, rows: Rows, tokens: Sequence[int]) -> Hypothesis:
        """The hypothesis that these tokens are, scored as those that are found."""

    def scores_of(self, utterances: Sequence[Rows], sequences: Sequence[Sequence[int]]) -> list[Hypothesis]:
        """The same of one token sequence for each utterance; a decoder may take them together."""
        return [self.score_of(*pair) for pair in zip(utterances, sequences, strict=True)]

    @abstractmethod
    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str) -> list[TokenSpan]:
        """Of each token the frames in which it is said, and the mean of its log-probabilities.

        Raises:
            UserError: there are too few frames; `name` is what it calls the utterance.
        """

    def remarks(self, rows: Rows, tokens: Sequence[int]) -> list[str]:
        """What is odd about these tokens of an utterance, each in a few words."""
        return []

    def stream(self) -> TokenStream:
        """A new utterance whose rows come in pieces; all of them give the tokens of the whole.

        Raises:
            UserError: the decoder has to hear all of it first.
        """
        raise UserError(
            "This search hears an utterance to its end before it decides: on a stream take a run of task=ctc "
            "or task=transducer, without --beam, --lm and --hotwords."
        )

    @abstractmethod
    def silence(self, rows: Rows) -> np.ndarray:
        """For each row a log-probability `(T,)` that nothing is said there: where windows may be joined."""


class CTCDecoder(Decoder):
    """What decoders of log-probabilities by CTC share."""

    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str) -> list[TokenSpan]:
        return token_frames(rows, tokens, name)

    def silence(self, rows: Rows) -> np.ndarray:
        return np.asarray(rows)[:, 0]


def ctc_log_probs(log_probs: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
    """The log-probability by CTC of each token sequence, -inf where the frames are too few for it.

    Args:
        log_probs: `(T, C)`, output 0 the blank.
        sequences: ids of tokens, 0-based, without blanks.
    """
    if not len(log_probs):
        return [-math.inf if sequence else 0.0 for sequence in sequences]
    # In double precision: sums over the alignments of a minute would lose digits that decide in n-best lists.
    rows = np.asarray(log_probs, np.float64)
    states = np.zeros((len(sequences), 2 * max(map(len, sequences), default=0) + 1), np.int64)
    for i, sequence in enumerate(sequences):
        states[i, 1 : 2 * len(sequence) : 2] = np.array(sequence, np.int64) + 1
    # A token may follow on the one before without a blank, unless they are alike.
    barred = np.where(states[:, 3::2] == states[:, 1:-2:2], -np.inf, 0.0)
    reached = np.full(states.shape, -np.inf)  # by all paths that end in a state with this frame
    reached[:, :2] = rows[0][states[:, :2]]
    for row in rows[1:]:
        before = reached
        reached = before.copy()
        np.logaddexp(before[:, 1:], before[:, :-1], out=reached[:, 1:])
        np.logaddexp(reached[:, 3::2], before[:, 1:-2:2] + barred, out=reached[:, 3::2])
        reached += row[states]
    ends = (slice(max(2 * len(sequence) - 1, 0), 2 * len(sequence) + 1) for sequence in sequences)
    return [float(np.logaddexp.reduce(own[end])) for own, end in zip(reached, ends, strict=True)]


def checked(log_probs: Rows, tokenizer: Tokenizer) -> np.ndarray:
    """The log-probabilities `(T, C)`, which fit the vocabulary.

    Raises:
        UserError: some are not a number.
        ValueError: the shape is another one.
    """
    log_probs, outputs = np.asarray(log_probs), len(tokenizer.vocabulary) + 1
    if log_probs.ndim != 2 or log_probs.shape[1] != outputs:
        raise ValueError(f"log_probs {log_probs.shape} are not (T, {outputs})")
    refuse_nan([log_probs])
    return log_probs


def refuse_nan(utterances: Iterable[Rows]) -> None:
    """Raises UserError where a network gave what is no number."""
    if any(np.isnan(np.asarray(rows)).any() for rows in utterances):
        raise UserError(
            "The network gave no finite answer for an utterance, so the training has diverged: lower "
            "optimizer.lr or clip the gradient with trainer.gradient_clip_val."
        )


class Greedy(CTCDecoder):
    """The best path: the best output of each frame, repeats merged, blanks left out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Rows) -> list[Hypothesis]:
        path = groupby(checked(rows, self.tokenizer).argmax(-1).tolist())
        return [self.score_of(rows, [output - 1 for output, _ in path if output])]

    def stream(self) -> TokenStream:
        return _BestPath(self.tokenizer)

    def score_of(self, rows: Rows, tokens: Sequence[int]) -> Hypothesis:
        (acoustic,) = ctc_log_probs(rows, [tokens])
        return Hypothesis(tuple(tokens), self.tokenizer.decode(tokens), acoustic, acoustic)


class _BestPath(TokenStream):
    """The best path by CTC, frame by frame."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer, self.last = tokenizer, 0

    def push(self, rows: Rows) -> None:
        for row in checked(rows, self.tokenizer):
            output = int(row.argmax())
            score, end = float(row[output]), self.frames + 1
            if output and output == self.last:
                span = self.spans[-1]
                mean = span.score + (score - span.score) / (end - span.start)
                self.spans[-1] = TokenSpan(span.start, end, mean)
            elif output:
                self.tokens.append(output - 1)
                self.spans.append(TokenSpan(self.frames, end, score))
            self.last, self.frames = output, end
