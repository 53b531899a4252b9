"""Recordings of any length as transcripts: pieces of them run in batches, words get their times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Protocol

import numpy as np

from lightning_audio.decoding import Decoder, Hypothesis
from lightning_audio.decoding.alignment import TimedText, align, from_parts
from lightning_audio.errors import UserError, printable
from lightning_audio.inference.prediction import Prediction, Recordings
from lightning_audio.inference.segments import LONGEST, SampleRange, segments, windows_over
from lightning_audio.inference.windows import answered_in_batches, batches_of
from lightning_audio.text.tokenizers import Tokenizer

SURE = 0.01  # of a natural logarithm: blanks that are as sure as the surest


class Transcribing(Protocol):
    """What is asked of a task here, or of one that was exported; see tasks/transcription.py."""

    sample_rate: int
    tokenizer: Tokenizer
    decoder: Decoder

    @property
    def frame_seconds(self) -> float: ...

    def frame_outputs(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the decoder takes, `(T', D)`, of each of the clips `(T,)`, int16 at the task's rate."""


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of so many `seconds`: segments in the order of their times.

    The parts of a segment are its words, and those of a word its tokens. `nbest` has for each segment what
    the decoder kept of it, best first; where times were asked for a known text, nothing. `channel` is that of
    the file, from 0 on.
    """

    id: str
    seconds: float
    segments: tuple[TimedText, ...]
    nbest: tuple[tuple[Hypothesis, ...], ...] = ()
    channel: int = 0

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def words(self) -> list[TimedText]:
        return [word for segment in self.segments for word in segment.parts]


@dataclass(frozen=True)
class _Piece:
    """A piece of the recording of this number: its samples `(n,)` and which of the recording's they are."""

    number: int
    name: str
    total: int
    place: SampleRange
    samples: np.ndarray


def transcribe(
    task: Transcribing,
    recordings: Iterable[tuple[str, np.ndarray]],
    longest: float = LONGEST,
    batch_size: int = 16,
) -> Iterator[Transcript]:
    """The transcript of each recording, in their order.

    Recordings are cut by `segments`; windows that overlap are put together by `join_rows` and decoded as one.
    What the task decodes is aligned, so that a segment lasts from its first word to its last one. A piece
    without a word is no segment.

    Args:
        task: in eval mode.
        recordings: `(id, int16 samples (T,))` at the task's rate, as `read_recordings` gives.
        longest: seconds of a piece; shorter recordings are taken whole.
        batch_size: pieces that run together, also of different recordings.

    Raises:
        UserError: `longest` is too short, or the network's answer is no number.
    """
    grid = row_samples(task)

    def pieces() -> Iterator[_Piece]:
        for number, (name, samples) in enumerate(recordings):
            # Of a recording that is silent one piece remains, without samples, so that it is answered too.
            for start, end in segments(samples, task.sample_rate, longest, grid) or [(0, 0)]:
                yield _Piece(number, name, len(samples), (start, end), samples[start:end])

    answered = answered_in_batches(
        partial(_answer, task), pieces(), batch_size, lambda piece: len(piece.samples)
    )
    for _, group in groupby(answered, key=lambda row: row[0].number):
        found = list(group)
        said = [(piece.place, rows) for piece, rows in found if len(piece.samples)]
        name, heard = found[0][0].name, []
        for batch in batches_of(joined_windows(said, grid, task.decoder.silence), batch_size):
            decoded = task.decoder.many([rows for _, rows in batch])
            heard += [_segment(task, name, *part, best) for part, best in zip(batch, decoded, strict=True)]
        spans, nbest = zip(*filter(None, heard), strict=True) if any(heard) else ((), ())
        yield Transcript(name, found[0][0].total / task.sample_rate, spans, nbest)


def spoken(
    task: Transcribing, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
) -> Iterator[Prediction]:
    """The transcript of each recording as its label; what was said in each piece stands under `windows`.

    Raises:
        UserError: a hop is asked for.
    """
    if hop is not None:
        raise UserError("Speech is cut at its pauses, not every so many seconds: leave out hop.")
    for found in transcribe(task, recordings, LONGEST if window is None else window, batch_size):
        yield Prediction(
            id=found.id,
            hypothesis=found.text,
            score=from_parts(found.text, found.segments).score if found.segments else 0.0,
            scores={},
            seconds=found.seconds,
            windows=[(span.start, span.end, span.text, span.score) for span in found.segments],
        )


def row_samples(task: Transcribing) -> int:
    """Samples from one row of logits to the next."""
    return round(task.frame_seconds * task.sample_rate)


def _answer(task: Transcribing, batch: Sequence[_Piece]) -> list[tuple[_Piece, np.ndarray]]:
    """Each piece with what the decoder takes of it, `(T, D)`."""
    sounding = [piece.samples for piece in batch if len(piece.samples)]
    rows = iter(task.frame_outputs(sounding) if sounding else ())
    return [(piece, next(rows) if len(piece.samples) else np.zeros(0)) for piece in batch]


def _segment(
    task: Transcribing, name: str, start: int, rows: np.ndarray, found: list[Hypothesis]
) -> tuple[TimedText, tuple[Hypothesis, ...]] | None:
    """What is said in rows that begin with this sample, and its n-best list; None where it is nothing."""
    tokens, offset, frames_of = found[0].tokens, start / task.sample_rate, task.decoder.token_frames
    for remark in task.decoder.remarks(rows, tokens):
        print(f"warning: {printable(name)}: from {offset:.1f} s on the decoder {remark}.", file=sys.stderr)
    words = align(rows, tokens, task.tokenizer, task.frame_seconds, offset, frames_of=frames_of)
    if known := scored_as(task):
        words = as_scored(words, known)
        found = [
            replace(one, text=" ".join(filter(None, (known.get(w, w) for w in one.text.split()))))
            for one in found
        ]
    return (from_parts(" ".join(word.text for word in words), words), tuple(found)) if words else None


def scored_as(task: object) -> Mapping[str, str]:
    """What each word of the task's corpus is scored as, such as one of 39 phones; empty where as itself."""
    info = getattr(task, "info", None)  # an exported model has none
    return (info.encoding.get("scored_as") or {}) if info else {}


def as_scored(words: Iterable[TimedText], known: Mapping[str, str]) -> list[TimedText]:
    """The words under the names by which they are scored; those that count for nothing are left out."""
    named = (replace(word, text=known.get(word.text, word.text)) for word in words)
    return [word for word in named if word.text]


def joined_windows(
    pieces: Sequence[tuple[SampleRange, np.ndarray]],
    grid: int,
    silence: Callable[[np.ndarray], np.ndarray] = itemgetter((..., 0)),
) -> Iterator[tuple[int, np.ndarray]]:
    """`(first sample, rows (T, D))` of pieces that stand alone, and of windows that overlap.

    Windows are joined at the row, in the middle half of what two of them share, at which both are the surest
    of a blank: a token is in one of them then, and not in both or none. Of several such rows it is the one
    nearest to the middle.

    Args:
        pieces: first sample and the one behind the last, and rows `(T, D)`.
        grid: samples of a row.
        silence: of rows the log-probabilities `(T,)` of the blank, which by CTC is their output 0.
    """
    waiting: list[tuple[int, np.ndarray]] = []
    end = 0
    for (start, stop), rows in pieces:
        if waiting and start < end:
            first, before = waiting.pop()
            begun = (start - first) // grid
            cut = begun + _seam(silence(before[begun:]), silence(rows))
            waiting.append((first, np.concatenate([before[:cut], rows[cut - begun :]])))
        else:
            yield from waiting
            waiting = [(start, rows)]
        end = stop
    yield from waiting


def _seam(before: np.ndarray, after: np.ndarray) -> int:
    """The row from which on the second of two windows is taken; their blanks `(n,)` begin at one time."""
    shared = min(len(before), len(after))
    first, last = shared // 4, shared - shared // 4
    blank = (before[:shared] + after[:shared])[first:last]
    if not len(blank):
        return 0
    surest = np.flatnonzero(blank >= blank.max() - SURE).tolist()
    return first + min(surest, key=lambda row: abs(2 * row - len(blank)))


def posteriors(task: Transcribing, samples: np.ndarray, longest: float = LONGEST) -> np.ndarray:
    """What the decoder takes, `(T, D)`, of a whole recording: in windows where it is longer than `longest`.

    Args:
        task: in eval mode.
        samples: int16 `(T,)` at the task's rate.
        longest: seconds of a window.
    """
    grid, size = row_samples(task), round(longest * task.sample_rate)
    places = windows_over(0, len(samples), size, task.sample_rate, grid)
    pieces = (_Piece(0, "", len(samples), place, samples[slice(*place)]) for place in places)
    rows = [row for piece in pieces for _, row in _answer(task, [piece])]
    ((_, whole),) = joined_windows(list(zip(places, rows, strict=True)), grid, task.decoder.silence)
    return whole
