"""Jobs on a Slurm cluster: one whose time is up goes back into the queue, and resumes in its run folder.

Slurm starts the same command again under the same job id, and counts that in SLURM_RESTART_COUNT. Where the
run lies is kept in its folder, in a file that names the job and the command. `sbatch --signal=USR1@120`
announces the end of the job's time two minutes ahead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_audio.errors import Interrupted, masked
from lightning_audio.io import to_json, write_atomically
from lightning_audio.training.run_folder import newest

MARKER = "slurm.json"
SECONDS = 10  # that scontrol may take


def job_id() -> str | None:
    """The id by which the job of this process can be requeued; None outside of Slurm."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID")


def remember_command(folder: Path, command: Sequence[str]) -> None:
    """Leaves the job and the command in the folder of the run, or of the multirun, that they started."""
    if job_id() and os.environ.get("SLURM_PROCID", "0") == "0":
        write_atomically(folder / MARKER, _written(command))


def restarted_folder(parent: Path, command: Sequence[str], marker: str) -> Path | None:
    """The newest folder below `parent` that this command made when its job ran before and that holds the file
    `marker`; else None."""
    if not job_id() or int(os.environ.get("SLURM_RESTART_COUNT") or 0) == 0:
        return None
    own = (file.parent for file in parent.glob(f"*/{MARKER}") if file.read_text() == _written(command))
    return newest(folder for folder in own if (folder / marker).is_file())


def _written(command: Sequence[str]) -> str:
    """A job may run several commands."""
    return masked(to_json({"job": job_id(), "command": list(command)})) + "\n"


@contextlib.contextmanager
def requeued() -> Iterator[None]:
    """Within it a signal between two runs requeues the job, as one within a run does: that says so itself."""
    try:
        yield
    except Interrupted as stopped:
        if str(stopped):
            raise
        raise Interrupted(stopped.signum, requeue(stopped.signum)) from None


def requeue(signum: int) -> str:
    """Puts the job back into the queue if this signal says that Slurm ends it; says so in a few words."""
    name = job_id()
    if not name or signum == signal.SIGINT or os.environ.get("SLURM_PROCID", "0") != "0":
        return ""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", name], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    return f"; job {name} could not be requeued ({reason})" if reason else f"; job {name} is requeued"
