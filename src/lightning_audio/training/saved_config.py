"""The configuration that lies in a run folder, which may come from anybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from lightning_audio import config
from lightning_audio.build import refuse_unknown
from lightning_audio.checkpoint import signed_description
from lightning_audio.config import trust
from lightning_audio.config.renamed import up_to_date
from lightning_audio.errors import UserError, masked
from lightning_audio.io import write_atomically

CONFIG_FILE = "config.yaml"

MULTIRUN_FILE = "multirun.yaml"  # Hydra's, in the folder of a multirun
HYDRA = ".hydra"  # in a run folder: what was asked for, and what files in conf/ made of it

FOLDERS = ("save_dir", "dirpath", "dir", "log_dir", "root_dir", "output_dir")  # options of what writes files

SERVERS, SERVER = ("tracking_uri",), "MLFLOW_TRACKING_URI"


def changed(cfg: DictConfig, changes: Sequence[str]) -> DictConfig:
    """A saved configuration with KEY=VALUE changes of options that it has, or +KEY=VALUE of others.

    Raises:
        UserError: a change names what is no single option there.
    """
    cfg = cfg.copy()
    for change in changes:
        try:
            override = OverridesParser.create().parse_override(change)
        except HydraException as error:
            raise UserError(f"{change!r} is no KEY=VALUE: quote odd characters.") from error
        key, value = override.key_or_group, override.value()
        absent = object()
        present = OmegaConf.select(cfg, key, default=absent)
        unknown = present is absent and not override.is_add()
        if (
            unknown
            or override.is_delete()
            or override.is_sweep_override()
            or (OmegaConf.is_dict(present) and not (value is None or isinstance(value, dict)))
        ):
            raise UserError(
                f"{change!r} changes no option of the run: name one that its {CONFIG_FILE} holds."
            )
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    return cfg


def load_config(run_folder: Path) -> DictConfig:
    """The resolved configuration that a run was trained with; what lay in its folder lies where that is now.

    It may come from anybody: `saved_config` looks at what it wants to build.

    Raises:
        UserError: the folder holds none, or one that no run wrote.
    """
    file = run_folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{run_folder} is no run folder (it has no {CONFIG_FILE}): give one below logs/.")
    cfg = trust.read_yaml(file)
    if not isinstance(cfg, dict) or not isinstance(cfg.get("run_folder"), str):
        raise UserError(f"{file} is no configuration that a run wrote: it is damaged.")
    return OmegaConf.create(moved(up_to_date(cfg), cfg["run_folder"], str(run_folder.absolute())))


def with_new_defaults(saved: Any, now: Any, usual: Any) -> Any:
    """The plain values of a saved configuration with the options that are newer than it, where they stand at
    the default of their group: they change nothing of the run.

    Args:
        saved: of the run.
        now: what the same command makes today.
        usual: what the groups alone make, without what an experiment or the command line sets.
    """
    if not all(isinstance(node, dict) for node in (saved, now, usual)):
        return saved
    new = {k: v for k, v in now.items() if k not in saved and k in usual and usual[k] == v}
    return new | {key: with_new_defaults(v, now.get(key), usual.get(key)) for key, v in saved.items()}


def is_own(run_folder: Path) -> bool:
    """Whether this user trained with the configuration in a run folder, on this machine."""
    try:
        return trust.is_own(run_folder, CONFIG_FILE, (run_folder / CONFIG_FILE).read_bytes())
    except OSError:
        return False


@rank_zero_only
def keep_config(cfg: DictConfig, run_folder: Path, description: dict[str, Any]) -> None:
    """Leaves the resolved configuration in the run folder, signed, with what its checkpoints describe; an
    older, different one is kept beside it."""
    file, content = run_folder / CONFIG_FILE, masked(OmegaConf.to_yaml(cfg, resolve=True))
    if file.is_file() and file.read_text(encoding="utf-8") != content:
        kept = run_folder / f"config_until_{datetime.now():%Y-%m-%d_%H-%M-%S}.yaml"
        write_atomically(kept, file.read_bytes())
    write_atomically(file, content)
    trust.sign(run_folder, {CONFIG_FILE: content.encode(), **signed_description(description)})


@rank_zero_only
def keep_hydra(cfg: DictConfig, run_folder: Path, sweep_folder: Path | None = None) -> None:
    """Leaves in .hydra what was asked for, as Hydra does, but without passwords; a sweep's file loses its."""
    about: Any = HydraConfig.instance().cfg
    assert about is not None, "a run starts within Hydra"
    for name, node in {"config": cfg, "hydra": about, "overrides": about.hydra.overrides.task}.items():
        write_atomically(run_folder / HYDRA / f"{name}.yaml", masked(OmegaConf.to_yaml(node)))
    if sweep_folder and (file := sweep_folder / MULTIRUN_FILE).is_file():
        write_atomically(file, masked(file.read_text(encoding="utf-8")))


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
    if not own and address != masked(os.environ.get(SERVER, "")):
        raise UserError(
            f"The configuration in {run_folder} wants to log to {address!r}: set {SERVER} to that if it is "
            "yours, or start a new run."
        )


def _with_password(cfg: DictConfig, run_folder: Path) -> DictConfig:
    """A configuration whose tracking server has its password again, which no file keeps."""
    for name, node in cfg.logger.items():
        address, given = (node or {}).get("tracking_uri"), os.environ.get(SERVER, "")
        if isinstance(address, str) and ":***@" in address:
            if address != masked(given):
                raise UserError(
                    f"{run_folder} logs to {address}, and no file keeps the password: set {SERVER} to the "
                    "whole address."
                )
            cfg.logger[name].tracking_uri = given
    return cfg


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
    """The configuration that lies in a run folder.

    One that this user did not train with on this machine builds no more than is on the allow list, fetches
    nothing, and writes nowhere else: neither its stores nor loggers and callbacks, which only training needs.

    Args:
        allow: as `refuse_unknown` takes it.
        training: the run is to be resumed; otherwise it comes without loggers and callbacks.

    Raises:
        UserError: there is none, or it wants more.
    """
    cfg = load_config(run_folder)
    if not training:
        cfg.callbacks, cfg.logger = {}, {}
    own = is_own(run_folder)
    if own or allow:
        trust.find_own_packages()
    if not own:
        refuse_foreign(cfg, run_folder, allow)
        _keep_to_this_machine(cfg, run_folder, training)
    return _with_password(cfg, run_folder) if training else cfg


def _keep_to_this_machine(cfg: DictConfig, run_folder: Path, training: bool) -> None:
    """Puts this machine's cache in the place of the sender's, and takes out what would be fetched."""
    cache = str(config.compose_config([]).paths.cache)
    paths, data = cfg.get("paths"), cfg.get("data")
    settings: list[tuple[Any, str, Any]] = [
        (paths, "cache", cache),
        (data, "cache", cache),
        (data, "download", False),
    ]
    if "://" in str(OmegaConf.select(cfg, "loader.shards")):
        settings.append((cfg.loader, "shards", None))
    for node, key, value in settings:
        if OmegaConf.is_dict(node) and key in node:
            node[key] = value
    if training and OmegaConf.select(cfg, "network.weights") is not None:
        if not any((run_folder / "checkpoints").glob("*.ckpt")):
            raise UserError(f"{run_folder} has no checkpoint to resume: start a new run.")
        cfg.network.weights = None  # the checkpoint has them


def refuse_foreign(cfg: DictConfig, run_folder: Path, allow: Sequence[str] = ()) -> None:
    """Raises UserError where a run's configuration wants to build more than is on the allow list, or to write
    elsewhere."""
    content = cast(dict[str, Any], OmegaConf.to_container(cfg))
    refuse_unknown(content, allow, f"The configuration in {run_folder}")
    refuse_elsewhere({part: content.get(part) for part in ("callbacks", "logger")}, run_folder)
