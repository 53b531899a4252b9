"""Scores where any number of labels may be true: average precision, ROC-AUC, F1, thresholds.

Scores are `(N, C)`, the higher the surer, with targets `(N, C)` of 0 and 1 and a threshold for each label
`(C,)`; a label is said where its score reaches its threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_audio.metrics.base import Predictions, metric, share
from lightning_audio.metrics.calibration import ece as ece  # a metric of these predictions
from lightning_audio.metrics.classification import RARE, class_rows, mean_f1, refuse_not_finite
from lightning_audio.metrics.intervals import Draws

Measure = Callable[[NDArray, NDArray], NDArray]  # of `ranked_counts`

LARGEST_CHUNK = 4_000_000  # weights that are held at once while clips are drawn anew
DEFAULT_THRESHOLD = 0.5


def ranked_counts(scores: NDArray, targets: NDArray, weights: NDArray) -> tuple[NDArray, NDArray]:
    """How many true clips, and clips at all, stand at or above each distinct score, the highest first.

    Args:
        scores: `(N,)` of one label.
        targets: `(N,)`.
        weights: `(R, N)`, how often each clip counts; every row is counted by itself.

    Returns:
        Two arrays `(R, K)` for K distinct scores: clips of equal score come together, never in an order.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights = weights[:, order]
    hits = np.cumsum(weights * (targets[order] > 0), axis=1)
    return hits[:, last_of_equals], np.cumsum(weights, axis=1)[:, last_of_equals]


def average_precision(hits: NDArray, retrieved: NDArray) -> NDArray:
    """Mean precision over the steps of recall `(R,)`, of `ranked_counts`; NaN without a true clip."""
    steps = np.diff(hits, axis=1, prepend=0)
    area = (steps * hits / np.maximum(retrieved, 1)).sum(1)
    return _over(area, hits[:, -1])


def roc_auc_of(hits: NDArray, retrieved: NDArray) -> NDArray:
    """How often a true clip scores above a false one `(R,)`, of `ranked_counts`; NaN without one of both."""
    misses = retrieved - hits
    heights = hits + np.pad(hits, ((0, 0), (1, 0)))[:, :-1]
    area = (np.diff(misses, axis=1, prepend=0) * heights).sum(1) / 2
    return _over(area, hits[:, -1] * misses[:, -1])


def _over(area: NDArray, total: NDArray) -> NDArray:
    return np.where(total > 0, area / np.maximum(total, 1), np.nan)


def label_rankings(
    measure: Measure, scores: NDArray, targets: NDArray, weights: NDArray | None = None
) -> NDArray:
    """A measure of every label, `(R, C)`; by default one row in which each clip counts once."""
    weights = np.ones((1, len(scores)), dtype=int) if weights is None else weights
    columns = zip(scores.T, targets.T, strict=True)
    return np.stack([measure(*ranked_counts(column, truth, weights)) for column, truth in columns], axis=-1)


def mean_of_defined(values: NDArray) -> NDArray:
    """The mean over the last axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    return _over(np.where(there, values, 0.0).sum(-1), there.sum(-1))


def best_thresholds(scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float32]:
    """For every label the threshold with the highest F1 `(C,)`: of equally good ones the highest.

    It lies in the middle between the last score that it takes in and the first that it leaves out. A label
    that no clip has keeps 0.5.
    """
    scores, targets = np.asarray(scores, dtype=np.float32), np.asarray(targets)
    columns = zip(scores.T, targets.T, strict=True)
    return np.array([_best_threshold(column, truth) for column, truth in columns], dtype=np.float32)


def _best_threshold(scores: NDArray[np.float32], targets: NDArray) -> np.float32:
    (hits,), (retrieved,) = ranked_counts(scores, targets, np.ones((1, len(scores)), dtype=int))
    if hits[-1] == 0:
        return np.float32(DEFAULT_THRESHOLD)
    best = int(np.argmax(2 * hits / (retrieved + hits[-1])))
    falling = np.append(np.unique(scores, equal_nan=False)[::-1], np.float32(0))
    middle = (falling[best] + falling[best + 1]) / 2
    # Of two neighbours among the float32 there is no middle, and it must not fall on the lower one.
    return middle if middle > falling[best + 1] else falling[best]


class LabelPredictions(Predictions):
    """Scores `(N, C)`, targets `(N, C)` of 0 and 1, and `said` `(N, C)`: which labels were decided for."""

    def __init__(
        self, scores: ArrayLike, targets: ArrayLike, said: ArrayLike, groups: Sequence[str | None]
    ) -> None:
        super().__init__(groups)
        self.scores, self.targets = np.asarray(scores), np.asarray(targets) > 0
        self.said = np.asarray(said, dtype=bool)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Self:
        """Decisions as they were made, each fold by its own thresholds."""
        targets, said = (
            [[label in row[key] for label in labels] for row in rows]
            for key in ("reference_labels", "hypothesis_labels")
        )
        scores = [[row["scores"][label] for label in labels] for row in rows]
        return cls(scores, targets, said, [row.get("group") for row in rows])

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of each label `(N, C)`."""
        return self.scores

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the clip has it `(N, C)`."""
        return self.targets

    @property
    def decisions(self) -> NDArray[np.bool_]:
        """Of each clip which labels are right, referenced and predicted, `(N, 3, C)`."""
        return np.stack([self.targets & self.said, self.targets, self.said], axis=1)

    def refuse_not_finite(self) -> None:
        refuse_not_finite(self.scores)


@metric(resamples=1000, bias=2.0)
def mAP(predictions: LabelPredictions, draws: Draws) -> NDArray:
    """The mean average precision over the labels that a clip has."""
    return _mean_ranking(average_precision, predictions, draws)


@metric(resamples=1000, bias=2.0)
def roc_auc(predictions: LabelPredictions, draws: Draws) -> NDArray:
    """The mean ROC-AUC over the labels that a clip has and another one has not."""
    return _mean_ranking(roc_auc_of, predictions, draws)


def _mean_ranking(measure: Measure, predictions: LabelPredictions, draws: Draws) -> NDArray:
    """In chunks of resamples that fit into memory."""
    size = max(LARGEST_CHUNK // len(predictions), 1)
    parts = [
        Draws(draws.weights[start : start + size], draws.numbers).of_clips()
        for start in range(0, len(draws.weights), size)
    ]
    scores, targets = predictions.scores, predictions.targets
    return np.concatenate([mean_of_defined(label_rankings(measure, scores, targets, part)) for part in parts])


@metric()
def micro_f1(predictions: LabelPredictions, draws: Draws) -> NDArray:
    """F1 of all labels' decisions together."""
    return mean_f1(draws.sums(predictions.decisions.sum(-1, keepdims=True)))


@metric(bias=RARE)
def macro_f1(predictions: LabelPredictions, draws: Draws) -> NDArray:
    """The mean F1 over the labels; one that is neither referenced nor predicted is left out."""
    return mean_f1(draws.sums(predictions.decisions))


@share()
def label_accuracy(predictions: LabelPredictions) -> NDArray:
    """The share of decisions that are right: 1 - Hamming loss."""
    return predictions.targets == predictions.said


@share()
def exact_match(predictions: LabelPredictions) -> NDArray:
    """The share of clips of which all decisions are right: subset accuracy."""
    return (predictions.targets == predictions.said).all(1)


def per_label(
    scores: ArrayLike, targets: ArrayLike, said: ArrayLike, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """A row per label: precision, recall and F1 of the decisions, average precision and ROC-AUC of the
    ranking (None where not defined), and its number of clips."""
    scores, targets, said = np.asarray(scores), np.asarray(targets) > 0, np.asarray(said, dtype=bool)
    rows = class_rows(np.stack([(targets & said).sum(0), targets.sum(0), said.sum(0)]), labels)
    measures = {"average_precision": average_precision, "roc_auc": roc_auc_of}
    for name, measure in measures.items():
        for row, value in zip(rows, label_rankings(measure, scores, targets)[0].tolist(), strict=True):
            row[name] = None if np.isnan(value) else value
    return [{key: row[key] for key in row if key != "n"} | {"n": row["n"]} for row in rows]
