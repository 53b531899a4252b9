"""Scores of overlapping labels against scikit-learn; ties, labels without clips, groups, thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from lightning_audio.errors import UserError
from lightning_audio.metrics.base import metrics_of, scores, values
from lightning_audio.metrics.intervals import Score, wilson
from lightning_audio.metrics.multilabel import (
    LabelPredictions,
    average_precision,
    best_thresholds,
    label_rankings,
    per_label,
    roc_auc_of,
)

# The calibration error has its own tests.
ALL = [found for name, found in metrics_of(LabelPredictions).items() if name != "ece"]


def multilabel_scores(*columns: Any) -> dict[str, Score]:
    """Of scores, targets, decisions and groups."""
    return scores(ALL, LabelPredictions(*columns))


def multilabel_values(found: np.ndarray, targets: np.ndarray, said: np.ndarray) -> dict[str, float]:
    return values(ALL, LabelPredictions(found, targets, said, [None] * len(found)))


def rankings(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    precision, auc = (label_rankings(m, scores, targets, weights) for m in (average_precision, roc_auc_of))
    return precision, auc


def drawn(
    clips: int = 120, labels: int = 5, decimals: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets `(N, C)` that have to do with one another; few decimals make ties."""
    rng = np.random.default_rng(seed)
    targets = rng.random((clips, labels)) < np.linspace(0.1, 0.6, labels)
    scores = 1 / (1 + np.exp(-rng.normal(0, 1.5, (clips, labels)) - 2 * targets + 1))
    return scores.round(decimals).astype(np.float32), targets.astype(int)


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_rankings_agree_with_scikit_learn(decimals: int) -> None:
    scores, targets = drawn(decimals=decimals)
    precision, auc = (found[0] for found in rankings(scores, targets))
    assert precision == pytest.approx(average_precision_score(targets, scores, average=None))
    assert auc == pytest.approx(roc_auc_score(targets, scores, average=None))


def test_a_clip_that_weighs_three_stands_three_times() -> None:
    scores, targets = drawn(decimals=2)
    weights = np.random.default_rng(1).integers(0, 4, (6, len(scores)))
    precision, auc = rankings(scores, targets, weights)
    for row, counts in enumerate(weights):
        repeated = np.repeat(targets, counts, axis=0), np.repeat(scores, counts, axis=0)
        assert precision[row] == pytest.approx(average_precision_score(*repeated, average=None))
        assert auc[row] == pytest.approx(roc_auc_score(*repeated, average=None))


def test_values_agree_with_scikit_learn() -> None:
    scores, targets = drawn()
    said = scores >= 0.4
    assert multilabel_values(scores, targets, said) == pytest.approx(
        {
            "mAP": average_precision_score(targets, scores, average="macro"),
            "roc_auc": roc_auc_score(targets, scores, average="macro"),
            "micro_f1": f1_score(targets, said, average="micro"),
            "macro_f1": f1_score(targets, said, average="macro"),
            "label_accuracy": (said == targets).mean(),
            "exact_match": sum(bool((a == b).all()) for a, b in zip(said, targets, strict=True)) / 120,
        }
    )


def test_labels_that_define_nothing_are_left_out_of_means() -> None:
    scores, targets = drawn()
    targets[:, 1], targets[:, 3] = 0, 1  # no clip has label 1, every clip has label 3
    said = scores >= 0.4
    said[:, 1] = False
    values = multilabel_values(scores, targets, said)
    kept = [0, 2, 3, 4]
    assert values["mAP"] == pytest.approx(average_precision_score(targets[:, kept], scores[:, kept]))
    assert values["roc_auc"] == pytest.approx(roc_auc_score(targets[:, [0, 2, 4]], scores[:, [0, 2, 4]]))
    assert values["macro_f1"] == pytest.approx(f1_score(targets[:, kept], said[:, kept], average="macro"))
    found = multilabel_scores(scores, targets, said, [None] * 120)
    assert {name: score.value for name, score in found.items()} == pytest.approx(values)
    rows = per_label(scores, targets, said, list("abcde"))
    assert (rows[1]["average_precision"], rows[1]["roc_auc"], rows[1]["n"]) == (None, None, 0)
    assert (rows[3]["average_precision"], rows[3]["roc_auc"], rows[3]["n"]) == (1.0, None, 120)


def test_a_split_without_any_label_has_no_ranking() -> None:
    scores, targets = drawn(clips=10)
    found = multilabel_scores(scores, targets * 0, scores >= 2, [None] * 10)
    assert set(found) == {"micro_f1", "macro_f1", "label_accuracy", "exact_match"}
    assert found["exact_match"].value == 1


def test_rows_per_label_agree_with_scikit_learn() -> None:
    scores, targets = drawn()
    rows = per_label(scores, targets, scores >= 0.4, list("abcde"))
    assert [row["label"] for row in rows] == list("abcde")
    for number, row in enumerate(rows):
        truth, said = targets[:, number], scores[:, number] >= 0.4
        assert row["precision"] == pytest.approx(truth[said].mean())
        assert row["recall"] == pytest.approx(said[truth == 1].mean())
        assert row["f1"] == pytest.approx(f1_score(truth, said))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, scores[:, number]))
        assert row["n"] == truth.sum()


@pytest.mark.parametrize("decimals", [8, 1])
def test_thresholds_have_the_best_f1_of_the_curve(decimals: int) -> None:
    scores, targets = drawn(decimals=decimals)
    thresholds = best_thresholds(scores, targets)
    assert thresholds.dtype == np.float32
    for column, truth, threshold in zip(scores.T, targets.T, thresholds, strict=True):
        precision, recall, _ = precision_recall_curve(truth, column)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        assert f1_score(truth, column >= threshold) == pytest.approx(best)
        assert f1_score(truth, column > column[column > threshold].min(initial=2)) < best + 1e-9
        assert threshold not in column, "it lies between two scores"


def test_thresholds_by_hand() -> None:
    # The two best scores are right: 0.7 lies between 0.8 and 0.6. Label 2: all are right. Label 3: none is.
    scores = [[0.9, 0.3, 0.1], [0.8, 0.2, 0.2], [0.6, 0.4, 0.3], [0.1, 0.4, 0.9]]
    targets = [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert best_thresholds(scores, targets) == pytest.approx([0.7, 0.1, 0.5])


def test_neighbouring_numbers_are_still_told_apart() -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    for high, low in ((np.float32(0.5), below), (below, np.nextafter(below, np.float32(0)))):
        (threshold,) = best_thresholds(np.array([[high], [low]]), [[1], [0]])
        assert (high >= threshold, low >= threshold) == (True, False)


def test_intervals_hold_the_value_and_widen_for_copies() -> None:
    scores, targets = drawn(60)
    said = scores >= 0.4
    alone = multilabel_scores(scores, targets, said, [None] * 60)
    fourfold = [np.repeat(values, 4, axis=0) for values in (scores, targets, said)]
    grouped = multilabel_scores(fourfold[0], fourfold[1], fourfold[2], [f"g{i // 4}" for i in range(240)])
    for name, score in alone.items():
        assert 0 < score.low < score.value < score.high < 1
        assert score.n == 60
        assert grouped[name].value == pytest.approx(score.value)
        # Four copies of each clip tell no more than one.
        assert grouped[name].high - grouped[name].low == pytest.approx(score.high - score.low, rel=0.1)


def test_map_intervals_cover_the_truth() -> None:
    """Of few clips mAP comes out too high: plain percentiles cover 40 % here."""

    def weak(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        targets = rng.random((clips, 10)) < 0.2
        return rng.normal(size=(clips, 10)) + 0.5 * targets, targets

    truth = rankings(*weak(20000, 0))[0].mean()
    covered = 0
    for seed in range(1, 31):
        scores, targets = weak(60, seed)
        score = multilabel_scores(scores, targets, scores >= 1, [None] * 60)["mAP"]
        covered += score.low <= truth <= score.high
    assert covered >= 25


def values_of(rows: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    return multilabel_values(*rows, rows[0] >= 0.5)


def test_a_perfect_run_keeps_its_doubt() -> None:
    _, targets = drawn(30)
    found = multilabel_scores(targets * 0.9 + 0.05, targets, targets, [f"g{i // 3}" for i in range(30)])
    for name, score in found.items():
        assert (score.value, score.high, score.n) == (1.0, 1.0, 30), name
        assert score.low == pytest.approx(wilson(1.0, 10)[0]), name


def test_one_group_tells_as_much_as_one_clip() -> None:
    scores, targets = drawn(30)
    found = multilabel_scores(scores, targets, scores >= 0.4, ["one"] * 30)
    for name in ("mAP", "roc_auc", "micro_f1", "macro_f1"):
        assert (found[name].low, found[name].high) == pytest.approx(wilson(found[name].value, 1))


def test_an_answer_that_is_not_finite_is_refused() -> None:
    scores, targets = drawn(8)
    scores[3, 2] = np.nan
    with pytest.raises(UserError, match=r"1 of 8 clips.*diverged"):
        multilabel_scores(scores, targets, scores >= 0.4, [None] * 8)
    assert set(values_of((scores, targets))) >= {"mAP"}, "a validation while training goes on"
