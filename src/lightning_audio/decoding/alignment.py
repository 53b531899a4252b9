"""When a word was said: forced alignment of tokens to frames, and words made of what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import WORD_START, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

Rows: TypeAlias = "np.ndarray | Tensor"  # what decoders take of an utterance, (T, D), on the CPU

NEVER = -1e4  # in place of -inf, so that a text that can't have been said is aligned too


@dataclass(frozen=True)
class TimedText:
    """What was said from `start` to `end`, in seconds of its recording.

    `score` in [0, 1] is the geometric mean of the posteriors of its tokens, each over its frames. The `parts`
    of a segment are its words, those of a word its tokens.
    """

    text: str
    start: float
    end: float
    score: float
    parts: tuple[TimedText, ...] = ()


@dataclass(frozen=True)
class TokenSpan:
    """The frames of a token, from `start` to before `end`, and the mean of its log-probabilities in them."""

    start: int
    end: int
    score: float


FramesOf = Callable[[Rows, Sequence[int], str], list[TokenSpan]]


@dataclass(frozen=True)
class BoundaryRule:
    """How the time of a word follows from the frames of its tokens, in seconds.

    CTC says a token in one or two frames, somewhere within its sound, and leaves the others to the blank. So
    a word is taken from `reach` before the first frame of its first token to `reach` behind the last frame of
    its last one, all moved by `shift`, which is later where it is above 0. Where two words would overlap they
    meet in the middle of the frames between them.

    Both belong to a network; `fit_boundary_rule` finds them on utterances whose boundaries are known. The
    defaults were found so for a BiLSTM with frames of 40 ms on the validation utterances of digit_strings.
    """

    shift: float = 0.03
    reach: float = 0.045


FRAMES_ALONE = BoundaryRule(0.0, 0.0)  # the frames alone


def token_frames(log_probs: Rows, tokens: Sequence[int], name: str = "the utterance") -> list[TokenSpan]:
    """Of each token the frames that the best alignment gives to it, and the mean of its log-probabilities.

    Viterbi over the paths of Graves et al. 2006.

    Args:
        log_probs: `(T, C)`, output 0 the blank and output i + 1 token i.
        tokens: 0-based ids, without blanks.
        name: what an error calls the utterance.

    Raises:
        UserError: the tokens need more frames than there are.
    """
    needed = len(tokens) + sum(one == other for one, other in pairwise(tokens))
    if needed > len(log_probs):
        raise UserError(
            f"The {len(tokens)} tokens of {name} need {needed} frames and its audio gives {len(log_probs)}: "
            "check that the text belongs to the audio."
        )
    if not tokens:
        return []
    states = np.zeros(2 * len(tokens) + 1, np.int64)
    states[1::2] = np.array(tokens) + 1
    known = np.maximum(np.asarray(log_probs, np.float64), NEVER)
    path = _best_path(known, states)
    scores = known[np.arange(len(path)), states[path]]
    starts = np.searchsorted(path, np.arange(1, len(states), 2))
    ends = np.searchsorted(path, np.arange(2, len(states), 2))
    return [
        TokenSpan(start, end, float(scores[start:end].mean()))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def _best_path(known: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The state of each frame on the best path through all `states`: outputs, blanks between the tokens.

    Of paths that are as good it is the one that stays longer.
    """
    barred = np.full(len(states), -np.inf)  # two states on: to a token that is not like the one before
    barred[3::2] = np.where(states[3::2] == states[1:-2:2], -np.inf, 0.0)
    best = np.full(len(states), -np.inf)
    best[:2] = known[0, states[:2]]
    steps = np.zeros((len(known), len(states)), np.int8)  # how many states on the way to this one goes
    for frame in range(1, len(known)):
        came, step = best.copy(), steps[frame]
        for size, others in ((1, best[:-1]), (2, best[:-2] + barred[2:])):
            better = others > came[size:]
            step[size:][better] = size
            np.copyto(came[size:], others, where=better)
        best = came + known[frame, states]
    path = np.zeros(len(known), np.int64)
    state = len(states) - 1 if best[-1] > best[-2] else len(states) - 2
    for frame in reversed(range(len(known))):
        path[frame] = state
        state -= int(steps[frame, state])
    return path


def align(
    rows: Rows,
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    frame_seconds: float,
    offset: float = 0.0,
    rule: BoundaryRule | None = None,
    name: str = "the utterance",
    frames_of: FramesOf = token_frames,
) -> list[TimedText]:
    """The words of an utterance in the order that they are said in, with their tokens as parts.

    The most probable alignment is taken, by CTC unless `frames_of` says otherwise. Row t is centred on the
    time `t * frame_seconds`. The tokens of a word meet in the middle of the frames between them; a token
    that is a space belongs to no word. Memory grows with rows times tokens: 20 minutes of speech in
    characters take about 1 GB.

    Args:
        rows: what the network says, `(T, D)`; by CTC log-probabilities, output 0 the blank, i + 1 token i.
        tokens: 0-based ids, without blanks.
        tokenizer: whose ids they are.
        frame_seconds: from one row to the next.
        offset: seconds at which row 0 lies in the recording.
        rule: how far words reach.
        name: what an error calls the utterance.
        frames_of: the frames of each token; `token_frames` of the task's decoder.

    Raises:
        UserError: the tokens need more frames than there are.
    """
    words, frames = words_of(tokens, tokenizer), frames_of(rows, tokens, name)
    return timed_words(words, frames, len(rows), frame_seconds, offset, rule)


def timed_words(
    words: Sequence[Sequence[tuple[int, str]]],
    frames: Sequence[TokenSpan],
    count: int,
    frame_seconds: float,
    offset: float = 0.0,
    rule: BoundaryRule | None = None,
) -> list[TimedText]:
    """Words as `words_of` gives them, with their times, from the frames of all tokens.

    `count` frames are there in all; the other options are those of `align`.
    """
    # A frame stands for the time half-way to its neighbours.
    bare = [
        ((frames[word[0][0]].start - 0.5) * frame_seconds, (frames[word[-1][0]].end - 0.5) * frame_seconds)
        for word in words
    ]
    # The recording ends between the centre of the last row and where the next one would be.
    seconds = max(count - 1, 0.5) * frame_seconds
    edges = widened(bare, BoundaryRule() if rule is None else rule, seconds, frame_seconds)
    return [
        _word([(text, frames[place]) for place, text in word], edge, frame_seconds, offset)
        for word, edge in zip(words, edges, strict=True)
    ]


def words_of(tokens: Sequence[int], tokenizer: Tokenizer) -> list[list[tuple[int, str]]]:
    """For each word its tokens, as their places among all tokens and what they spell in it."""
    words: list[list[tuple[int, str]]] = [[]]
    for place, token in enumerate(tokens):
        text = tokenizer.vocabulary[token].replace(WORD_START, " ")
        if text.startswith(" "):
            words.append([])
        if text.strip():
            words[-1].append((place, text.strip()))
    return [word for word in words if word]


def _word(
    tokens: Sequence[tuple[str, TokenSpan]], edges: tuple[float, float], frame_seconds: float, offset: float
) -> TimedText:
    start, end = edges
    # The middle between the last frame of a token and the first of the next one; `end` is behind the last.
    inner = [(one.end - 1 + other.start) / 2 * frame_seconds for (_, one), (_, other) in pairwise(tokens)]
    times = [start, *(min(max(time, start), end) for time in inner), end]
    if any(one >= other for one, other in pairwise(times)):  # the word was moved away from its frames
        times = [start + (end - start) * i / len(tokens) for i in range(len(tokens) + 1)]
    parts = tuple(
        TimedText(text, offset + times[i], offset + times[i + 1], math.exp(min(frames.score, 0.0)))
        for i, (text, frames) in enumerate(tokens)
    )
    return from_parts("".join(text for text, _ in tokens), parts)


def from_parts(text: str, parts: Sequence[TimedText]) -> TimedText:
    """A span over all of its parts, of which there is one at least."""
    tokens = [token for part in parts for token in part.parts or (part,)]
    mean = sum(math.log(max(token.score, 1e-300)) for token in tokens) / len(tokens)
    return TimedText(text, parts[0].start, parts[-1].end, math.exp(mean), tuple(parts))


def widened(
    bare: Sequence[tuple[float, float]], rule: BoundaryRule, seconds: float, shortest: float = 0.0
) -> list[tuple[float, float]]:
    """`(start, end)` of words from those of their frames alone, by a `BoundaryRule`.

    Nothing lies before 0 or behind `seconds`. A word that would be moved out of there keeps `shortest`
    seconds, or its even share of all where they are too many for that, and pushes its neighbours.
    """
    # Half of the gap to the word before, then half of that to the one behind.
    gaps = [math.inf, *((after[0] - before[1]) / 2 for before, after in pairwise(bare)), math.inf]
    edges = [
        (start - min(rule.reach, before), end + min(rule.reach, after))
        for (start, end), before, after in zip(bare, gaps, gaps[1:], strict=False)
    ]
    shortest = min(shortest, seconds / max(len(edges), 1))
    found: list[tuple[float, float]] = []
    for start, end in edges:
        start = min(max(start + rule.shift, found[-1][1] if found else 0.0), seconds)
        found.append((start, max(min(end + rule.shift, seconds), start + shortest)))
    limit = seconds
    for i in reversed(range(len(found))):
        end = min(found[i][1], limit)
        limit = min(found[i][0], end - shortest)
        found[i] = (max(limit, 0.0), end)
    return found


def fit_boundary_rule(words: Iterable[tuple[TimedText, tuple[float, float]]]) -> BoundaryRule:
    """The rule of the smallest median errors, from words aligned with `FRAMES_ALONE` and their true times.

    Raises:
        ValueError: there is no word.
    """
    pairs = list(words)
    if not pairs:
        raise ValueError("a rule is fitted on one word at least")
    lead = median(found.start - start for found, (start, _) in pairs)
    trail = median(end - found.end for found, (_, end) in pairs)
    return BoundaryRule(shift=(trail - lead) / 2, reach=max((trail + lead) / 2, 0.0))


def boundary_errors(words: Iterable[tuple[TimedText, tuple[float, float]]]) -> list[float]:
    """By how many seconds, in either direction, starts and ends of words are off their true ones."""
    return [
        abs(difference)
        for found, (start, end) in words
        for difference in (found.start - start, found.end - end)
    ]


def best_path(blank: np.ndarray, token: np.ndarray) -> list[int]:
    """The frame of each token on the best path from the first place to the last blank.

    Args:
        blank, token: log-probabilities `(T, U + 1)` at each frame behind so many tokens.
    """
    frames, places = blank.shape
    best = np.full((frames, places), -np.inf)
    best[:, 0] = np.concatenate([[0.0], blank[:-1, 0].cumsum()])
    said = np.zeros((frames, places), dtype=bool)  # whether the last step was a token
    for u in range(1, places):  # a token in this frame, or one in an earlier frame and blanks since then
        waits = np.concatenate([[0.0], blank[:-1, u].cumsum()])
        entered = best[:, u - 1] + token[:, u - 1] - waits
        highest = np.maximum.accumulate(entered)
        best[:, u] = highest + waits
        said[:, u] = entered == highest
    found, t = [0] * (places - 1), frames - 1
    for u in range(places - 1, 0, -1):
        while not said[t, u]:
            t -= 1
        found[u - 1] = t
    return found


def monotonic_peaks(weights: Rows) -> list[int]:
    """For each token the frame that it attends to, none before that of the token before it: those with the
    largest product of weights `(U, T)`."""
    logs = np.log(np.maximum(np.asarray(weights, np.float64), 1e-12))
    total, back = logs[0], []
    for row in logs[1:]:
        best = np.maximum.accumulate(total)
        back.append(np.maximum.accumulate(np.where(total == best, np.arange(len(total)), 0)))
        total = best + row
    path = [int(total.argmax())]
    for places in reversed(back):
        path.append(int(places[path[-1]]))
    return path[::-1]
