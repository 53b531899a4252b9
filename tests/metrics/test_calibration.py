"""Calibration against another implementation, and wrong labels that are planted and found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_audio.metrics.base import metrics_of, named_metrics
from lightning_audio.metrics.calibration import ece, label_errors, reliability
from lightning_audio.metrics.classification import ClassPredictions
from lightning_audio.metrics.multilabel import LabelPredictions


def test_ece_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    logits, targets = 2 * rng.normal(size=(400, 5)), rng.integers(5, size=400)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = ece.value(ClassPredictions.from_scores(scores, targets, [None] * 400))
    other = multiclass_calibration_error(torch.tensor(scores), torch.tensor(targets), 5, n_bins=15)
    assert own == pytest.approx(float(other), abs=1e-6)


def test_ece_of_known_confidence() -> None:
    """Ten answers of 0.9 of which six are right: 0.3 too sure; the interval holds that."""
    scores = np.tile([0.9, 0.1], (10, 1))
    score = ece.score(ClassPredictions.from_scores(scores, [0] * 6 + [1] * 4, [None] * 10))
    assert score is not None
    assert score.value == pytest.approx(0.3)
    assert score.low <= 0.3 <= score.high


def test_ece_of_labels_counts_every_probability() -> None:
    scores = np.array([[0.25, 0.75]] * 4)
    targets = np.array([[1, 1], [0, 1], [0, 1], [0, 0]])
    predictions = LabelPredictions(scores, targets, scores > 0.5, [None] * 4)
    assert ece.value(predictions) == pytest.approx(0.0)
    assert ece.value(LabelPredictions(scores, 1 - targets, scores > 0.5, [None] * 4)) == pytest.approx(0.5)


def test_ece_is_a_metric_by_name() -> None:
    assert named_metrics(ClassPredictions, ["ece"]) == [metrics_of(LabelPredictions)["ece"]]


def test_what_is_no_number_has_no_calibration() -> None:
    scores = np.array([[0.6, 0.4], [np.nan, 1.0]])
    assert np.isnan(ece.value(ClassPredictions([0, 1], [0, 0], 2, [None] * 2, scores)))


def test_reliability_of_bins() -> None:
    rows = reliability([0.05, 0.95, 0.97, 1.0], [0, 1, 1, 0], bins=10)
    assert rows == [(pytest.approx(0.05), 0.0, 1), (pytest.approx(2.92 / 3), pytest.approx(2 / 3), 3)]


def test_planted_label_errors_are_found() -> None:
    """Of 300 clips in three classes 15 get another label: these are found, but for one of less confidence
    than its class has on average, and no other."""
    rng = np.random.default_rng(1)
    true = np.repeat(np.arange(3), 100)
    logits = rng.normal(scale=0.5, size=(300, 3))
    logits[np.arange(300), true] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = rng.choice(300, 15, replace=False)
    labels = true.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 3, size=15)) % 3
    found = label_errors(probabilities, labels)
    assert {clip for clip, _ in found} < set(wrong.tolist())
    assert len(found) == 14
    assert all(other == true[clip] for clip, other in found)
    margins = [probabilities[clip, other] - probabilities[clip, labels[clip]] for clip, other in found]
    assert margins == sorted(margins, reverse=True)


def test_labels_of_absent_classes_are_no_doubt() -> None:
    """A class that no clip has takes none, however sure the network is of it."""
    assert label_errors([[0.1, 0.0, 0.9], [0.0, 1.0, 0.0]], [0, 1]) == []
