"""Scores of classification: accuracy, macro F1, and a row for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_audio.errors import UserError
from lightning_audio.metrics.intervals import Score, bootstrap, group_numbers, proportion

TOP = 5


def confusion_matrix(targets: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts `(C, C)` of class indices `(N,)`: the row is the reference, the column the prediction."""
    cells = np.asarray(targets, dtype=int) * num_classes + np.asarray(predictions, dtype=int)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_f1(confusion: ArrayLike) -> NDArray:
    """The mean F1 `(...)` over the classes of confusion matrices `(..., C, C)`.

    A class that is neither in the references nor in the predictions is left out of the mean.
    """
    confusion = np.asarray(confusion)
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    return mean_f1(np.stack([correct, confusion.sum(-1), confusion.sum(-2)], axis=-2))


def mean_f1(counts: NDArray) -> NDArray:
    """Macro F1 `(...)` of `(..., 3, C)`: per class how many were right, referenced and predicted."""
    correct, referenced, predicted = np.moveaxis(counts, -2, 0)
    both = referenced + predicted
    return (2 * correct / np.maximum(both, 1)).sum(-1) / np.maximum((both > 0).sum(-1), 1)


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


def decision_scores(
    targets: ArrayLike, predictions: ArrayLike, num_classes: int, groups: Sequence[str | None]
) -> dict[str, Score]:
    """`accuracy` and `macro_f1` of class indices `(N,)`, with intervals over the groups of the clips."""
    targets, predictions = np.asarray(targets, dtype=int), np.asarray(predictions, dtype=int)
    accuracy = proportion(targets == predictions, groups)
    value = float(macro_f1(confusion_matrix(targets, predictions, num_classes)))
    numbers = group_numbers(groups, len(targets))
    if accuracy.value in (0, 1) or numbers.max() == 0:
        # Groups that do not differ, or a single one, show no doubt when drawn anew: the accuracy's holds.
        low, high = min(accuracy.low, value), max(accuracy.high, value)
    else:
        low, high = bootstrap(_class_counts(targets, predictions, num_classes, numbers), mean_f1)
    return {"accuracy": accuracy, "macro_f1": Score(value, low, high, len(targets))}


def _class_counts(
    targets: NDArray, predictions: NDArray, num_classes: int, numbers: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Per group `(G, 3, C)`: right, referenced, predicted; far smaller than a confusion matrix per group."""
    shape = (int(numbers.max()) + 1, num_classes)

    def count(classes: NDArray, weights: NDArray | None = None) -> NDArray:
        cells = np.bincount(numbers * num_classes + classes, weights, minlength=shape[0] * shape[1])
        return cells.reshape(shape)

    return np.stack([count(targets, targets == predictions), count(targets), count(predictions)], axis=1)


def classification_scores(
    probabilities: ArrayLike, targets: ArrayLike, groups: Sequence[str | None]
) -> dict[str, Score]:
    """`accuracy`, `top5_accuracy` (of more than five classes) and `macro_f1`, with 95 % intervals.

    Args:
        probabilities: `(N, C)`, or any score that grows with the belief in a class.
        targets: `(N,)` class indices.
        groups: what each clip was cut from, or None.

    Raises:
        UserError: a probability is not finite.
    """
    probabilities, targets = np.asarray(probabilities), np.asarray(targets, dtype=int)
    refuse_not_finite(probabilities)
    # A stable sort takes the first class on ties, as argmax does, so that a constant answer earns nothing.
    ranking = np.argsort(-probabilities, axis=1, kind="stable")
    num_classes = probabilities.shape[1]
    scores = decision_scores(targets, ranking[:, 0], num_classes, groups)
    if num_classes > TOP:
        hits = (ranking[:, :TOP] == targets[:, None]).any(axis=1)
        scores = {"accuracy": scores["accuracy"], f"top{TOP}_accuracy": proportion(hits, groups), **scores}
    return scores


def refuse_not_finite(probabilities: NDArray) -> None:
    """Raises UserError where a network answered what is no number, `(N, C)`."""
    broken = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if broken:
        raise UserError(
            f"The network gave no finite answer for {broken} of {len(probabilities)} clips, so the training "
            "has diverged: lower optimizer.lr or clip the gradient with trainer.gradient_clip_val."
        )
