"""The mean of the weights of a few epochs, which is what is tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from lightning_audio.checkpoint import AVERAGE, read
from lightning_audio.errors import UserError
from lightning_audio.training.callbacks.checkpointing import Best, Saver

FOLDER = "epochs"  # in checkpoints/


class CheckpointAverage(Callback):
    """Keeps the weights of `k` epochs, of which `average` makes one checkpoint when training has ended.

    Vaswani et al. 2017, section 6.1. The statistics of batch norms are averaged as well.

    Args:
        k: how many.
        by: `last`, or `best` by the validation score that picks `best.ckpt`.

    Raises:
        UserError: an option does not fit, or there is no validation to say which are the best.
    """

    def __init__(self, k: int = 5, by: str = "last") -> None:
        if by not in ("last", "best") or k < 1:
            raise UserError(
                f"callbacks.average: k={k} and by={by} do not fit: set k to 1 or more, by to last or best."
            )
        self.k, self.by = k, by
        self.ranks: dict[int, list[float]] = {}  # of the epochs that count, the least being the best

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self.best = next((one for one in callbacks if isinstance(one, Best)), None)
        self.folder = next(one for one in callbacks if isinstance(one, Saver)).path.parent / FOLDER
        if self.by == "best" and self.best is None:
            raise UserError(
                "callbacks.average.by=best wants validation, and this run has none: set "
                "loader.val_fraction=0.1, or callbacks.average.by=last."
            )
        if any(isinstance(one, WeightAveraging) for one in callbacks):
            raise UserError("callbacks.average is a second average of weights: set callbacks.ema=null.")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, before = trainer.current_epoch, set(self.ranks)
        scored = self.best.rank_of(trainer.callback_metrics) if self.best and self.by == "best" else ()
        self.ranks[epoch] = [*scored, -float(epoch)]
        if len(self.ranks) > self.k:
            del self.ranks[max(self.ranks, key=self.ranks.__getitem__)]
        if epoch in self.ranks:
            trainer.save_checkpoint(self._file(epoch), weights_only=True)
        # What counted until now stays for an epoch: a run that is cut before it is saved goes back there.
        for file in self.folder.glob("*.ckpt") if trainer.is_global_zero else ():
            if int(file.stem) not in before | self.ranks.keys():
                trainer.strategy.checkpoint_io.remove_checkpoint(file)

    def average(self, trainer: pl.Trainer) -> str:
        """Writes the checkpoint with the mean of the weights; returns its name.

        Raises:
            UserError: one of the epochs is not there any more.
        """
        if trainer.is_global_zero:
            content = read(self._file(max(self.ranks)))
            states = [read(self._file(epoch))["state_dict"] for epoch in sorted(self.ranks)]
            content["state_dict"] = {name: mean([state[name] for state in states]) for name in states[0]}
            trainer.strategy.checkpoint_io.save_checkpoint(content, self.folder.parent / AVERAGE)
        trainer.strategy.barrier()
        return AVERAGE

    def bytes_needed(self, task: pl.LightningModule, folder: Path) -> int:
        """Of the files to come in `folder`: those of k epochs, of one that no longer counts, and the mean."""
        there = len(list((folder / FOLDER).glob("*.ckpt")))
        return max(self.k + 2 - there, 1) * sum(tensor.nbytes for tensor in task.state_dict().values())

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": {str(epoch): rank for epoch, rank in self.ranks.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ranks = {int(epoch): list(rank) for epoch, rank in state_dict["ranks"].items()}

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch}.ckpt"


def mean(values: list[Tensor]) -> Tensor:
    """Of floats in double precision; of counts the last one."""
    if not values[0].is_floating_point():
        return values[-1]
    return torch.stack(values).double().mean(0).to(values[0].dtype)
