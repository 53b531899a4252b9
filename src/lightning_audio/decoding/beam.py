"""Prefix beam search over log-probabilities by CTC.

Source: Graves, Supervised Sequence Labelling with Recurrent Neural Networks (2012), section 7.5.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.hypothesis import CTCDecoder, checked, ctc_log_probs
from lightning_audio.decoding.search import NEVER, BeamSearch, Node, log_add


class Beam(CTCDecoder, BeamSearch):
    """`BeamSearch` over log-probabilities by CTC."""

    def prefixes(self, utterances: Sequence[Rows]) -> list[list[tuple[int, ...]]]:
        found = (_Search(self).prefixes(checked(rows, self.tokenizer)) for rows in utterances)
        return [[prefix.tokens() for prefix in kept] for kept in found]

    def acoustics(self, rows: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
        return ctc_log_probs(rows, sequences)


@dataclass(slots=True, eq=False)
class _Prefix(Node):
    """A node of the search by CTC.

    `blank` and `other` are log-probabilities of its alignments with the frames so far, of those that end in a
    blank and of those that end in its last token; `total` is that of both.
    """

    blank: float = NEVER
    other: float = NEVER
    total: float = NEVER
    frame: int = -1  # the last one from which it went on

    def before(self, token: int) -> float:
        """The log-probability with which this token may follow: behind itself, only after a blank."""
        return self.blank if token == self.token else self.total


class _Search:
    """One utterance on its way through the frames."""

    def __init__(self, decoder: Beam) -> None:
        self.decoder = decoder
        self.live = [_Prefix(None, -1, 0, decoder.start(), blank=0.0, total=0.0)]
        # The best so far of a frame, the worst of them first; between equals the later one is the worse, so
        # that the same numbers give the same text.
        self.best: list[tuple[float, int, _Prefix]] = []
        self.frame, self.place = -1, 0

    def prefixes(self, log_probs: Rows) -> list[_Prefix]:
        """Those that are left after the last frame, the best first."""
        values = log_probs[:, 1:]
        tokens = np.argsort(-values, axis=1, kind="stable")
        counts = ((values >= self.decoder.prune) & (values > NEVER)).sum(1).tolist()
        for row, order, count in zip(log_probs.tolist(), tokens.tolist(), counts, strict=True):
            self._advance(row, order[:count])
        return self.live

    def _advance(self, row: list[float], tried: list[int]) -> None:
        self.frame += 1
        for prefix in self.live:
            prefix.frame = self.frame
        stays = [self._stay(prefix, row) for prefix in self.live]
        self.best = [
            (prefix.rank(stay[2]), -place, prefix)
            for place, (prefix, stay) in enumerate(zip(self.live, stays, strict=True))
        ]
        self.place = len(self.best)
        heapq.heapify(self.best)
        if tried:
            for prefix in self.live:
                self._extend(prefix, row, tried)
        for prefix, stay in zip(self.live, stays, strict=True):
            prefix.blank, prefix.other, prefix.total = stay
        self.live = [prefix for _, _, prefix in sorted(self.best, reverse=True)]

    def _stay(self, prefix: _Prefix, row: list[float]) -> tuple[float, float, float]:
        """`blank`, `other` and `total` of a live prefix one frame later, with what its parent adds to it."""
        blank = prefix.total + row[0]
        other = prefix.other
        parent = prefix.parent
        if parent is not None:
            if parent.frame == self.frame:
                other = log_add(other, parent.before(prefix.token))
            other += row[prefix.token + 1]
        return blank, other, log_add(blank, other)

    def _extend(self, prefix: _Prefix, row: list[float], tried: list[int]) -> None:
        """Tries the tokens, the likeliest first, behind a prefix. One that lives already has what it gets."""
        best, beam, children = self.best, self.decoder.beam, prefix.children
        scale = self.decoder.scale(prefix.length + 1)
        most = prefix.worth + self.decoder.most_gained
        for token in tried:
            full, likely = len(best) == beam, row[token + 1]
            # What would not be among the best even so is worth no question to the language model.
            if full and (prefix.total + likely + most) * scale <= best[0][0]:
                break
            if token not in children:
                children[token] = self._child(prefix, token, scale)
            child, total = children[token], prefix.before(token) + likely
            if child is None or child.frame == self.frame or total == NEVER:
                continue
            rank = child.rank(total)
            if not full or rank > best[0][0]:
                child.blank, child.other, child.total = NEVER, total, total
                self.place += 1
                (heapq.heapreplace if full else heapq.heappush)(best, (rank, -self.place, child))

    def _child(self, prefix: _Prefix, token: int, scale: float) -> _Prefix | None:
        found = self.decoder.extended(prefix.asked, prefix.token, token)
        if found is None:
            return None
        state, gained, guess = found
        return _Prefix(prefix, token, prefix.length + 1, state, prefix.worth + gained, guess, scale)
