"""Runs that are killed at random points and resumed end as one that never was: see kill_points.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_points.py")


def cuts(folder: Path, number: int, *options: str) -> int:
    """So many cuts, compared with a run that had none; how many it were."""
    command = [sys.executable, str(SCRIPT), str(folder), "--kills", str(number), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])["cuts"]


def test_killed_at_random_points_it_ends_as_if_it_never_was(tmp_path: Path) -> None:
    assert cuts(tmp_path, 3, "--seed", "3", "--asks") == 3


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
