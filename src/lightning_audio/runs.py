"""Run folders: a new one, the one to go on with, and the configuration that lies in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError, refuse_address

CONFIG_FILE = "config.yaml"
MULTIRUN_FILE = "multirun.yaml"  # Hydra's, in the folder of a multirun
FOLDERS = ("save_dir", "dirpath", "dir", "log_dir", "root_dir", "output_dir")  # options of what writes files
SERVERS = ("tracking_uri",)


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


# What may be other than it was without another run coming of it.
HARMLESS = (
    "test",
    "paths",
    "logger",
    "saving",
    "loader.workers",
    "loader.store",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "callbacks.listen",
)


def without_force(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments of a command line but `resume.force=...`, and whether that says true.

    It is no option of the configuration, where `resume` is one value; a run is never started with it.
    """
    key = "resume.force"
    said = [argument.partition("=")[2].lower() for argument in arguments if argument.split("=")[0] == key]
    if any(word not in ("true", "false") for word in said):
        raise UserError(f"{key}={said[-1]} does not fit: set it to true or false.")
    return [a for a in arguments if a.split("=")[0] != key], said[-1:] == ["true"]


def differences(old: Any, new: Any, place: str = "") -> dict[str, tuple[Any, Any]]:
    """The options that differ between two configurations, by dotted name: the old and the new value."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {place: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        found |= differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    return found


def tell_changes(folder: Path, old: DictConfig, new: DictConfig, force: bool) -> None:
    """Says which options a run goes on with that it was not trained with before.

    Raises:
        UserError: with them it is another run, and it was not said that it is meant.
    """
    found = differences(*(OmegaConf.to_container(cfg, resolve=True) for cfg in (old, new)))  # type: ignore[arg-type]
    if not found:
        return
    text = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in found.items())
    asked = [name for name in found if not any(f"{name}.".startswith(f"{part}.") for part in HARMLESS)]
    if asked and not force:
        raise UserError(
            f"{folder} was trained with other settings ({text}): leave them out, or add resume.force=true to "
            "go on with the new ones."
        )
    print(f"Goes on with other settings: {text}", flush=True)


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
        return OmegaConf.create(_moved(cfg, str(cfg["run_folder"]), str(run_folder)))
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
    if not isinstance(node, str) or name in SERVERS:
        return
    place = Path(node) if name in FOLDERS else run_folder / node
    inside = place.resolve().is_relative_to(run_folder.resolve())
    if not inside or node.startswith("~") or "$" in node or "://" in node:
        raise UserError(
            f"The configuration in {run_folder} wants to write to {node!r}, outside of it ({name}): mend its "
            f"{CONFIG_FILE}, or start a new run."
        )


def _moved(node: Any, old: str, new: str) -> Any:
    """Paths at and below `old` as paths below `new`."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
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


def new_run_folder(cfg: DictConfig, kind: str) -> Path:
    """A new folder for what is no training, named as runs are."""
    folder = (
        Path(cfg.paths.logs) / cfg.name / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}_{kind}"
    )
    folder.mkdir(parents=True)
    return folder


def latest(parent: Path, marker: str) -> Path:
    """The newest folder below `parent` that holds the file `marker`, by its name: that is date and time.

    Raises:
        UserError: there is none.
    """
    folders = [file.parent for file in parent.glob(f"*/{marker}")]
    if not folders:
        kind = "multirun" if marker == MULTIRUN_FILE else "run"
        raise UserError(
            f"There is no {kind} in {parent} to go on with: start one without `resume`, or give its folder."
        )
    return max(folders, key=lambda folder: folder.name)


def resumed_folder(cfg: DictConfig, marker: str = CONFIG_FILE) -> Path:
    """The folder that `resume=latest` or `resume=FOLDER` means: of a run, or with MULTIRUN_FILE of many.

    Raises:
        UserError: there is none, or it is of the other kind.
    """
    refuse_address(cfg.resume)
    folder = Path(str(cfg.resume)).expanduser()
    if cfg.resume == "latest":
        folder = latest(Path(cfg.paths.logs) / cfg.name, marker)
    elif not folder.is_dir():
        raise UserError(f"There is no run folder {folder}: give resume=latest or an existing folder.")
    elif not (folder / marker).is_file():
        raise UserError(
            f"{folder} can't be resumed here (it has no {marker}): -m and folds resume a multirun."
        )
    return folder


def refuse_other_runs(folder: Path, overrides: Sequence[str]) -> None:
    """Raises UserError where a multirun was started with other overrides: its runs would be mixed up."""
    saved = OmegaConf.select(OmegaConf.load(folder / MULTIRUN_FILE), "hydra.overrides.task", default=[])
    started, wanted = ({o for o in side if not o.startswith("resume=")} for side in (saved, overrides))
    if started != wanted:
        raise UserError(f"{folder} was started with {' '.join(sorted(started))}: resume it with the same.")
