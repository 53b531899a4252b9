"""The learning rates that losses suggest, and the state of a run that they are looked for in."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from lightning_audio.cli import find_lr
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.training.updates import learner


def test_the_running_mean_is_that_of_the_losses_from_the_first_one_on() -> None:
    assert find_lr.running_mean([2.0] * 30) == pytest.approx([2.0] * 30)
    beta = find_lr.MEMORY
    assert find_lr.running_mean([1.0, 3.0])[1] == pytest.approx((beta * 1.0 + 3.0) / (1 + beta))


def test_the_rates_of_a_loss_whose_fall_is_known() -> None:
    """Level up to 1e-4, down to 1e-2, steepest at 1e-3, then up."""
    rates = np.geomspace(1e-6, 1.0, 61)
    log = np.log10(rates)
    loss = np.where(
        log < -4, 2.0, np.where(log <= -2, 1.5 + 0.5 * np.cos(np.pi * (log + 4) / 2), 1.0 + (log + 2))
    )
    found = find_lr.suggest(rates.tolist(), loss.tolist())
    assert found.valley == pytest.approx(1e-3, rel=0.3)
    assert found.steepest == pytest.approx(1e-3, rel=0.3)
    assert found.minimum_tenth == pytest.approx(1e-3, rel=0.3)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    with pytest.raises(UserError, match="The loss never fell"):
        find_lr.suggest([1e-6, 1e-5, 1e-4], [1.0, 2.0, 3.0])


def test_a_learner_has_the_state_of_the_run_and_keeps_its_frozen_layers(
    tiny_run: Path, tmp_path: Path
) -> None:
    """Two epochs of a run are made: the third one is to come, with its weights and moments."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    file = run / "checkpoints" / "last.ckpt"
    learning = learner(compose_config(list(TINY)), tmp_path, file)
    saved = torch.load(file, weights_only=True)
    assert learning.epoch == 2
    trained = saved.get("current_model_state", saved["state_dict"])
    assert all(torch.equal(value, trained[name]) for name, value in learning.task.state_dict().items())
    state = learning.optimizer.state_dict()["state"]
    assert state[0]["step"] == saved["optimizer_states"][0]["state"][0]["step"] == 10
    frozen = [
        "network=timm",
        "network.backbone=test_resnet",
        "network.weights=null",
        "finetune.unfreeze=1",
    ]
    options = [option for option in TINY if "network" not in option]
    learning = learner(compose_config([*options, *frozen]), tmp_path)
    before = {name: value.clone() for name, value in learning.task.network.named_parameters()}
    batches = learning.batches()
    for _ in range(7):  # of five an epoch
        learning.update([next(batches)], 0.1)
    moved = {
        name
        for name, value in learning.task.network.named_parameters()
        if not torch.equal(value, before[name])
    }
    classifier = {name for name in before if name.startswith("backbone.fc.")}
    assert moved == classifier
    assert not (tmp_path / "checkpoints").exists()


def test_of_a_stage_nothing_else_learns_and_its_rate_is_the_one_that_is_set(tmp_path: Path) -> None:
    options = ["finetune.lr_decay=0.5", "finetune.unfreeze={head: 0}"]
    learning = learner(compose_config([*TINY, *options]), tmp_path, stage="stages")
    before = {name: value.clone() for name, value in learning.task.network.named_parameters()}
    learning.update([next(learning.batches())], 0.125)
    moved = {n for n, value in learning.task.network.named_parameters() if not torch.equal(value, before[n])}
    assert moved == {name for name in before if name.startswith("stages.")}
    assert {group["lr"] for group in learning.optimizer.param_groups} == {0.125}


def test_a_stage_on_the_command_line(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(find_lr, "STEPS", 30)
    monkeypatch.setattr(sys, "argv", ["find-lr", *TINY, "--stage", "head"])
    find_lr.main()
    assert re.search(r"Suggested: finetune\.lr=\{head: [\d.e-]+\} \(plot", capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["find-lr", *TINY, "--stage=haed"])
    with pytest.raises(SystemExit):
        find_lr.main()
    assert "names 'haed', which is no stage" in capsys.readouterr().err
    assert [sorted(file.name for file in folder.iterdir()) for folder in (logs / "demo").iterdir()] == [
        ["lr_find.json", "lr_find.png"]
    ], "what found nothing left no folder"
