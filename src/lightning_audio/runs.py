"""Run folders: a new one, and the configuration that lies in one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError

CONFIG_FILE = "config.yaml"
MULTIRUN_FILE = "multirun.yaml"  # Hydra's, in the folder of a multirun
FOLDERS = ("save_dir", "dirpath", "dir", "log_dir", "root_dir", "output_dir")  # options of what writes files
SERVERS, SERVER = ("tracking_uri",), "MLFLOW_TRACKING_URI"
DATED = re.compile(r"\d{4}-\d\d-\d\d_")


def changed(cfg: DictConfig, changes: Sequence[str]) -> DictConfig:
    """A saved configuration with KEY=VALUE changes of options that it has.

    Raises:
        UserError: a change names what is no single option there.
    """
    cfg = cfg.copy()
    for change in changes:
        key, equals, _ = change.partition("=")
        absent = object()
        present = OmegaConf.select(cfg, key, default=absent)
        if not equals or present is absent or OmegaConf.is_dict(present):
            raise UserError(
                f"{change!r} changes no option of the run: name one that its {CONFIG_FILE} holds."
            )
    cfg.merge_with_dotlist(list(changes))
    return cfg


def load_config(run_folder: Path) -> DictConfig:
    """The resolved configuration that a run was trained with; what lay in its folder lies where that is now.

    It may come from anybody: `build.saved_config` looks at what it wants to build.

    Raises:
        UserError: the folder holds none, or one that no run wrote.
    """
    file = run_folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{run_folder} is no run folder (it has no {CONFIG_FILE}): give one below logs/.")
    try:
        text = file.read_text(encoding="utf-8")
        # A few lines of aliases can stand for more values than there is memory, and no run writes any.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("aliases")
        cfg = OmegaConf.to_container(OmegaConf.create(text))
        assert isinstance(cfg, dict)
        return OmegaConf.create(moved(cfg, str(cfg["run_folder"]), str(run_folder)))
    except (
        OSError,
        ValueError,
        KeyError,
        AssertionError,
        RecursionError,
        yaml.YAMLError,
        OmegaConfBaseException,
    ) as error:
        raise UserError(f"{file} is no configuration that a run wrote: it is damaged.") from error


def refuse_elsewhere(node: Any, run_folder: Path, name: str = "") -> None:
    """Raises UserError where a part that writes files names a place outside of the run folder."""
    for key, value in node.items() if isinstance(node, dict) else ():
        refuse_elsewhere(value, run_folder, key)
    for value in node if isinstance(node, list) else ():
        refuse_elsewhere(value, run_folder, name)
    if not isinstance(node, str):
        return
    if name in SERVERS:
        _refuse_server(node, run_folder)
        return
    place = Path(node) if name in FOLDERS else run_folder / node
    inside = place.resolve().is_relative_to(run_folder.resolve())
    if not inside or node.startswith("~") or "$" in node or "://" in node:
        raise UserError(
            f"The configuration in {run_folder} wants to write to {node!r}, outside of it ({name}): mend its "
            f"{CONFIG_FILE}, or start a new run."
        )


def _refuse_server(address: str, run_folder: Path) -> None:
    """Lets through what the user set up, and a database that lies in a folder above the run."""
    file = Path(address.removeprefix("sqlite:///")).resolve()
    own = address.startswith("sqlite:///") and file.parent in run_folder.resolve().parents
    if not own and address != os.environ.get(SERVER):
        raise UserError(
            f"The configuration in {run_folder} wants to log to {address!r}: set {SERVER} to that if it is "
            "yours, or start a new run."
        )


def moved(node: Any, old: str, new: str) -> Any:
    """Paths at and below `old` as paths below `new`."""
    if isinstance(node, dict):
        return {key: moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node


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
