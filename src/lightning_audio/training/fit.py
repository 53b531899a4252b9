"""Training from the last good checkpoint to the end, however often that takes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from lightning_audio.checkpoint import read
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.frontend.frozen import Frozen
from lightning_audio.reports.results import METRICS
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training import checkpoint_files
from lightning_audio.training.callbacks import divergence
from lightning_audio.training.trainer import build_trainer


def checkpoint_to_resume(
    run_folder: Path, trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, force: bool
) -> Path | None:
    """The checkpoint that training goes on from, looked at before the folder changes; None of a new run.

    Raises:
        UserError: it does not fit, or there is none beside the scores of a run.
    """
    last = checkpoint_files.to_resume(run_folder / "checkpoints")
    if last is not None:
        check_resumable(last, trainer, task, data, force)
        # Steps stay what they are, whatever number of processes makes them.
        data.batches_per_step = read(last).get(type(data).__qualname__, {}).get("batches_per_step")
        if data.batches_per_step not in (None, trainer.world_size):
            trainer.print(
                f"{data.batches_per_step} batches make a step, as when the run began: {trainer.world_size} "
                "processes share their clips."
            )
    elif (run_folder / METRICS).is_file():
        raise UserError(
            f"{run_folder} has scores, but neither last.ckpt nor previous.ckpt to resume from: put one back, "
            "or start a new run, for this one would be written over."
        )
    return last


def check_resumable(
    checkpoint: Path, trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, force: bool = False
) -> None:
    """Looks at a checkpoint before anything is changed.

    Raises:
        UserError: it is none, training as it is configured now can't resume from it, or it was made on other
            data and `force` is not given.
    """
    saved, mend = read(checkpoint), "leave out what changes it, or start a new run"
    here, there = (
        {name: tuple(t.shape) for name, t in d.items()} for d in (task.state_dict(), saved["state_dict"])
    )
    here |= {n: there[n] for n, shape in here.items() if 0 in shape and n in there}  # what clips are to fill
    if other := [name for name in {**here, **there} if here.get(name) != there.get(name)]:
        was, now = (shapes.get(other[0], "absent") for shapes in (there, here))
        raise UserError(
            f"{checkpoint} has other weights than this network ({other[0]} is {was} there and {now} here; "
            f"{len(other)} differ): {mend}."
        )
    refuse_other_encoder(task, saved["state_dict"], checkpoint)
    groups = [len(group["params"]) for group in task.finetuning.groups(0.0, 0.0)]
    try:
        trained = [len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]]
        epoch, identity = (
            int(saved["epoch"]),
            dict(saved.get(type(data).__qualname__, {}).get("identity", {})),
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"{checkpoint} holds weights, but no state of training to resume from.") from None
    if groups != trained:
        raise UserError(f"{checkpoint} has other groups of weights for the optimizer: {mend}.")
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs < epoch:
        raise UserError(
            f"trainer.max_epochs={trainer.max_epochs} is less than the {epoch + 1} epochs that {checkpoint} "
            "has: set it to that or more."
        )
    if found := [part for part, told in identity.items() if data.identity.get(part) != told]:
        differing = f"{', '.join(found)} differ from what {checkpoint} was trained on"
        if not force:
            raise UserError(
                f"The data changed ({differing}), so that clips that were trained on may be tested: put them "
                "back as they were, start a new run, or add resume.force=true."
            )
        trainer.print(f"Resumes with other data: {differing}")


def refuse_other_encoder(task: AudioTask, saved: dict[str, Any], checkpoint: Path) -> None:
    """Raises UserError where the weights of a frozen encoder, which make the features that are learned from,
    are others than in a checkpoint."""
    ours = task.frontend.state_dict() if isinstance(task.frontend, Frozen) else {}
    if any(not torch.equal(value.cpu(), saved[f"frontend.{name}"]) for name, value in ours.items()):
        raise UserError(
            f"The weights of the encoder are not those that {checkpoint} was trained with: put the old file "
            "back (encoder.weights, paths.models), or start a new run."
        )


def fit(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, checkpoint: Path | None) -> None:
    """Trains, from a checkpoint on where there is one; a KeyboardInterrupt stays what it is."""
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns it into an exit without a word
            raise KeyboardInterrupt("resume with resume=latest") from None
        raise


def fit_with_rollback(
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
        except divergence.Diverged as diverged:
            data.reshuffles.go_back()
            told = diverged, task.gather(list(diverged.ids)), data.reshuffles.number, run_folder
            if trainer.is_global_zero:
                divergence.log_divergence(*told)
            divergence.refuse_too_often(*told)
        last = checkpoint_files.to_resume(run_folder / "checkpoints")
        if last is None and start is not None:
            task.load_state_dict(start)
        trainer = build_trainer(cfg, run_folder, data, task, trainer.loggers)
