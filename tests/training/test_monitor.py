"""What picks the checkpoint, what early stopping watches, and what a run without a validation does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY, TINY_SPEECH

from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.metrics.intervals import direction
from lightning_audio.tasks.multilabel import MultiLabel
from lightning_audio.training.callbacks.checkpointing import Best
from lightning_audio.training.run import train

WITH_VALIDATION = ("loader.val_fraction=0.25",)
MULTILABEL = (
    "experiment=demo_multilabel",
    "network.widths=[4,8]",
    "data.clips_per_fold=20",
    "data.seconds=0.5",
    "loader.val_fraction=0.25",
    "trainer.max_epochs=1",
    "task.thresholds=0.5",
    "logger=none",
)


def chosen(tmp_path: Path, monitor: str, rows: list[dict[str, float]]) -> list[int]:
    """The epochs (from 0) that are saved as the best one, by the scores of each validation."""
    best, saved = Best(tmp_path, monitor, direction(monitor)), []
    for epoch, row in enumerate(rows):
        scores = {f"val/{name}": torch.tensor(value) for name, value in row.items()}
        strategy = SimpleNamespace(reduce_boolean_decision=lambda decision: decision)
        trainer: Any = SimpleNamespace(callback_metrics=scores, strategy=strategy)
        if best.check_monitor_top_k(trainer, scores[monitor]):
            best.best_k_models = {"best.ckpt": scores[monitor]}
            saved.append(epoch)
    return saved


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [
        # Text without spaces: every utterance is one word, and none of them is right.
        (
            [{"wer": 1, "cer": 1, "loss": 9}, {"wer": 1, "cer": 0.8, "loss": 9}, {"wer": 1, "cer": 0.9}],
            [0, 1],
        ),
        (
            [
                {"wer": 1, "cer": 1, "loss": 3},
                {"wer": 1, "cer": 1, "loss": 2},
                {"wer": 1, "cer": 1, "loss": 4},
            ],
            [0, 1],
        ),
        ([{"wer": 1, "cer": 1, "loss": 3}, {"wer": 1, "cer": 1, "loss": 3}], [0, 1]),  # the later one
        ([{"wer": 0.5, "cer": 0.5}, {"wer": 0.6, "cer": 0.1}], [0]),
        ([{"wer": float("nan")}, {"wer": 1.0}], [0, 1]),
    ],
)
def test_ties_go_to_the_cer_then_to_the_loss_then_to_the_later(
    rows: list[dict[str, float]], epochs: list[int], tmp_path: Path
) -> None:
    assert chosen(tmp_path, "val/wer", rows) == epochs


def test_more_accuracy_is_better_and_ties_go_to_the_lower_loss(tmp_path: Path) -> None:
    rows = [{"accuracy": 0.5, "loss": 1}, {"accuracy": 0.6, "loss": 2}, {"accuracy": 0.6, "loss": 1.5}]
    assert chosen(tmp_path, "val/accuracy", [*rows, {"accuracy": 0.5, "loss": 0.1}]) == [0, 1, 2]


def test_a_resumed_run_knows_by_what_the_best_one_was_chosen(tmp_path: Path) -> None:
    best, resumed = (Best(tmp_path, "val/accuracy", "max") for _ in range(2))
    best.rank = (-0.5, 0.0, 1.25)
    resumed.load_state_dict(best.state_dict())
    assert resumed.rank == (-0.5, 0.0, 1.25)
    older = best.state_dict() | {"best_model_score": torch.tensor(0.5)}
    del older["rank"]
    resumed.load_state_dict(older)
    assert resumed.rank == (-0.5,)


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("val/wer", "min"),
        ("val/loss", "min"),
        ("val/miss_rate", "min"),
        ("val/mAP", "max"),
        ("val/f1", "max"),
    ],
)
def test_which_scores_are_better_the_less_of_them_there_is(name: str, which: str) -> None:
    assert direction(name) == which


def best_of(folder: Path) -> dict[str, Any]:
    """The state of the callback that chose `best.ckpt`, as the last checkpoint has it."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return next(value for key, value in state["callbacks"].items() if "Best" in key)


def test_the_monitor_is_an_option(tmp_path: Path) -> None:
    train(compose_config([*TINY_SPEECH, "task.monitor=val/cer", "test=false"]), tmp_path)
    assert best_of(tmp_path)["monitor"] == "val/cer"
    assert (
        best_of(tmp_path)["rank"][0]
        == best_of(tmp_path)["rank"][1]
        == float(best_of(tmp_path)["best_model_score"])
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("task.monitor=val/acc",), r"task\.monitor=val/acc is no score.*did you mean 'val/accuracy'"),
        (("task.monitor=train/loss",), r"task\.monitor=train/loss is no score.*choose one of val/accuracy"),
        (
            ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/mAP"),
            r"callbacks\.early_stopping\.monitor=val/mAP is no score",
        ),
        (("callbacks=early_stopping", "trainer.limit_val_batches=0"), r"set trainer\.limit_val_batches=1\.0"),
        (("trainer.limit_train_batches=0",), r"leaves nothing to train on"),
        (("+trainer.val_check_interval=9",), r"val_check_interval=9 is more than the 4 batches of an epoch"),
    ],
)
def test_what_can_not_be_watched_is_refused_before_training(
    options: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(compose_config([*TINY, *WITH_VALIDATION, *options]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_early_stopping_watches_what_picks_the_checkpoint(tmp_path: Path) -> None:
    """Of several labels: mAP, which no score gets better by 2, so that one epoch more is all."""
    early = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=2",
    )
    metrics = train(compose_config([*MULTILABEL, *early, "trainer.max_epochs=4", "test=false"]), tmp_path)
    assert metrics["epochs"] == 2
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (key,) = [key for key in state if key.startswith("EarlyStopping")]
    assert "val/mAP" in key
    assert "max" in key


def test_early_stopping_on_a_loss_wants_less_of_it(tmp_path: Path) -> None:
    early = (
        "callbacks=early_stopping",
        "callbacks.early_stopping.monitor=train/loss",
        "trainer.max_epochs=1",
    )
    train(compose_config([*TINY, *early, "test=false"]), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (key,) = [key for key in state if key.startswith("EarlyStopping")]
    assert "min" in key


@pytest.mark.parametrize("task", [(*TINY, *WITH_VALIDATION), TINY_SPEECH])
def test_a_limit_of_no_batches_is_no_validation_and_no_test(task: tuple[str, ...], tmp_path: Path) -> None:
    limits = ("trainer.limit_val_batches=0", "trainer.limit_test_batches=0", "trainer.max_epochs=1")
    metrics = train(compose_config([*task, *limits]), tmp_path)
    assert (metrics["scores"], metrics["epochs"], metrics["checkpoint"]) == ({}, 1, "last.ckpt")
    assert metrics["data"]["clips"]["val"] == 0
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("task", [TINY, TINY_SPEECH, MULTILABEL])
def test_one_batch_can_be_learned_by_heart(task: tuple[str, ...], tmp_path: Path) -> None:
    options = ("trainer.overfit_batches=1", "trainer.max_epochs=2", "loader.batch_size=4", "test=false")
    metrics = train(compose_config([*task, *options]), tmp_path)
    counts = metrics["data"]["clips"]
    assert 0 < counts["train"] == counts["val"] <= 4
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2, "an epoch is one batch"
    assert state["AudioDataModule"]["identity"]["train"] == state["AudioDataModule"]["identity"]["val"]


def test_a_profiler_leaves_its_table_in_the_run_folder(tmp_path: Path) -> None:
    options = (
        "trainer.profiler=pytorch",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "test=false",
    )
    train(compose_config([*TINY, *options]), tmp_path)
    assert "Self CPU" in (tmp_path / "fit-pytorch-profile.txt").read_text()


def test_less_than_a_batch_of_a_split_is_one_batch(tmp_path: Path) -> None:
    """The test too, which would else end a run that has been trained."""
    limits = [f"trainer.limit_{split}_batches=0.01" for split in ("train", "val", "test")]
    options = [*TINY, *WITH_VALIDATION, *limits, "trainer.max_epochs=1", "loader.batch_size=4"]
    scores = train(compose_config(options), tmp_path)["scores"]
    assert scores["test/accuracy"]["n"] == scores["val/accuracy"]["n"] == 4


def test_a_score_that_an_epoch_does_not_define_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it refused because a few clips do not define it."""
    summarise = MultiLabel.summarise
    monkeypatch.setattr(
        MultiLabel,
        "summarise",
        lambda task, stage: {n: v for n, v in summarise(task, stage).items() if n != "roc_auc"},
    )
    early = ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/roc_auc")
    metrics = train(compose_config([*MULTILABEL, *early, "trainer.max_epochs=2", "test=false"]), tmp_path)
    assert metrics["epochs"] == 2
