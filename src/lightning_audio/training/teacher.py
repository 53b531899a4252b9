"""What a teacher says of the training clips, computed once and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_audio.checkpoint import find_checkpoint, load, read
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.io import sha256_of, write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.classification import Classification
from lightning_audio.tasks.ensemble import at_own_rate
from lightning_audio.training.initial import may_know_the_test

FOLDER = "teachers"  # in the cache


def distil(task: AudioTask, data: AudioDataModule, device: torch.device) -> None:
    """Has a task learn from its `teacher`, where it has one.

    Clips are as they are for the teacher: what augmentation does to them is for the student to see through.

    Raises:
        UserError: the teacher does not know the same labels, or the task or its mixing can't take one.
    """
    if not isinstance(task, Classification) or task.teacher is None:
        return
    if type(task).loss is not Classification.loss:
        raise UserError(f"task.teacher is for task=classification, and not for {type(task).__name__}.")
    if task.augment.mix is not None and task.augment.mix.mode == "between_class":
        raise UserError(
            "task.teacher does not go with augment.mix.mode=between_class, which reads classes off the "
            "targets: set it to mixup or power."
        )
    path = find_checkpoint(task.teacher)
    teacher = load(path, device)
    if not isinstance(teacher, Classification) or sorted(teacher.labels) != sorted(task.labels):
        raise UserError(
            f"The teacher {task.teacher} does not name the labels of this run: give one that does."
        )
    ids = [clip.id for clip in data.splits["train"].clips]
    parts = [sha256_of(path), data.store.hash, str(data.sample_rate), *ids]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    file = data.corpus.cache / FOLDER / f"{name}.npy"
    logits = _read(file, (len(ids), len(task.labels)))
    if logits is None:
        logits = _said(teacher, data, ids, device)
        buffer = io.BytesIO()
        np.save(buffer, logits.numpy())
        with contextlib.suppress(OSError):  # what can't be remembered is computed next time
            write_atomically(file, buffer.getvalue())
    task.learn_from(logits[:, [teacher.labels.index(label) for label in task.labels]], ids)
    for line in [f"Teacher: {path}.", *may_know_the_test(read(path), data)]:
        rank_zero_only(print)(line, flush=True)


@torch.no_grad()
def _said(teacher: Classification, data: AudioDataModule, ids: list[str], device: torch.device) -> Tensor:
    answer = at_own_rate(teacher, teacher.forward_tta, data.sample_rate)
    found: dict[str, Tensor] = {}
    for batch in data.loader("train"):
        logits, _ = answer(batch.waveforms.to(device), batch.lengths.to(device))
        found |= dict(zip(batch.ids, logits.float().cpu(), strict=True))
    return torch.stack([found[name] for name in ids])


def _read(file: Path, shape: tuple[int, int]) -> Tensor | None:
    """What an earlier run left; None where there is nothing whole."""
    try:
        known = np.load(file)
        return torch.from_numpy(known) if known.shape == shape else None
    except (OSError, ValueError, EOFError):
        return None
