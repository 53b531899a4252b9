"""Sound events in time: from the scores of overlapping windows to a timeline of starts, ends and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.inference.prediction import Labelling, Window, scores_of_windows, window_and_hop

TINY = 1e-6  # of a step or a second: what adding up times may be off by


@dataclass(frozen=True)
class Event:
    """A label from `start` to `end` in seconds; `score` is the mean of its scores over that time."""

    start: float
    end: float
    label: str
    score: float


class Hysteresis:
    """Scores, as they come, to on and off: on from `on` upwards, off below `off`, in between as before.

    Args:
        channels: columns of the scores, each for itself; all are off at first.
        on, off: thresholds, `0 < off <= on <= 1`.

    Raises:
        UserError: they are no such thresholds.
    """

    def __init__(self, channels: int, on: float = 0.5, off: float = 0.3) -> None:
        if not 0 < off <= on <= 1:
            raise UserError(f"on={on:g} and off={off:g} are no thresholds: set 0 < off <= on <= 1.")
        self.on, self.off = on, off
        self.last = np.zeros(channels, np.bool_)

    def push(self, scores: np.ndarray) -> np.ndarray:
        """The next scores `(k, C)` -> `(k, C)`, True where a label is on."""
        scores = np.asarray(scores)
        rows = np.arange(1, len(scores) + 1)[:, None]
        # For every row the latest one that decided; row 0 is what was before.
        decided = np.where((scores >= self.on) | (scores < self.off), rows, 0)
        decided = np.maximum.accumulate(decided, axis=0)
        active = np.take_along_axis(np.concatenate([self.last[None], scores >= self.on]), decided, axis=0)
        self.last = np.concatenate([self.last[None], active])[-1]
        return active


def scores_over_time(windows: Sequence[Window], seconds: float, step: float) -> np.ndarray:
    """What overlapping windows say together: the mean, at any time, of the windows that cover it.

    Args:
        windows: with their scores `(C,)`.
        seconds: length of the recording.
        step: seconds of a row, usually the hop of the windows.

    Returns:
        `(T, C)`: row k stands for the time from `k * step` to `(k + 1) * step` or the end, and is taken in
        its middle; 0 where no window is. Within a window of either end of a recording fewer windows cover a
        time, down to one: events are less sharp there.
    """
    count = max(math.ceil(seconds / step - TINY), 1)
    edges = np.minimum(np.arange(count + 1) * step, seconds)
    middles = (edges[:-1] + edges[1:]) / 2
    first, last = np.searchsorted(middles, [(window.start, window.end) for window in windows]).T
    # A one beside the scores counts the windows. Each is added where it begins and taken off where it ends.
    values = np.array([[*window.scores, 1.0] for window in windows], np.float64)
    changes = np.zeros((count + 1, values.shape[1]))
    np.add.at(changes, first, values)
    np.subtract.at(changes, last, values)
    sums = changes.cumsum(0)[:-1]
    return (sums[:, :-1] / sums[:, -1:].clip(1)).clip(0, 1).astype(np.float32)


def events(
    scores: np.ndarray,
    step: float,
    labels: Sequence[str],
    on: float = 0.5,
    off: float = 0.3,
    min_seconds: float = 0.0,
    max_gap: float = 0.0,
    seconds: float | None = None,
) -> list[Event]:
    """The events in scores `(T, C)`, in the order of their starts; those of different labels may overlap.

    Args:
        scores: in [0, 1], a row every `step` seconds, a column for each of the `labels`.
        on, off: an event starts with the first score of at least `on` and ends before the first below `off`.
        min_seconds: shorter events are dropped, after gaps were closed.
        max_gap: seconds up to which a gap between two events of a label is closed.
        seconds: length of the recording, where it ends within the last row.

    Raises:
        UserError: the thresholds or times are none.
    """
    if not (min_seconds >= 0 and max_gap >= 0):
        raise UserError(
            f"min_seconds={min_seconds:g} and max_gap={max_gap:g} are lengths: set them to 0 or more."
        )
    scores = np.asarray(scores)
    active = Hysteresis(len(labels), on, off).push(scores)
    end = len(scores) * step if seconds is None else seconds
    found = [
        Event(first * step, min(last * step, end), label, float(scores[first:last, column].mean()))
        for column, label in enumerate(labels)
        for first, last in _close_gaps(_runs(active[:, column]), max_gap / step + TINY)
    ]
    found = [event for event in found if event.end - event.start >= min_seconds - TINY]
    return sorted(found, key=lambda event: (event.start, event.end, event.label))


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    """`(first, behind the last)` of the stretches of True in `(T,)`."""
    edges = np.flatnonzero(np.diff(np.pad(active, 1).astype(np.int8))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _close_gaps(runs: Iterable[tuple[int, int]], longest: float) -> list[tuple[int, int]]:
    """Runs with at most `longest` rows between them become one."""
    closed: list[tuple[int, int]] = []
    for first, last in runs:
        if closed and first - closed[-1][1] <= longest:
            first = closed.pop()[0]
        closed.append((first, last))
    return closed


def columns_without(labels: Sequence[str], ignore: Iterable[str]) -> list[int]:
    """The columns of all labels but those to `ignore`; raises UserError for one that is not among them."""
    unknown = [name for name in ignore if name not in labels]
    if unknown:
        raise UserError(
            f"There is no label {unknown[0]!r} to ignore{did_you_mean(unknown[0], labels)}: name one that "
            "the run was trained on."
        )
    return [column for column, label in enumerate(labels) if label not in set(ignore)]


def timelines(
    task: Labelling,
    recordings: Iterable[tuple[str, np.ndarray]],
    window: float | None = None,
    hop: float | None = None,
    batch_size: int = 16,
    ignore: Sequence[str] = (),
    **rules: float,
) -> Iterator[tuple[str, list[Event]]]:
    """The events of each recording, in their order; what is kept of a recording are its scores over time.

    Args:
        task: in eval mode.
        recordings: `(id, int16 samples (T,))` at the task's rate, as `read_recordings` gives.
        window: seconds of one look, as long as the training clips by default.
        hop: seconds from one look to the next, a quarter of a window by default: the step of the timeline.
        batch_size: windows that run together.
        ignore: labels that are no events, such as silence.
        rules: `on`, `off`, `min_seconds` and `max_gap` of `events`.

    Raises:
        UserError: an option does not fit, before anything is read.
    """
    window = task.clip_seconds if window is None else window
    hop = window / 4 if hop is None else hop
    step = window_and_hop(task, window, hop)[1] / task.sample_rate
    columns = columns_without(task.labels, ignore)
    labels = [task.labels[column] for column in columns]
    events(np.zeros((0, len(labels))), step, labels, **rules)  # a wrong rule shows before anything is read

    def timeline(windows: list[Window]) -> list[Event]:
        scored = [replace(window, scores=window.scores[columns]) for window in windows]
        seconds = windows[-1].end
        return events(scores_over_time(scored, seconds, step), step, labels, seconds=seconds, **rules)

    looks = scores_of_windows(task, recordings, window, hop, batch_size)
    return ((name, timeline(windows)) for name, windows in looks)
