"""The Lightning trainer of a run, with its callbacks and loggers."""

from __future__ import annotations

import logging
import os
import re
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
from lightning_audio.data.clip import SPLITS
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.metrics.intervals import direction
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.bfloat16 import wrong_convolutions
from lightning_audio.training.callbacks.checkpointing import Best, Saver
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO

_log = logging.getLogger(__name__)
EARLY_STOPPING = "pytorch_lightning.callbacks.EarlyStopping"
PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}


def build_trainer(
    cfg: DictConfig,
    run_folder: Path,
    data: AudioDataModule,
    task: AudioTask,
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """The Lightning trainer of a run, writing into its folder.

    `loggers` are those of a trainer that this one takes the place of: new ones would write over their files.

    Raises:
        UserError: options do not fit one another, the device, or the data.
    """
    options: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    options |= _where_right(_for_device(options), options, task)
    options |= _for_launcher(options) | _at_least_one_batch(options, data)
    options["strategy"] = _strategy(cfg, options, task)
    _refuse_late_validation(options, data)
    if not options.get("limit_train_batches", 1):
        raise UserError("trainer.limit_train_batches=0 leaves nothing to train on: set it to 1 or more.")
    nodes = {name: _watching(node, task.monitor) for name, node in cfg.callbacks.items() if node}
    callbacks = [instantiate(node, f"callbacks.{name}") for name, node in nodes.items()]
    _refuse_unknown_scores(callbacks, data, task)
    folder = run_folder / "checkpoints"
    if data.has_validation:
        callbacks.append(Best(folder, *task.monitor))
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
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():  # without Lightning's requeueing, which saves in the middle of a step
        plugins.append(SLURMEnvironment(auto_requeue=False))
    options.pop("scale_lr", None)  # of the optimizer
    options.pop("overfit_batches", None)  # of the data module: Lightning's own wants a loader of torch's kind
    return instantiate(
        options,
        "trainer",
        callbacks=callbacks,
        logger=list(loggers) or False,
        plugins=plugins,
        default_root_dir=str(run_folder),
    )


def _at_least_one_batch(options: dict[str, Any], data: AudioDataModule) -> dict[str, Any]:
    """A share of a split that is less than a batch takes one: Lightning would end, a test after training."""
    found = {}
    for split in SPLITS:
        share = options.get(f"limit_{split}_batches", 1.0)
        if isinstance(share, float) and 0 < share < 1 and len(data.splits[split]):
            size = data.batch_size if split == "train" else data.eval_batch_size
            if share * len(data.loader(split, batch_size=size)) < 1:
                found[f"limit_{split}_batches"] = 1
    return found


def _strategy(cfg: DictConfig, options: dict[str, Any], task: AudioTask) -> Any:
    """The strategy as Lightning takes it; raises UserError for one that the run can't have."""
    strategy = options.get("strategy", "auto")
    _refuse_parted_weights(strategy)
    skips = getattr(getattr(task.network, "encoder", None), "skips", False)
    if strategy == "fsdp":
        return _sharded(cfg, options["precision"], skips)
    return "ddp_find_unused_parameters_true" if strategy == "ddp" and skips else strategy


def _refuse_parted_weights(strategy: Any) -> None:
    """Raises UserError for a strategy that parts the weights themselves over processes, but for `fsdp`.

    Its parameters are others than those that groups for fine-tuning, averages and checkpoints hold.
    """
    named = strategy.get("_target_", "") if isinstance(strategy, dict) else strategy
    kinds = "fsdp|deepspeed|model_?parallel"
    if named != "fsdp" and re.match(kinds, str(named).rpartition(".")[2], re.IGNORECASE):
        raise UserError(
            f"trainer.strategy={named} parts the weights over processes in a way that fine-tuning and "
            "checkpoints of one file do not know: set trainer=fsdp, or trainer=ddp and, for an encoder that "
            "does not fit, finetune.gradient_checkpointing=true or finetune.lora={rank: 8}."
        )


def _sharded(cfg: DictConfig, precision: str, skips: bool) -> dict[str, str]:
    """The strategy of `trainer=fsdp`; raises UserError beside what does not go with parted weights."""
    averages = [f"callbacks.{name}" for name in ("ema", "swa", "inspection") if cfg.callbacks.get(name)]
    reasons = {
        f"{name} takes whole weights": f"{name}=null (callbacks=average takes the mean of checkpoints)"
        for name in averages
    }
    if precision not in ("32-true", "bf16-mixed"):
        reasons[f"trainer.precision={precision} scales the loss"] = "trainer.precision=bf16-mixed or 32-true"
    if cfg.channels_last:
        reasons["channels_last=true lays weights out in another way"] = "channels_last=false"
    if cfg.compile:
        reasons["compile=true looks through whole layers"] = "compile=false"
    if skips:
        reasons["The encoder skips other layers in each process"] = "its probability of skipping to 0"
    if reasons:
        raise UserError(
            f"{'; '.join(reasons)}; and trainer=fsdp parts weights: set {', '.join(reasons.values())}, or "
            "trainer=ddp."
        )
    return {"_target_": "lightning_audio.training.sharded.ShardedStrategy"}


def _refuse_late_validation(options: dict[str, Any], data: AudioDataModule) -> None:
    """Raises UserError where a validation is asked for after more batches than an epoch has."""
    every = options.get("val_check_interval")
    if type(every) is int and options.get("check_val_every_n_epoch") is not None:
        batches = len(data.train_dataloader())
        if every > batches:
            raise UserError(
                f"trainer.val_check_interval={every} is more than the {batches} batches of an epoch: lower "
                "it, or set trainer.check_val_every_n_epoch=null to count through all epochs."
            )


def _for_device(options: dict[str, Any]) -> dict[str, Any]:
    """The precision and the kind of BatchNorm that the device takes.

    Raises:
        UserError: there is no such device, or the precision would be that of the waveforms, too.
    """
    named, on_mac = options["accelerator"], torch.backends.mps.is_available()
    there = {"gpu": on_mac or torch.cuda.is_available(), "cuda": torch.cuda.is_available(), "mps": on_mac}
    if not there.get(named, True):
        raise UserError(
            f"trainer.accelerator={named}, and torch finds none here: set trainer.accelerator=cpu, or "
            "install torch for your device."
        )
    precision = options["precision"]
    if str(precision).endswith("-true") and precision != "32-true":
        raise UserError(
            f"trainer.precision={precision} would take waveforms, too, to another precision: set "
            "it to bf16-mixed, 16-mixed or 32-true."
        )
    on_cuda = named in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    on_cpu = not on_cuda and (named == "cpu" or not on_mac)
    if precision == "auto":
        precision = "bf16-mixed" if _bfloat16(on_cuda, on_cpu) else "16-mixed" if on_cuda else "32-true"
    elif precision == "bf16-mixed" and on_cpu and not _bfloat16(on_cuda, on_cpu):
        _log.warning(
            "This processor has no instructions for bfloat16, so that trainer.precision=bf16-mixed is slower "
            "than 32-true, up to ten times; auto takes it only where it is fast."
        )
    # SyncBatchNorm runs on GPUs alone; elsewhere every process has the statistics of its own batches.
    return {"precision": precision, "sync_batchnorm": on_cuda and bool(options.get("sync_batchnorm"))}


def _where_right(found: dict[str, Any], asked: dict[str, Any], task: AudioTask) -> dict[str, Any]:
    """What was found for the device; float32 where `auto` took bfloat16 and a convolution is wrong in it.

    Raises:
        UserError: bfloat16 was asked for by name.
    """
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_gpu = has_gpu and asked["accelerator"] != "cpu"
    wrong = [] if on_gpu or found["precision"] != "bf16-mixed" else wrong_convolutions(task)
    if not wrong:
        return found
    what = f"{', '.join(wrong)} of this model comes out wrong in bfloat16 by this processor and PyTorch"
    if asked["precision"] != "auto":
        raise UserError(f"{what} {torch.__version__}: set trainer.precision=32-true.")
    _log.warning("%s %s, so that trainer.precision=auto takes float32.", what, torch.__version__)
    return found | {"precision": "32-true"}


def _bfloat16(on_cuda: bool, on_cpu: bool) -> bool:
    """Whether the device has instructions for bfloat16: without them a step takes longer than in float32."""
    if on_cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return on_cpu and any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _for_launcher(options: dict[str, Any]) -> dict[str, Any]:
    """As many devices as torchrun or srun has started processes, where options leave their number open.

    Raises:
        UserError: options say another number.
    """
    if TorchElasticEnvironment.detect():
        name, local, world = "torchrun", int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
        name, world = "srun", int(os.environ["SLURM_NTASKS"])
        per_node = str(world // int(os.environ.get("SLURM_NNODES", 1)))
        # Lightning wants it said; Slurm says it only where it was asked for.
        local = int(os.environ.setdefault("SLURM_NTASKS_PER_NODE", per_node))
    else:
        return {}
    devices = options.get("devices", "auto")
    if devices in ("auto", -1, "-1"):
        return {"devices": local, "num_nodes": world // local}
    given = len(devices) if isinstance(devices, list) else devices
    if given != local or options.get("num_nodes", 1) * local != world:
        raise UserError(
            f"{name} has started {world} processes, and trainer.devices={devices} is another number: set "
            "trainer=ddp, whose trainer.devices=auto counts them."
        )
    return {}


def _watching(node: DictConfig, monitor: tuple[str, str]) -> Any:
    """The options of a callback; early stopping watches what picks the checkpoint unless told otherwise.

    A score that is not defined in an epoch, such as the recall of a label without clips, stops nothing.
    """
    if node.get("_target_") != EARLY_STOPPING:
        return node
    options: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]
    watched = options.get("monitor") or monitor[0]
    usual = monitor[1] if watched == monitor[0] else direction(watched)
    return {"strict": False} | options | {"monitor": watched, "mode": options.get("mode") or usual}


def _refuse_unknown_scores(callbacks: Sequence[Any], data: AudioDataModule, task: AudioTask) -> None:
    """Raises UserError where a score is watched that no validation of the task gives, or that never comes."""
    watched = [callback.monitor for callback in callbacks if isinstance(callback, EarlyStopping)]
    if any(name.startswith("val/") for name in watched) and not data.has_validation:
        mend = "loader.val_fraction=0.1" if data.validates else "trainer.limit_val_batches=1.0"
        raise UserError(f"Early stopping watches validation, and this run has none: set {mend}.")
    scores = [*(f"val/{name}" for name in task.score_names), "val/loss"]
    # The loss of an epoch's training is known when its checkpoint has been chosen.
    asked = [("callbacks.early_stopping.monitor", name, [*scores, "train/loss"]) for name in watched]
    if data.has_validation:
        asked.append(("task.monitor", task.monitor[0], scores))
    for option, name, known in asked:
        if name not in known:
            raise UserError(
                f"{option}={name} is no score of a validation{did_you_mean(name, known)}: choose one of "
                f"{', '.join(known)}."
            )
