"""Composing the configuration of a run; what a user mistypes in it ends in one sentence."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parent
# A clone reads conf/ at its root; an installed package has it inside.
CONF = next((p for p in (PACKAGE.parents[1] / "conf", PACKAGE / "conf") if p.is_dir()), PACKAGE / "conf")
ROOT = "train"
OPTIONAL = ("experiment", "sweep", "local", "debug")  # groups that may be left out
# What Hydra's parser says of an override that is not KEY=VALUE.
UNREADABLE = (
    "mismatched input",
    "no viable alternative",
    "token recognition",
    "LexerNoViable",
    "group override",
    "Error parsing override",
)

# What older run folders and checkpoints call parts that have moved since.
MOVED_TARGETS = {
    f"lightning_audio.{old}": f"lightning_audio.{new}"
    for old, new in {
        "callbacks.EMA": "training.callbacks.ema.EMA",
        "callbacks.EpochLines": "training.callbacks.epoch_lines.EpochLines",
        "callbacks.Throughput": "training.callbacks.throughput.Throughput",
        "frontend.LogMel": "frontend.log_mel.LogMel",
        "frontend.MFCC": "frontend.mfcc.MFCC",
        "frontend.Waveform": "frontend.waveform.Waveform",
        "guard.Guard": "training.callbacks.divergence.Guard",
        "listen.Listen": "training.callbacks.training_examples.TrainingExamples",
        "loggers.CSVLogger": "training.loggers.CSVLogger",
        "schedule.constant": "training.schedule.constant",
        "schedule.cosine": "training.schedule.cosine",
        "schedule.one_cycle": "training.schedule.one_cycle",
        "sweeps.SweepTable": "reports.sweep.SweepTable",
    }.items()
}

# Options that have another name since version 0.2; the old one is understood for one version.
RENAMED_OPTIONS = {
    "augment.later": "augment.delayed",
    "callbacks.listen": "callbacks.training_examples",
    "loader.bad_files": "loader.max_bad_fraction",
    "loader.batch_seconds": "loader.max_batch_duration",
    "loader.longest": "loader.max_duration",
    "loader.shortest_first": "loader.curriculum_epochs",
    "loader.validation": "loader.val_fraction",
    "task.in_a_row": "task.clips_per_sequence",
    "task.wake": "task.start_below_blank_rate",
}
RENAMED_VALUES = {"normalize": {"bin": "per_feature", "clip": "per_clip", "clip_bin": "per_clip_cmn"}}

OmegaConf.register_new_resolver(
    "user_cache", lambda: platformdirs.user_cache_dir("lightning_audio"), replace=True
)
# Two runs that start in the same second still get folders of their own.
OmegaConf.register_new_resolver("suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)


def up_to_date(config: Any) -> Any:
    """A saved configuration, plain values, under the names that parts, options and values have today."""

    def moved(node: Any, place: str) -> Any:
        if isinstance(node, dict):
            here = {key: f"{place}.{key}".lstrip(".") for key in node}
            names = {key: RENAMED_OPTIONS.get(here[key], here[key]).rpartition(".")[2] for key in node}
            return {names[key]: moved(value, here[key]) for key, value in node.items()}
        if isinstance(node, list):
            return [moved(value, place) for value in node]
        if not isinstance(node, str):
            return node
        return MOVED_TARGETS.get(node) or RENAMED_VALUES.get(place, {}).get(node, node)

    return moved(config, "")


def renamed(override: str) -> str:
    """A command-line override under today's names; where it has an older one, stderr says the new one."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    old = next((one for one in RENAMED_OPTIONS if f"{name}.".startswith(f"{one}.")), name)
    new = RENAMED_OPTIONS.get(old, old) + name[len(old) :]
    value = RENAMED_VALUES.get(name, {}).get(value, value)
    current = f"{key[: len(key) - len(name)]}{new}{equals}{value}"
    if current != override:
        print(f"{override} is now written {current}.", file=sys.stderr)
    return current


def _rename_in(cfg: DictConfig) -> None:
    """Moves what YAML files of the user's own give under older names."""
    OmegaConf.set_struct(cfg, False)
    for old, new in RENAMED_OPTIONS.items():
        parent, _, key = old.rpartition(".")
        node = OmegaConf.select(cfg, parent)
        if isinstance(node, DictConfig) and key in node:
            print(f"{old} is now named {new}.", file=sys.stderr)
            OmegaConf.update(cfg, new, node.pop(key))
    for name, values in RENAMED_VALUES.items():
        if (value := OmegaConf.select(cfg, name)) in values:
            print(f"{name}: {value} is now written {values[value]}.", file=sys.stderr)
            OmegaConf.update(cfg, name, values[value])
    OmegaConf.set_struct(cfg, True)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that these overrides ask for; of a sweep, its first run.

    Raises:
        UserError: an override names what is not there, can't be read, or gives a value of another kind.
    """
    return compose_run(overrides)[0]


def compose_run(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """The same, and beside it the one with Hydra's own part that `run_once` takes."""
    overrides = [renamed(override) for override in overrides]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=ROOT):
        try:
            first = [
                _first_of_sweep(override)
                for override in OverridesParser.create().parse_overrides(list(overrides))
            ]
            cfg = compose(ROOT, overrides=first, return_hydra_config=True)
            _rename_in(cfg)
            whole, choices = cfg.copy(), cfg.hydra.runtime.choices
            usual = compose(ROOT, overrides=_groups(choices), return_hydra_config=True)
            _refuse_unread(cfg.hydra, usual.hydra, "hydra.")
            for node in (cfg, usual):
                OmegaConf.set_struct(node, False)
                del node.hydra
                OmegaConf.set_struct(node, True)
                node.run_folder = "run"  # known when Hydra starts the run
            given, kinds = (OmegaConf.to_container(node, resolve=True) for node in (cfg, usual))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(_sentence(str(error), overrides)) from error
    refuse_other_kinds(given, kinds)
    return cfg, whole


def run_once(whole: DictConfig, job: Callable[[DictConfig], None]) -> None:
    """Starts a job as `hydra.main` does, which would compose the same configuration twice more."""
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=ROOT):
        callbacks = Callbacks(whole)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks)
    callbacks.on_run_start(config=whole, config_name=ROOT)
    done = run_job(job, whole, "hydra.run.dir", None, context)
    callbacks.on_run_end(config=whole, config_name=ROOT, job_return=done)
    _ = done.return_value  # raises what the job raised


def _groups(choices: Mapping[str, str | None]) -> list[str]:
    """The overrides that choose the same groups; what an experiment sets beside them is left out."""
    named = ((group, name) for group, name in choices.items() if name and (CONF / group).is_dir())
    return [f"{group}={name}" for group, name in named if group not in OPTIONAL]


def refuse_other_kinds(given: Any, usual: Any, place: str = "") -> None:
    """Raises UserError for an option that nothing reads, or that is of another kind than its default."""
    if place in ("", "paths."):  # what is built refuses for itself
        _refuse_unread(given, usual, place)
    for key, value in given.items():
        name, default = f"{place}{key}", usual.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            refuse_other_kinds(value, default, f"{name}.")
        elif kind := _kind_that_fits(value, default, whole=place in ("loader.", "trainer.")):
            raise UserError(f"{name}={value} does not fit: give {kind}, such as {default}.")


def _refuse_unread(given: Any, usual: Any, place: str) -> None:
    for key in given:
        if key not in usual:
            raise UserError(f"'{place}{key}' is no option{did_you_mean(key, usual)}: nothing reads it.")


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
