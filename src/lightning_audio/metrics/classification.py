"""Predictions of one label of N for each clip, and what they are scored by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_audio.errors import UserError
from lightning_audio.metrics.base import Predictions, metric, share
from lightning_audio.metrics.calibration import ece as ece  # a metric of these predictions
from lightning_audio.metrics.intervals import Draws

TOP = 5
# How far the interval of macro F1 is moved: see `bootstrap_interval`. Simulated with 50 classes of four clips
# each, in groups of one, two and four, such intervals covered the truth 94 to 96 times of 100, else 70 to 81.
RARE = 1.5


class ClassPredictions(Predictions):
    """Class indices `targets` and `predictions` `(N,)` of `num_classes`, and where they are known the
    `scores` `(N, C)`, which grow with the belief in a class."""

    def __init__(
        self,
        targets: ArrayLike,
        predictions: ArrayLike,
        num_classes: int,
        groups: Sequence[str | None],
        scores: NDArray | None = None,
    ) -> None:
        super().__init__(groups)
        self.targets, self.predictions = np.asarray(targets, dtype=int), np.asarray(predictions, dtype=int)
        self.num_classes, self.scores = num_classes, scores

    @classmethod
    def from_scores(cls, scores: NDArray, targets: ArrayLike, groups: Sequence[str | None]) -> Self:
        """The class with the highest score is predicted, of equal ones the first."""
        return cls(targets, scores.argmax(1), scores.shape[1], groups, scores)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Self:
        index = {label: number for number, label in enumerate(labels)}
        targets, predictions = ([index[row[key]] for row in rows] for key in ("reference", "hypothesis"))
        scores = None
        if all(row.get("scores") for row in rows):
            scores = np.array([[row["scores"][label] for label in labels] for row in rows])
        return cls(targets, predictions, len(labels), [row.get("group") for row in rows], scores)

    @property
    def confidence(self) -> NDArray[np.float64] | None:
        """The score of the label that is said `(N,)`; None where scores are not known."""
        return None if self.scores is None else self.scores[np.arange(len(self)), self.predictions]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether it is right `(N,)`."""
        return self.targets == self.predictions

    def counts(self, draws: Draws) -> NDArray[np.float64]:
        """Per class how many clips were right, referenced and predicted, `(R, 3, C)`."""
        shape = (draws.weights.shape[1], self.num_classes)

        def count(classes: NDArray, weights: NDArray | None = None) -> NDArray:
            cells = np.bincount(draws.numbers * self.num_classes + classes, weights, shape[0] * shape[1])
            return cells.reshape(shape)

        right = count(self.targets, self.targets == self.predictions)
        groups = np.stack([right, count(self.targets), count(self.predictions)], axis=1)
        return np.tensordot(draws.weights.astype(float), groups, axes=1)

    def refuse_not_finite(self) -> None:
        refuse_not_finite(self.scores)


@share()
def accuracy(predictions: ClassPredictions) -> NDArray:
    """The share of clips of which the label is right."""
    return predictions.targets == predictions.predictions


@share()
def top5_accuracy(predictions: ClassPredictions, k: int = TOP) -> NDArray:
    """The share of clips whose label is among the five with the highest scores; of more than five labels."""
    if predictions.scores is None or predictions.num_classes <= k:
        return np.full(len(predictions), np.nan)
    # A stable sort takes the first class on ties, as argmax does, so that a constant answer earns nothing.
    ranking = np.argsort(-predictions.scores, axis=1, kind="stable")
    return (ranking[:, :k] == predictions.targets[:, None]).any(1)


@metric(bias=RARE)
def macro_f1(predictions: ClassPredictions, draws: Draws) -> NDArray:
    """The mean F1 over the classes; one that is neither referenced nor predicted is left out."""
    return mean_f1(predictions.counts(draws))


@metric()
def balanced_accuracy(predictions: ClassPredictions, draws: Draws) -> NDArray:
    """The mean, over the classes that clips have, of the share of their clips that is right."""
    right, referenced, _ = np.moveaxis(predictions.counts(draws), -2, 0)
    return (right / np.maximum(referenced, 1)).sum(-1) / (referenced > 0).sum(-1)


def mean_f1(counts: NDArray) -> NDArray:
    """Macro F1 `(...)` of `(..., 3, C)`: per class how many were right, referenced and predicted."""
    correct, referenced, predicted = np.moveaxis(counts, -2, 0)
    both = referenced + predicted
    return (2 * correct / np.maximum(both, 1)).sum(-1) / np.maximum((both > 0).sum(-1), 1)


def confusion_matrix(targets: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts `(C, C)` of class indices `(N,)`: the row is the reference, the column the prediction."""
    cells = np.asarray(targets, dtype=int) * num_classes + np.asarray(predictions, dtype=int)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(confusion: ArrayLike, labels: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class: label, precision, recall and F1 (0 where not defined), and its number of clips."""
    confusion = np.asarray(confusion)
    return class_rows(np.stack([np.diagonal(confusion), confusion.sum(1), confusion.sum(0)]), labels)


def class_rows(counts: NDArray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The same rows from `(3, C)`: per class how many were right, referenced and predicted."""
    rows = []
    for label, right, truth, said in zip(labels, *counts, strict=True):
        precision, recall = float(right / max(said, 1)), float(right / max(truth, 1))
        f1 = float(2 * right / max(truth + said, 1))
        rows.append({"label": label, "precision": precision, "recall": recall, "f1": f1, "n": int(truth)})
    return rows


def refuse_not_finite(scores: NDArray | None) -> None:
    """Raises UserError where a network answered what is no number, `(N, C)`."""
    broken = 0 if scores is None else int((~np.isfinite(scores)).any(axis=1).sum())
    if scores is not None and broken:
        raise UserError(
            f"The network gave no finite answer for {broken} of {len(scores)} clips, so the training "
            "has diverged: lower optimizer.lr or clip the gradient with trainer.gradient_clip_val."
        )
