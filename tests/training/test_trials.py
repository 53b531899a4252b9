"""Trials of a sweep that take processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_audio.errors import UserError
from lightning_audio.training.trials import ProcessLostError, train_apart

LOST = "error: process 1 of the run has ended or was stopped: look at what it says, then resume."


@pytest.mark.parametrize(
    ("ends", "expected", "said"),
    [
        ("kill -9 $$", ProcessLostError, "status -9"),
        (f"echo '{LOST}' >&2; exit 1", ProcessLostError, "process 1 of the run"),
        ("echo 'error: no such network' >&2; exit 1", UserError, "no such network"),
    ],
)
def test_a_trial_whose_process_is_killed_has_not_failed(
    ends: str, expected: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{ends}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    lock = SimpleNamespace(_context=SimpleNamespace(lock_file_fd=None))
    claim: Any = SimpleNamespace(lock=lock, folder=tmp_path)
    with pytest.raises(expected, match=said):
        train_apart([], claim)
