"""Scores of a detector on long audio: misses, false alarms per hour, and what one costs in the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from lightning_audio.data.long_audio import SpokenWord
from lightning_audio.metrics.intervals import Score

TOLERANCE = 0.5  # seconds behind the end of a word in which its detection still counts


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gives: which of the words `(N,)` were hit, and how many detections hit none."""

    threshold: float
    hits: NDArray[np.bool_]
    false_alarms: int

    @property
    def misses(self) -> int:
        return int((~self.hits).sum())

    @property
    def miss_rate(self) -> float:
        return self.misses / max(len(self.hits), 1)


def operating_point(
    threshold: float,
    words: Sequence[SpokenWord],
    detections: Sequence[tuple[float, str]],
    tolerance: float = TOLERANCE,
) -> OperatingPoint:
    """Holds detections `(seconds, label)` against the words that were to be detected.

    A detection hits a word of its label if it comes between the word's start and `tolerance` seconds after
    its end, and no earlier detection has hit that word; where it may be one of several, it is the one that
    ends first, which leaves the fewest misses. All other detections are false alarms.
    """
    hits = np.zeros(len(words), dtype=bool)
    order = sorted(range(len(words)), key=lambda i: words[i].end)
    for time, label in sorted(detections):
        for i in order:
            if not hits[i] and words[i].label == label and words[i].start <= time <= words[i].end + tolerance:
                hits[i] = True
                break
    return OperatingPoint(threshold, hits, len(detections) - int(hits.sum()))


def det_curve(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """The points that no other one beats, from few false alarms to few misses.

    Of the detection error tradeoff, Martin et al. 1997, "The DET curve in assessment of detection task
    performance". A threshold so low that scores hardly ever fall below it both misses more and raises more
    false alarms than a higher one: nobody would choose it, and so it is left out.
    """
    kept: list[OperatingPoint] = []
    for point in sorted(points, key=lambda point: (point.false_alarms, point.misses, -point.threshold)):
        if not kept or point.misses < kept[-1].misses:
            kept.append(point)
    return kept


def fewest_errors(points: Sequence[OperatingPoint]) -> OperatingPoint:
    """The point with the fewest misses and false alarms together; of equal ones the middle threshold."""
    return _middle_of_best(points, lambda point: point.misses + point.false_alarms)


def fewest_misses(points: Sequence[OperatingPoint], most_false_alarms: float) -> OperatingPoint:
    """The point with the fewest misses of those with at most so many false alarms, or where all have more, of
    those with the fewest; of equal ones that with fewer false alarms, then the middle threshold."""
    most = max(most_false_alarms, min(point.false_alarms for point in points))
    allowed = [point for point in points if point.false_alarms <= most]
    return _middle_of_best(allowed, lambda point: (point.misses, point.false_alarms))


def _middle_of_best(
    points: Sequence[OperatingPoint], cost: Callable[[OperatingPoint], Any]
) -> OperatingPoint:
    least = min(map(cost, points))
    best = sorted((point for point in points if cost(point) == least), key=lambda point: point.threshold)
    return best[len(best) // 2]


def per_hour(events: int, hours: float) -> Score:
    """A rate of independent events, with the exact 95 % interval of a Poisson count; n is that count.

    Source: Garwood, Fiduciary limits for the Poisson distribution, Biometrika 28 (1936) 437-442.
    """
    low = float(gammaincinv(events, 0.025)) if events else 0.0
    high = float(gammaincinv(events + 1, 0.975))
    return Score(events / hours, low / hours, high / hours, events)
