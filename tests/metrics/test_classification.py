"""Intervals against hand-worked numbers and simulation; confusion and F1 against scikit-learn."""

import numpy as np
import pytest
from numpy.typing import ArrayLike
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from lightning_audio.errors import UserError
from lightning_audio.metrics.base import named_metrics, scores
from lightning_audio.metrics.classification import (
    ClassPredictions,
    balanced_accuracy,
    confusion_matrix,
    macro_f1,
    mean_f1,
    per_class,
)
from lightning_audio.metrics.intervals import (
    Score,
    bootstrap_interval,
    group_numbers,
    proportion,
    resampled_groups,
)

USUAL = named_metrics(ClassPredictions, ("accuracy", "top5_accuracy", "macro_f1"))


def predicted(targets: ArrayLike, predictions: ArrayLike, classes: int) -> ClassPredictions:
    return ClassPredictions(targets, predictions, classes, [None] * len(np.asarray(targets)))


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Wilson's formula with z = 1.959964, worked by hand.
    [(8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (75, 80, 0.8619, 0.9730)],
)
def test_independent_clips_get_the_wilson_interval(hits: int, count: int, low: float, high: float) -> None:
    score = proportion([True] * hits + [False] * (count - hits), [None] * count)
    assert (score.value, score.n) == (hits / count, count)
    assert (score.low, score.high) == pytest.approx((low, high), abs=5e-5)


def test_copies_of_a_clip_count_once() -> None:
    hits = np.repeat(np.arange(40) % 5 != 0, 6)
    score = proportion(hits, [f"recording {i // 6}" for i in range(240)])
    # By hand: between groups pq / 39, binomial pq / 239, so the design effect of six copies is 239 / 39;
    # 240 / (239 / 39) * (1.96994 / 2.02269)^2, Student's t of 239 and of 39 degrees, is 37.15.
    assert (score.value, score.n) == (0.8, 240)
    assert (score.low, score.high) == pytest.approx((0.6462, 0.8975), abs=5e-5)


def test_groups_that_agree_never_narrow_the_interval() -> None:
    hits = np.tile([True, True, True, False], 20)
    even = proportion(hits, [f"g{i // 4}" for i in range(80)])
    alone = proportion(hits, [None] * 80)
    assert even.low <= alone.low
    assert even.high >= alone.high


def test_all_right_counts_the_groups() -> None:
    clustered = proportion([True] * 100, [f"g{i // 10}" for i in range(100)])
    assert clustered == Score(1.0, proportion([True] * 10, [None] * 10).low, 1.0, 100)


def test_one_group_tells_as_much_as_one_clip() -> None:
    score = proportion([True, False] * 5, ["one"] * 10)
    assert (score.low, score.high) == pytest.approx((0.0546, 0.9454), abs=5e-5)


@pytest.mark.parametrize(("group_count", "size", "spread"), [(40, 8, 0.5), (6, 50, 0.1), (10, 20, 0.2)])
def test_intervals_of_clustered_clips_cover_the_truth(group_count: int, size: int, spread: float) -> None:
    """Groups with beta-distributed accuracies; plain Wilson covers 60 % here, 95 % is meant."""
    truth, runs, generator = 0.9, 400, np.random.default_rng(0)
    groups = [f"g{i // size}" for i in range(group_count * size)]
    scale = (1 - spread) / spread
    covered = plain = 0
    for _ in range(runs):
        accuracies = generator.beta(truth * scale, (1 - truth) * scale, group_count)
        hits = generator.random(group_count * size) < np.repeat(accuracies, size)
        score, independent = proportion(hits, groups), proportion(hits, [None] * len(hits))
        covered += score.low <= truth <= score.high
        plain += independent.low <= truth <= independent.high
    assert 0.89 <= covered / runs <= 0.99
    assert plain / runs < 0.75


def test_clips_without_a_group_stand_alone() -> None:
    numbers = group_numbers(["a", None, "a", None, "clip 1"], 5)
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 4
    with pytest.raises(ValueError, match="do not fit"):
        group_numbers(["a"], 2)


def test_bootstrap_of_a_mean_agrees_with_theory() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    drawn = [d.sums(values) / d.sums(np.ones(400)) for d in resampled_groups(np.arange(400))]
    low, high = bootstrap_interval(values.mean(), np.concatenate(drawn), 400, 400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    again = [d.sums(values) / d.sums(np.ones(400)) for d in resampled_groups(np.arange(400))]
    assert (np.concatenate(again) == np.concatenate(drawn)).all()


def test_confusion_and_f1_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    for classes in (2, 5, 12):
        targets, predictions = generator.integers(0, classes, (2, 200))
        confusion = confusion_matrix(targets, predictions, classes)
        assert (confusion == sklearn_confusion(targets, predictions)).all()
        f1 = macro_f1.value(predicted(targets, predictions, classes))
        assert f1 == pytest.approx(f1_score(targets, predictions, average="macro"))
        recall = balanced_accuracy.value(predicted(targets, predictions, classes))
        assert recall == pytest.approx(balanced_accuracy_score(targets, predictions))


def test_absent_classes_are_left_out_of_macro_f1() -> None:
    targets, predictions = [0, 0, 1, 1, 3], [0, 1, 1, 1, 4]  # 2 is nowhere, 3 never said, 4 never true
    confusion = confusion_matrix(targets, predictions, 6)
    assert confusion.sum() == 5
    assert confusion[0, 1] == confusion[3, 4] == 1
    expected = f1_score(targets, predictions, average="macro", zero_division=0)
    assert macro_f1.value(predicted(targets, predictions, 6)) == pytest.approx(expected)
    # Of four classes that clips have 0 is right in one of two, 1 in both, 3 never.
    assert balanced_accuracy.value(predicted(targets, predictions, 6)) == pytest.approx(0.5)


def test_rows_per_class_agree_with_scikit_learn() -> None:
    targets, predictions = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1]
    rows = per_class(confusion_matrix(targets, predictions, 4), ["a", "b", "c", "d"])
    expected = precision_recall_fscore_support(targets, predictions, labels=range(4), zero_division=0)
    for key, column in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        assert [row[key] for row in rows] == pytest.approx(column.tolist())
    assert [row["label"] for row in rows] == ["a", "b", "c", "d"]


def test_classification_scores() -> None:
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 10, 300)
    probabilities = generator.random((300, 10))
    probabilities[np.arange(300), targets] += 0.5
    groups = [f"g{i // 3}" for i in range(300)]
    found = scores(USUAL, ClassPredictions.from_scores(probabilities, targets, groups))
    predictions = probabilities.argmax(1)
    assert list(found) == ["accuracy", "top5_accuracy", "macro_f1"]
    assert found["accuracy"].value == pytest.approx((predictions == targets).mean())
    assert found["top5_accuracy"].value == pytest.approx(top_k_accuracy_score(targets, probabilities, k=5))
    assert found["macro_f1"].value == pytest.approx(f1_score(targets, predictions, average="macro"))
    assert all(score.low < score.value < score.high for score in found.values())
    few = ClassPredictions.from_scores(probabilities[:, :5], targets % 5, groups)
    assert set(scores(USUAL, few)) == {"accuracy", "macro_f1"}


def test_macro_f1_is_drawn_as_of_confusion_matrices() -> None:
    targets, predictions = np.random.default_rng(4).integers(0, 3, (2, 90))
    numbers = np.repeat(np.arange(30), 3)
    matrices = np.array(
        [confusion_matrix(targets[numbers == g], predictions[numbers == g], 3) for g in range(30)]
    )
    draws = next(iter(resampled_groups(numbers)))
    drawn = np.tensordot(draws.weights, matrices, axes=1)
    counts = np.stack([np.diagonal(drawn, axis1=1, axis2=2), drawn.sum(2), drawn.sum(1)], axis=1)
    clips = ClassPredictions(targets, predictions, 3, [f"{g:02d}" for g in numbers])
    assert macro_f1.drawn(clips, draws) == pytest.approx(mean_f1(counts))


def test_a_perfect_run_keeps_its_doubt() -> None:
    found = scores(USUAL, predicted([0, 1, 2, 0], [0, 1, 2, 0], 3))
    assert found["macro_f1"] == found["accuracy"]
    assert found["macro_f1"].low < 0.6


def test_a_constant_answer_earns_nothing_from_ties() -> None:
    constant = ClassPredictions.from_scores(np.full((100, 20), 0.05), np.arange(100) % 20, [None] * 100)
    found = scores(USUAL, constant)
    assert found["accuracy"].value == 0.05
    assert found["top5_accuracy"].value == 0.25


def test_an_answer_that_is_not_finite_is_refused() -> None:
    probabilities = np.full((4, 3), 1 / 3)
    probabilities[2] = np.nan
    with pytest.raises(UserError, match=r"1 of 4 clips.*diverged"):
        scores(USUAL, ClassPredictions.from_scores(probabilities, [0, 1, 2, 0], [None] * 4))
