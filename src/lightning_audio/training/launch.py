"""Starting runs as Hydra does, with its launchers, sweepers and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict, read_write

from lightning_audio import config


def run_folder_of(run: DictConfig, many: bool) -> Path:
    """Where Hydra will start this run."""
    with config.as_hydra_config(run), read_write(run.hydra.runtime):
        place = (run.hydra.sweep.dir, run.hydra.sweep.subdir) if many else (run.hydra.run.dir,)
        folder = Path(*map(str, place)).absolute()
        run.hydra.runtime.output_dir = str(folder)
    return folder


def place_sweep(asked: config.Composed, folder: Path) -> None:
    """Has a multirun start in this folder."""
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    for whole in (asked.whole, *asked.runs):
        with open_dict(whole):
            whole.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")
            whole.hydra.sweep.dir = str(folder)


def start(composed: config.Composed, job: Callable[[DictConfig], None]) -> None:
    """Starts a job in each run as `hydra.main` does: launchers, sweepers and callbacks of Hydra count.

    `hydra.main` itself would compose everything twice more, and gives nothing back.
    """
    whole = composed.whole
    callbacks = Callbacks(whole)
    context = HydraContext(composed.loader, callbacks)
    about: dict[str, Any] = {"config": whole, "config_name": whole.hydra.job.config_name}
    if composed.many:
        callbacks.on_multirun_start(**about)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=whole, hydra_context=context, task_function=job
        )
        sweeper.sweep(arguments=list(whole.hydra.overrides.task))
        callbacks.on_multirun_end(**about)
        return
    callbacks.on_run_start(**about)
    done = run_job(job, whole, "hydra.run.dir", None, context)
    callbacks.on_run_end(**about, job_return=done)
    if done.status == JobStatus.FAILED:
        raise done._return_value  # as `return_value` does, which prints the overrides first


def show(command: config.Command) -> None:
    """What --cfg, --info, --help and the like print."""
    loader, flags = config.loader_of(command), command.flags
    about: dict[str, Any] = {"config_name": command.root}
    app = Hydra(config.ROOT, loader)
    with config.sentences(command, loader):
        if flags.help or flags.hydra_help:
            helps = app.app_help if flags.help else app.hydra_help
            helps(**about, args_parser=config.hydra_parser(), args=flags)
            return
        asked = {**about, "overrides": list(command.overrides)}
        if flags.cfg:
            app.show_cfg(**asked, cfg_type=flags.cfg, package=flags.package, resolve=flags.resolve)
        elif flags.info:
            app.show_info(flags.info, **asked)
        else:
            app.shell_completion(**asked)
