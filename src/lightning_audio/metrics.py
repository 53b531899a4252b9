"""Scores with their doubt: rates with a 95 % interval, over clips that are not independent of one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from lightning_audio.errors import UserError

NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of a standard normal lie below it: two tails of 2.5 %
TOP = 5


@dataclass(frozen=True, slots=True)
class Score:
    """A rate as a fraction, `low` and `high` of its 95 % interval, and the number `n` it was counted over."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def proportion(hits: ArrayLike, groups: Sequence[str | None]) -> Score:
    """The share of hits `(N,)`, with a Wilson interval that knows of groups; None is a group of its own.

    Clips cut from one recording, or said by one speaker, tell less than as many independent ones. So N is
    divided by the design effect, which is the variance between groups over the binomial variance, and at
    least 1; few groups widen the interval further, as Student's t does. Where all clips hit or all miss,
    the groups show no variance, and their number takes the place of N.

    Sources: Wilson, JASA 22 (1927) 209-212; Rao and Scott, Biometrics 48 (1992) 577-585, for the design
    effect of a ratio; Korn and Graubard, Survey Methodology 24 (1998) 193-201, for the few groups.
    """
    hits = np.asarray(hits, dtype=float)
    if len(hits) == 0:
        raise ValueError("proportion needs at least one clip")
    return clustered_share(hits, group_numbers(groups, len(hits)))


def clustered_share(hits: NDArray, numbers: NDArray[np.intp]) -> Score:
    """`proportion` of hits `(N,)` whose groups are numbered from 0 on, `(N,)`."""
    share = float(hits.mean())
    low, high = wilson(share, _effective_number(hits, numbers))
    return Score(share, low, high, len(hits))


def group_numbers(groups: Sequence[str | None], count: int) -> NDArray[np.intp]:
    """The group of each of `count` clips as a number from 0 on `(N,)`; None is a group of its own."""
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} clips")
    names = [f"clip {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def _effective_number(hits: NDArray[np.floating], numbers: NDArray[np.intp]) -> float:
    """How many independent clips would leave as much doubt about the share of hits as these do."""
    count, share = len(hits), hits.mean()
    group_count = int(numbers.max()) + 1
    if group_count == 1 or share in (0, 1):
        return group_count
    residuals = np.bincount(numbers, weights=hits - share)
    between = group_count / (group_count - 1) * np.sum(residuals**2) / count**2
    binomial = share * (1 - share) / (count - 1)
    few = (stdtrit(count - 1, 0.975) / stdtrit(group_count - 1, 0.975)) ** 2
    return float(count / max(between / binomial, 1.0) * few)


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent clips."""
    square = NORMAL_QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding may leave a bound a hair inside the share where all clips hit or all miss.
    return max(0.0, min(share, float(middle - half))), min(1.0, max(share, float(middle + half)))


def bootstrap(
    counts: ArrayLike,
    statistic: Callable[[NDArray], NDArray],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over groups drawn anew with replacement.

    Args:
        counts: `(G, ...)`, what was counted in each group; only sums over groups enter the statistic.
        statistic: takes sums `(resamples, ...)` and gives values `(resamples,)`.
        resamples: how many times the groups are drawn.
        seed: of the draw.

    With fewer than about 20 groups the interval comes out too narrow; with one it is a point.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    counts = np.asarray(counts, dtype=float)
    weights = group_weights(len(counts), resamples, seed)
    return percentile_interval(statistic(np.tensordot(weights.astype(float), counts, axes=1)))


def group_weights(group_count: int, resamples: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    """How often each group comes up `(resamples, G)` where as many are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(group_count, np.full(group_count, 1 / group_count), size=resamples)


def percentile_interval(values: NDArray) -> tuple[float, float]:
    """Between which 95 % of the values `(resamples,)` lie; those that are not defined (NaN) do not count."""
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


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
