"""Run folders: a new one, the newest one, and one process in each."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from torch.distributed import TCPStore

from lightning_audio.errors import UserError

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


def shared(folder: Path) -> Path:
    """The folder of the run that several processes of torchrun train: the one that the first of them drew.

    Processes that Lightning starts get it on their command line.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return folder
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    if os.environ["RANK"] == "0":  # kept where torchrun starts its processes once more: they resume the run
        store.compare_set("lightning_audio/run_folder", "", str(folder))
    return Path(store.get("lightning_audio/run_folder").decode())


def newest(folders: Iterable[Path]) -> Path | None:
    """The newest run folder by its name, which is date and time unless somebody renamed it; None of none."""
    return max(folders, key=lambda folder: (bool(DATED.match(folder.name)), folder.name), default=None)


def new_run_folder(cfg: DictConfig, kind: str) -> Path:
    """A new folder for what is no training, named as runs are."""
    folder = (
        Path(cfg.paths.logs) / cfg.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}_{kind}"
    )
    folder.mkdir(parents=True)
    return folder
