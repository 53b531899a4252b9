"""Run folders: a new one, the newest one, and one process in each."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from lightning_fabric.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig
from torch.distributed import TCPStore

from lightning_audio.errors import UserError
from lightning_audio.io import write_atomically

SECONDS = 120.0  # that processes of one run may start after one another
DATED = re.compile(r"\d{4}-\d\d-\d\d_")


def refuse_unwritable(logs: Path) -> None:
    """Raises UserError where no run folder can be made."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
        writable = os.access(logs, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UserError(
            f"Nothing can be written to {logs}: set paths.logs to a folder that can be written to."
        )


@contextmanager
def alone_in(run_folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a run folder meanwhile; those of one run share it.

    Raises:
        UserError: one is there already.
    """
    first = {os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")} == {
        "0"
    }
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_folder / ".lock", timeout=0)
    try:
        if first:
            lock.acquire()
    except Timeout:
        raise UserError(
            f"Another process is training in {run_folder}: wait until it has ended, or end it, before you "
            "go on."
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()


def shared(folder: Path, logs: Path, command: Sequence[str]) -> Path:
    """The folder of the run that several processes of torchrun or srun train: the one that the first of them
    drew. Processes that Lightning starts get it on their command line.

    Raises:
        UserError: the first process of srun has named none in time.
    """
    if SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
        return _shared_by_srun(folder, logs, command)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return folder
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if os.environ["RANK"] == "0":  # kept where torchrun starts its processes once more: they resume the run
        store.compare_set("lightning_audio/run_folder", "", str(folder))
    return Path(store.get("lightning_audio/run_folder").decode())


def _shared_by_srun(folder: Path, logs: Path, command: Sequence[str]) -> Path:
    """By a file among the logs, which all nodes see; its name is that of the job step and of the command."""
    step = [os.environ.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    file = logs / f".srun_{'_'.join(step)}_{zlib.crc32(repr(command).encode()):08x}"
    if os.environ["SLURM_PROCID"] == "0":
        write_atomically(file, str(folder))
        atexit.register(file.unlink, missing_ok=True)  # the step may run the same command again
        return folder
    end = time.monotonic() + SECONDS
    while not file.is_file():
        if time.monotonic() > end:
            raise UserError(
                f"The first process of srun has left no {file} within {SECONDS:g} s: read what it says, and "
                "set paths.logs to a folder that all nodes share."
            )
        time.sleep(0.1)
    return Path(file.read_text(encoding="utf-8"))


def newest(folders: Iterable[Path]) -> Path | None:
    """The newest run folder by its name, which is date and time unless somebody renamed it; None of none."""
    return max(folders, key=lambda folder: (bool(DATED.match(folder.name)), folder.name), default=None)


def new_run_folder(cfg: DictConfig, kind: str) -> Path:
    """The name of a new folder, as runs have it, for what is no training; there is none yet."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}_{kind}"
    return Path(cfg.paths.logs) / cfg.name / name
