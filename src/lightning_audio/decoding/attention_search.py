"""Beam search for decoders with attention, alone or with CTC, whatever decodes: torch is not imported.

Joint scores: Watanabe et al. 2017 (IEEE J-STSP 11(8), Hybrid CTC/Attention Architecture). Coverage: Chorowski
and Jaitly 2017 (arXiv:1612.02695).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lightning_audio.decoding.alignment import Rows, TokenSpan, monotonic_peaks, token_frames
from lightning_audio.decoding.hypothesis import Hypothesis, ctc_log_probs, refuse_nan
from lightning_audio.decoding.prefix_scores import PrefixScores
from lightning_audio.decoding.search import NEVER, BeamSearch
from lightning_audio.errors import UserError

START = END = 0
ROWS = 128  # hypotheses that run together: each holds what the decoder knows of its utterance
LEAST_TRIED = 10  # tokens behind a hypothesis, by the decoder alone, for CTC to choose from
COVERED = 0.5  # of all the attention that a frame gets, from which on it was listened to
IMPOSSIBLE = -1e20  # of a score: by CTC, with too few frames
UNREAD = 3  # tokens by CTC behind an end: fewer may be CTC's own mistake, or its delay
REPEATS, LONGEST_LOOP = 3, 8  # how often tokens are said in a loop, and how many they are at most


class AttentionSearch(BeamSearch):
    """`BeamSearch` over the states that a decoder attends to, which gives tokens one by one: output 0 is the
    end, and output i + 1 token i.

    A row holds the states of a frame, behind its log-probabilities by CTC where there is `with_ctc`. The
    acoustic score is `(1 - ctc_weight) * attention + ctc_weight * ctc + coverage * frames`, frames being
    those that got half of an attention or more over all tokens.

    Args:
        with_ctc: whether rows begin with log-probabilities.
        ctc_weight: of CTC in the search; 0 leaves it to the decoder alone.
        coverage: for each frame that is attended to; above 0 it goes against early ends.
        options: those of `BeamSearch`.

    Raises:
        UserError: an option is out of range, or there is no CTC to weigh.
    """

    def __init__(
        self,
        *args: Any,
        with_ctc: bool = False,
        ctc_weight: float = 0.0,
        coverage: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if not 0 <= ctc_weight < 1:
            raise UserError(f"ctc_weight={ctc_weight} is no share below 1: set it to 0.3, or to 0 for none.")
        if ctc_weight and not with_ctc:
            raise UserError(f"ctc_weight={ctc_weight} weighs what was not trained: set it to 0.")
        if not 0 <= coverage < math.inf:
            raise UserError(f"coverage={coverage} does not fit: set it to 0 or more.")
        self.ctc_weight, self.coverage = ctc_weight, coverage
        self.outputs = len(self.tokenizer.vocabulary) + 1
        self.with_ctc = with_ctc

    @abstractmethod
    def begin(self, utterances: Sequence[Rows], of: np.ndarray) -> Any:
        """What the decoder knows before the first token in rows of the utterances of these numbers `(N,)`."""

    @abstractmethod
    def step(self, last: np.ndarray, known: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """The last output `(N,)` of each row -> logits `(N, C)`, what was attended to, `(N, T)`, and what is
        known now."""

    @abstractmethod
    def taken(self, known: Any, rows: np.ndarray) -> Any:
        """What is known in these rows."""

    @abstractmethod
    def attended(
        self, utterances: Sequence[Rows], owners: Sequence[int], sequences: Sequence[Sequence[int]]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each sequence, of the utterance that `owners` numbers, the log-probabilities `(U + 1,)` of its
        tokens and of its end, and what was attended to for each, `(U + 1, T)`."""

    together = ROWS

    def many(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        """Those of several utterances, which run together, so many hypotheses at a time."""
        size = max(self.together // self.beam, 1)
        groups = (utterances[start : start + size] for start in range(0, len(utterances), size))
        return [found for group in groups for found in self._together(group)]

    def _together(self, utterances: Sequence[Rows]) -> list[list[Hypothesis]]:
        ends = [list(dict.fromkeys(map(self.fusion.cut, found))) for found in self.prefixes(utterances)]
        owners = [number for number, own in enumerate(ends) for _ in own]
        scores = iter(self._acoustics(utterances, owners, [one for own in ends for one in own]))
        return [self.ranked([self.hypothesis(one, next(scores)) for one in own]) for own in ends]

    def acoustics(self, rows: Rows, sequences: Sequence[Sequence[int]]) -> list[float]:
        return self._acoustics([rows], [0] * len(sequences), sequences)

    def scores_of(self, utterances: Sequence[Rows], sequences: Sequence[Sequence[int]]) -> list[Hypothesis]:
        scores = self._acoustics(utterances, range(len(utterances)), sequences)
        return [self.hypothesis(tuple(one), score) for one, score in zip(sequences, scores, strict=True)]

    def ctc(self, rows: Rows) -> np.ndarray:
        """The log-probabilities `(T, C)` by CTC."""
        return np.asarray(rows)[:, : self.outputs]

    def silence(self, rows: Rows) -> np.ndarray:
        return np.asarray(rows)[:, 0] if self.with_ctc else np.zeros(len(rows))

    def odd(self, utterances: Sequence[Rows], sequences: Sequence[Sequence[int]]) -> list[dict[str, bool]]:
        """Of what was found in each utterance whether it `loops`, is `unended`, or ends `early`."""
        weights = [np.zeros((1, len(rows))) for rows in utterances]
        if said := [i for i, tokens in enumerate(sequences) if tokens]:
            attended = self.attended(utterances, said, [sequences[i] for i in said])
            for i, (_, own) in zip(said, attended, strict=True):
                weights[i] = own
        return [
            {
                "loops": self.loops(tokens, own),
                "unended": self.unended(rows, tokens),
                "early": self.early(rows, own),
            }
            for rows, tokens, own in zip(utterances, sequences, weights, strict=True)
        ]

    def loops(self, tokens: Sequence[int], weights: np.ndarray) -> bool:
        """Whether the same tokens are said over and over while the decoder listens to the same frames."""
        centres = weights.astype(np.float64) @ np.arange(weights.shape[1])
        for start, size, times in repetitions(tokens):
            first, last = (
                centres[place : place + size].mean() for place in (start, start + size * (times - 1))
            )
            if last - first < size * (times - 1) / 2:  # what is said again later takes frames of its own
                return True
        return False

    def remarks(self, rows: Rows, tokens: Sequence[int]) -> list[str]:
        told = {
            "loops": "goes round in a loop",
            "unended": "finds no end",
            "early": "ends before the speech does",
        }
        (odd,) = self.odd([rows], [tokens])
        return [words for name, words in told.items() if odd[name]]

    def unended(self, rows: Rows, tokens: Sequence[int]) -> bool:
        """Whether no end was found within the audio."""
        return len(tokens) >= len(rows) > 0

    def early(self, rows: Rows, weights: np.ndarray) -> bool:
        """Whether speech was left unread: CTC, where it was trained, says UNREAD tokens or more in the frames
        behind all that were listened to."""
        if not self.with_ctc or not len(rows):
            return False
        path = self.ctc(rows).argmax(-1)
        begins = (path != 0) & (path != np.concatenate([[0], path[:-1]]))
        last = int(weights[:-1].argmax(-1).max(initial=-1))
        return int(begins[last + 1 :].sum()) >= UNREAD

    def token_frames(self, rows: Rows, tokens: Sequence[int], name: str = "the utterance") -> list[TokenSpan]:
        """By CTC where the search uses it, else those that are attended to most, in the tokens' order."""
        if self.ctc_weight:
            return token_frames(self.ctc(rows), tokens, name)
        if len(tokens) > len(rows):
            raise UserError(
                f"The {len(tokens)} tokens of {name} need as many frames, and its audio gives {len(rows)}: "
                "check that the text belongs to the audio."
            )
        if not tokens:
            return []
        scores, weights = self.attended([rows], [0], [tokens])[0]
        frames = monotonic_peaks(weights[:-1])
        return [
            TokenSpan(frame, frame + 1, score)
            for frame, score in zip(frames, scores[:-1].tolist(), strict=True)
        ]

    def _acoustics(
        self, utterances: Sequence[Rows], owners: Sequence[int], sequences: Sequence[Sequence[int]]
    ) -> list[float]:
        found = []
        for owner, one, (scores, weights) in zip(
            owners, sequences, self.attended(utterances, owners, sequences), strict=True
        ):
            total = (1 - self.ctc_weight) * float(scores.sum())
            if self.ctc_weight:
                total += self.ctc_weight * ctc_log_probs(self.ctc(utterances[owner]), [one])[0]
            found.append(total + self.coverage * int((weights.sum(0) > COVERED).sum()))
        return found

    def prefixes(self, utterances: Sequence[Rows]) -> list[list[tuple[int, ...]]]:
        refuse_nan(utterances)
        return _Search(self, utterances).run()


class _Search:
    """Utterances on their way from token to token, `beam` rows for each."""

    def __init__(self, options: AttentionSearch, utterances: Sequence[Rows]) -> None:
        self.options, self.beam = options, options.beam
        self.limits = [len(rows) for rows in utterances]  # tokens; speech has fewer than frames
        self.of = np.arange(len(utterances)).repeat(self.beam)  # the utterance of each row
        self.known = options.begin(utterances, self.of)
        if options.ctc_weight:
            self.scores = PrefixScores([options.ctc(rows) for rows in utterances])
            self.prefixes = self.scores.start(self.of)
        rows = len(self.of)
        self.tokens: list[tuple[int, ...]] = [()] * rows
        self.models = [options.start()] * rows
        self.attention, self.worth = np.zeros((2, rows))
        self.heard = np.zeros((rows, max(self.limits)), np.float32)  # how much each frame was attended to
        self.live = np.arange(rows) % self.beam == 0
        self.ended: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in utterances]

    def run(self) -> list[list[tuple[int, ...]]]:
        """For each utterance the tokens of the best; what has not ended only where none has."""
        while len(self.of):
            self._grow()
        best = [sorted(found, key=lambda one: -one[0])[: self.beam] for found in self.ended]
        return [[tokens for _, tokens in found] for found in best]

    def _grow(self) -> None:
        """One more token or the end for every hypothesis."""
        options = self.options
        last = np.array([one[-1] + 1 if one else START for one in self.tokens])
        logits, attended, self.known = options.step(last, self.known)
        log_probs = log_softmax(logits)
        self.heard += attended
        tried = min(options.outputs - 1, max(2 * self.beam, LEAST_TRIED))
        outputs = largest(log_probs[:, 1:], tried) + 1
        # The end stands first among what may follow.
        gained = np.concatenate([log_probs[:, :1], np.take_along_axis(log_probs, outputs, 1)], 1)
        attention = self.attention[:, None] + gained
        acoustic = (1 - options.ctc_weight) * attention
        if options.ctc_weight:
            begun = self.scores.begun(self.prefixes, self.of, last, outputs)
            ctc = np.concatenate([self.scores.whole(self.prefixes)[:, None], begun], 1)
            acoustic = acoustic + options.ctc_weight * ctc
        acoustic = acoustic + options.coverage * (self.heard > COVERED).sum(1, keepdims=True)
        worth, guess, models = self._judged(outputs)
        count = len(self.tokens[0])
        scale = np.full(1 + tried, options.scale(count + 1))
        scale[0] = options.scale(count)
        ranks = (acoustic + worth + guess) * scale
        ranks = np.where(self.live[:, None] & (ranks >= IMPOSSIBLE), ranks, NEVER)
        self._choose(ranks, last, outputs, attention, worth, models)

    def _judged(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[list[Any]]]:
        """What language model, word bonus and hotwords give, with the end first `(N, 1 + K)`, what they may
        give for a word that is begun, and their states behind each output."""
        worth = self.worth[:, None].repeat(1 + outputs.shape[1], 1)
        guess = np.zeros_like(worth)
        options, models = self.options, [[None] * outputs.shape[1] for _ in outputs]
        if not (options.model or options.word_bonus or options.hotwords):
            return worth, guess, models
        for row, own in enumerate(outputs.tolist()):
            if not self.live[row]:
                continue
            worth[row, 0] += options.end(self.models[row])
            last = self.tokens[row][-1] if self.tokens[row] else -1
            for place, output in enumerate(own):
                found = options.extended(self.models[row], last, output - 1)
                models[row][place], gain, ahead = found or (None, NEVER, 0.0)
                worth[row, place + 1] += gain
                guess[row, place + 1] = ahead
        return worth, guess, models

    def _choose(
        self,
        ranks: np.ndarray,
        last: np.ndarray,
        outputs: np.ndarray,
        attention: np.ndarray,
        worth: np.ndarray,
        models: list[list[Any]],
    ) -> None:
        """Keeps the best of each utterance; those that end give up their places."""
        options, width, count = self.options, ranks.shape[1], len(self.tokens[0])
        kept: list[tuple[int, int, bool]] = []  # row, place among what may follow it, whether it goes on
        ranks = ranks.reshape(-1, self.beam * width)
        places = largest(ranks, self.beam)
        owners = self.of[:: self.beam].tolist()
        values = np.take_along_axis(ranks, places, 1).tolist()
        everything = zip(owners, values, places.tolist(), strict=True)
        for block, (owner, own_values, indices) in enumerate(everything):
            own = []
            for value, index in zip(own_values, indices, strict=True):
                row, place = block * self.beam + index // width, index % width
                if place == 0 and value > NEVER:
                    self.ended[owner].append((value, self.tokens[row]))
                own.append((row, max(place, 1), place > 0 and value > NEVER))
            alive = [
                (value, (*self.tokens[row], int(outputs[row, place - 1]) - 1))
                for value, (row, place, goes_on) in zip(own_values, own, strict=True)
                if goes_on
            ]
            if count + 1 >= self.limits[owner] and not self.ended[owner]:
                self.ended[owner] = alive or [(NEVER, ())]
            elif alive and count + 1 < self.limits[owner] and not self._decided(owner, alive[0][0]):
                kept += own
        rows = np.array([row for row, _, _ in kept], np.int64)
        columns = np.array([place for _, place, _ in kept], np.int64)
        self.tokens = [(*self.tokens[r], int(outputs[r, p - 1]) - 1) for r, p, _ in kept]
        self.models = [models[r][p - 1] for r, p, _ in kept]
        self.live = np.array([on for _, _, on in kept], bool)
        self.attention, self.worth = attention[rows, columns], worth[rows, columns]
        self.heard = self.heard[rows]
        if options.ctc_weight:
            chosen = outputs[rows, columns - 1]
            self.prefixes = self.scores.extended(self.prefixes[rows], self.of[rows], last[rows], chosen)
        if len(rows):
            self.known = options.taken(self.known, rows)
        self.of = self.of[rows]

    def _decided(self, owner: int, best: float) -> bool:
        """Whether what goes on, the best of it with this rank, can no longer be among the n best."""
        options, ranks = self.options, sorted((rank for rank, _ in self.ended[owner]), reverse=True)
        if options.most_gained > 0 or options.coverage or options.length_norm:
            return len(ranks) >= self.beam  # a score may rise again
        return len(ranks) >= options.nbest and ranks[options.nbest - 1] >= best


def repetitions(tokens: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where tokens are said over and over: the first of them, how many they are, and how often they come."""
    for size in range(1, LONGEST_LOOP + 1):
        start = 0
        while start + size * REPEATS <= len(tokens):
            times = 1
            while tokens[start : start + size] == tokens[start + size * times : start + size * (times + 1)]:
                times += 1
            if times >= REPEATS:
                yield start, size, times
            start += max(size * (times - 1), 1)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the largest so many of each row `(N, K)` stand, the largest first."""
    places = np.argpartition(-values, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(values, places, 1), axis=1, kind="stable")
    return np.take_along_axis(places, order, 1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row `(..., C)`, in double precision."""
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
