"""Whole runs that unfreeze: killed on the way, and as older versions wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_kill_points import cuts

from lightning_audio.config import compose_config
from lightning_audio.config.renamed import up_to_date
from lightning_audio.training.run import train


def test_killed_before_and_behind_an_unfreezing_it_ends_as_if_it_never_was(tmp_path: Path) -> None:
    stages = ("finetune.unfreeze={head: 0, stages.1: 2, rest: 3}", "finetune.lr_decay=0.5")
    assert cuts(tmp_path, 4, "--seed", "7", *stages) == 4


def test_what_timm_alone_once_had_is_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [f"network.{name}" for name in ("freeze_epochs=1", "freeze_batch_norm=true", "layer_decay=0.5")]
    network = ["network=timm", "network.backbone=test_resnet", "network.weights=null", *old]
    cfg = compose_config([*(o for o in TINY if "network" not in o), *network, "test=false"])
    assert capsys.readouterr().err.splitlines() == [
        "network.freeze_epochs=1 is now written finetune.unfreeze=1.",
        "network.freeze_batch_norm=true is now written finetune.batch_norm.statistics=frozen.",
        "network.layer_decay=0.5 is now written finetune.lr_decay=0.5.",
    ]
    train(cfg, tmp_path)
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    rates = {group["initial_lr"] / cfg.optimizer.lr for group in saved["optimizer_states"][0]["param_groups"]}
    assert rates == {0.5**depth for depth in range(6)}
    kept = [v for name, v in saved["state_dict"].items() if name.endswith("num_batches_tracked")]
    assert kept
    assert not torch.stack(kept).any()


def test_an_older_configuration_has_its_options_where_they_are_today() -> None:
    old = {
        "network": {"_target_": "N", "freeze_epochs": 2, "freeze_batch_norm": False, "layer_decay": 0.9},
        "normalize": "clip",
        "loader": {"longest": 3.0},
    }
    assert up_to_date(old) == {
        "network": {"_target_": "N"},
        "finetune": {"unfreeze": 2, "lr_decay": 0.9, "batch_norm": {"statistics": "learned"}},
        "normalize": "per_clip",
        "loader": {"max_duration": 3.0},
    }
    assert up_to_date({"network": 3, "finetune": [1], "loader": None}) == {
        "network": 3,
        "finetune": [1],
        "loader": None,
    }
