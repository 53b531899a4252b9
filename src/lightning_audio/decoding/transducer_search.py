"""Beam search through the lattice of a transducer, whatever joins and predicts: torch is not imported.

Source: Saon et al. 2020, Alignment-Length Synchronous Decoding for RNN Transducer, for the time-synchronous
search, which adds up the paths of equal tokens.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.hypothesis import refuse_nan
from lightning_audio.decoding.search import NEVER, BeamSearch, Node, log_add
from lightning_audio.text.tokenizers import Tokenizer

BLANK = 0


@dataclass(slots=True, eq=False)
class Place(Node):
    """A node with what the predictor gave behind its tokens, and its state, once they are needed."""

    predicted: Any = None
    state: Any = None


Totals = dict[Place, float]
Tried = tuple[float, list[float], list[int]]  # of the blank, of the likeliest tokens, and these


class TransducerSearch(BeamSearch):
    """`BeamSearch` through the lattice, frame by frame: in each up to `max_symbols` tokens, then the blank.

    Several utterances run together: predictor and joiner are asked once for what all of them keep.

    Paths that say the same tokens are added up.
    """

    def __init__(self, tokenizer: Tokenizer, max_symbols: int, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.max_symbols = max_symbols

    @abstractmethod
    def frames(self, utterances: Sequence[Rows]) -> Iterator[tuple[list[int], Any]]:
        """Frame by frame the numbers of the utterances that have one, and these `(N, width)`."""

    @abstractmethod
    def joined(self, frames: Any, owners: Sequence[int], predicted: Sequence[Any]) -> np.ndarray:
        """Log-probabilities `(M, C)` of the outputs behind each prediction in its owner, a frame."""

    @abstractmethod
    def predict(self, outputs: Sequence[int], states: Sequence[Any]) -> list[tuple[Any, Any]]:
        """The prediction and the state behind each of these outputs; of the start, a blank, there are no
        `states` before."""

    def prefixes(self, utterances: Sequence[Rows]) -> list[list[tuple[int, ...]]]:
        return [[node.tokens() for node in found] for found in self.search(utterances)]

    def search(self, utterances: Sequence[Rows]) -> list[Totals]:
        """What is left of each behind its last frame, with log-probabilities of its paths, the best first."""
        refuse_nan(utterances)
        live: list[Totals] = [{Place(None, -1, 0, self.start()): 0.0} for _ in utterances]
        if not utterances:
            return live
        for heard, frames in self.frames(utterances):
            for i, own in zip(heard, self._advance([live[i] for i in heard], frames), strict=True):
                live[i] = own
        return live

    def _advance(self, live: list[Totals], frames: Any) -> list[Totals]:
        """One frame `(N, width)` of each of N utterances, whose hypotheses are joined with it together."""
        done: list[Totals] = [{} for _ in live]
        going = [*range(len(live))]
        for symbols in range(self.max_symbols + 1):
            owners = [i for i in going for _ in live[i]]
            predicted = self._predicted([node for i in going for node in live[i]])
            rows = self._tried(self.joined(frames, owners, predicted))
            for i in going:
                own = [*islice(rows, len(live[i]))]
                for (node, total), (blank, _, _) in zip(live[i].items(), own, strict=True):
                    done[i][node] = log_add(done[i].get(node, NEVER), total + blank)
                live[i] = self._said(live[i], own, self._worst(done[i])) if symbols < self.max_symbols else {}
            going = [i for i in going if live[i]]
            if not going:
                break
        return [dict(self._best(own)) for own in done]

    def _tried(self, joined: np.ndarray) -> Iterator[Tried]:
        """Of log-probabilities `(M, C)` that of the blank, and those of tokens with these, the best first."""
        tokens = np.argsort(-joined[:, BLANK + 1 :], axis=1, kind="stable")
        values = np.take_along_axis(joined[:, BLANK + 1 :], tokens, axis=1)
        widest = int(((values >= self.prune) & (values > NEVER)).sum(1).max())
        lists = (joined[:, BLANK].tolist(), values[:, :widest].tolist(), tokens[:, :widest].tolist())
        return zip(*lists, strict=True)

    def _said(self, live: Totals, tried: Sequence[Tried], worst: float) -> Totals:
        """Those with one token more that are the best, and better than the worst that is kept already."""
        found: list[tuple[float, int, Place, float]] = []  # a heap, the worst first
        place = 0
        for (node, total), (_, own_values, own_tokens) in zip(live.items(), tried, strict=True):
            scale, most = self.scale(node.length + 1), node.worth + self.most_gained
            for value, token in zip(own_values, own_tokens, strict=True):
                bar = max(worst, found[0][0] if len(found) == self.beam else NEVER)
                if value < self.prune or (total + value + most) * scale <= bar:
                    break
                child = self._child(node, token, scale)
                if child is not None and (rank := child.rank(total + value)) > bar:
                    place += 1
                    push = heapq.heapreplace if len(found) == self.beam else heapq.heappush
                    push(found, (rank, -place, child, total + value))
        return {node: total for _, _, node, total in sorted(found, reverse=True)}

    def _child(self, node: Place, token: int, scale: float) -> Place | None:
        if token not in node.children:
            gained = self.extended(node.asked, node.token, token)
            node.children[token] = gained and Place(
                node, token, node.length + 1, gained[0], node.worth + gained[1], gained[2], scale
            )
        return node.children[token]

    def _best(self, done: Totals) -> list[tuple[Place, float]]:
        return heapq.nlargest(self.beam, done.items(), key=lambda pair: pair[0].rank(pair[1]))

    def _worst(self, done: Totals) -> float:
        """The lowest rank that is kept, where there are as many as may be."""
        if len(done) < self.beam:
            return NEVER
        node, total = self._best(done)[-1]
        return node.rank(total)

    def _predicted(self, nodes: Sequence[Place]) -> list[Any]:
        """What the predictor says behind each of them."""
        new = [node for node in nodes if node.predicted is None]
        for fresh in ([n for n in new if n.parent is None], [n for n in new if n.parent]):  # roots: no state
            if fresh:
                states = [node.parent.state for node in fresh if node.parent]
                found = self.predict([node.token + 1 for node in fresh], states)
                for node, pair in zip(fresh, found, strict=True):
                    node.predicted, node.state = pair
        return [node.predicted for node in nodes]
