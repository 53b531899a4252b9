"""When a run is saved: after every epoch, in the middle of long ones, and when a signal asks it to end.

A run that is resumed starts with the next batch as if nothing had happened. What Lightning leaves out of its
checkpoints for that is kept here: sums behind the means of an epoch, an early stop, where the loggers stood.

Private names of Lightning (2.6.6) stand where no public ones say it: whether a validation comes next, what is
about to be logged, which loader is made again, and the sums behind means.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch import Tensor

from lightning_audio.checkpoint import BEST, LAST
from lightning_audio.data.batch import Batch
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import Schedule, in_training
from lightning_audio.training import signals
from lightning_audio.training.loggers import resume_loggers

STATE = "lightning_audio_run"  # the key of a checkpoint that holds what the Saver keeps
TIES = ("val/cer", "val/loss")  # what decides between equal scores
STEP = "training_step"  # the hook whose means over an epoch are kept


class Best(ModelCheckpoint):
    """`best.ckpt`, by the validation score; it is still known as the best when the run folder was moved.

    Of equal scores the one of fewer wrong characters (`val/cer`) counts, then that of the lower `val/loss`,
    then the later one: a score of few clips, or the WER of a text without spaces, has few values.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(
            folder,
            Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
        self.rank: tuple[float, ...] = ()  # of the best, by `rank_of`

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        if current is None:
            return False
        rank = self.rank_of(trainer.callback_metrics)
        better = trainer.strategy.reduce_boolean_decision(not self.best_k_models or rank <= self.rank)
        self.rank = rank if better else self.rank
        return better

    def rank_of(self, scores: Mapping[str, Tensor]) -> tuple[float, ...]:
        """What to compare a validation by, the least being the best."""
        score = float(scores[str(self.monitor)])
        values = (score if self.mode == "min" else -score, *(float(scores.get(n, 0)) for n in TIES))
        return tuple(math.inf if math.isnan(value) else value for value in values)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rank": list(self.rank)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved: dict[str, Any] = {name: here(state_dict[name]) for name in paths}
        moved["best_k_models"] = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath})
        best = state_dict.get("best_model_score")
        known = [] if best is None else [float(best) if self.mode == "min" else -float(best)]
        self.rank = tuple(state_dict.get("rank", known))  # older checkpoints keep the score alone


class Saver(Checkpoint):
    """Keeps `last.ckpt` after every epoch and within those that take long; saves and leaves on a signal.

    Within an epoch it saves where nothing is half done: between two updates of the weights, and before a
    validation rather than after the step that leads to it, since Lightning would then skip the validation.

    Args:
        folder: where `last.ckpt` is written.
        every_minutes: minutes since the last saving after which an epoch is not waited for; None: never.
        every_n_steps: updates of the weights after which it is saved as well; None: never.
    """

    def __init__(
        self, folder: Path, every_minutes: float | None = 10.0, every_n_steps: int | None = None
    ) -> None:
        for name, value in {"every_minutes": every_minutes, "every_n_steps": every_n_steps}.items():
            if value is not None and value <= 0:
                raise UserError(f"saving.{name}={value} is no interval: set it above 0, or to null.")
        self.path, self.every_n_steps = Path(folder) / LAST, every_n_steps
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._within_epoch = self._logs_next = self._due = self._leaving = False
        self._loaded: dict[str, Any] = {}
        self._patience: list[int] = []  # what the configuration gives, before a checkpoint is read

    # Training starts and ends.

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.ckpt_path or self._loaded:
            resume_loggers(trainer.loggers, self._loaded.get("logged", 0), self._loaded.get("row"))

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.take_over()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.take_over()
        signals.defer(True)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        restore_position(trainer)
        state, self._loaded = self._loaded, {}
        if state:
            restore_settings(trainer, pl_module, self._patience)
        if state.get("stopped") and state["stopped"] == _patience(trainer):  # or it was given more since
            trainer.should_stop = True
        if state.get("means"):
            restore_means(trainer, pl_module, state["means"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.defer(False)
        self._leave_if_asked(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        signals.defer(False)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.take_over()

    # Saving.

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Saves where it is due or a signal came, and never between batches whose gradients are added up."""
        signals.progressed()
        loop, ready = trainer.fit_loop, batch_idx + 1
        self._due = _any_rank(trainer, self._due or self._is_due(trainer))
        half_done = ready % trainer.accumulate_grad_batches or ready >= trainer.num_training_batches
        if self._due and not half_done and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
            self._save(
                trainer, logs_next=every > 0 and (trainer.global_step % every == 0 or trainer.should_stop)
            )
            # The next batch ends it: what is logged of this one has to reach the loggers.
            self._leaving = _any_rank(trainer, signals.received())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._leaving:
            signals.leave()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.take_over()
        if not in_training(trainer):
            return
        if _any_rank(trainer, self._due or self._is_due(trainer)):
            with _validation_pending(trainer):
                self._save(trainer)
            self._leave_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        signals.progressed()
        # Several processes need not have as many batches: they leave together when it is over.
        if in_training(trainer) and trainer.world_size == 1:
            self._leave_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, logs_next=True, within_epoch=False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave_if_asked(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        made = trainer.global_step
        by_steps = self.every_n_steps and made % self.every_n_steps == 0 and made != self._saved_step
        waited = time.monotonic() - self._saved_at
        return bool(by_steps or signals.received()) or waited >= (self.every_seconds or float("inf"))

    def _leave_if_asked(self, trainer: pl.Trainer) -> None:
        if _any_rank(trainer, signals.received()):
            signals.leave()

    def _save(self, trainer: pl.Trainer, logs_next: bool = False, within_epoch: bool = True) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._logs_next, self._within_epoch = logs_next, within_epoch
        with signals.saving():
            trainer.save_checkpoint(self.path, weights_only=False)
        self._due, self._saved_at, self._saved_step = False, time.monotonic(), trainer.global_step

    # What a checkpoint holds.

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[STATE] = {
            "logged": trainer.global_step,
            "stopped": _patience(trainer) if trainer.should_stop else [],
            "means": means_of_epoch(trainer) if self._within_epoch else [],
            # What the loggers get when the hooks have run: a kill may come before.
            "row": row_of(trainer) if self._logs_next else {},
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint.get(STATE, {})
        self._patience = [callback.patience for callback in _stoppers(trainer)]


def _any_rank(trainer: pl.Trainer, decision: bool) -> bool:
    """All processes do what one of them wants to; asked by all of them at the same place."""
    if trainer.world_size == 1:
        return decision  # without a tensor, for which a GPU would have to finish its work
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _patience(trainer: pl.Trainer) -> list[int]:
    """What decided on an early stop; one entry at least, so that it is true."""
    return [-1, *(callback.patience for callback in _stoppers(trainer))]


def _stoppers(trainer: pl.Trainer) -> list[EarlyStopping]:
    return [callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]


@contextlib.contextmanager
def _validation_pending(trainer: pl.Trainer) -> Iterator[None]:
    """Within it the trainer's progress is that of a run that was killed in the first batch of its validation.

    Lightning then goes on with the whole validation; saved as it is, it would count it as done.
    """
    total: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
    before = total.state_dict()
    total.ready = total.started = total.processed + 1
    try:
        yield
    finally:
        total.load_state_dict(before)


def restore_position(trainer: pl.Trainer) -> None:
    """Lets the loader go on behind the last batch that was trained on, however early it was made.

    Whoever asks `trainer.estimated_stepping_batches` for the number of steps before the checkpoint is read,
    such as a schedule in `configure_optimizers`, has the loader made then; and Lightning gives a loader its
    place only when it makes it. So it makes it again.
    """
    loop = trainer.fit_loop
    if loop.restarting and loop._combined_loader_states_to_load:
        loop._combined_loader = None
        loop.setup_data()


def restore_settings(trainer: pl.Trainer, task: pl.LightningModule, patience: Sequence[int]) -> None:
    """Lets count what the configuration says of the optimizer and of patience, which may have been changed by
    `resume.force=true`; Lightning takes both from the checkpoint. Where nothing was, nothing changes."""
    for callback, epochs in zip(_stoppers(trainer), patience, strict=True):
        callback.patience = epochs
    settings: list[dict[str, Any]] = getattr(task, "settings", [])
    for schedule in (one.scheduler for one in trainer.lr_scheduler_configs if settings):
        assert isinstance(schedule, Schedule)
        schedule.restore(settings)


def row_of(trainer: pl.Trainer) -> dict[str, float]:
    """What is logged of the step, or of the epoch, that is about to end."""
    logged = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
    return {"epoch": trainer.current_epoch, **logged} if logged else {}


def means_of_epoch(trainer: pl.Trainer) -> list[list[dict[str, Any]]]:
    """For every rank, what `log(on_epoch=True)` in the training step has summed up since the epoch began."""
    own = []
    for name, metric in trainer.fit_loop.epoch_loop._results.items():
        meta = metric.meta
        if name == f"{STEP}.{meta.name}" and metric.is_tensor and meta.on_epoch and not metric.has_reset:
            options = {key: getattr(meta, key) for key in ("prog_bar", "on_step", "on_epoch")}
            options["logger"] = None if meta.logger else False  # True warns where there is none
            options |= {"reduce_fx": meta.reduce_fx.__name__, "sync_dist": meta.sync.should}
            options |= {"rank_zero_only": meta.sync.rank_zero_only}
            sums = {key: getattr(metric, key).cpu() for key in metric._defaults}
            own.append({"name": meta.name, "options": options, "sums": sums})
    if trainer.world_size == 1:
        return [own]
    ranks: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(ranks, own)
    return ranks


def restore_means(
    trainer: pl.Trainer, task: pl.LightningModule, ranks: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Resumes with the sums that `means_of_epoch` gave, where there are as many ranks as there were."""
    if len(ranks) != trainer.world_size:
        return
    hook, task._current_fx_name = task._current_fx_name, STEP
    try:
        for entry in ranks[trainer.global_rank]:
            # Logged once to be known, as the training step will log it; then what it had summed up is put in.
            task.log(entry["name"], torch.zeros((), device=task.device), batch_size=1, **entry["options"])
            metric = trainer.fit_loop.epoch_loop._results[f"{STEP}.{entry['name']}"]
            for name, value in entry["sums"].items():
                setattr(metric, name, value.to(task.device))
            metric._computed = None
    finally:
        task._current_fx_name = hook


def checkpoint_bytes(trainer: pl.Trainer, task: AudioTask) -> int:
    """About how large a checkpoint will be: weights, maybe their average, and two numbers of each, which is
    what AdamW keeps and most others do not exceed."""
    state = sum(tensor.nbytes for tensor in task.state_dict().values())
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return state * (1 + averaged) + 2 * sum(p.nbytes for p in task.parameters() if p.requires_grad)
