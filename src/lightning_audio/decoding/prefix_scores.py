"""How probable it is by CTC that a text begins with a prefix, for many prefixes at once.

Watanabe et al. 2017 (IEEE J-STSP 11(8), Hybrid CTC/Attention Architecture), algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEVER = -1e30  # in place of -inf, whose differences are no numbers
BEYOND = -1e4  # a token behind the end of an utterance


class PrefixScores:
    """The prefixes of several utterances, each grown token by token.

    A state `(N, T + 1, 2)` holds for each number of frames the log-probability of all alignments of the
    prefix with them, of those that end in its last token and of those that end in a blank. Their recursions
    are linear, so each is a cumulative sum over the frames.

    Args:
        log_probs: of each utterance `(T, C)`, output 0 the blank.
    """

    def __init__(self, log_probs: Sequence[np.ndarray]) -> None:
        frames = max(map(len, log_probs))
        self.log_probs = np.full((len(log_probs), frames, log_probs[0].shape[1]), BEYOND)
        self.log_probs[..., 0] = 0.0  # all that may follow: nothing changes any more
        for own, rows in zip(self.log_probs, log_probs, strict=True):
            own[: len(rows)] = rows
        self.blanks = _behind(self.log_probs[..., 0].cumsum(1), 0.0)

    def start(self, utterances: np.ndarray) -> np.ndarray:
        """The states of empty prefixes of the utterances of these numbers `(N,)`."""
        blank = self.blanks[utterances]
        return np.stack([np.full_like(blank, NEVER), blank], -1)

    def whole(self, state: np.ndarray) -> np.ndarray:
        """The log-probability `(N,)` that the text is the prefix."""
        return np.logaddexp(state[:, -1, 0], state[:, -1, 1])

    def begun(
        self, state: np.ndarray, utterances: np.ndarray, last: np.ndarray, outputs: np.ndarray
    ) -> np.ndarray:
        """The log-probability `(N, K)` that the text begins with a prefix and each of its outputs `(N, K)`.

        `last` `(N,)` is the last output of each prefix, 0 where it is empty.
        """
        said = self.log_probs[utterances[:, None], :, outputs]  # (N, K, T)
        said += _ready(state[:, None], outputs == last[:, None])
        most = said.max(-1, keepdims=True)
        return np.log(np.exp(said - most).sum(-1)) + most[..., 0]

    def extended(
        self, state: np.ndarray, utterances: np.ndarray, last: np.ndarray, output: np.ndarray
    ) -> np.ndarray:
        """The state of each prefix with its output `(N,)` behind it."""
        said, gone = self.log_probs[utterances, :, output], self.blanks[utterances]
        total = said.cumsum(-1)
        ready = _ready(state, output == last)
        token = _behind(total + np.logaddexp.accumulate(ready - (total - said), -1), NEVER)
        blank = gone[:, 1:] + np.logaddexp.accumulate(token[:, :-1] - gone[:, :-1], -1)
        return np.stack([token, _behind(blank, NEVER)], -1)


def _ready(state: np.ndarray, again: np.ndarray) -> np.ndarray:
    """`(..., T)`: what a token may come behind, `again` the same one only behind a blank."""
    token, blank = state[..., :-1, 0], state[..., :-1, 1]
    return np.where(again[..., None], blank, np.logaddexp(token, blank))


def _behind(values: np.ndarray, first: float) -> np.ndarray:
    """Values `(..., T)` behind a first one."""
    return np.concatenate([np.full((*values.shape[:-1], 1), first), values], -1)
