"""One run from its configuration to its scores."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_audio import build
from lightning_audio.checkpoint import AVERAGE, read
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.quarantine import QUARANTINE, as_jsonl
from lightning_audio.errors import Interrupted, UserError, is_full
from lightning_audio.io import write_atomically
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.html.clips import sounds_of
from lightning_audio.reports.html.run import write_run_report
from lightning_audio.reports.results import (
    FAILURE,
    PREDICTIONS,
    predictions_file,
    print_report,
    read_predictions,
    write_metrics,
    write_predictions,
)
from lightning_audio.reports.transcripts import print_transcript_report
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training import checkpoint_files, ranks, signals, slurm
from lightning_audio.training.callbacks.checkpoint_average import CheckpointAverage
from lightning_audio.training.callbacks.checkpointing import checkpoint_bytes
from lightning_audio.training.callbacks.throughput import Throughput
from lightning_audio.training.fit import checkpoint_to_resume, fit_with_rollback
from lightning_audio.training.initial import initialise
from lightning_audio.training.run_folder import alone_in
from lightning_audio.training.saved_config import CONFIG_FILE, keep_config
from lightning_audio.training.scoring import score_split
from lightning_audio.training.teacher import distil
from lightning_audio.training.trainer import build_trainer


def train(
    cfg: DictConfig, run_folder: Path, force: bool = False, sweep_folder: Path | None = None
) -> dict[str, Any]:
    """Trains, or resumes training, in a run folder; then tests and writes the report.

    Where the folder has `checkpoints/last.ckpt`, training resumes from there; with `force` on data that are
    not what they were, too. `sweep_folder` is that of the multirun that the run is part of.

    Returns:
        What metrics.json holds; nothing in a process that helps another one.

    Raises:
        UserError: something in the configuration or the data is wrong, the disk is full, or another process
            is in the folder.
        Interrupted: SIGTERM, Ctrl-C or on Slurm SIGUSR1; it is saved, and on Slurm the job is requeued.
    """
    with _ends_resumable(run_folder, sweep_folder):
        start = time.perf_counter()
        quiet()
        keep_freed_memory()
        cfg.run_folder = str(run_folder)
        data, task = build.data_and_task(cfg)
        trainer = build_trainer(cfg, run_folder, data, task)
        if trainer.world_size > 1 and sweep_folder:
            raise UserError(
                "A multirun can't train on several devices, whose processes would run other trials: set "
                "trainer=gpu or trainer.devices=1, or start the runs one by one."
            )
        _refuse_too_little_space(trainer, task, data, run_folder / "checkpoints")
        with alone_in(run_folder), ranks.Watch(trainer, lambda: resume_hint(run_folder, sweep_folder)):
            last = checkpoint_to_resume(run_folder, trainer, task, data, force)
            _scale_rate(cfg, trainer, task, data)
            keep_config(cfg, run_folder, task.description)  # now that nothing is wrong: it can be resumed
            if last is None:
                initialise(cfg, task, data)
                task.fit_network(data)
            _announce(trainer, task, data, run_folder)
            distil(task, data, trainer.strategy.root_device)
            trainer = fit_with_rollback(cfg, trainer, task, data, last)
            facts = {"checkpoint": use_best(run_folder, task, trainer, data)}
            scores = score(cfg, trainer, task, data, run_folder)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.finish()  # or the next run of a multirun would write into this one
            if not trainer.is_global_zero:
                return {}
            (run_folder / FAILURE).unlink(missing_ok=True)  # of an earlier start
            content = write_metrics(run_folder, scores, **facts, **_facts(trainer, task, data, start))
            write_report(cfg, run_folder, data)
            return content


def _refuse_too_little_space(
    trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, folder: Path
) -> None:
    averages = [one for one in trainer.callbacks if isinstance(one, CheckpointAverage)]  # type: ignore[attr-defined]
    beside = sum(average.bytes_needed(task, folder) for average in averages)
    size = checkpoint_bytes(trainer, task)
    checkpoint_files.refuse_too_little_space(folder, size, data.has_validation, beside)


def _scale_rate(cfg: DictConfig, trainer: pl.Trainer, task: AudioTask, data: AudioDataModule) -> None:
    """Learning rates by `trainer.scale_lr`; of a run that is resumed they stay what they were."""
    batches = (data.batches_per_step or trainer.world_size) * trainer.accumulate_grad_batches
    factor = ranks.rate_factor(cfg.trainer.get("scale_lr"), batches)
    if factor != 1 and task.recipe:
        task.recipe = replace(task.recipe, lr=task.recipe.lr * factor)
        task.finetuning.rates = {stage: rate * factor for stage, rate in task.finetuning.rates.items()}
        trainer.print(f"{batches} batches make a step: the learning rate is {task.recipe.lr:.3g}.")


@contextlib.contextmanager
def _ends_resumable(run_folder: Path, sweep_folder: Path | None) -> Iterator[None]:
    """Lets signals end the run in order; they and a full disk say how to resume."""
    with signals.handling():
        try:
            yield
        except OSError as error:
            if not is_full(error):
                raise
            raise UserError(
                f"The disk of {run_folder} is full; the checkpoint before is whole: free some space, then "
                f"{resume_hint(run_folder, sweep_folder)}."
            ) from error
        except RuntimeError as error:
            if not ranks.lost_another(error):
                raise
            hint = resume_hint(run_folder, sweep_folder)
            raise UserError(
                f"Another process of the run has ended: look at what it says, then {hint}."
            ) from error
        except Interrupted as interruption:
            requeued = slurm.requeue(interruption.signum)
            hint = resume_hint(run_folder, sweep_folder)
            raise Interrupted(interruption.signum, f"{requeued}: {hint}") from None


def resume_hint(run_folder: Path, sweep_folder: Path | None = None) -> str:
    """What to do with a run, or with the multirun that it is part of, that was cut."""
    if sweep_folder:
        return f"resume with the same command and resume={sweep_folder}"
    if not (run_folder / CONFIG_FILE).is_file():
        return "start it again, for training had not begun"
    return f"resume with resume={run_folder}"


def _announce(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, run_folder: Path) -> None:
    """Says what is trained on what, and what a user should know of it."""
    parameters = sum(p.numel() for root in task.learned()[0] for p in root.parameters())
    trainer.print(
        f"{run_folder}: {type(task.network).__name__}, {parameters:,} parameters; {data.describe()}"
    )
    for remark in filter(None, [task.finetuning.describe(), *data.remarks()]):
        trainer.print(remark)
    report_quarantined(data, run_folder)


def _facts(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, start: float) -> dict[str, Any]:
    """What metrics.json says beside the scores; the process began at `start`."""
    facts: dict[str, Any] = {"epochs": trainer.current_epoch, "data": data.facts(), **_memory()}
    if weights := getattr(task.frontend, "digest", None):
        facts["encoder"] = weights
    if data.reshuffles.number:
        facts["went_back"] = data.reshuffles.number
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput):
            seconds = time.perf_counter() - start + callback.earlier
            facts |= callback.measured() | {"seconds": round(seconds, 1)}
    return facts


def _memory() -> dict[str, float]:
    """The most memory that this process and its GPU held, in GB, where the system tells."""
    facts = {}
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        facts["memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
    if torch.cuda.is_available():
        facts["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return facts


@rank_zero_only
def report_quarantined(data: AudioDataModule, run_folder: Path) -> None:
    """Says in a line which clips are in quarantine, and leaves the list of them in the run folder."""
    if line := data.describe_quarantined():
        print(line, flush=True)
    if line or (run_folder / QUARANTINE).is_file():  # what an earlier start left there may be mended
        write_atomically(run_folder / QUARANTINE, as_jsonl(data.store.quarantined))


def use_best(run_folder: Path, task: AudioTask, trainer: pl.Trainer, data: AudioDataModule) -> str:
    """Takes the average that was asked for, the weights that the validation chose, or else the last ones;
    names their checkpoint.

    The last ones too are read: what training left in memory may not be what was averaged and saved.
    """
    folder = run_folder / "checkpoints"
    name = checkpoint_files.BEST if (folder / checkpoint_files.BEST).is_file() else checkpoint_files.LAST
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, CheckpointAverage) and callback.ranks:
            name = callback.average(trainer)
    if (folder / name).is_file():  # training for 0 epochs writes none
        task.load_state_dict(read(folder / name)["state_dict"])
    if name == AVERAGE and task.tuned and data.has_validation:
        _refit(folder / name, task, trainer, data)
    return name


def _refit(path: Path, task: AudioTask, trainer: pl.Trainer, data: AudioDataModule) -> None:
    """Has validation set thresholds and the like for averaged weights, and keeps them in their checkpoint:
    the mean of those of the epochs fits none."""
    task.refits = True
    trainer.validate(task, data, verbose=False)
    task.refits = False
    if trainer.is_global_zero:
        content = read(path)
        content["state_dict"] |= {name: getattr(task, name).detach().cpu().clone() for name in task.fitted}
        trainer.strategy.checkpoint_io.save_checkpoint(content, path)
    trainer.strategy.barrier()


def score(
    cfg: DictConfig, trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, folder: Path
) -> dict[str, Score]:
    """The scores of the chosen weights: of validation, of the test, and of training clips, where a report
    tells bias from variance by them; their predictions in the folder."""
    learned: dict[str, Score] = {}
    if cfg.get("report"):
        learned = score_split(trainer, task, data, "train", folder, cfg.report.train_clips)
        if "train_dev" in data.splits:
            learned |= score_split(trainer, task, data, "train_dev", folder)
    scores: dict[str, Score] = {}
    if data.has_validation:  # of the chosen weights: by these scores runs may be compared
        trainer.validate(task, data, verbose=False)
        clips = data.splits["val"].clips
        scores = {f"val/{name}": score for name, score in task.scores(clips).items()}
        if scores and trainer.is_global_zero:
            write_predictions(folder / predictions_file("val"), task.rows_of(clips))
    if cfg.test and trainer.limit_test_batches:
        scores |= test(trainer, task, data, folder)
    return scores | learned  # these last: a sweep without validation compares by the first


def test(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, folder: Path) -> dict[str, Score]:
    """The one look at the test split: scores with their intervals; predictions and plots in the folder.

    Raises:
        UserError: the configuration leaves nothing of it.
    """
    if not trainer.limit_test_batches:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test: set it to 1.0.")
    trainer.test(task, data, verbose=False)
    if not trainer.is_global_zero:
        return {}
    return {f"test/{name}": score for name, score in task.report(folder, data.splits["test"].clips).items()}


def write_report(cfg: DictConfig, run_folder: Path, data: AudioDataModule) -> None:
    """Writes report.html where it is asked for; what goes wrong with it costs the run nothing but that."""
    if not cfg.get("report"):
        return
    try:
        options = {name: cfg.report[name] for name in ("clips", "megabytes", "target")}
        write_run_report(run_folder, sounds_of(data), **options)
    except Exception as error:  # of any kind: the scores are there
        print(f"warning: no report.html: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


def print_run(folder: Path, content: dict[str, Any]) -> None:
    """The scores of a run, and of transcripts the counts behind them."""
    print_report(folder, content)
    if "test/wer" in content["scores"]:
        print_transcript_report(read_predictions(folder / PREDICTIONS))


def quiet() -> None:
    """Keeps what Lightning and torch say at every start out of the terminal; their warnings on use stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of the new classifier, which no pretrained weights can hold.
    logging.getLogger("timm").setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",  # a frozen encoder
        ".*LeafSpec.*",
        ".*smaller than the logging interval.*",
        ".*across ranks is zero.*",
        ".*exists and is not empty.*",  # the folder of a resumed run
        ".*sync_dist=True.*",  # scores are the same in every process
    ):
        warnings.filterwarnings("ignore", text)


def keep_freed_memory() -> None:
    """Lets the C library reuse what tensors on the CPU free, where it is glibc; others are left as they are.

    By default it hands large blocks back, and every step pays for mapping and clearing their pages anew:
    EfficientNet-lite0 took 32 ms a clip and step instead of 23 (2 cores, batch of 16), a small CNN 10.5
    instead of 9.5.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
