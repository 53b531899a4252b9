"""The Lightning trainer of a run, with its callbacks and loggers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from lightning_audio.build import instantiate
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.training.callbacks.checkpointing import Best, Saver
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO


def build_trainer(
    cfg: DictConfig,
    run_folder: Path,
    data: AudioDataModule,
    monitor: tuple[str, str],
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """The Lightning trainer of a run, writing into its folder.

    `loggers` are those of a trainer that this one takes the place of: new ones would write over their files.
    """
    if str(cfg.trainer.precision).endswith("-true") and cfg.trainer.precision != "32-true":
        raise UserError(
            f"trainer.precision={cfg.trainer.precision} would take waveforms, too, to another precision: set "
            "it to bf16-mixed, 16-mixed or 32-true."
        )
    callbacks = [instantiate(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node]
    watching = [c for c in callbacks if isinstance(c, pl.callbacks.EarlyStopping)]
    if watching and not data.has_validation:
        raise UserError(
            "Early stopping watches validation, and this run has none: set loader.val_fraction=0.1."
        )
    folder = run_folder / "checkpoints"
    if data.has_validation:
        callbacks.append(Best(folder, *monitor))
    saver = {"_target_": f"{Saver.__module__}.Saver", **(cfg.get("saving") or {})}
    callbacks.append(instantiate(saver, "saving", folder=folder))  # last: it saves what the others have done
    loggers = loggers or [instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node]
    # Under trainer.deterministic torch also fills all memory that it takes, for code that reads what it has
    # not written; without it a step of a small network takes 4 to 8 % less time on the CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return instantiate(
        # A bar is for somebody who watches; a log gets a line an epoch.
        {**cfg.trainer, "enable_progress_bar": cfg.trainer.enable_progress_bar and sys.stdout.isatty()},
        "trainer",
        callbacks=callbacks,
        logger=list(loggers) or False,
        plugins=[AtomicCheckpointIO(), *_cluster()],
        default_root_dir=str(run_folder),
    )


def _cluster() -> list[SLURMEnvironment]:
    """Slurm without Lightning's requeueing, which saves in the middle of a step: `slurm.py` does it."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
