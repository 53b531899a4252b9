"""What a task that labels clips says of a recording; the task computes, all else is NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np

from lightning_audio.data.decode import channels_of, decode, resample
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.inference.labels import LabelRule, refuse_improbable
from lightning_audio.inference.windows import answered_in_batches, windows

EACH = "each"
Audio = str | Path | np.ndarray
Recordings = Iterable[tuple[str, np.ndarray]]  # id, int16 samples (T,) at the rate of a task


class Labelling(Protocol):
    """What is asked here of a task, or of one that was exported."""

    labels: tuple[str, ...]
    sample_rate: int
    clip_seconds: float
    info: DataInfo

    @property
    def rule(self) -> LabelRule: ...

    def clip_scores(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities `(B, C)` of the labels of clips `(T,)`, int16 at the task's rate, of any lengths."""


@dataclass(frozen=True)
class Window:
    """A stretch of a recording, in seconds, and the probabilities `(C,)` of the labels in it."""

    start: float
    end: float
    scores: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Prediction:
    """The answer for one recording: `hypothesis` with its `score`, and the scores of all labels.

    `windows` are `(start, end, hypothesis, score)` in seconds, where the recording was longer than one.
    """

    id: str
    hypothesis: str
    score: float
    scores: dict[str, float]
    seconds: float
    windows: list[tuple[float, float, str, float]] = field(default_factory=list)


def scores_of_windows(
    task: Labelling,
    recordings: Recordings,
    window: float | None = None,
    hop: float | None = None,
    batch_size: int = 16,
) -> Iterator[tuple[str, list[Window]]]:
    """The scores of each window of each recording, recordings in their order.

    Where no window is asked for, a recording that is no longer than the longest training clip is one window,
    as in training and in `evaluate`.

    Args:
        task: in eval mode.
        recordings: `(id, int16 samples (T,))` at the task's rate.
        window: seconds; the length of the clips that the task learned from by default.
        hop: seconds from one window to the next, half a window by default.
        batch_size: windows that run together, also of different recordings.
    """
    size, step = window_and_hop(task, window, hop)
    longest = task.info.longest_seconds  # older checkpoints do not say
    whole = round(longest * task.sample_rate) if longest and window is None else None
    names: dict[int, str] = {}  # the same name may come twice

    def pieces() -> Iterator[tuple[int, int, np.ndarray]]:
        for number, (name, samples) in enumerate(recordings):
            names[number] = name
            yield from ((number, *piece) for piece in windows(samples, size, step, whole))

    answered = answered_in_batches(partial(_answer, task), pieces(), batch_size, lambda piece: len(piece[2]))
    for number, rows in groupby(answered, key=lambda row: row[0]):
        yield names.pop(number), [row[1] for row in rows]


def window_and_hop(task: Labelling, window: float | None, hop: float | None) -> tuple[int, int]:
    """Both in samples, from seconds or their defaults.

    Raises:
        UserError: they leave gaps in a recording, or never come to its end.
    """
    window = task.clip_seconds if window is None else window
    hop = window / 2 if hop is None else hop
    if not 0 < hop <= window < math.inf:
        raise UserError(
            f"Windows of {window:g} s every {hop:g} s do not cover a recording: set the hop above 0 "
            "and up to the window, which is a number of seconds."
        )
    return max(round(window * task.sample_rate), 1), max(round(hop * task.sample_rate), 1)


def _answer(task: Labelling, batch: Sequence[tuple[int, int, np.ndarray]]) -> Iterator[tuple[int, Window]]:
    rate, found = task.sample_rate, task.clip_scores([piece[2] for piece in batch])
    refuse_improbable(found)
    for (name, start, samples), scores in zip(batch, found, strict=True):
        yield name, Window(start / rate, (start + len(samples)) / rate, scores)


def labelled(
    task: Labelling, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
) -> Iterator[Prediction]:
    """The labels of each recording; arguments as of `scores_of_windows`."""
    for name, found in scores_of_windows(task, recordings, window, hop, batch_size):
        yield prediction_of(task, name, found)


def prediction_of(task: Labelling, name: str, windows: Sequence[Window]) -> Prediction:
    """The answer for a recording, of its windows together and of each; the score is of the surest label."""

    def named(scores: np.ndarray) -> str:
        return ", ".join(task.labels[column] for column in task.rule.chosen(scores))

    whole = task.rule.over_windows(np.stack([window.scores for window in windows]))
    timeline = [(one.start, one.end, named(one.scores), float(one.scores.max())) for one in windows]
    return Prediction(
        id=name,
        hypothesis=named(whole),
        score=float(whole.max()),
        scores=dict(zip(task.labels, whole.tolist(), strict=True)),
        seconds=windows[-1].end,
        windows=timeline if len(windows) > 1 else [],
    )


def read_recordings(
    audio: Sequence[Audio], sample_rate: int, source_rate: int | None, channel: int | str = "mean"
) -> Iterator[tuple[str, np.ndarray]]:
    """`(id, int16 samples (T,))` of files, or of arrays `(T,)` or `(T, channels)` of `source_rate` in Hz.

    Of several channels the mean is taken, the one of a number from 0 on, or with `each` every one of them as
    a recording of its own, whose id ends in `#0`, `#1` and so on.

    Raises:
        UserError: an array comes without its rate, a file can't be read or has no such channel, or it is
            neither.
    """
    for number, item in enumerate(audio):
        if not isinstance(item, str | Path | np.ndarray):
            raise UserError(
                f"Audio is a file or a NumPy array, or several of these, not {type(item).__name__}."
            )
        name = str(item) if isinstance(item, str | Path) else f"array {number}"
        names: dict[int | str, str] = {channel: name}
        if channel == EACH:
            there = channels_of(item) if isinstance(item, str | Path) else (*item.shape, 1)[1]
            names = {one: f"{name}#{one}" for one in range(there)}
        for one, called in names.items():
            if isinstance(item, str | Path):
                yield called, decode(item, sample_rate, channel=one)
            elif source_rate is None:
                raise UserError("An array says nothing of its rate: call predict(..., sample_rate=HZ).")
            else:
                yield called, resample(item, source_rate, sample_rate, one)
