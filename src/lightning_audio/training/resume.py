"""Resuming a run: by the configuration in its folder, where it is not meant to be changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio import build, config
from lightning_audio.config import FORCE, Command, Composed, ranges, trust
from lightning_audio.config.renamed import up_to_date
from lightning_audio.errors import UserError, masked, refuse_address
from lightning_audio.training import run_folder, saved_config

# What may be other than it was without another run coming of it; whether the data are the same is asked when
# they are read.
HARMLESS = (
    "allow",
    "search",
    "test",
    "paths",
    *(f"data.{place}" for place in ("root", "test_root", "cache", "file", "train", "val", "test", "audio")),
    "network.models",
    "logger",
    "saving",
    "loader.workers",
    "loader.store",
    "loader.shards",
    "loader.cache_gb",
    *(f"trainer.{name}" for name in ("devices", "num_nodes", "strategy")),  # steps stay what they were
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "callbacks.training_examples",
    "callbacks.inspection",
)
NAMES_A_RUN = ("resume", "experiment", "allow")  # options that change nothing of what a run folder says
WITH_PLACES = ("data", "models", "cache")  # options of `paths` that other options are below
WITH_PATHS = ("paths", "data", "network", "augment")  # parts that name files of the user's
CONF_FLAGS = {"config-path": "config_path", "config-dir": "config_dir", "config-name": "config_name"}
ABSENT = object()

Changes = Mapping[str, tuple[Any, Any]]  # the old and the new value of options, by dotted name


def composed(command: Command) -> Composed:
    """As `config.compose`; where a run is resumed, options may be such as only its configuration has.

    Raises:
        UserError: as that; what is no option of the run either is refused by `resumed_config`.
    """
    try:
        return config.compose(command)
    except UserError:
        if command.many or not any(override.startswith("resume=") for override in command.overrides):
            raise
        plain = {o for o in command.overrides if o[0] not in "+~" and not o.startswith(("hydra.", "resume="))}
        added = [
            f"++{o}" if o in plain and not config.is_group(o.split("=")[0]) else o for o in command.overrides
        ]
        return config.compose(replace(command, overrides=tuple(added)))


def resumed_config(cfg: DictConfig, command: Command) -> tuple[DictConfig, Path]:
    """The configuration to resume with, and the run folder that `resume` of `cfg` means.

    It is that of the folder, changed by the overrides. What files in conf/ say otherwise than when the run
    was started counts only with `resume.force=true`; where a folder is all that is given, nobody asks for
    these files.

    Raises:
        UserError: there is no such run, a group is chosen that is not what the run was started with, or
            options are other than they were and `resume.force=true` is not given.
    """
    folder = resumed_folder(cfg)
    allow = build.packages_of(cfg)
    before = _where_it_is_now(saved_config.saved_config(folder, allow, training=True), cfg, command.overrides)
    if saved_config.is_own(folder):
        allow += build.packages_of(before)
    before, now = edited(folder, before, command)
    if not command.force and cfg.resume != "latest" and len(command.overrides) <= 1:
        _tell(differences(before, now), f"{folder} resumes without what has changed in conf/ since its start")
        return before, folder
    if now != before:
        saved_config.refuse_foreign(now, folder, allow)
    named = [
        override
        for override in command.overrides
        if override.split("=")[0] not in NAMES_A_RUN and not override.startswith("hydra.")
    ]
    groups = [override for override in named if config.is_group(override.split("=")[0])]
    edits, now = now, saved_config.changed(now, [option for option in named if option not in groups])
    ranges.refuse_other_kinds(_resolved(now), _resolved(edits))
    ranges.refuse_out_of_range(_resolved(now))
    _refuse_other_groups(cfg, groups, now, folder)
    tell_changes(folder, differences(before, now), command.force)
    return now, folder


def refuse_other_settings(cfg: DictConfig, usual: dict[str, Any], folder: Path, force: bool) -> bool:
    """Asks the same where a run is to start in the folder of one: whether it has other settings than that.

    `usual` is what its groups alone make.

    Raises:
        UserError: it has, and `force` is not given.
    """
    if not (folder / saved_config.CONFIG_FILE).is_file():
        return False
    now = cfg.copy()
    now.run_folder, now.resume = str(folder), None
    before = saved_config.load_config(folder)
    for name in WITH_PLACES:  # where data and weights lie is no setting
        old, new = (str(OmegaConf.select(one, f"paths.{name}")) for one in (before, now))
        before = OmegaConf.create(saved_config.moved(_resolved(before), old, new))
    before = OmegaConf.create(saved_config.with_new_defaults(_resolved(before), _resolved(now), usual))
    return tell_changes(folder, differences(before, now), force)


def _where_it_is_now(saved: DictConfig, cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """What is saved, with data, weight files and cache where `cfg` has them: if that is asked for, or nothing
    is left where they were."""
    content = _resolved(saved)
    for name in WITH_PLACES:
        old, new = (str(OmegaConf.select(one, f"paths.{name}")) for one in (saved, cfg))
        asked = [o.partition("=")[2] for o in overrides if o.split("=")[0] == f"paths.{name}"]
        new = asked[-1] if asked else new
        if old != new and (asked or not Path(old).exists()):
            content |= {
                part: saved_config.moved(content[part], old, new) for part in WITH_PATHS if part in content
            }
            print(f"The {name} of this run are looked for in {new} instead of {old}.", flush=True)
    return OmegaConf.create(content)


def _refuse_other_groups(cfg: DictConfig, groups: Sequence[str], saved: DictConfig, folder: Path) -> None:
    """Raises UserError where a chosen group, which `cfg` holds, is not what the run was started with."""
    cfg.run_folder = str(folder)
    given = _resolved(cfg)
    for choice in groups:
        part = choice.split("=")[0]
        if part not in given or given[part] != saved[part]:
            raise UserError(f"{choice} makes another run than {folder}: leave it out, or start a new run.")


def edited(folder: Path, saved: DictConfig, command: Command | None = None) -> tuple[DictConfig, DictConfig]:
    """The configuration `saved` of a run, and the same with what files in conf/ say otherwise than when it
    was started; options that are new since, and at their defaults, are in both.

    Nothing is changed where that can't be said: Hydra's folder is not there, or the command that started the
    run makes none any more. `command` says which other conf folders there are.
    """
    try:
        then = OmegaConf.create(up_to_date(trust.read_yaml(folder / saved_config.HYDRA / "config.yaml")))
        started = [
            str(override) for override in trust.read_yaml(folder / saved_config.HYDRA / "overrides.yaml")
        ]
        searched = [o for o in command.overrides if o.startswith("hydra.searchpath=")] if command else []
        given = vars(command.flags) if command else {}
        places = [f"--{flag}={given[n]}" for flag, n in CONF_FLAGS.items() if given.get(n)]
        asked = config.compose(Command.read([*places, *searched, *started]))
        now = asked.cfg
        for cfg in (then, now):
            cfg.run_folder, cfg.resume = str(folder), None
        was, is_now, content = _resolved(then), _resolved(now), _resolved(saved)
        for name in ("logs", *WITH_PLACES):  # where things lie is no edit
            was = saved_config.moved(was, was["paths"][name], is_now["paths"][name])
        was, content = (saved_config.with_new_defaults(one, is_now, asked.usual[0]) for one in (was, content))
        return OmegaConf.create(content), OmegaConf.create(_merged(was, is_now, content))
    except (TypeError, AttributeError, KeyError, UserError, OmegaConfBaseException):
        return saved, saved


def _merged(then: Any, now: Any, saved: Any) -> Any:
    """`saved`, but where `now` is other than `then` as it is now; what is ABSENT there is taken out."""
    if not all(isinstance(node, dict) for node in (then, now, saved)):
        return saved if then == now else now
    merged = {
        key: _merged(*(node.get(key, ABSENT) for node in (then, now, saved)))
        for key in dict.fromkeys([*saved, *now])
    }
    return {key: value for key, value in merged.items() if value is not ABSENT}


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def differences(old: DictConfig, new: DictConfig) -> Changes:
    """The options that differ between two configurations, by dotted name: the old and the new value."""
    return dict(_differences(_resolved(old), _resolved(new), ()))


def _differences(old: Any, new: Any, place: tuple[str, ...]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), (*place, str(key)))
    elif masked(str(old)) != masked(str(new)) or type(old) is not type(new):
        yield ".".join(place), (old, new)


def tell_changes(folder: Path, found: Changes, force: bool) -> bool:
    """Says with which other options a run resumes than before; returns whether they make another run.

    Raises:
        UserError: with them it is another run, and it was not said that it is meant.
    """
    asked = [name for name in found if not any(f"{name}.".startswith(f"{part}.") for part in HARMLESS)]
    if asked and not force:
        raise UserError(
            f"{folder} was trained with other settings ({_text(found)}): leave them out, give "
            f"resume={folder} alone to resume with the old ones, or add {FORCE}=true to resume with these."
        )
    _tell(found, "Resumes with other settings")
    return bool(asked)


def _text(changes: Changes) -> str:
    return masked(", ".join(f"{name} {before} -> {after}" for name, (before, after) in changes.items()))


def _tell(changes: Changes, what: str) -> None:
    if changes:
        print(f"{what}: {_text(changes)}", flush=True)


def resumed_folder(cfg: DictConfig, marker: str = saved_config.CONFIG_FILE) -> Path:
    """The folder that `resume=latest` or `resume=FOLDER` means: of a run, or with MULTIRUN_FILE of many.

    Raises:
        UserError: there is none, or it is of the other kind.
    """
    refuse_address(cfg.resume)
    folder = Path(str(cfg.resume)).expanduser().absolute()
    if cfg.resume == "latest":
        folder = latest(Path(cfg.paths.logs) / cfg.name, marker)
    elif not folder.is_dir():
        raise UserError(f"There is no run folder {folder}: give resume=latest or an existing folder.")
    elif not (folder / marker).is_file():
        raise UserError(
            f"{folder} can't be resumed here (it has no {marker}): -m and folds resume a multirun."
        )
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} can't be written to: resume a copy of it, elsewhere.")
    return folder


def latest(parent: Path, marker: str) -> Path:
    """The newest folder below `parent` that holds the file `marker`.

    Raises:
        UserError: there is none.
    """
    folder = run_folder.newest(file.parent for file in parent.glob(f"*/{marker}"))
    if folder is None:
        kind = "multirun" if marker == saved_config.MULTIRUN_FILE else "run"
        raise UserError(
            f"There is no {kind} in {parent} to resume: start one without `resume`, or give its folder."
        )
    return folder
