"""Mean and deviation of a corpus' features, fitted once and remembered in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.frontend.normalize import FITTED
from lightning_audio.io import write_atomically
from lightning_audio.tasks.base import AudioTask

FOLDER = "normalizers"  # in the cache


def fit_normalizer(task: AudioTask, data: AudioDataModule) -> None:
    """What `task.fit_normalizer` sets on the training clips, or set in an earlier run that would do the same.

    Where an epoch draws a part of the clips, or some of them more often, it is fitted on what the first epoch
    draws: what the network is to learn from.

    The file is named after what it depends on: samples and batches, options of the front end, torch and its
    threads. Code has no name; so the first batch is fitted every time, and where that gives anything else
    than it did when the file was written, all is fitted anew.
    """
    if task.normalize.by not in FITTED:
        return
    loader = data.loader("train", features=True, drawn=True)
    batches = list(loader.sampler)
    file = data.corpus.cache / FOLDER / f"{_digest(task, data, batches)}.json"
    task.fit_normalizer([loader.dataset[batches[0]]])
    first = _fitted(task)
    known = _read(file)
    if known is not None and known["first"] == first:
        for name, value in known["all"].items():
            buffer = getattr(task.normalize, name)
            buffer.copy_(torch.tensor(value, dtype=buffer.dtype).view_as(buffer))
        return
    task.fit_normalizer(loader)
    with contextlib.suppress(OSError):  # what can't be remembered is fitted next time
        write_atomically(file, json.dumps({"first": first, "all": _fitted(task)}))


def _fitted(task: AudioTask) -> dict[str, list[float]]:
    """The mean and the deviation; a float32 comes through JSON as it was."""
    return {name: getattr(task.normalize, name).flatten().tolist() for name in ("mean", "std")}


def _digest(task: AudioTask, data: AudioDataModule, batches: list[list[int]]) -> str:
    rows = data.splits["train"].rows[np.concatenate(batches)]
    parts = [rows.numpy(), data.store.lengths[rows].numpy(), np.array([len(batch) for batch in batches])]
    named = {
        "samples": data.store.hash,
        "batches": [hashlib.sha256(part.tobytes()).hexdigest() for part in parts],
        "sample_rate": data.sample_rate,
        "frontend": task.description["config"]["frontend"],
        "normalize": task.normalize.by,
        "torch": [torch.__version__, torch.get_num_threads(), str(task.device)],
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:24]


def _read(file: Path) -> dict[str, Any] | None:
    """What an earlier run left; None where there is nothing whole."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return known if {"first", "all"} <= known.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
