"""Whole runs that unfreeze: on two processes, and as older versions wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, TWO_PROCESSES

from lightning_audio.config import compose_config
from lightning_audio.config.renamed import up_to_date
from lightning_audio.training.run import train

UNFREEZE = ("finetune.unfreeze={head: 0, stages.1: 1, rest: 2}", "finetune.lr_decay=0.5")
# Fails where a stage does not learn from its epoch on, or the weights of the two processes differ at the end.
COMPARED = """
import sys, torch
from lightning_audio.cli.train import launch
from lightning_audio.tasks.base import AudioTask

def weights(task):
    return {name: weight.detach().clone() for name, weight in task.network.named_parameters()}

def on_train_epoch_end(self):
    now, before = weights(self), getattr(self, "before", weights(self))
    moved = {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}
    expected = [set(), {"head", "stages"}, {"head", "stages", "stem", "stem_norm"}]
    assert moved == expected[self.current_epoch], (self.current_epoch, moved)
    self.before = now

def on_train_end(self):
    own = torch.cat([weight.flatten() for weight in weights(self).values()])
    both = [torch.zeros_like(own) for _ in range(2)]
    torch.distributed.all_gather(both, own)
    assert torch.equal(*both)
    self.trainer.print("The same on both.")

AudioTask.on_train_epoch_end, AudioTask.on_train_end = on_train_epoch_end, on_train_end
launch(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_exchange_what_is_unfrozen(tmp_path: Path) -> None:
    script = tmp_path / "compared.py"
    script.write_text(COMPARED)
    options = [*TINY, *TWO_PROCESSES, *UNFREEZE, "trainer.max_epochs=3", "test=false"]
    done = subprocess.run(
        [sys.executable, str(script), *options, f"paths.logs={tmp_path}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The same on both." in done.stdout
    assert "Frozen: stem to stages.0 until epoch 2, stages.1 until epoch 1." in done.stdout


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
