"""One trial of a sweep: its processes where it takes several devices, and what is measured of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lightning_audio.checkpoint import load
from lightning_audio.errors import Interrupted, UserError
from lightning_audio.reports.results import FAILURE
from lightning_audio.training.study import Claim

LIMITS = ("minutes", "parameters", "latency_ms")
LOST = re.compile("process.* of the run (has ended|was stopped)")  # as ranks.py says it
LOOKS = 15  # at one clip, for the latency


def runs_alone(trainer: DictConfig) -> bool:
    """Whether training starts no further processes, which would run this program again."""
    devices = trainer.get("devices", "auto")
    if devices in ("auto", -1, "-1"):
        on_gpu = trainer.accelerator in ("auto", "gpu", "cuda")
        return not on_gpu or torch.cuda.device_count() <= 1
    return devices in (1, "1") or (not isinstance(devices, int | str) and len(devices) == 1)


class ProcessLostError(Exception):
    """A process of a trial was killed, as by the system for its memory: nothing that the trial has done."""


def train_apart(arguments: Sequence[str], claim: Claim) -> None:
    """Trains by `lightning-audio train`, whose processes are one group.

    They hold the lock of the trial, too: nobody takes it over while one of them is left.

    Raises:
        UserError: with the sentence that the run ended in.
        ProcessLostError: one of its processes was killed; it may be resumed.
    """
    held = claim.lock._context.lock_file_fd
    command = [sys.executable, "-m", "lightning_audio", "train", *arguments]
    passed: dict[str, Any] = {"pass_fds": [held]} if held is not None and os.name == "posix" else {}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **passed)
    try:
        said = child.communicate()[1]
    except Interrupted as stopped:
        child.send_signal(stopped.signum)
        said = child.communicate()[1]  # which may be more than a pipe holds
        last = said.strip().rpartition("\n")[2]
        raise Interrupted(stopped.signum, f": {last}") from None
    if child.returncode:
        file = claim.folder / FAILURE
        lines = [line for line in said.splitlines() if line.strip()] or [f"status {child.returncode}"]
        if not file.is_file() and (child.returncode < 0 or LOST.search(lines[-1])):
            raise ProcessLostError(lines[-1].removeprefix("error: "))
        why = file.read_text(encoding="utf-8") if file.is_file() else lines[-1].removeprefix("error: ")
        raise UserError(why.strip())


def measured(folder: Path, metrics: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, float]:
    """Of each limit, by what share of it the run in a folder is beyond it; below 0 it is within.

    `minutes` are those of training; `parameters` the weights that answer; `latency_ms` the median time of
    one answer to a clip of the training's length, on one thread of this machine's CPU.
    """
    if not limits:
        return {}
    values = {"minutes": (metrics.get("seconds") or 0.0) / 60}
    if {"parameters", "latency_ms"} & limits.keys():
        task = load(folder)
        values["parameters"] = sum(weight.numel() for weight in task.parameters())
        values["latency_ms"] = _latency(task) if "latency_ms" in limits else 0.0
    return {name: values[name] / most - 1 for name, most in limits.items()}


def _latency(task: Any) -> float:
    clip = torch.zeros(1, round(task.clip_seconds * task.sample_rate))
    lengths, threads = torch.tensor([clip.shape[1]]), torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(LOOKS):
            start = time.perf_counter()
            with torch.inference_mode():
                task(clip, lengths)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 1000 * sorted(times)[LOOKS // 2]
