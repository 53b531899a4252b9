"""Trains, tests and reports one run, or a Hydra multirun of them.

lightning-audio train experiment=demo trainer.max_epochs=10
lightning-audio train -m experiment=demo optimizer.lr=1e-3,3e-4 seed=0,1
lightning-audio train experiment=demo resume=latest
lightning-audio train experiment=demo resume=latest trainer.max_epochs=60 resume.force=true
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_audio import config
from lightning_audio.errors import UserError, cli_errors, end_on
from lightning_audio.reports import sweep
from lightning_audio.reports.results import (
    METRICS,
    write_failure,
)
from lightning_audio.training import slurm
from lightning_audio.training.resume import (
    composed,
    refuse_other_runs,
    resumed_config,
    resumed_folder,
    without_force,
)
from lightning_audio.training.run import many_runs, print_run, train
from lightning_audio.training.run_folder import refuse_unwritable
from lightning_audio.training.saved_config import MULTIRUN_FILE

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


def run_job(cfg: DictConfig, force: bool = False) -> None:
    """One run as Hydra starts it; a failed run of a multirun is noted, and the others go on."""
    run_folder = Path(HydraConfig.get().runtime.output_dir)
    many = many_runs()
    if many:
        slurm.remember_command(Path(HydraConfig.get().sweep.dir))
    if many and (run_folder / METRICS).is_file():
        print(f"{run_folder} has its scores already.")
        return
    cfg.resume = None
    try:
        content = train(cfg, run_folder, force)
    except UserError as error:
        note_failure(run_folder, str(error))
        if not many:
            end_on(error)  # before Hydra adds a traceback
        print(f"error: {error}", file=sys.stderr)
    except Exception as error:
        note_failure(run_folder, f"{type(error).__name__}: {error}")
        if not many:
            raise
        traceback.print_exc()
    else:
        if content and not many:
            print_run(run_folder, content)


def note_failure(run_folder: Path, reason: str) -> None:
    """Leaves the reason in the run folder; a disk that is full may be the reason itself."""
    with contextlib.suppress(OSError):
        write_failure(run_folder, reason)


def resume_run(cfg: DictConfig, overrides: list[str], force: bool = False) -> None:
    """Goes on with a run in its own folder by its own configuration, changed by the overrides.

    Raises:
        UserError: as `resumed_config` and `train` say.
    """
    changed, folder = resumed_config(cfg, overrides, force)
    if content := train(changed, folder, force):
        print_run(folder, content)


def launch(arguments: list[str]) -> None:
    """Starts what the command line asks for; raises UserError for what it mistypes."""
    arguments, force = without_force([config.renamed(argument) for argument in arguments])
    slurm.command[:] = arguments
    many = "-m" in arguments or "--multirun" in arguments
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if not any(argument in HYDRA_FLAGS for argument in arguments):
        cfg, whole = config.compose_run(overrides) if many else composed(overrides)
        if config.is_sweep(overrides) and not many:
            raise UserError(
                "Several values for one option make several runs: put -m in front of the options."
            )
        refuse_unwritable(Path(cfg.paths.logs))
        if not cfg.resume and (started := slurm.restarted_folder(Path(cfg.paths.logs) / cfg.name)):
            print(f"Job {slurm.job_id()} was requeued: it goes on in {started}.", flush=True)
            cfg.resume, overrides = str(started), overrides if many else []
        if cfg.resume and not many:
            return resume_run(cfg, overrides, force)
        if overrides == arguments and whole.hydra.mode != RunMode.MULTIRUN:
            return config.run_once(whole, run_job)
        if cfg.resume:
            folder = resumed_folder(cfg, MULTIRUN_FILE)
            refuse_other_runs(folder, overrides, force)
            arguments = [*arguments, f"hydra.sweep.dir={folder}"]
    sys.argv[1:] = arguments
    sweep.failed.clear()

    def forced_job(cfg: DictConfig) -> None:  # Hydra asks a function where it was written
        run_job(cfg, force)

    hydra.main(config_path=str(config.CONF), config_name=config.ROOT, version_base="1.3")(forced_job)()
    if sweep.failed:
        raise UserError(f"{len(sweep.failed)} runs failed: the table above says why.")
    return None


@cli_errors
def main() -> None:
    launch(sys.argv[1:])


if __name__ == "__main__":
    main()
