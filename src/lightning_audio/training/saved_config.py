"""The configuration that lies in a run folder, which may come from anybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.build import refuse_unknown
from lightning_audio.config import up_to_date
from lightning_audio.errors import UserError

CONFIG_FILE = "config.yaml"

MULTIRUN_FILE = "multirun.yaml"  # Hydra's, in the folder of a multirun

FOLDERS = ("save_dir", "dirpath", "dir", "log_dir", "root_dir", "output_dir")  # options of what writes files

SERVERS, SERVER = ("tracking_uri",), "MLFLOW_TRACKING_URI"


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
        return OmegaConf.create(moved(up_to_date(cfg), str(cfg["run_folder"]), str(run_folder)))
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


def saved_config(run_folder: Path, allow: Sequence[str] = (), training: bool = False) -> DictConfig:
    """The configuration that lies in a run folder; since somebody may have sent it, it builds no more than is
    on the allow list, and loggers and callbacks, which only training needs, write nowhere else.

    Args:
        allow: as `refuse_unknown` takes it.
        training: the run is to be gone on with; otherwise it comes without loggers and callbacks.

    Raises:
        UserError: there is none, or it wants more.
    """
    cfg = load_config(run_folder)
    if not training:
        cfg.callbacks, cfg.logger = {}, {}
    refuse_foreign(cfg, run_folder, allow)
    return cfg


def refuse_foreign(cfg: DictConfig, run_folder: Path, allow: Sequence[str] = ()) -> None:
    """Raises UserError where a run's configuration wants to build more than is on the allow list, or to write
    elsewhere."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg))
    refuse_unknown(config, allow, f"The configuration in {run_folder}")
    refuse_elsewhere({part: config.get(part) for part in ("callbacks", "logger")}, run_folder)
