"""Stops a trial of a sweep early where its validation is behind that of the others."""

from __future__ import annotations

import math
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_audio.errors import UserError
from lightning_audio.reports.results import PRUNED, number_text
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import in_training
from lightning_audio.training.study import Study


class Pruned(UserError):
    """A trial was stopped; what it says stands in the table of the sweep."""


class Pruning(Callback):
    """Asynchronous successive halving (Li et al. 2020, A system for massively parallel
    hyperparameter tuning).

    At `after`, `after * keep`, `after * keep^2`, ... epochs a trial goes on if its validation score, that of
    `task.monitor`, is among the best 1 / `keep` of those that have come so far.

    It reads and writes the study of the sweep whose trial lies in the run folder; a run elsewhere is never
    stopped.
    """

    def __init__(self, after: int = 2, keep: int = 3) -> None:
        if after < 1 or keep < 2:
            raise UserError(
                f"callbacks.pruning: after={after}, keep={keep} do not fit: set them to 1 and 2 or more."
            )
        self.after, self.keep = after, keep

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not in_training(trainer):
            return
        assert isinstance(pl_module, AudioTask)
        name, epoch = pl_module.monitor[0], trainer.current_epoch + 1
        value = float(trainer.callback_metrics.get(name, math.nan))
        behind = trainer.is_global_zero and self._is_behind(Path(trainer.default_root_dir), epoch, value)
        if trainer.strategy.broadcast(behind):
            raise Pruned(
                f"{PRUNED} after epoch {epoch}: {name} {number_text(name, value)} is not among the best 1 in "
                f"{self.keep} there."
            )

    def _is_behind(self, folder: Path, epoch: int, value: float) -> bool:
        study = Study.of_trial(folder)
        return study is not None and study.is_behind(int(folder.name), epoch, value, self.after, self.keep)
