"""Trains, tests and reports one run, or a Hydra multirun of them.

python -m lightning_audio.train experiment=demo trainer.max_epochs=10
python -m lightning_audio.train -m experiment=demo optimizer.lr=1e-3,3e-4 seed=0,1
python -m lightning_audio.train experiment=demo resume=latest
"""

from __future__ import annotations

import ctypes
import logging
import sys
import time
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger

from lightning_audio import build, config, runs, sweeps
from lightning_audio.callbacks import Throughput
from lightning_audio.data.module import AudioDataModule
from lightning_audio.errors import UserError, end_on, ends_in_one_sentence
from lightning_audio.feature_statistics import fit_normalizer
from lightning_audio.metrics import Score
from lightning_audio.results import (
    METRICS,
    PREDICTIONS,
    print_report,
    read_predictions,
    write_atomically,
    write_failure,
    write_metrics,
)
from lightning_audio.tasks.base import AudioTask
from lightning_audio.transcript_report import print_transcript_report

HYDRA_FLAGS = (
    "-h",
    "--help",
    "--hydra-help",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
    "--version",
)


def train(cfg: DictConfig, run_folder: Path) -> dict[str, Any]:
    """Trains, or goes on training, in a run folder; then tests and writes the report.

    Where the folder has `checkpoints/last.ckpt`, training goes on from there.

    Returns:
        What metrics.json holds.
    """
    start = time.perf_counter()
    quiet()
    keep_freed_memory()
    cfg.run_folder = str(run_folder)
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    task.check(data)
    trainer = build.trainer(cfg, run_folder, data, task.monitor)
    refuse_many_processes_in_multirun(trainer)
    keep_config(cfg, run_folder)  # now that nothing in it is wrong: this makes the folder one to resume
    last = run_folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        fit_normalizer(task, data)
    parameters = sum(p.numel() for p in task.network.parameters())
    trainer.print(
        f"{run_folder}: {type(task.network).__name__}, {parameters:,} parameters; {data.describe()}"
    )
    fit(trainer, task, data, last if last.is_file() else None)
    tested = use_best(run_folder, task)
    scores = validate(trainer, task, data)
    if cfg.test:
        scores |= test(trainer, task, data, run_folder)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # or the next run of a multirun would write into this one
    facts: dict[str, Any] = {"checkpoint": tested, "epochs": trainer.current_epoch, "data": data.facts()}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput):
            facts |= callback.measured() | {
                "seconds": round(time.perf_counter() - start + callback.earlier, 1)
            }
    return write_metrics(run_folder, scores, **facts) if trainer.is_global_zero else {}


def fit(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, checkpoint: Path | None) -> None:
    """Trains, from a checkpoint on where there is one; Ctrl-C raises KeyboardInterrupt."""
    try:
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.interrupted:  # Lightning turns Ctrl-C into an exit without a word
            raise KeyboardInterrupt("go on with resume=latest") from None
        raise


def keep_config(cfg: DictConfig, run_folder: Path) -> None:
    """Leaves the resolved configuration in the run folder; an older, different one is kept beside it."""
    run_folder.mkdir(parents=True, exist_ok=True)
    file, content = run_folder / runs.CONFIG_FILE, OmegaConf.to_yaml(cfg, resolve=True)
    if file.is_file() and file.read_text(encoding="utf-8") != content:
        file.rename(run_folder / f"config_until_{datetime.now():%Y-%m-%d_%H-%M-%S}.yaml")
    write_atomically(file, content)


def use_best(run_folder: Path, task: AudioTask) -> str:
    """Takes the weights that the validation chose, or else the last ones; names their checkpoint.

    The last ones too are read: what training left in memory may not be what was averaged and saved.
    """
    folder = run_folder / "checkpoints"
    name = "best.ckpt" if (folder / "best.ckpt").is_file() else "last.ckpt"
    if (folder / name).is_file():  # training for 0 epochs writes none
        task.load_state_dict(torch.load(folder / name, map_location="cpu", weights_only=True)["state_dict"])
    return name


def validate(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule) -> dict[str, Score]:
    """The validation scores of the chosen weights, by which runs may be compared; none without validation."""
    if not data.has_validation:
        return {}
    trainer.validate(task, data, verbose=False)
    return {f"val/{name}": score for name, score in task.scores(data.splits["val"].clips).items()}


def test(trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, folder: Path) -> dict[str, Score]:
    """The one look at the test split: scores with their intervals; predictions and plots in the folder."""
    trainer.test(task, data, verbose=False)
    if not trainer.is_global_zero:
        return {}
    return {f"test/{name}": score for name, score in task.report(folder, data.splits["test"].clips).items()}


def print_run(folder: Path, content: dict[str, Any]) -> None:
    """The scores of a run, and of transcripts the counts behind them."""
    print_report(folder, content)
    if "test/wer" in content["scores"]:
        print_transcript_report(read_predictions(folder / PREDICTIONS))


def refuse_many_processes_in_multirun(trainer: pl.Trainer) -> None:
    """Raises UserError where the ranks of a run would each start the whole multirun again."""
    if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise UserError(
            "A multirun can't train on several devices, since their processes would run different trials: "
            "set trainer=gpu or trainer.devices=1, or start the runs one by one."
        )


def quiet() -> None:
    """Keeps what Lightning and torch say at every start out of the terminal; their warnings on use stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of the new classifier, which no pretrained weights can hold.
    logging.getLogger("timm").setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
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


def job(cfg: DictConfig) -> None:
    """One run as Hydra starts it; a failed run of a multirun is noted, and the others go on."""
    run_folder = Path(HydraConfig.get().runtime.output_dir)
    many = HydraConfig.get().mode == RunMode.MULTIRUN
    if many and (run_folder / METRICS).is_file():
        print(f"{run_folder} has its scores already.")
        return
    cfg.resume = None
    try:
        content = train(cfg, run_folder)
    except UserError as error:
        write_failure(run_folder, str(error))
        if not many:
            end_on(error)  # before Hydra adds a traceback
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        write_failure(run_folder, f"{type(error).__name__}: {error}")
        if not many:
            raise
        traceback.print_exc()
    else:
        if content and not many:
            print_run(run_folder, content)


def resume_run(cfg: DictConfig, overrides: list[str]) -> None:
    """Goes on with a run in its own folder by its own configuration, changed by the overrides.

    Raises:
        UserError: there is no such run, or a group is chosen that is not what the run was started with.
    """
    folder = runs.resumed_folder(cfg)
    named = [override for override in overrides if override.split("=")[0] not in ("resume", "experiment")]
    groups = [override for override in named if (config.CONF / override.split("=")[0]).is_dir()]
    saved = runs.changed(runs.load_config(folder), [option for option in named if option not in groups])
    cfg.run_folder = str(folder)
    given = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(given, dict)
    for choice in groups:
        part = choice.split("=")[0]
        if part not in given or given[part] != saved[part]:
            raise UserError(f"{choice} makes another run than {folder}: leave it out, or start a new run.")
    content = train(saved, folder)
    if content:
        print_run(folder, content)


def launch(arguments: list[str]) -> None:
    """Starts what the command line asks for; raises UserError for what it mistypes."""
    many = "-m" in arguments or "--multirun" in arguments
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if not any(argument in HYDRA_FLAGS for argument in arguments):
        cfg, whole = config.compose_run(overrides)
        if config.is_sweep(overrides) and not many:
            raise UserError(
                "Several values for one option make several runs: put -m in front of the options."
            )
        runs.refuse_unwritable(Path(cfg.paths.logs))
        if cfg.resume and not many:
            return resume_run(cfg, overrides)
        if overrides == arguments and whole.hydra.mode != RunMode.MULTIRUN:
            return config.run_once(whole, job)
        if cfg.resume:
            folder = runs.resumed_folder(cfg, runs.MULTIRUN_FILE)
            runs.refuse_other_runs(folder, overrides)
            arguments = [*arguments, f"hydra.sweep.dir={folder}"]
    sys.argv[1:] = arguments
    sweeps.failed.clear()
    hydra.main(config_path=str(config.CONF), config_name=config.ROOT, version_base="1.3")(job)()
    if sweeps.failed:
        raise UserError(f"{len(sweeps.failed)} runs failed: the table above says why.")
    return None


@ends_in_one_sentence
def main() -> None:
    launch(sys.argv[1:])


if __name__ == "__main__":
    main()
