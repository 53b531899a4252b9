"""What happens when training diverges: back to the last good state, and on with the clips in another order.

Skipping the data at which a loss spikes and resuming from an earlier checkpoint: Chowdhery et al. 2022, PaLM,
section 5.1. Here no clip is left out; the batches that follow are others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_audio.data.batch import Batch, HostCopy
from lightning_audio.errors import UserError, listed
from lightning_audio.io import append_row
from lightning_audio.tasks.recipe import in_training

DIVERGED = "diverged.jsonl"


class Diverged(Exception):
    """Training diverged: raised out of it before a checkpoint of its state can be written.

    `step` counts the batches of its epoch, both from 0; `ids` are the clips of this rank's batch; the
    `stop_at`-th time is one too many.
    """

    def __init__(
        self, reason: str, epoch: int, step: int, loss: float, ids: tuple[str, ...], stop_at: int
    ) -> None:
        super().__init__(f"{reason} in step {step + 1} of epoch {epoch + 1}")
        self.epoch, self.step, self.loss, self.ids, self.stop_at = epoch, step, loss, ids, stop_at


class _Loss:
    """The loss of one batch on its way from the device, so that training need not wait for it there."""

    def __init__(self, epoch: int, step: int, ids: tuple[str, ...], loss: Tensor) -> None:
        self.epoch, self.step, self.ids = epoch, step, ids
        self.is_late = loss.device.type != "cpu"
        self._value = HostCopy(loss)

    def read(self) -> float:
        return self._value.read()


class DivergenceGuard(Callback):
    """Raises Diverged when the loss becomes NaN or infinite, when it jumps, or when weights are not finite.

    The loss is the mean over ranks, so that all of them go back together. On an accelerator it is read when
    the next batch is through, or before validation and before a checkpoint is written.

    Args:
        factor: a jump is a loss of more than so many times the median of the ones before; null: none is.
        window: how many those are; until there are so many, no jump is looked for.
        least: no loss up to this is a jump: most batches may be near 0, and one many times that.
        in_a_row: so many losses have to be up. One batch alone may be of single words under a mask, whose
            loss a network that is sure of itself may have in the twenties; a network that diverges stays up.
        stop_at: the time that training diverges at which it stops; 1: it never goes back.

    Raises:
        UserError: an option is out of its range.
    """

    def __init__(
        self,
        factor: float | None = 20.0,
        window: int = 50,
        least: float = 10.0,
        in_a_row: int = 3,
        stop_at: int = 3,
    ) -> None:
        if (factor is not None and factor <= 1) or min(window, in_a_row, stop_at) < 1:
            raise UserError(
                f"callbacks.guard: factor={factor}, window={window}, in_a_row={in_a_row}, stop_at={stop_at} "
                "do not fit: set the first above 1 or to null, the others to 1 or more."
            )
        self.factor, self.window, self.least, self.stop_at = factor, window, least, stop_at
        self.losses: deque[float] = deque(maxlen=window + in_a_row - 1)
        self._coming: _Loss | None = None
        self._last: _Loss | None = None
        self._sound_at = -1  # the update after which all weights were finite

    @property
    def state_key(self) -> str:
        return "Guard"  # its name in checkpoints of version 0.2, which are still resumed

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._settle()
        if not outputs:  # a task may skip a batch
            return
        # Lightning divides a loss by the batches that are accumulated.
        loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches
        if trainer.world_size > 1:
            torch.distributed.all_reduce(loss)  # a NaN of one rank becomes everyone's
            loss /= trainer.world_size
        self._coming = _Loss(trainer.current_epoch, batch_idx, tuple(batch.ids), loss)
        if not self._coming.is_late:
            self._settle()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if in_training(trainer):
            self._settle_all(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._settle_all(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._settle_all(trainer)

    def state_dict(self) -> dict[str, Any]:
        self._settle()  # or a resumed run would judge by other losses
        return {"losses": list(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses.extend(state_dict["losses"])

    def _settle(self) -> None:
        """Reads the loss that is on its way, and raises Diverged where it is no good."""
        if self._coming is None:
            return
        self._last, self._coming = self._coming, None
        loss = self._last.read()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", loss)
        if self.factor and len(self.losses) == self.losses.maxlen:
            losses = list(self.losses)
            usual, lowest = median(losses[: self.window]), min([*losses[self.window :], loss])
            if lowest > max(self.factor * usual, self.least):
                raise self._diverged(f"the loss jumped from about {usual:.4g} to {loss:.4g}", loss)
        self.losses.append(loss)

    def _settle_all(self, trainer: pl.Trainer) -> None:
        """The same, and of the weights too: a finite loss may have had a gradient that was not."""
        self._settle()
        if self._last is None or self._sound_at == trainer.global_step:
            return
        sound = all_finite(_learned(trainer))
        if not trainer.strategy.reduce_boolean_decision(sound, all=True):
            raise self._diverged("weights or their optimizer became NaN or infinite", self._last.read())
        self._sound_at = trainer.global_step

    def _diverged(self, reason: str, loss: float) -> Diverged:
        assert self._last is not None
        return Diverged(reason, self._last.epoch, self._last.step, loss, self._last.ids, self.stop_at)


def _learned(trainer: pl.Trainer) -> Iterator[Tensor]:
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def all_finite(tensors: Iterator[Tensor]) -> bool:
    """Whether nothing in these tensors is NaN or infinite; waits once for each device that they are on.

    Of those that ranks share, the part of this one: extremes of all ranks would lose a NaN on their way.
    """
    answers: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        values = torch.view_as_real(part) if part.is_complex() else part
        if values.numel():  # NaN becomes both extremes; on a CPU they take a twentieth of asking all numbers
            extremes = torch.stack(values.detach().aminmax())
            answers.setdefault(tensor.device, []).append(extremes.isfinite().all())
    return all(bool(torch.stack(found).all()) for found in answers.values())


def log_divergence(diverged: Diverged, ids: list[str], times: int, run_folder: Path) -> None:
    """Prints what happened, for the `times`-th time, and appends it to diverged.jsonl; `ids` of all ranks."""
    loss = diverged.loss if math.isfinite(diverged.loss) else None  # JSON knows no NaN
    row = {"time": times, "reason": str(diverged), "epoch": diverged.epoch, "step": diverged.step}
    append_row(run_folder / DIVERGED, row | {"loss": loss, "ids": ids})
    print(f"Training diverged, time {times}: {diverged}, whose clips are {', '.join(ids)}.", flush=True)


def refuse_too_often(diverged: Diverged, ids: list[str], times: int, run_folder: Path) -> None:
    """Raises UserError where this was the last time."""
    if times < diverged.stop_at:
        return
    raise UserError(
        f"Training diverged {times} times, at last since {diverged}, with the clips "
        f"{listed(ids, between=', ')} (all in {run_folder / DIVERGED}): listen to them, lower optimizer.lr, "
        "or set trainer.gradient_clip_val=1."
    )
