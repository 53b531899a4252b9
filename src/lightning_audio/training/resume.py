"""Going on with a run: by the configuration in its folder, where it is not meant to be changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio import build, config
from lightning_audio.errors import UserError, refuse_address
from lightning_audio.training import run_folder, saved_config

FORCE = "resume.force"
HYDRA = ".hydra"  # Hydra's folder in that of a run: what was asked for, and what files in conf/ made of it
# What may be other than it was without another run coming of it; whether the data are the same is asked when
# they are read.
HARMLESS = (
    "test",
    "paths",
    *(f"data.{place}" for place in ("root", "test_root", "cache", "file", "train", "val", "test", "audio")),
    "network.models",
    "logger",
    "saving",
    "loader.workers",
    "loader.store",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "callbacks.training_examples",
)
NAMES_A_RUN = ("resume", "experiment", "allow")  # options that change nothing of what a run folder says
WITH_PATHS = ("paths", "data", "network", "augment")  # parts that name files of the user's
ABSENT = object()

Changes = Mapping[str, tuple[Any, Any]]  # the old and the new value of options, by dotted name


def without_force(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments of a command line but `resume.force=...`, and whether that says true.

    It is no option of the configuration, where `resume` is one value; a run is never started with it.

    Raises:
        UserError: it says something else.
    """
    said = [argument.partition("=")[2].lower() for argument in arguments if argument.split("=")[0] == FORCE]
    if any(word not in ("true", "false") for word in said):
        raise UserError(f"{FORCE}={said[-1]} does not fit: set it to true or false.")
    return [a for a in arguments if a.split("=")[0] != FORCE], said[-1:] == ["true"]


def composed(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """As `config.compose_run`; where a run is resumed, options may be such as only its configuration has.

    Raises:
        UserError: as that; what is no option of the run either is refused by `resumed_config`.
    """
    try:
        return config.compose_run(overrides)
    except UserError:
        if not any(override.startswith("resume=") for override in overrides):
            raise
        names = (override.split("=")[0] for override in overrides)
        chosen = [name in (*NAMES_A_RUN, "name") or (config.CONF / name).is_dir() for name in names]
        return config.compose_run([o for o, is_chosen in zip(overrides, chosen, strict=True) if is_chosen])


def resumed_config(cfg: DictConfig, overrides: Sequence[str], force: bool = False) -> tuple[DictConfig, Path]:
    """The configuration to go on with, and the run folder that `resume` of `cfg` means.

    It is that of the folder, changed by the overrides. What files in conf/ say otherwise than when the run
    was started counts only with `force`; where a folder is all that is given, nobody asks for these files.

    Raises:
        UserError: there is no such run, a group is chosen that is not what the run was started with, or
            options are other than they were and `force` is not given.
    """
    folder = resumed_folder(cfg)
    allow = build.packages_of(cfg)
    before = _where_it_is_now(saved_config.saved_config(folder, allow, training=True), cfg, overrides)
    now = edited(folder, before)
    if not force and cfg.resume != "latest" and len(overrides) <= 1:
        _tell(differences(before, now), f"{folder} goes on without what has changed in conf/ since its start")
        return before, folder
    saved_config.refuse_foreign(now, folder, allow)
    named = [override for override in overrides if override.split("=")[0] not in NAMES_A_RUN]
    groups = [override for override in named if (config.CONF / override.split("=")[0]).is_dir()]
    edits, now = now, saved_config.changed(now, [option for option in named if option not in groups])
    config.refuse_other_kinds(_resolved(now), _resolved(edits))
    _refuse_other_groups(cfg, groups, now, folder)
    tell_changes(folder, differences(before, now), force)
    return now, folder


def _where_it_is_now(saved: DictConfig, cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """What is saved, with data, weight files and cache where `cfg` has them: if that is asked for, or nothing
    is left where they were."""
    content = _resolved(saved)
    for name in ("data", "models", "cache"):
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


def edited(folder: Path, saved: DictConfig) -> DictConfig:
    """The configuration `saved` of a run with what files in conf/ say otherwise than when it was started.

    Nothing is changed where that can't be said: Hydra's folder is not there, or the command that started the
    run makes none any more.
    """
    try:
        then = OmegaConf.load(folder / HYDRA / "config.yaml")
        started = OmegaConf.to_container(OmegaConf.load(folder / HYDRA / "overrides.yaml"))
        assert isinstance(then, DictConfig)
        assert isinstance(started, list)
        now = config.compose_config([str(override) for override in started])
        for cfg in (then, now):
            cfg.run_folder, cfg.resume = str(folder), None
        return OmegaConf.create(_merged(*map(_resolved, (then, now, saved))))
    except (OSError, ValueError, AssertionError, UserError, yaml.YAMLError, OmegaConfBaseException):
        return saved


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
    elif old != new:
        yield ".".join(place), (old, new)


def tell_changes(folder: Path, found: Changes, force: bool) -> None:
    """Says which options a run goes on with that it was not trained with before.

    Raises:
        UserError: with them it is another run, and it was not said that it is meant.
    """
    asked = [name for name in found if not any(f"{name}.".startswith(f"{part}.") for part in HARMLESS)]
    if asked and not force:
        raise UserError(
            f"{folder} was trained with other settings ({_text(found)}): leave them out, give "
            f"resume={folder} alone to go on with the old ones, or add {FORCE}=true to go on with these."
        )
    _tell(found, "Goes on with other settings")


def _text(changes: Changes) -> str:
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changes.items())


def _tell(changes: Changes, what: str) -> None:
    if changes:
        print(f"{what}: {_text(changes)}", flush=True)


def refuse_other_runs(folder: Path, overrides: Sequence[str], force: bool = False) -> None:
    """Raises UserError where a multirun was started with other overrides, or, without `force`, where files in
    conf/ say otherwise than when one of its runs was started: its runs would be mixed up."""
    saved = OmegaConf.select(
        OmegaConf.load(folder / saved_config.MULTIRUN_FILE), "hydra.overrides.task", default=[]
    )
    started, wanted = ({o for o in side if not o.startswith("resume=")} for side in (saved, overrides))
    if started != wanted:
        raise UserError(f"{folder} was started with {' '.join(sorted(started))}: resume it with the same.")
    for file in sorted(folder.glob(f"*/{saved_config.CONFIG_FILE}")):
        before = saved_config.load_config(file.parent)
        tell_changes(file.parent, differences(before, edited(file.parent, before)), force)


def resumed_folder(cfg: DictConfig, marker: str = saved_config.CONFIG_FILE) -> Path:
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


def latest(parent: Path, marker: str) -> Path:
    """The newest folder below `parent` that holds the file `marker`.

    Raises:
        UserError: there is none.
    """
    folder = run_folder.newest(file.parent for file in parent.glob(f"*/{marker}"))
    if folder is None:
        kind = "multirun" if marker == saved_config.MULTIRUN_FILE else "run"
        raise UserError(
            f"There is no {kind} in {parent} to go on with: start one without `resume`, or give its folder."
        )
    return folder
