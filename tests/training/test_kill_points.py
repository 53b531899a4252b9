"""Runs that are killed at random points and resumed end as one that never was: see kill_points.py."""

from __future__ import annotations

import json
from pathlib import Path

import kill_points
import pytest
from processes import ended, start


def cuts(folder: Path, number: int, *options: str) -> int:
    """So many cuts, compared with a run that had none; how many it were."""
    output = folder / "output"
    process = start(kill_points.main, [str(folder), "--kills", str(number), *options], output=output)
    assert ended(process, 500) == 0, output.read_text() + output.with_suffix(".err").read_text()
    return json.loads(output.read_text().splitlines()[-1])["cuts"]


@pytest.mark.long
def test_killed_at_random_points_it_ends_as_if_it_never_was(tmp_path: Path) -> None:
    stages = ("finetune.unfreeze={head: 0, stages.1: 1, rest: 2}", "finetune.lr_decay=0.5")
    options = (*stages, "schedule.momentum=[0.95,0.85]", "trainer.max_epochs=4", "report=null")
    assert cuts(tmp_path, 3, "--seed", "3", "--asks", *options) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"),
        ("--workers", "2", "--asks"),
        ("--signal", "TERM", "--workers", "2"),
        ("--signal", "INT", "--asks"),
        ("trainer.accumulate_grad_batches=2", "callbacks.early_stopping.patience=1"),
        ("+trainer.val_check_interval=0.5",),
        ("loader.val_fraction=0.0", "callbacks.early_stopping=null"),
        ("trainer.limit_train_batches=3", "--workers", "2"),
    ],
    ids=lambda options: " ".join(options),
)
def test_killed_over_and_over_it_ends_as_if_it_never_was(options: tuple[str, ...], tmp_path: Path) -> None:
    assert cuts(tmp_path, 20, "--seed", "1", *options) == 20
