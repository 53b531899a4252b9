"""Training from the last good checkpoint to the end, however often that takes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from lightning_audio import build, checkpoint_files, guard
from lightning_audio.checkpoint import read
from lightning_audio.data.module import AudioDataModule
from lightning_audio.tasks.base import AudioTask


def fit(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, checkpoint: Path | None) -> None:
    """Trains, from a checkpoint on where there is one; a KeyboardInterrupt stays what it is."""
    if checkpoint:
        read(checkpoint)  # what is none ends in a sentence, before Lightning meets it
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns it into an exit without a word
            raise KeyboardInterrupt("go on with resume=latest") from None
        raise


def fit_guarded(
    cfg: DictConfig, trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, last: Path | None
) -> pl.Trainer:
    """Trains to the end, from the checkpoint `last` on where there is one; where training diverges, goes back
    to the newest checkpoint, or else to the start.

    Returns:
        The trainer that came to the end: a state that has gone astray is left behind with its own trainer.

    Raises:
        UserError: training has diverged too often, or all checkpoints are damaged.
    """
    run_folder = Path(cfg.run_folder)
    start = copy.deepcopy(task.state_dict()) if last is None else None
    while True:
        try:
            fit(trainer, task, data, last)
            return trainer
        except guard.Diverged as diverged:
            data.reshuffles.go_back()
            told = diverged, task.gather(list(diverged.ids)), data.reshuffles.number, run_folder
            if trainer.is_global_zero:
                guard.note(*told)
            guard.refuse_too_often(*told)
        last = checkpoint_files.to_resume(run_folder / "checkpoints")
        if last is None and start is not None:
            task.load_state_dict(start)
        trainer = build.trainer(cfg, run_folder, data, task.monitor, trainer.loggers)
