"""Averages of weights: the mean that brute force gives, of steps, of the last and of the best epochs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor

from lightning_audio.checkpoint import load
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.networks.cnn2d import CNN2d
from lightning_audio.reports.results import read_predictions
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.multilabel import MultiLabel
from lightning_audio.training.callbacks.checkpoint_average import CheckpointAverage
from lightning_audio.training.run import train


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights behind each step."""
    states: list[dict[str, Tensor]] = []

    def note(self: AudioTask, *_: Any) -> None:
        states.append({name: value.clone() for name, value in self.state_dict().items()})

    monkeypatch.setattr(AudioTask, "on_train_batch_end", note)
    return states


def assert_mean(found: dict[str, Tensor], states: Sequence[dict[str, Tensor]]) -> None:
    for name, value in found.items():
        if value.is_floating_point():
            expected = torch.stack([state[name] for state in states]).double().mean(0).float()
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_swa_is_the_mean_of_the_last_steps(tmp_path: Path, seen: list[dict[str, Tensor]]) -> None:
    train(compose_config([*TINY, "callbacks=swa", "callbacks.swa.start=0.6", "test=false"]), tmp_path)
    assert len(seen) == 10
    assert_mean(load(tmp_path).state_dict(), seen[6:])


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_a_mask_of_infinities_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: str) -> None:
    made, mask = CNN2d.__init__, torch.full((3, 3), -math.inf).triu(1)

    def with_mask(self: CNN2d, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        self.register_buffer("mask", mask.clone())

    monkeypatch.setattr(CNN2d, "__init__", with_mask)
    train(compose_config([*TINY, f"callbacks={average}", "test=false"]), tmp_path)
    torch.testing.assert_close(load(tmp_path).state_dict()["network.mask"], mask, rtol=0, atol=0)


def test_the_last_epochs(tmp_path: Path, seen: list[dict[str, Tensor]]) -> None:
    options = ["callbacks=average", "callbacks.average.k=2", "trainer.max_epochs=4"]
    train(compose_config([*TINY, *options]), tmp_path)
    task = load(tmp_path)
    assert_mean(task.state_dict(), [seen[14], seen[19]])
    assert task.network.state_dict()["stem_norm.num_batches_tracked"] == 20
    assert json.loads((tmp_path / "metrics.json").read_text())["checkpoint"] == "average.ckpt"
    files = [tmp_path / "checkpoints" / "average.ckpt", *(tmp_path / "checkpoints" / "epochs").glob("*.ckpt")]
    written = sum(tensor.nbytes for file in files for tensor in torch.load(file)["state_dict"].values())
    assert CheckpointAverage(2).bytes_needed(task, tmp_path / "nothing") == written
    # One more than counts: that of an epoch that a run may go back to.
    assert sorted(file.name for file in (tmp_path / "checkpoints" / "epochs").glob("*.ckpt")) == [
        "1.ckpt",
        "2.ckpt",
        "3.ckpt",
    ]


def test_the_best_epochs_by_validation(
    tmp_path: Path, seen: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.1, 0.8, 0.7])  # of four epochs, and of what was chosen

    def summarise(self: AudioTask, stage: str) -> dict[str, float]:
        self.take_observed(stage)
        return {"accuracy": next(scores)}

    monkeypatch.setattr(AudioTask, "summarise", summarise)
    options = ["loader.val_fraction=0.25", "callbacks=average", "callbacks.average={k: 2, by: best}"]
    more = ["trainer.max_epochs=4", "trainer.num_sanity_val_steps=0", "test=false"]
    train(compose_config([*TINY, *options, *more]), tmp_path)
    steps = len(seen) // 4
    saved = torch.load(tmp_path / "checkpoints" / "average.ckpt", weights_only=True)["state_dict"]
    assert_mean(saved, [seen[2 * steps - 1], seen[4 * steps - 1]])


def test_thresholds_are_fitted_to_the_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_audio.tasks.multilabel.best_thresholds", lambda scores, _: scores.mean(0))
    options = ["experiment=demo_multilabel", "network.widths=[4,8]", "data.clips_per_fold=20", "logger=none"]
    more = ["data.seconds=0.5", "callbacks=average", "callbacks.average.k=2", "trainer.max_epochs=2"]
    train(compose_config([*options, *more, "task.thresholds=tuned", "test=false"]), tmp_path)
    task, rows = load(tmp_path), read_predictions(tmp_path / "predictions_val.jsonl")
    assert isinstance(task, MultiLabel)
    means = torch.tensor([[row["scores"][label] for label in task.labels] for row in rows]).mean(0)
    torch.testing.assert_close(task.thresholds, means, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["callbacks.average.by=best"], "by=best wants validation"),
        (["callbacks.ema={_target_: lightning_audio.training.callbacks.ema.EMA}"], "a second average"),
        (["callbacks.average.by=first"], "by=first do not fit"),
    ],
)
def test_mistakes(options: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        train(compose_config([*TINY, "callbacks=average", *options]), tmp_path)
