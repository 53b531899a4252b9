"""Gradients of several batches make one update: of as many as there are, at the end of an epoch too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor

from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.classification import Classification
from lightning_audio.training.run import train

LR = 0.25


@pytest.mark.parametrize(("group", "limit"), [(4, 5), (2, 3), (3, 3)])
def test_an_update_is_the_mean_gradient_of_its_batches(
    group: int, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain SGD on a loss whose gradient is known: batch i has the gradient i + 1 for each bias."""
    before: list[Tensor] = []

    def training_step(task: AudioTask, batch: Batch, batch_idx: int) -> Any:
        bias: Tensor = task.network.head.bias  # type: ignore[assignment, union-attr]
        before.append(bias.detach().clone())
        monkeypatch.setattr(Classification, "loss", lambda *_: bias.sum() * (batch_idx + 1))
        return step(task, batch, batch_idx)

    step = AudioTask.training_step
    monkeypatch.setattr(AudioTask, "training_step", training_step)
    options = [f"trainer.accumulate_grad_batches={group}", f"trainer.limit_train_batches={limit}"]
    options += [
        "optimizer=sgd",
        "optimizer.momentum=0",
        "optimizer.weight_decay=0",
        "optimizer.nesterov=false",
        f"optimizer.lr={LR}",
    ]
    options += [
        "schedule=constant",
        "callbacks.ema=null",
        "callbacks.guard=null",
        "trainer.max_epochs=2",
        "test=false",
    ]
    train(compose_config([*TINY, *options]), tmp_path)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    ends = [*before[1:], state["state_dict"]["network.head.bias"]]
    for epoch in range(2):
        for first in range(0, limit, group):
            batches = range(first, min(first + group, limit))
            start, end = before[epoch * limit + first], ends[epoch * limit + batches[-1]]
            mean = sum(batch + 1 for batch in batches) / len(batches)
            assert torch.allclose(start - end, torch.full_like(start, LR * mean), atol=1e-5)


@pytest.mark.parametrize("epochs", [-1, 40])
def test_a_limit_of_updates_says_how_much_of_the_training_is_done(
    epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[float, int]] = []

    def training_step(task: AudioTask, batch: Batch, batch_idx: int) -> Any:
        loss = step(task, batch, batch_idx)
        seen.append((task.augment.progress, task.total_steps))
        return loss

    step = AudioTask.training_step
    monkeypatch.setattr(AudioTask, "training_step", training_step)
    # Two updates of two batches each in the first epoch, and one in the second.
    options = ["trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=4", "trainer.max_steps=3"]
    train(compose_config([*TINY, *options, f"trainer.max_epochs={epochs}", "test=false"]), tmp_path)
    assert [share for share, _ in seen] == pytest.approx([batch / 6 for batch in range(6)])
    assert {steps for _, steps in seen} == {3}
    assert f"epoch 1{'' if epochs < 0 else '/40'}  " in capsys.readouterr().out
