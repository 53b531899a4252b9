"""What beam searches share, whatever the network: their options, their scores, and room for a language model.

Source: Hannun et al. 2014, arXiv:1408.2873, for the language model and the word bonus.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, Self

from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.hotwords import Hotwords
from lightning_audio.decoding.hypothesis import Decoder, Hypothesis
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import WORD_START, Tokenizer

NEVER = -math.inf
WIDEST = 10_000  # prefixes; more of them take minutes and gigabytes, and find nothing else


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


class LanguageModel(Protocol):
    """A language model and where it comes from; see lm.py and neural.py."""

    fusion: Fusion
    path: Path
    unit: str
    lexicon: str | Path | Sequence[str] | None


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


@dataclass(slots=True, eq=False)
class Node:
    """Tokens that an utterance may begin with: a node in the tree of them.

    `asked` is the state of language model and hotwords, `worth` what they and the word bonus give, `guess`
    what the word that is begun will add to it.
    """

    parent: Self | None
    token: int
    length: int
    asked: Any
    worth: float = 0.0
    guess: float = 0.0
    scale: float = 1.0
    children: dict[int, Self | None] = field(default_factory=dict)  # None for what may not follow

    def tokens(self) -> tuple[int, ...]:
        """From the first one on."""
        node, found = self, []
        while node.parent:
            found.append(node.token)
            node = node.parent
        return tuple(reversed(found))

    def rank(self, total: float) -> float:
        """The score by which hypotheses are kept, of a log-probability of these tokens."""
        return (total + self.worth + self.guess) * self.scale


class BeamSearch(Decoder):
    """Looks for the token sequence with the best score over all of its alignments.

    A kind of network says `prefixes` and `acoustics`. The score of a hypothesis is
    `(acoustic + lm_weight * lm + word_bonus * words + hotwords) / tokens ** length_norm`. What is found is
    scored anew, over all alignments and not only those that the search kept, so that the scores of hypotheses
    and references compare.

    Args:
        tokenizer: of the outputs; a word begins behind a space, or with WORD_START.
        beam: how many prefixes are kept after each frame.
        nbest: the most hypotheses that are given, at most `beam`; no two of them have the same words.
        word_bonus: added for each word; above 0 it makes up for what a language model takes.
        length_norm: above 0 it favours long hypotheses; 0 leaves the length out.
        prune: a token whose log-probability in a frame is below this is not tried there; -inf tries all.
        model: a language model.
        lm_weight: times the log-probability of the language model; `tune` finds it and the word bonus.
        rescore: the search does not ask the model: that ranks what was found without it.
        hotwords: that are favoured.

    Raises:
        UserError: an option is out of range.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        beam: int = 16,
        nbest: int = 1,
        word_bonus: float = 0.0,
        length_norm: float = 0.0,
        prune: float = -9.0,
        model: LanguageModel | None = None,
        lm_weight: float = 0.5,
        hotwords: Hotwords | None = None,
        rescore: bool = False,
    ) -> None:
        if not 1 <= nbest <= beam <= WIDEST:
            raise UserError(
                f"beam={beam} and nbest={nbest} do not fit: keep 1 to {WIDEST:,} prefixes, and nbest or more."
            )
        if not (math.isfinite(word_bonus) and math.isfinite(length_norm)):
            raise UserError(
                f"word_bonus={word_bonus} and length_norm={length_norm} do not fit: give numbers, such as 0."
            )
        if not prune < 0:
            raise UserError(f"prune={prune} is no log-probability: set it below 0, such as -9.")
        if not lm_weight >= 0:
            raise UserError(f"lm_weight={lm_weight} turns the language model round: set it to 0 or more.")
        self.tokenizer, self.beam, self.nbest = tokenizer, beam, nbest
        self.word_bonus, self.length_norm, self.prune = word_bonus, length_norm, prune
        self.model, self.lm_weight = model, lm_weight if model else 0.0
        self.fusion: Fusion = model.fusion if model else NoModel()
        if rescore and (model is None or model.unit != "tokens"):
            raise UserError("rescore takes a language model over tokens: give one, or leave it out.")
        self.guide: Fusion = NoModel() if rescore else self.fusion
        self.hotwords = hotwords
        self._starts = [token.startswith((" ", WORD_START)) for token in tokenizer.vocabulary]
        self._bare = [token in (" ", WORD_START) for token in tokenizer.vocabulary]

    def weighted(self, lm_weight: float, word_bonus: float) -> Self:
        """The same decoder, its language model shared, with other weights."""
        other = copy.copy(self)
        other.lm_weight, other.word_bonus = lm_weight, word_bonus
        return other

    @abstractmethod
    def prefixes(self, utterances: Sequence[Rows]) -> list[list[tuple[int, ...]]]:
        """Of each the tokens of those that the search keeps at the end, the best first."""

    @abstractmethod
    def acoustics(self, rows: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each token sequence by the network, -inf where it cannot be."""

    def __call__(self, rows: Rows) -> list[Hypothesis]:
        return self.many([rows])[0]

    def many(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        ends = [[*dict.fromkeys(map(self.fusion.cut, kept))] for kept in self.prefixes(utterances)]
        pairs = zip(utterances, ends, strict=True)
        return [self.ranked(self.hypotheses(rows, own)) for rows, own in pairs]

    def ranked(self, hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
        """The n best, each text once."""
        found = sorted(hypotheses, key=attrgetter("score"), reverse=True)
        # Spaces say nothing, nor in which tokens a text is spelled: of each text the best one stays.
        texts: dict[tuple[str, ...], Hypothesis] = {}
        for one in found:
            texts.setdefault(tuple(one.text.split()), one)
        return [*texts.values()][: self.nbest]

    def score_of(self, rows: Rows, tokens: Sequence[int]) -> Hypothesis:
        """The hypothesis that these tokens are, -inf where the lexicon or the frames do not allow them."""
        return self.hypotheses(rows, [tuple(tokens)])[0]

    def hypotheses(self, rows: Rows, sequences: Sequence[tuple[int, ...]]) -> list[Hypothesis]:
        """Those that these token sequences are."""
        acoustics = self.acoustics(rows, sequences)
        return [self.hypothesis(*pair) for pair in zip(sequences, acoustics, strict=True)]

    def hypothesis(self, tokens: tuple[int, ...], acoustic: float) -> Hypothesis:
        """Tokens that the network gives this score, with all that is added to it."""
        lm = self._lm(tokens)
        words = sum(self.begins_word(*pair) for pair in zip((-1, *tokens), tokens, strict=False))
        # A weight of 0 makes a hypothesis that cannot be said no likelier.
        weighted = self.lm_weight * lm if lm > NEVER else NEVER
        bonus = self.word_bonus * words + (self.hotwords.total(tokens) if self.hotwords else 0.0)
        score = (acoustic + weighted + bonus) * self.scale(len(tokens))
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

    def start(self) -> tuple[Any, Any]:
        """The state of language model and hotwords before the first token."""
        return self.guide.start(), self.hotwords.start() if self.hotwords else None

    def extended(self, state: tuple[Any, Any], last: int, token: int) -> tuple[Any, float, float] | None:
        """The next state behind a token; what language model, word bonus and hotwords give for it; and a
        guess at what the word that is begun will add. None where the token may not follow the last one."""
        language, favoured = state
        stepped = self.guide.step(language, token)
        if stepped is None:
            return None
        language, likely = stepped
        gained = self.lm_weight * likely + (self.word_bonus if self.begins_word(last, token) else 0.0)
        if self.hotwords:
            favoured, more = self.hotwords.step(favoured, token)
            gained += more
        return (language, favoured), gained, self.lm_weight * self.guide.ahead(language)

    def end(self, state: tuple[Any, Any]) -> float:
        """What language model and hotwords give where the utterance ends, -inf where it cannot end here."""
        language, favoured = state
        likely = self.guide.end(language)
        taken = self.hotwords.end(favoured) if self.hotwords else 0.0
        return self.lm_weight * likely + taken if likely > NEVER else NEVER

    @property
    def most_gained(self) -> float:
        """The most that a token may gain: a language model only takes."""
        return max(self.word_bonus, 0.0) + (self.hotwords.boost if self.hotwords else 0.0)


def log_add(a: float, b: float) -> float:
    """The logarithm of the sum of what two logarithms stand for."""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
