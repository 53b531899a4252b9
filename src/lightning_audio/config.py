"""Composing the configuration of a run; what a user mistypes in it ends in one sentence."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import platformdirs
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
# A clone reads conf/ at its root; an installed package has it inside.
CONF = next((p for p in (PACKAGE.parents[1] / "conf", PACKAGE / "conf") if p.is_dir()), PACKAGE / "conf")
ROOT = "train"
OPTIONAL = ("experiment", "sweep", "local", "debug")  # groups that may be left out
CONFIG_FILE = "config.yaml"  # in a run folder
MULTIRUN_FILE = "multirun.yaml"  # Hydra's, in the folder of a multirun
# What Hydra's parser says of an override that is not KEY=VALUE.
UNREADABLE = (
    "mismatched input",
    "no viable alternative",
    "token recognition",
    "LexerNoViable",
    "group override",
    "Error parsing override",
)

OmegaConf.register_new_resolver(
    "user_cache", lambda: platformdirs.user_cache_dir("lightning_audio"), replace=True
)
# Two runs that start in the same second still get folders of their own.
OmegaConf.register_new_resolver("suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that these overrides ask for; of a sweep, its first run.

    Raises:
        UserError: an override names what is not there, can't be read, or gives a value of another kind.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            first = [
                _first_of_sweep(override)
                for override in OverridesParser.create().parse_overrides(list(overrides))
            ]
            cfg = compose(ROOT, overrides=first, return_hydra_config=True)
            usual = compose(ROOT, overrides=_groups(cfg.hydra.runtime.choices))
            OmegaConf.set_struct(cfg, False)
            del cfg.hydra
            OmegaConf.set_struct(cfg, True)
            cfg.run_folder = usual.run_folder = "run"  # known when Hydra starts the run
            given, kinds = (OmegaConf.to_container(node, resolve=True) for node in (cfg, usual))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(_sentence(str(error), overrides)) from error
    _refuse_other_kinds(given, kinds)
    return cfg


def _groups(choices: Mapping[str, str | None]) -> list[str]:
    """The overrides that choose the same groups; what an experiment sets beside them is left out."""
    named = ((group, name) for group, name in choices.items() if name and (CONF / group).is_dir())
    return [f"{group}={name}" for group, name in named if group not in OPTIONAL]


def _refuse_other_kinds(given: Any, usual: Any, place: str = "") -> None:
    """Raises UserError for an option that nothing reads, or that is of another kind than its default."""
    for key, value in given.items():
        name, default = f"{place}{key}", usual.get(key)
        if key not in usual and not place:
            raise UserError(f"{name!r} is no option{did_you_mean(name, usual)}: nothing reads it.")
        if isinstance(value, dict) and isinstance(default, dict):
            _refuse_other_kinds(value, default, f"{name}.")
        elif kind := _kind_that_fits(value, default, whole=place in ("loader.", "trainer.")):
            raise UserError(f"{name}={value} does not fit: give {kind}, such as {default}.")


def _kind_that_fits(value: Any, default: Any, whole: bool) -> str | None:
    """What belongs in the place of a value that is of another kind than its default; None if it fits."""
    if value is None or value == "auto" or isinstance(value, dict | list):
        return None
    if isinstance(default, dict | list):
        return "several values"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int) and (isinstance(value, str) or (whole and isinstance(value, float))):
        return "a whole number"
    return "a number" if isinstance(default, float) and isinstance(value, str) else None


def _first_of_sweep(override: Override) -> str:
    line = override.input_line or ""
    if not override.is_sweep_override():
        return line
    return f"{line.split('=', 1)[0]}={next(override.sweep_string_iterator())}"


def is_sweep(overrides: Sequence[str]) -> bool:
    """Whether the overrides name more than one run."""
    return any(
        override.is_sweep_override() for override in OverridesParser.create().parse_overrides(list(overrides))
    )


def _sentence(message: str, overrides: Sequence[str]) -> str:
    """Hydra's message as one sentence; its advice to add a `+` is dropped: nothing would read the key."""
    if found := re.search(
        r"Could not find '(\w+)/([^']*)'.*?Available options in '[^']*':\s*(.*?)(?:\nConfig search|$)",
        message,
        re.S,
    ):
        group, name, options = found[1], found[2], found[3].split()
        return (
            f"There is no {group} {name!r}{did_you_mean(name, options)}: choose one of {', '.join(options)}."
        )
    if found := re.search(r"Could not override '([^']*)'", message):
        key = found[1].split("@")[0]
        return (
            f"{key!r} is no option{did_you_mean(key, _all_keys(overrides))}: see conf/ for what can be set."
        )
    if found := re.search(r"Environment variable '([^']*)' not found", message):
        return f"The configuration reads the environment variable {found[1]}, which is not set: set it."
    if any(words in message for words in UNREADABLE):
        reason = message.splitlines()[0]
        return f"An override can't be read ({reason}): write KEY=VALUE, quotes around odd characters."
    return " ".join(message.split()).rstrip(".") + "."


def _all_keys(overrides: Sequence[str]) -> list[str]:
    """Every option of the groups that are chosen, by its dotted name."""
    keys: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, DictConfig):
            for key in node:
                keys.append(f"{prefix}{key!s}")
                walk(node._get_node(key), f"{prefix}{key!s}.")

    walk(compose(ROOT, overrides=[o for o in overrides if (CONF / o.split("=")[0]).is_dir()]), "")
    return [*keys, *OPTIONAL]


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

    Raises:
        UserError: the folder holds none.
    """
    file = run_folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{run_folder} is no run folder (it has no {CONFIG_FILE}): give one below logs/.")
    cfg = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(cfg, dict)
    return OmegaConf.create(_moved(cfg, str(cfg["run_folder"]), str(run_folder)))


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
