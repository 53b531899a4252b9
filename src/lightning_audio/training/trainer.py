"""The Lightning trainer of a run, with its callbacks and loggers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import profilers
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import Logger

from lightning_audio.build import instantiate
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.metrics.intervals import direction
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.checkpointing import Best, Saver
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO

EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}
LOSSES = ("val/loss", "train/loss")  # what every task logs


def build_trainer(
    cfg: DictConfig,
    run_folder: Path,
    data: AudioDataModule,
    monitor: tuple[str, str],
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """The Lightning trainer of a run, writing into its folder.

    `loggers` are those of a trainer that this one takes the place of: new ones would write over their files.

    Raises:
        UserError: options do not fit one another, the device, or the data.
    """
    options: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    options |= _for_device(options) | _for_torchrun(options)
    if not options.get("limit_train_batches", 1):
        raise UserError("trainer.limit_train_batches=0 leaves nothing to train on: set it to 1 or more.")
    nodes = {name: _watching(node, monitor) for name, node in cfg.callbacks.items() if node}
    callbacks = [instantiate(node, f"callbacks.{name}") for name, node in nodes.items()]
    _refuse_to_wait_for_validation(callbacks, data)
    folder = run_folder / "checkpoints"
    if data.has_validation:
        callbacks.append(Best(folder, *monitor))
    saver = {"_target_": f"{Saver.__module__}.Saver", **(cfg.get("saving") or {})}
    callbacks.append(instantiate(saver, "saving", folder=folder))  # last: it saves what the others have done
    loggers = loggers or [instantiate(node, f"logger.{name}") for name, node in cfg.logger.items() if node]
    # Under trainer.deterministic torch also fills all memory that it takes, for code that reads what it has
    # not written; without it a step of a small network takes 4 to 8 % less time on the CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # A bar is for somebody who watches; a log gets a line an epoch.
    options["enable_progress_bar"] = options.get("enable_progress_bar", True) and sys.stdout.isatty()
    if (profiler := options.get("profiler")) in PROFILERS:  # by itself, it would print to a log that is off
        options["profiler"] = PROFILERS[profiler](dirpath=run_folder, filename=f"{profiler}-profile")
    options.pop("overfit_batches", None)  # of the data module: Lightning's own wants a loader of torch's kind
    return instantiate(
        options,
        "trainer",
        callbacks=callbacks,
        logger=list(loggers) or False,
        plugins=[AtomicCheckpointIO(), *_cluster()],
        default_root_dir=str(run_folder),
    )


def _for_device(options: dict[str, Any]) -> dict[str, Any]:
    """The precision and the kind of BatchNorm that the device takes.

    Raises:
        UserError: the precision would be that of the waveforms, too.
    """
    precision = options["precision"]
    if str(precision).endswith("-true") and precision != "32-true":
        raise UserError(
            f"trainer.precision={precision} would take waveforms, too, to another precision: set "
            "it to bf16-mixed, 16-mixed or 32-true."
        )
    on_cuda = options["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if precision == "auto":
        in_hardware = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if in_hardware else "16-mixed" if on_cuda else "32-true"
    # SyncBatchNorm runs on GPUs alone; elsewhere every process has the statistics of its own batches.
    return {"precision": precision, "sync_batchnorm": on_cuda and bool(options.get("sync_batchnorm"))}


def _for_torchrun(options: dict[str, Any]) -> dict[str, Any]:
    """As many devices as torchrun has started processes, where it has and options leave their number open.

    Raises:
        UserError: options say another number.
    """
    if not TorchElasticEnvironment.detect():
        return {}
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    devices = options.get("devices", "auto")
    if devices in ("auto", -1, "-1"):
        return {"devices": local, "num_nodes": world // local}
    given = len(devices) if isinstance(devices, list) else devices
    if given != local or options.get("num_nodes", 1) * local != world:
        raise UserError(
            f"torchrun has started {world} processes, and trainer.devices={devices} is another number: set "
            "trainer=ddp, whose trainer.devices=auto counts them."
        )
    return {}


def _watching(node: DictConfig, monitor: tuple[str, str]) -> Any:
    """The options of a callback; early stopping watches what picks the checkpoint unless told otherwise."""
    if node.get("_target_") != EARLY_STOPPING:
        return node
    options: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    watched = options.get("monitor") or monitor[0]
    usual = monitor[1] if watched == monitor[0] else direction(watched)
    return options | {"monitor": watched, "mode": options.get("mode") or usual}


def _refuse_to_wait_for_validation(callbacks: Sequence[Any], data: AudioDataModule) -> None:
    """Raises UserError where early stopping watches a validation that never comes."""
    watched = [callback.monitor for callback in callbacks if isinstance(callback, EarlyStopping)]
    if any(name.startswith("val/") for name in watched) and not data.has_validation:
        mend = "loader.val_fraction=0.1" if data.validates else "trainer.limit_val_batches=1.0"
        raise UserError(f"Early stopping watches validation, and this run has none: set {mend}.")


def refuse_unknown_scores(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule) -> None:
    """Raises UserError where a score is watched that the task does not give; called before training."""
    stoppers = [c for c in trainer.callbacks if isinstance(c, EarlyStopping)]  # type: ignore[attr-defined]
    watched = {f"callbacks.early_stopping.monitor={one.monitor}": one.monitor for one in stoppers}
    if data.has_validation:
        watched[f"task.monitor={task.monitor[0]}"] = task.monitor[0]
    scored = {f"val/{metric.name}" for metric in task.metrics} & {type(task).monitor[0]}
    if all(name in {*scored, LOSSES[0]} for name in watched.values()):
        return
    known = [*(f"val/{name}" for name in _score_names(task, data)), *LOSSES]
    for option, name in watched.items():
        # The loss of an epoch's training is known when its checkpoint has been chosen.
        choices = [one for one in known if one != "train/loss" or not option.startswith("task.")]
        if name not in choices:
            raise UserError(
                f"{option} is no score of a validation{did_you_mean(name, choices)}: choose one of "
                f"{', '.join(choices)}."
            )


@torch.no_grad()
def _score_names(task: AudioTask, data: AudioDataModule) -> list[str]:
    """The names of the scores of a task, by scoring two clips."""
    clips, training = data.splits["val" if data.has_validation else "train"], task.training
    batch = clips[list(range(min(len(clips), 2)))]
    task.eval()
    logits, lengths = task(batch.waveforms, batch.lengths)
    task.observe("test", logits, lengths, batch)  # a validation may tune thresholds
    names = list(task.summarise("test"))
    task.train(training)
    return names


def _cluster() -> list[SLURMEnvironment]:
    """Slurm without Lightning's requeueing, which saves in the middle of a step: `slurm.py` does it."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
