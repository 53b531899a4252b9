"""Writes a file for sbatch: an experiment on nodes of a Slurm cluster, or a sweep as an array of jobs.

lightning-audio slurm esc50_resnet --nodes 2 --gpus 4 --time 8:00:00
lightning-audio slurm esc10_cnn2d sweep=optuna --workers 8 --time 1:00:00
sbatch esc50_resnet.sbatch
"""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from lightning_audio import config
from lightning_audio.cli.arguments import slurm as read_arguments
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import write_atomically

# Signals come so many seconds before the end of a job's time: to finish a step and to save.
NOTICE = 120


def script(options: Namespace, overrides: list[str], name: str, sweeps: bool) -> str:
    """The text of the file. Its job is requeued when its time is up, and resumes in its run folder."""
    tasks = options.gpus or 1
    if not any(override.startswith("trainer=") for override in overrides):
        several = options.nodes * tasks > 1
        overrides = [*overrides, f"trainer={'ddp' if several else 'gpu' if options.gpus else 'cpu'}"]
        if several and not options.gpus:
            overrides += ["trainer.accelerator=cpu", "trainer.precision=32-true"]
    asked = {
        "job-name": name,
        "nodes": options.nodes,
        "ntasks-per-node": tasks,
        "gpus-per-node": options.gpus or None,
        "cpus-per-task": options.cpus,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "array": f"0-{options.workers - 1}" if options.workers > 1 else None,
        "signal": f"USR1@{NOTICE}",
        "open-mode": "append",
        "output": "slurm-%x-%j.out",
    }
    lines = [
        f"#SBATCH --{option}={shlex.quote(str(value))}"
        for option, value in asked.items()
        if value is not None
    ]
    command = [sys.executable, "-m", "lightning_audio", "sweep" if sweeps else "train", *overrides]
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "#SBATCH --requeue",
            "",
            f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
            "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
            f"srun {shlex.join(command)}",
            "",
        ]
    )


def write(options: Namespace) -> Path:
    """Composes what the job will run, and writes its file.

    Raises:
        UserError: an option does not fit, or the file is there.
    """
    overrides = [options.experiment, *options.overrides]
    if "=" not in options.experiment:
        overrides[0] = f"experiment={options.experiment}"
    for name, least in {"nodes": 1, "cpus": 1, "workers": 1, "gpus": 0}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} {getattr(options, name)} is too little: give {least} or more.")
    cfg = config.compose_config(overrides)
    listed = config.is_sweep(overrides) or any(override.startswith("sweep=") for override in overrides)
    if (cfg.search or listed) and options.nodes * (options.gpus or 1) > 1:
        raise UserError("A trial takes one task: give --workers for more trials side by side, and --gpus 1.")
    if options.workers > 1 and not cfg.search:
        raise UserError(
            f"--workers {options.workers} share trials that are drawn: add sweep=random, or leave it out."
        )
    file = options.output or Path(f"{cfg.name}.sbatch")
    if file.exists():
        raise UserError(f"{file} is there already: remove it, or name another one by --output.")
    write_atomically(file, script(options, overrides, cfg.name, bool(cfg.search) or listed))
    return file


@cli_errors
def main() -> None:
    file = write(read_arguments())
    print(f"{file}: start it by `sbatch {file}`; `lightning-audio check-cluster` looks at the nodes before.")


if __name__ == "__main__":
    main()
