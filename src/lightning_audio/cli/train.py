"""Trains, tests and reports one run, or a Hydra multirun of them.

lightning-audio train experiment=demo trainer.max_epochs=10
lightning-audio train -m experiment=demo optimizer.lr=1e-3,3e-4 seed=0,1
lightning-audio train experiment=demo resume=latest
lightning-audio train experiment=demo resume=latest trainer.max_epochs=60 resume.force=true
lightning-audio train --config-dir my_conf experiment=mine
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_audio import config
from lightning_audio.config import Command, Composed
from lightning_audio.errors import UserError, cli_errors, outlive_terminal, unusable
from lightning_audio.reports import sweep
from lightning_audio.reports.html.several import write_sweep
from lightning_audio.reports.results import METRICS, write_failure
from lightning_audio.training import run_folder, slurm
from lightning_audio.training.launch import place_sweep, run_folder_of, show, start
from lightning_audio.training.resume import (
    composed,
    refuse_other_settings,
    resumed_config,
    resumed_folder,
)
from lightning_audio.training.run import print_run, train
from lightning_audio.training.saved_config import CONFIG_FILE, MULTIRUN_FILE, keep_hydra


def launch(arguments: Sequence[str]) -> Path | None:
    """Starts what a command line asks for; the folder of the run, or of the multirun.

    Raises:
        UserError: something in it is mistyped, the run ended in one, or some runs of a multirun did.
    """
    command = Command.read(arguments)
    if command.shows:
        show(command)
        return None
    asked = composed(command)
    if config.is_sweep(command.overrides) and not asked.many:
        raise UserError("Several values for one option make several runs: put -m in front of the options.")
    if asked.cfg.search and not any(a.startswith("hydra.run.dir=") for a in command.overrides):
        raise UserError("sweep=... draws values for many runs: start it by `lightning-audio sweep`.")
    logs = Path(asked.cfg.paths.logs)
    run_folder.refuse_unwritable(logs)
    marker = MULTIRUN_FILE if asked.many else CONFIG_FILE
    restarted = slurm.restarted_folder(logs / asked.cfg.name, command.arguments, marker)
    if restarted and not asked.cfg.resume:
        print(f"Job {slurm.job_id()} was requeued: it resumes in {restarted}.", flush=True)
        asked.cfg.resume, command = str(restarted), command.alone()
    if asked.many:
        return run_many(command, asked)
    if asked.cfg.resume:
        cfg, folder = resumed_config(asked.cfg, command)
        if content := train(cfg, folder, command.force):
            print_run(folder, content)
        return folder
    return run_one(command, asked)


def run_one(command: Command, asked: Composed, quiet: bool = False) -> Path:
    """One new run, in the folder that Hydra gives it; a quiet one prints no table of its scores."""
    drawn = run_folder_of(asked.whole, many=False)
    folder = run_folder.shared(drawn, Path(asked.cfg.paths.logs), command.arguments)
    asked.whole.hydra.run.dir = str(folder)
    with config.as_hydra_config(asked.whole):
        refuse_other_settings(asked.cfg, asked.usual[0], folder, command.force)

    def job(cfg: DictConfig) -> None:
        keep_hydra(cfg, folder)
        slurm.remember_command(folder, command.arguments)
        cfg.resume = None
        try:
            content = train(cfg, folder, command.force)
        except Exception as error:
            note_failure(folder, error)
            raise
        if content and not quiet:
            print_run(folder, content)

    start(asked, job)
    return folder


def run_many(command: Command, asked: Composed) -> Path:
    """The runs of a multirun, one after another unless a launcher does otherwise, then a table of them all.

    Those that are done are left out; one that fails is noted, and the others go on.
    """
    if asked.cfg.resume:
        place_sweep(asked, resumed_folder(asked.cfg, MULTIRUN_FILE))
    sweep_folder = Path(asked.whole.hydra.sweep.dir).absolute()
    folders = [run_folder_of(run, many=True) for run in asked.runs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(
            f"Several runs would share the folder {twice[0]}: let hydra.sweep.subdir name every option that "
            "varies, or leave it out."
        )
    usual = dict(zip(folders, asked.usual, strict=True))
    for cfg, run, folder in zip(asked.cfgs, asked.runs, folders, strict=True):
        with config.as_hydra_config(run):
            refuse_other_settings(cfg, usual[folder], folder, command.force)

    def job(cfg: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        slurm.remember_command(sweep_folder, command.arguments)
        cfg.resume = None
        try:
            config.settle(cfg)
            # A sweeper may have drawn values that were not known before.
            refuse_other_settings(cfg, usual.get(folder, asked.usual[0]), folder, command.force)
            if (folder / METRICS).is_file():  # also by force: its scores are of the settings that it had
                print(f"{folder} has its scores already.")
                return
            keep_hydra(cfg, folder, sweep_folder)
            train(cfg, folder, command.force, sweep_folder)
        except Exception as error:
            problem = unusable(error) or error
            note_failure(folder, problem)
            if isinstance(problem, UserError):
                print(f"error: {problem}", file=sys.stderr)
            else:
                traceback.print_exception(problem)

    start(asked, job)
    summary = sweep.summarise_sweep(sweep.run_folders(sweep_folder))
    sweep.write_sweep_report(sweep_folder, summary)
    sweep.print_sweep_report(summary)
    if asked.cfg.get("report"):
        print(f"Report: {write_sweep(sweep_folder, summary)}")
    if summary.failed:
        raise UserError(f"{len(summary.failed)} runs failed: the table above says why.")
    return sweep_folder


def note_failure(folder: Path, error: Exception) -> None:
    """Leaves the reason in the run folder; a disk that is full may be the reason itself."""
    if (folder / METRICS).is_file():
        return  # of a run that had come to its end before
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        write_failure(folder, reason)


@cli_errors
def main() -> None:
    outlive_terminal()
    with slurm.requeued():
        launch(sys.argv[1:])


if __name__ == "__main__":
    main()
