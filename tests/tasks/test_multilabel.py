"""The multi-label task: its losses by hand, its thresholds in the checkpoint, a run from end to end."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional

from lightning_audio import build
from lightning_audio.augment.mix import partner_of_other_class
from lightning_audio.checkpoint import load
from lightning_audio.cli.evaluate import evaluate
from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.inference.formats import rows_of_answers
from lightning_audio.inference.prediction import Window, prediction_of
from lightning_audio.metrics.base import metrics_of
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.multilabel import LabelPredictions, best_thresholds
from lightning_audio.reports.cross_validation import summarise_folds, write_fold_report
from lightning_audio.reports.results import read_predictions, read_run, write_metrics, write_predictions
from lightning_audio.tasks.multilabel import MultiLabel, focal_loss
from lightning_audio.training.run import train

LABELS = ["dog", "rain", "bell"]
# As TINY, with overlapping sounds; the experiment averages weights and tunes thresholds on a fifth.
TINY = (
    "experiment=demo_multilabel",
    "network.widths=[4,8]",
    "data.clips_per_fold=20",
    "data.seconds=0.5",
    "loader.batch_size=16",
    "trainer.max_epochs=2",
    "logger=none",
)


def task(**options: Any) -> MultiLabel:
    parts = {
        "frontend": {"_target_": "lightning_audio.frontend.log_mel.LogMel", "n_fft": 256, "n_mels": 16},
        "normalize": "none",
        "network": {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": [4]},
        "task": {"_target_": "lightning_audio.tasks.multilabel.MultiLabel", **options},
    }
    counts = {"train": 50, "val": 0, "test": 9}
    info = DataInfo(tuple(LABELS), 8000, 0.5, class_counts=(10, 40, 0), clip_counts=counts)
    return cast(MultiLabel, build.assemble(parts, info))


def batch_of(targets: Sequence[Sequence[float]]) -> Batch:
    count = len(targets)
    ids = tuple(f"c{i}" for i in range(count))
    return Batch(torch.zeros(count, 8), torch.full((count,), 8), torch.tensor(targets), ids)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (2.0, 0.25), (0.5, 0.9), (0.0, 0.25)])
def test_focal_loss_is_the_formula(gamma: float, alpha: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(6, 3, generator=generator)
    targets = (torch.rand(6, 3, generator=generator) < 0.4).float()
    total = 0.0
    for logit, target in zip(logits.double().flatten(), targets.flatten(), strict=True):
        probability = 1 / (1 + np.exp(-logit.item()))
        of_truth = probability if target else 1 - probability
        weight = 1.0 if alpha is None else (alpha if target else 1 - alpha)
        total -= weight * (1 - of_truth) ** gamma * np.log(of_truth)
    assert focal_loss(logits, targets, gamma, alpha, torch.ones(3)).item() == pytest.approx(total / 18)


def test_focal_loss_without_focus_is_cross_entropy_also_of_soft_labels() -> None:
    logits, targets, weights = 5 * torch.randn(8, 3), torch.rand(8, 3), torch.tensor([1.0, 3.0, 0.2])
    expected = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    torch.testing.assert_close(focal_loss(logits, targets, 0.0, None, weights), expected)


def test_focal_loss_has_a_gradient_where_a_decision_is_sure() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([[1.0, 1.0]]), 0.5, None, torch.ones(2)).backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_the_loss_of_the_task() -> None:
    logits, targets = torch.randn(5, 3), (torch.rand(5, 3) < 0.5).float()
    lengths = torch.ones(5)
    bce = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(task().loss(logits, lengths, targets), bce(logits, targets))
    smoothed = bce(logits, targets * 0.9 + 0.05)
    torch.testing.assert_close(task(label_smoothing=0.1).loss(logits, lengths, targets), smoothed)
    focal = focal_loss(logits, targets, 1.5, 0.3, torch.tensor([1.0, 2.0, 3.0]))
    found = task(loss="focal", gamma=1.5, alpha=0.3, class_weights=[1, 2, 3]).loss(logits, lengths, targets)
    torch.testing.assert_close(found, focal)


def test_balanced_weights_are_clips_without_over_clips_with() -> None:
    assert task(class_weights="balanced").class_weights.tolist() == pytest.approx([40 / 10, 10 / 40, 50])
    assert task().class_weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "hinge"}, r"task\.loss=hinge is not known: choose one of bce, focal"),
        ({"gamma": -1}, r"task\.gamma=-1 and task\.alpha=None"),
        ({"alpha": 1.0}, r"task\.alpha=1\.0"),
        ({"thresholds": [0.5, 0.5]}, r"task\.thresholds=\[0\.5, 0\.5\] .* 3 of them, one a label"),
        ({"thresholds": "best"}, r"task\.thresholds=best does not fit"),
        ({"thresholds": 1.5}, r"task\.thresholds=1\.5 does not fit"),
        ({"class_weights": [1]}, r"task\.class_weights=\[1\] .* 3 numbers"),
        ({"thresholds": "tuned"}, r"wants a validation split.*loader\.val_fraction=0\.1"),
    ],
)
def test_an_option_that_does_not_fit_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(**options)


def test_tuning_without_validation_is_refused_before_there_is_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wants a validation split"):
        train(compose_config([*TINY, "loader.val_fraction=0"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_at_or_above_their_thresholds_are_said() -> None:
    model = task(thresholds=[0.5, 0.25, 0.75])
    observed = {
        "c0": ([0.5, 0.2, 0.8], ["dog", "bell"]),
        "c1": ([0.4, 0.3, 0.7], ["rain"]),
        "c2": ([0.1, 0.1, 0.1], []),
    }
    targets = [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    logits = torch.tensor([values for values, _ in observed.values()]).logit()
    model.observe("test", logits, torch.ones(3), batch_of(targets))
    values = model.summarise("test")
    assert [model.predicted_labels(row) for row in model.probabilities] == [
        labels for _, labels in observed.values()
    ]
    # Right: dog and bell, none; wrong: rain said, bell missed.
    assert values["exact_match"] == pytest.approx(2 / 3)
    assert values["label_accuracy"] == pytest.approx(7 / 9)
    assert values["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))


def test_a_recording_has_the_labels_of_all_its_windows() -> None:
    rows = [[0.9, 0.1, 0.2], [0.3, 0.6, 0.4], [0.1, 0.1, 0.1]]
    looks = [Window(i, i + 1.0, np.array(row, np.float32)) for i, row in enumerate(rows)]
    answer = prediction_of(task(), "a.wav", looks)
    assert answer.hypothesis == "dog, rain"
    assert answer.scores == pytest.approx({"dog": 0.9, "rain": 0.6, "bell": 0.4})
    assert (answer.score, answer.seconds) == (pytest.approx(0.9), 3.0)
    assert [window[2] for window in answer.windows] == ["dog", "rain", ""]
    (row,) = rows_of_answers([answer], top=3, windows=False)
    assert row["next"] == "dog 0.90, rain 0.60"
    (silent,) = rows_of_answers([prediction_of(task(), "b.wav", looks[2:])], top=2, windows=False)
    assert (silent["label"], silent["next"]) == ("", "dog 0.10")


def test_shifts_are_averaged_as_probabilities() -> None:
    model = task(shifts=2).eval()
    waveforms, lengths = torch.randn(2, 4000), torch.full((2,), 4000)
    with torch.inference_mode():
        averaged = model.label_scores(model.forward_tta(waveforms, lengths)[0])
        views = [waveforms, waveforms.roll(2000, dims=1)]
        expected = torch.stack([model(view, lengths)[0].sigmoid() for view in views]).mean(0)
    torch.testing.assert_close(averaged, expected)
    sure = torch.tensor([0.0, 1.0, 0.25])
    torch.testing.assert_close(model.label_scores(model.as_logits(sure)), sure)


def test_probabilities_of_a_test_are_not_rounded_to_half_precision() -> None:
    model, sure = task().eval(), torch.tensor([[7.0, 8.0, 9.0]], dtype=torch.bfloat16)
    model.forward = lambda waveforms, lengths: (sure, torch.ones(1))  # type: ignore[method-assign]
    logits, _ = model.forward_tta(torch.zeros(1, 8), torch.tensor([8]))
    torch.testing.assert_close(logits, sure.float(), rtol=1e-2, atol=0)


def test_clips_are_mixed_with_clips_that_share_no_label() -> None:
    targets = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]])
    partners = [partner_of_other_class(targets).tolist() for _ in range(60)]
    seen = [set(column) for column in zip(*partners, strict=True)]
    # A clip without labels goes with all; one that has them all goes with that one alone.
    assert seen == [{2, 3}, {2, 3}, {0, 1, 3}, {0, 1, 2, 4}, {3}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multilabel") / "run"
    cache = tmp_path_factory.getbasetemp() / "cache"
    train(compose_config([*TINY, f"paths.cache={cache}"]), folder)
    return folder


@pytest.fixture(scope="module")
def data(run: Path) -> AudioDataModule:
    cache = run.parents[1] / "cache"
    data = build.datamodule(compose_config([*TINY, f"paths.cache={cache}"]))
    data.setup()
    return data


def probabilities_of(model: MultiLabel, data: AudioDataModule, split: str) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        rows = [(model(b.waveforms, b.lengths)[0].sigmoid(), b.targets) for b in data.loader(split)]
    return torch.cat([row[0] for row in rows]).numpy(), torch.cat([row[1] for row in rows]).numpy()


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_checkpoint_holds_thresholds_of_its_own_averaged_weights(
    run: Path, data: AudioDataModule, name: str
) -> None:
    model = cast(MultiLabel, load(run / "checkpoints" / name))
    expected = best_thresholds(*probabilities_of(model, data, "val"))
    torch.testing.assert_close(model.thresholds, torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert not (model.thresholds == 0.5).all()


def test_scores_are_of_the_chosen_checkpoint(run: Path, data: AudioDataModule) -> None:
    """Not of the average at the end of the training, which another callback still had at hand."""
    model = cast(MultiLabel, load(run))
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["checkpoint"] == "best.ckpt"
    for split in ("val", "test"):
        probabilities, targets = probabilities_of(model, data, split)
        said = probabilities >= model.thresholds.numpy()
        there = targets.any(0)
        expected = {
            "mAP": average_precision_score(targets[:, there], probabilities[:, there]),
            "micro_f1": f1_score(targets, said, average="micro"),
            "macro_f1": f1_score(targets, said, average="macro", zero_division=np.nan),
            "label_accuracy": (said == targets).mean(),
        }
        found = {name: metrics["scores"][f"{split}/{name}"]["value"] for name in expected}
        assert found == pytest.approx(expected)


def test_evaluate_gives_the_same_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run, [], tmp_path / "again")
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    files = [folder / "predictions.jsonl" for folder in (run, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_predictions_and_table_follow_from_the_thresholds(run: Path, data: AudioDataModule) -> None:
    model, clips = load(run), {clip.id: clip for clip in data.splits["test"].clips}
    rows = read_predictions(run / "predictions.jsonl")
    assert [row["id"] for row in rows] == sorted(clips)
    answers = model.predict([clips[row["id"]].path for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert row["reference_labels"] == list(clips[row["id"]].labels)
        assert row["hypothesis"] == ", ".join(row["hypothesis_labels"]) == answer.hypothesis
        assert row["scores"] == pytest.approx(answer.scores, abs=2e-6)
    with (run / "per_class.csv").open(encoding="utf-8") as file:
        table = {row["label"]: row for row in csv.DictReader(file)}
    assert list(table) == list(data.labels)
    for label, line in table.items():
        truth = [label in row["reference_labels"] for row in rows]
        said = [label in row["hypothesis_labels"] for row in rows]
        assert float(line["f1"]) == pytest.approx(f1_score(truth, said, zero_division=0))
        assert int(line["n"]) == sum(truth)
    assert [float(line["threshold"]) for line in table.values()] == pytest.approx(
        cast(MultiLabel, model).thresholds.tolist()
    )
    assert (run / "per_class.png").is_file()


@pytest.fixture
def write_fold(tmp_path: Path) -> Callable[[int, list[tuple]], Path]:
    def write(fold: int, clips: list[tuple]) -> Path:
        rows = []
        for number, (truth, said, scores) in enumerate(clips):
            lists = {"reference_labels": truth, "hypothesis_labels": said}
            texts = {"reference": ", ".join(truth), "hypothesis": ", ".join(said)}
            scored = dict(zip(("dog, small", "rain"), scores, strict=True))
            rows.append({"id": f"{fold}-{number}", **texts, **lists, "score": max(scores), "scores": scored})
        folder = tmp_path / str(fold)
        write_predictions(folder / "predictions.jsonl", rows)
        facts = {"labels": ["dog, small", "rain"], "fold": fold, "folds": [1, 2]}
        tested = {f"test/{name}": Score(0.5, 0.4, 0.6, len(rows)) for name in metrics_of(LabelPredictions)}
        write_metrics(folder, tested, data=facts)
        return folder

    return write


def test_folds_are_pooled_by_hand(write_fold: Callable[[int, list[tuple]], Path], tmp_path: Path) -> None:
    dog, rain = "dog, small", "rain"
    one = write_fold(1, [([dog], [dog], (0.9, 0.1)), ([dog, rain], [rain], (0.4, 0.8))])
    two = write_fold(2, [([], [], (0.2, 0.3)), ([rain], [dog, rain], (0.6, 0.7))])
    summary = summarise_folds([read_run(one), read_run(two)])
    pooled = {name: score.value for name, score in summary.pooled.items()}
    # Of dog: ranked right, wrong (0.6), right (0.4): AP (1 + 2/3) / 2. Rain is ranked without a mistake.
    assert pooled["test/mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert pooled["test/micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert pooled["test/macro_f1"] == pytest.approx((0.5 + 1) / 2)
    assert pooled["test/exact_match"] == 0.5
    write_fold_report(tmp_path, summary)
    assert "| dog, small | 50.0 | 50.0 | 50.0 |" in (tmp_path / "folds.md").read_text(encoding="utf-8")
    assert (tmp_path / "per_class.png").is_file()
    assert json.loads((tmp_path / "folds.json").read_text())["confusion"] is None
