"""Composing the configuration of a run; what a user mistypes in it ends in one sentence."""

from __future__ import annotations

import contextlib
import re
import secrets
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import platformdirs
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, Node, OmegaConf, flag_override, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.config import ranges, trust
from lightning_audio.config.renamed import rename_in, renamed
from lightning_audio.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
# A clone reads conf/ at its root; an installed package has it inside.
CONF = next((p for p in (PACKAGE.parents[1] / "conf", PACKAGE / "conf") if p.is_dir()), PACKAGE / "conf")
ROOT = "train"
OPTIONAL = ("experiment", "sweep", "local", "debug")  # groups that may be left out
FORCE = "resume.force"
# Options that name a file or a folder; some of them may also be words of another kind.
MAYBE_PLACES = ("data.train", "data.val", "data.test", "encoder.file", "encoder.weights", "network.weights")
PLACES = (
    *(f"data.{name}" for name in ("root", "test_root", "cache", "file", "audio")),
    "augment.waveform.noise.folder",
    "network.models",
    "init",
    "task.teacher",
    "task.corpus",
    *MAYBE_PLACES,
)
OmegaConf.register_new_resolver(
    "user_cache", lambda: platformdirs.user_cache_dir("lightning_audio"), replace=True
)
# Two runs that start in the same second still get folders of their own.
OmegaConf.register_new_resolver("suffix", lambda: secrets.token_hex(2), use_cache=True, replace=True)


@dataclass(frozen=True)
class Command:
    """The command line of a program that takes overrides.

    Attributes:
        arguments: all of it but `resume.force`, under today's names.
        overrides: what is KEY=VALUE in it.
        many: whether it starts a multirun.
        force: whether it says `resume.force=true`, which is no option: there, `resume` is a single value.
        flags: Hydra's own, such as --config-dir and --cfg.
    """

    arguments: tuple[str, ...]
    overrides: tuple[str, ...]
    many: bool
    force: bool
    flags: Any

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Command:
        """Raises UserError for a flag that Hydra does not have, or a `resume.force` that is no switch."""
        said = [a.partition("=")[2].lower() for a in arguments if a.split("=")[0] == FORCE]
        if any(word not in ("true", "false") for word in said):
            raise UserError(f"{FORCE}={said[-1]} does not fit: set it to true or false.")
        left = [renamed(argument) for argument in arguments if argument.split("=")[0] != FORCE]
        parser = hydra_parser()
        parser.error = _refuse_flag  # type: ignore[method-assign]
        flags = parser.parse_intermixed_args(left)  # -m and the like may stand anywhere
        many = flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides
        return cls(tuple(left), tuple(flags.overrides), many, said[-1:] == ["true"], flags)

    def alone(self) -> Command:
        """Without overrides, unless it starts a multirun."""
        return self if self.many else replace(self, overrides=())

    @property
    def root(self) -> str:
        return self.flags.config_name or ROOT

    @property
    def shows(self) -> bool:
        """Whether Hydra is asked to show something instead."""
        flags = self.flags
        return bool(flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)


def hydra_parser() -> ArgumentParser:
    """Hydra's own: one of its helps is no text before it is shown, which Python 3.14 would refuse."""
    with mock.patch.object(ArgumentParser, "_check_help", create=True):
        return get_args_parser()


def _refuse_flag(message: str) -> NoReturn:
    raise UserError(f"{message}: write options as KEY=VALUE; --hydra-help lists what else there is.")


@dataclass(frozen=True)
class Composed:
    """What a command line asks for.

    Attributes:
        cfgs: the checked configuration of each run; where a sweeper draws values one by one, of the first.
        runs: the same with Hydra's own part.
        usual: the plain values that the groups of each alone would make.
        whole: what Hydra starts: the only run, or the multirun.
        many: whether it is a multirun.
        loader: by which Hydra composes the runs of a multirun.
    """

    cfgs: list[DictConfig]
    runs: list[DictConfig]
    usual: list[dict[str, Any]]
    whole: DictConfig
    many: bool
    loader: ConfigLoaderImpl

    @property
    def cfg(self) -> DictConfig:
        return self.cfgs[0]


def settle(cfg: DictConfig) -> DictConfig:
    """Changes what Hydra composed to today's names, and to paths that hold in every folder."""
    rename_in(cfg)
    for key in cfg.paths:
        cfg.paths[key] = _absolute(str(cfg.paths[key]))
    if isinstance(cfg.get("init"), ListConfig):
        cfg.init = [_absolute(str(place)) for place in cfg.init]
    for name in PLACES:
        parent, _, key = name.rpartition(".")
        node = OmegaConf.select(cfg, parent)
        value = node._get_node(key) if isinstance(node, DictConfig) and key in node else None
        given = value._value() if isinstance(value, Node) else None
        if not isinstance(given, str) or "${" in given or "://" in given:
            continue
        place = Path(given).expanduser()
        if name not in MAYBE_PLACES or place.is_file() or (key == "weights" and place.is_dir()):
            OmegaConf.update(cfg, name, _absolute(given))
    return cfg


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def compose_config(arguments: Sequence[str]) -> DictConfig:
    """The configuration that a command line asks for; of a multirun, its first run.

    Raises:
        UserError: an override names what is not there, can't be read, or gives a value that does not fit.
    """
    return compose(Command.read(arguments)).cfg


def compose(command: Command) -> Composed:
    """The same with what starts its runs; raises UserError where the configuration of one does not fit."""
    loader = loader_of(command)
    with sentences(command, loader):
        given = OverridesParser.create(loader).parse_overrides(list(command.overrides))
        places: list[Any] = [place for override in _searched(given) for place in override.value() or ()]  # type: ignore[union-attr]
        for place in places:
            trust.refuse_too_large(Path(str(place).removeprefix("file://")))
        if command.many:
            whole = loader.load_configuration(command.root, list(command.overrides), RunMode.MULTIRUN, False)
            with as_hydra_config(whole):
                str(whole.hydra.sweep.dir)  # once for all: each run would draw its own time and suffix
            lists = _override_lists(whole, loader)
            runs = [loader.load_sweep_config(whole, overrides) for overrides in lists]
        else:
            first = [_first_of_sweep(override) for override in given]
            whole = loader.load_configuration(command.root, first, RunMode.RUN, False)
            runs = [whole]
    if whole.hydra.mode == RunMode.MULTIRUN and not command.many:  # as a file says
        return compose(replace(command, many=True))
    for number, run in enumerate(runs):
        with open_dict(run):
            run.hydra.job.id = run.hydra.job.num = number
            run.hydra.mode = RunMode.MULTIRUN if command.many else RunMode.RUN
    known: dict[tuple[str, ...], tuple[DictConfig, Any]] = {}  # by groups: Hydra's part, and plain values
    checked, usual = [], []
    for run in runs:
        with sentences(command, loader):
            settle(run)
            choices = tuple(
                _groups(run.hydra.runtime.choices) + [o.input_line or "" for o in _searched(given)]
            )
            if choices not in known:
                default = loader.load_configuration(command.root, list(choices), RunMode.RUN, False)
                known[choices] = default.hydra, _usual(default)
            checked.append(_checked(run, *known[choices]))
            usual.append(known[choices][1])
    return Composed(checked, runs, usual, whole, command.many, loader)


def loader_of(command: Command) -> ConfigLoaderImpl:
    """Hydra's, over conf/ and folders of the user's: --config-path goes before it, --config-dir behind it."""
    folders = {name: getattr(command.flags, name) for name in ("config_path", "config_dir")}
    found = {name: Path(folder).expanduser().absolute() for name, folder in folders.items() if folder}
    for name, folder in found.items():
        if not folder.is_dir():
            raise UserError(
                f"There is no folder {folder}: --{name.replace('_', '-')} names one of YAML files."
            )
        trust.refuse_too_large(folder)
    path = create_config_search_path(str(found.get("config_path", CONF)))
    before_schema = SearchPathQuery(provider="schema")
    if "config_path" in found:
        path.prepend("lightning_audio", f"file://{CONF}", before_schema)
    if "config_dir" in found:
        path.prepend("command-line", f"file://{found['config_dir']}", before_schema)
    version.setbase("1.3")
    loader = ConfigLoaderImpl(path)
    Hydra(ROOT, loader)  # names the job, and registers Hydra's resolvers
    return loader


def _searched(overrides: Sequence[Override]) -> list[Override]:
    return [override for override in overrides if override.get_key_element() == "hydra.searchpath"]


def _override_lists(whole: DictConfig, loader: ConfigLoaderImpl) -> list[list[str]]:
    """The overrides of each run of a multirun; where a sweeper draws values one by one, of a first one."""
    sweeper = whole.hydra.sweeper
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    given = OverridesParser.create(loader).parse_overrides([*params, *whole.hydra.overrides.task])
    if sweeper._target_ == f"{BasicSweeper.__module__}.{BasicSweeper.__name__}":
        return BasicSweeper.split_arguments(given, None)[0]
    return [[_first_of_sweep(override) for override in given if not override.is_range_sweep()]]


def _first_of_sweep(override: Override) -> str:
    line = override.input_line or ""
    if not override.is_sweep_override():
        return line
    return f"{line.split('=', 1)[0]}={next(override.sweep_string_iterator())}"


def _checked(run: DictConfig, usual_hydra: DictConfig, usual: Any) -> DictConfig:
    """The configuration of a run without Hydra's part, whose options are known and fit.

    What is usual is that of the same groups without what an experiment or the command line sets.
    """
    if missing := [group for group in OPTIONAL if isinstance(run.get(group), DictConfig)]:
        raise UserError(
            f"{missing[0]}={run.hydra.runtime.choices.get(missing[0])} sets nothing: its file has to begin "
            "with the line `# @package _global_`."
        )
    ranges.refuse_unread(run.hydra, usual_hydra, "hydra.")
    cfg, given = _resolved(run)
    ranges.refuse_other_kinds(given, usual)
    ranges.refuse_out_of_range(given)
    return cfg


def _resolved(whole: DictConfig) -> tuple[DictConfig, Any]:
    """A configuration without Hydra's part, and its plain values."""
    with flag_override(whole, ["readonly", "struct"], [False, False]), as_hydra_config(whole):
        with read_write(whole.hydra.runtime):
            whole.hydra.runtime.output_dir = "run"  # known when it starts
        cfg = whole.copy()
        del cfg["hydra"]
        cfg.run_folder = "run"
        content = OmegaConf.to_container(cfg, resolve=True)
    OmegaConf.set_struct(cfg, True)
    return cfg, content


def _usual(whole: DictConfig) -> dict[str, Any]:
    """The plain values of what the groups alone make, None for those that need an option that only an
    experiment or the command line sets."""

    def plain(node: Any) -> Any:
        if not OmegaConf.is_config(node):
            return node
        keys = list(node) if isinstance(node, DictConfig) else range(len(node))
        values: dict[Any, Any] = {}
        for key in keys:
            try:
                values[key] = plain(node[key])
            except OmegaConfBaseException:
                values[key] = None
        return values if isinstance(node, DictConfig) else list(values.values())

    with flag_override(whole, ["readonly", "struct"], [False, False]), as_hydra_config(whole):
        whole.run_folder = "run"
        return {str(key): plain(whole[key]) for key in whole if key != "hydra"}


@contextlib.contextmanager
def as_hydra_config(whole: DictConfig) -> Iterator[None]:
    """Within it `${hydra:...}` means this one."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    hydra_config.set_config(whole)
    try:
        yield
    finally:
        hydra_config.cfg = before
        OmegaConf.set_readonly(whole.hydra, False)


def _groups(choices: Mapping[str, str | None]) -> list[str]:
    """The overrides that choose the same groups; what an experiment sets beside them is left out."""
    named = ((group, name) for group, name in choices.items() if name and is_group(group))
    return [f"{group}={name}" for group, name in named if group not in OPTIONAL]


def is_group(name: str) -> bool:
    """Whether the root has such a group; a folder of the user's adds choices to one."""
    return bool(re.fullmatch(r"\w+", name)) and (CONF / name).is_dir()


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command line names more than one run."""
    command = Command.read(arguments)
    given = OverridesParser.create().parse_overrides(list(command.overrides))
    return command.many or any(override.is_sweep_override() for override in given)


def sentences(command: Command, loader: ConfigLoaderImpl) -> contextlib.AbstractContextManager[None]:
    """Turns what Hydra raises into one sentence."""

    def chosen() -> DictConfig:
        """The groups alone, to tell which options there are."""
        groups = [
            o for o in command.overrides if is_group(o.split("=")[0]) or o.startswith("hydra.searchpath=")
        ]
        cfg = loader.load_configuration(command.root, groups, RunMode.MULTIRUN, False)
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    return ranges.sentences(chosen, OPTIONAL)
