"""Prefix beam search over log-probabilities, with room for a language model.

Sources: Graves, Supervised Sequence Labelling with Recurrent Neural Networks (2012), section 7.5; Hannun et
al. 2014, arXiv:1408.2873, for the language model and the word bonus.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, Self

from torch import Tensor

from lightning_audio.decoding.hypothesis import Hypothesis, checked, ctc_log_probs
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import WORD_START, Tokenizer

NEVER = -math.inf


class Fusion(Protocol):
    """A language model as the search asks it, token by token. All scores are natural logarithms.

    A state is whatever the model has to remember of the tokens so far.
    """

    def start(self) -> Any:
        """The state before the first token."""

    def step(self, state: Any, token: int) -> tuple[Any, float] | None:
        """The next state and the log-probability that became known; None where the token may not follow."""

    def ahead(self, state: Any) -> float:
        """At most 0: a guess at what the log-probability of a word that is begun will be."""

    def end(self, state: Any) -> float:
        """What is still missing at the end of the utterance, -inf where it cannot end here."""

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens up to the last place where an utterance can end."""


class NoModel:
    """Every token may follow, and none is worth more than another."""

    def start(self) -> None:
        return None

    def step(self, state: None, token: int) -> tuple[None, float]:
        return None, 0.0

    def ahead(self, state: None) -> float:
        return 0.0

    def end(self, state: None) -> float:
        return 0.0

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens


class Beam:
    """Looks for the token sequence with the best score over all of its alignments.

    The score of a hypothesis is `(acoustic + lm_weight * lm + word_bonus * words) / tokens ** length_norm`.
    What is found is scored anew, over all alignments and not only those that the search kept, so that the
    scores of hypotheses and references compare.

    Args:
        tokenizer: of the outputs; a word begins behind a space, or with WORD_START.
        beam: how many prefixes are kept after each frame.
        nbest: the most hypotheses that are given, at most `beam`; no two of them have the same words.
        word_bonus: added for each word; above 0 it makes up for what a language model takes.
        length_norm: above 0 it favours long hypotheses; 0 leaves the length out.
        prune: a token whose log-probability in a frame is below this is not tried there; -inf tries all.

    Raises:
        UserError: an option is out of range.
    """

    fusion: Fusion = NoModel()
    lm_weight = 0.0

    def __init__(
        self,
        tokenizer: Tokenizer,
        beam: int = 16,
        nbest: int = 1,
        word_bonus: float = 0.0,
        length_norm: float = 0.0,
        prune: float = -9.0,
    ) -> None:
        if not 1 <= nbest <= beam:
            raise UserError(
                f"beam={beam} and nbest={nbest} do not fit: keep 1 prefix or more, and at least nbest."
            )
        if not (math.isfinite(word_bonus) and math.isfinite(length_norm)):
            raise UserError(
                f"word_bonus={word_bonus} and length_norm={length_norm} do not fit: give numbers, such as 0."
            )
        if not prune < 0:
            raise UserError(f"prune={prune} is no log-probability: set it below 0, such as -9.")
        self.tokenizer, self.beam, self.nbest = tokenizer, beam, nbest
        self.word_bonus, self.length_norm, self.prune = word_bonus, length_norm, prune
        self._starts = [token.startswith((" ", WORD_START)) for token in tokenizer.vocabulary]
        self._bare = [token in (" ", WORD_START) for token in tokenizer.vocabulary]

    def weighted(self, lm_weight: float, word_bonus: float) -> Self:
        """The same decoder, its language model shared, with other weights."""
        other = copy.copy(self)
        other.lm_weight, other.word_bonus = lm_weight, word_bonus
        return other

    def __call__(self, log_probs: Tensor) -> list[Hypothesis]:
        prefixes = _Search(self).prefixes(checked(log_probs, self.tokenizer))
        ends = dict.fromkeys(self.fusion.cut(prefix.tokens()) for prefix in prefixes)
        found = sorted(self._scored(log_probs, [*ends]), key=attrgetter("score"), reverse=True)
        # Spaces say nothing, nor in which tokens a text is spelled: of each text the best one stays.
        texts: dict[tuple[str, ...], Hypothesis] = {}
        for one in found:
            texts.setdefault(tuple(one.text.split()), one)
        return [*texts.values()][: self.nbest]

    def score_of(self, log_probs: Tensor, tokens: Sequence[int]) -> Hypothesis:
        """The hypothesis that these tokens are, -inf where the lexicon or the frames do not allow them."""
        return self._scored(log_probs, [tuple(tokens)])[0]

    def _scored(self, log_probs: Tensor, sequences: Sequence[tuple[int, ...]]) -> list[Hypothesis]:
        acoustics = ctc_log_probs(log_probs, sequences)
        return [self._hypothesis(*pair) for pair in zip(sequences, acoustics, strict=True)]

    def _hypothesis(self, tokens: tuple[int, ...], acoustic: float) -> Hypothesis:
        lm = self._lm(tokens)
        words = sum(self.begins_word(*pair) for pair in zip((-1, *tokens), tokens, strict=False))
        # A weight of 0 makes a hypothesis that cannot be said no likelier.
        weighted = self.lm_weight * lm if lm > NEVER else NEVER
        score = (acoustic + weighted + self.word_bonus * words) * self.scale(len(tokens))
        return Hypothesis(tokens, self.tokenizer.decode(tokens), score, acoustic, lm)

    def _lm(self, tokens: tuple[int, ...]) -> float:
        state, total = self.fusion.start(), 0.0
        for token in tokens:
            stepped = self.fusion.step(state, token)
            if stepped is None:
                return NEVER
            state, gained = stepped
            total += gained
        return total + self.fusion.end(state)

    def begins_word(self, last: int, token: int) -> bool:
        """Whether a word begins with this token, behind the last one, which is -1 at the beginning."""
        return not self._bare[token] and (last < 0 or self._bare[last] or self._starts[token])

    def scale(self, length: int) -> float:
        """What the score of so many tokens is multiplied by."""
        return max(length, 1) ** -self.length_norm


@dataclass(slots=True, eq=False)
class _Prefix:
    """Tokens that an utterance may begin with: a node in the tree of them.

    `worth` is what language model and word bonus give, `guess` what the word that is begun will add to it.
    `blank` and `other` are log-probabilities of its alignments with the frames so far, of those that end in a
    blank and of those that end in its last token; `total` is that of both.
    """

    parent: _Prefix | None
    token: int
    length: int
    state: Any
    worth: float = 0.0
    guess: float = 0.0
    scale: float = 1.0
    blank: float = NEVER
    other: float = NEVER
    total: float = NEVER
    frame: int = -1  # the last one from which it went on
    children: dict[int, _Prefix | None] = field(default_factory=dict)  # None for what may not follow

    def tokens(self) -> tuple[int, ...]:
        node, found = self, []
        while node.parent:
            found.append(node.token)
            node = node.parent
        return tuple(reversed(found))

    def rank(self, total: float) -> float:
        return (total + self.worth + self.guess) * self.scale

    def before(self, token: int) -> float:
        """The log-probability with which this token may follow: behind itself, only after a blank."""
        return self.blank if token == self.token else self.total


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


class _Search:
    """One utterance on its way through the frames."""

    def __init__(self, decoder: Beam) -> None:
        self.decoder, self.fusion = decoder, decoder.fusion
        self.live = [_Prefix(None, -1, 0, self.fusion.start(), blank=0.0, total=0.0)]
        # The best so far of a frame, the worst of them first; between equals the later one is the worse, so
        # that the same numbers give the same text.
        self.best: list[tuple[float, int, _Prefix]] = []
        self.frame, self.place = -1, 0

    def prefixes(self, log_probs: Tensor) -> list[_Prefix]:
        """Those that are left after the last frame, the best first."""
        values, tokens = log_probs[:, 1:].sort(dim=1, descending=True, stable=True)
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
                other = _log_add(other, parent.before(prefix.token))
            other += row[prefix.token + 1]
        return blank, other, _log_add(blank, other)

    def _extend(self, prefix: _Prefix, row: list[float], tried: list[int]) -> None:
        """Tries the tokens, the likeliest first, behind a prefix. One that lives already has what it gets."""
        best, beam, children = self.best, self.decoder.beam, prefix.children
        scale = self.decoder.scale(prefix.length + 1)
        # A language model only takes, so this is the most that an extension may be worth.
        most = prefix.worth + max(self.decoder.word_bonus, 0.0)
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
        stepped = self.fusion.step(prefix.state, token)
        if stepped is None:
            return None
        state, gained = stepped
        worth = prefix.worth + self.decoder.lm_weight * gained
        if self.decoder.begins_word(prefix.token, token):
            worth += self.decoder.word_bonus
        guess = self.decoder.lm_weight * self.fusion.ahead(state)
        return _Prefix(prefix, token, prefix.length + 1, state, worth, guess, scale)
