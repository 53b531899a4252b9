"""The only place where configuration becomes objects, and where it is decided what may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, cast

import hydra
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_audio.augment import Augment
from lightning_audio.augment.views import views_of
from lightning_audio.config import misfits
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.feature_store import FrontEnd
from lightning_audio.data.info import DataInfo
from lightning_audio.data.placement import own_accelerator
from lightning_audio.data.shards.shard_store import sharded
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import shape_of
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.frontend.waveform import Waveform
from lightning_audio.io import MOST_OPTIONS, plain
from lightning_audio.metrics.base import Metric, named_metrics
from lightning_audio.networks.base import Network
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.finetuning import FineTuning
from lightning_audio.tasks.lora import add_lora
from lightning_audio.tasks.recipe import Recipe, Schedule

# The parts of a configuration that a checkpoint carries: what is needed to answer.
ANSWERING = ("frontend", "normalize", "network", "task")

LOGGERS = tuple(getattr(pl.loggers, f"{name}Logger") for name in ("TensorBoard", "CSV", "MLFlow", "Wandb"))

# What a configuration that somebody sent may build, by its part: from which package, and what of it.
# An encoder that learns may have masks of its own.
ENCODER = (("lightning_audio.networks.encoders", nn.Module), ("lightning_audio.augment.features", nn.Module))
DECODER = ("lightning_audio.tasks.decoders", nn.Module)
ALLOWED: dict[str, tuple[tuple[str, Any], ...]] = {
    "encoder": ENCODER,
    "frontend": (("lightning_audio.frontend", nn.Module), *ENCODER),
    "augment": (("lightning_audio.augment", nn.Module),),
    "network": (("lightning_audio.networks", Network), *ENCODER),
    "task": (("lightning_audio.tasks", AudioTask), DECODER, ("lightning_audio.metrics", Metric)),
    "data": (("lightning_audio.data.corpora", Corpus),),
    "optimizer": (("torch.optim", torch.optim.Optimizer),),
    "schedule": (("lightning_audio.training.schedule", FunctionType),),
    "trainer": (("pytorch_lightning", pl.Trainer),),
    "callbacks": (
        ("lightning_audio", pl.Callback),
        ("pytorch_lightning.callbacks", pl.callbacks.EarlyStopping),
    ),
    "logger": (
        ("lightning_audio.training.loggers", pl.loggers.Logger),
        ("pytorch_lightning.loggers", LOGGERS),
    ),
}

WEIGHTS = ("weights", "file")  # the options of a part that name files of weights

# Of these kinds a configuration names the thing itself, and of all others a class.
INSTANCES = (FunctionType, Callable, Metric)

# The largest whole number in a configuration; hyperparameters are smaller.
LARGEST = 2**40

# Parts whose options are looked at before audio is decoded for nothing, and what others tell them.
BEFORE_DATA = {
    "frontend": ("sample_rate",),
    "network": ("in_shape", "num_outputs"),
    "optimizer": ("params",),
    "schedule": ("step", "total"),
}

# What a part raises where an option does not fit.
MISFITS = (ImportError, LookupError, RuntimeError, TypeError, ValueError, MisconfigurationException)


def instantiate(node: Any, where: str, **arguments: Any) -> Any:
    """Builds what `_target_` names from its options in YAML and the `arguments` that other parts know.

    Raises:
        UserError: an option is unknown, a value does not fit, a package is missing; `where` names the part.
    """
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    try:
        # In two steps: Hydra would turn arguments that are lists or dataclasses into something else.
        built = hydra.utils.instantiate({**node, "_partial_": True}, _convert_="all")
        return built if node.get("_partial_") else built(**arguments)
    except (InstantiationException, *MISFITS) as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(misfits.why(cause, node, where, arguments)) from error


def refuse_unknown(
    config: Mapping[str, Any], allow: Sequence[str] = (), source: str = "The checkpoint"
) -> None:
    """Raises UserError where a configuration out of a file names anything but what is on the allow list.

    Args:
        config: parts by name, such as network, as plain values.
        allow: packages of the caller's own, such as `my_project.networks`: the modules of a network that are
            defined there, and in the parts of a run that a checkpoint does not have, any class and function.
        source: what file it comes from, in words.
    """
    for part, node in plain(dict(config), source, LARGEST, MOST_OPTIONS).items():
        kinds = (nn.Module, Metric) if part in ANSWERING else (Callable,)
        own = tuple((package, kind) for package in allow for kind in kinds)
        _refuse_in(node, (*ALLOWED.get(part, ()), *own), source)


def _refuse_in(node: Any, allowed: Sequence[tuple[str, Any]], source: str) -> None:
    if isinstance(node, dict):
        if "_target_" in node and not _is_allowed(node["_target_"], allowed):
            raise UserError(
                f"{source} wants to build {node['_target_']}, which is not on the allow list: if you trust "
                "it, name its package in load(..., allow=[...]), --allow, or, where you resume, allow=[...]."
            )
        if "_args_" in node:  # options without names could not be looked at by their names
            raise UserError(f"{source} has options without a name (_args_): name them.")
        for value in node.values():
            _refuse_in(value, allowed, source)
    elif isinstance(node, list):
        for value in node:
            _refuse_in(value, allowed, source)
    elif isinstance(node, str) and "${" in node:
        # What it stands for would be known only while building.
        raise UserError(
            f"{source} has a configuration that is not resolved ({node!r}): give one that `train` wrote."
        )


def _is_allowed(target: Any, allowed: Sequence[tuple[str, Any]]) -> bool:
    """Whether a name stands for something of the right kind that is defined in its package.

    What Hydra makes of the name is looked at, and not the name: a module that imports something, or gives it
    another name, is no door to it. Of other packages nothing is even imported.
    """
    for package, kind in allowed:
        if isinstance(target, str) and target.startswith(f"{package}."):
            try:
                found = hydra.utils.get_object(target)
            except Exception:  # of any kind, since importing runs what is there
                continue
            home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
            fits = isinstance(found, kind) if kind in INSTANCES else _is_subclass(found, kind)
            # Other packages show their classes elsewhere than where they define them.
            if fits and (
                home == target if package.startswith("lightning_audio") else home.startswith(f"{package}.")
            ):
                return True
    return False


def _is_subclass(found: Any, kind: Any) -> bool:
    return isinstance(found, type) and issubclass(found, kind)


def targets_of(node: Any) -> set[str]:
    """Everything that a configuration names to be built."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {str(node["_target_"])} if isinstance(node, dict) and "_target_" in node else set()
    return own.union(*map(targets_of, children))


def packages_of(cfg: DictConfig) -> list[str]:
    """The packages of one's own that a configuration trusts: those under `allow`, and those that it uses."""
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    used = {
        target
        for part, node in config.items()
        for target in targets_of(node)
        if not _is_allowed(target, ALLOWED.get(part, ()))
    }
    return [*map(str, config.get("allow") or ()), *sorted(target.rpartition(".")[0] for target in used)]


def metrics(cfg: DictConfig) -> list[Metric]:
    """The metrics under `task.metrics`; raises UserError where one is not known."""
    nodes = OmegaConf.to_container(cfg.task, resolve=True).get("metrics") or []  # type: ignore[union-attr]
    named = [instantiate(node, "task.metrics") if isinstance(node, dict) else node for node in nodes]
    return named_metrics(task_class(cfg).scored, named)


def corpus(cfg: DictConfig) -> Corpus:
    """The corpus that `data` describes; which fold is validation, all of them are told alike."""
    node = cast(dict[str, Any], OmegaConf.to_container(cfg.data, resolve=True))
    fold = node.pop("validation_fold", None)
    found: Corpus = instantiate(node, "data")
    found.validation_fold = fold
    return found


def corpus_as_read(cfg: DictConfig) -> Corpus:
    """The corpus as a run reads it: by its shards, where `loader.shards` names them."""
    found, loader = corpus(cfg), cfg.loader
    if not loader.get("shards"):
        return found
    return sharded(found, loader.shards, loader.cache_gb, loader.max_bad_fraction)[0]


def datamodule(cfg: DictConfig, facts: Mapping[str, Any] | None = None) -> AudioDataModule:
    """The data of a run; the task says how answers are encoded.

    `facts` are those of a checkpoint that is to answer: what it learned of a vocabulary is not learned anew.
    """
    options = OmegaConf.to_container(cfg.loader, resolve=True)
    node = {"_target_": f"{AudioDataModule.__module__}.AudioDataModule", **options}  # type: ignore[dict-item]
    encoding, options = task_class(cfg).encoding, OmegaConf.to_container(cfg.task, resolve=True)
    found, trainer = corpus(cfg), cfg.trainer
    known = encoding.options(options, {"scored_as": found.scored_as, **(facts or {})})  # type: ignore[arg-type]
    return instantiate(
        node,
        "loader",
        corpus=found,
        targets=partial(encoding, **known),
        seed=cfg.seed,
        validates=trainer.get("limit_val_batches", 1) != 0,
        overfit_batches=trainer.get("overfit_batches", 0),
    )


def prepared(cfg: DictConfig, facts: Mapping[str, Any] | None = None) -> AudioDataModule:
    """The same with all that is made, fetched and decoded once, and split."""
    data = datamodule(cfg, facts)
    data.prepare_data()
    data.setup()
    return data


def data_and_task(cfg: DictConfig) -> tuple[AudioDataModule, AudioTask]:
    """The data of a run, and the task that is to learn from them, looked at together.

    Raises:
        UserError: something in the configuration or the data does not fit.
    """
    for part, known in BEFORE_DATA.items():
        misfits.refuse_unread(OmegaConf.to_container(cfg[part], resolve=True), part, known)
    data = prepared(cfg)
    learner = task(cfg, data)
    learner.check(data)
    keep_features(cfg, learner, data)
    return data, learner


def task_class(cfg: DictConfig) -> type[AudioTask]:
    """The class that `task` names; raises UserError where there is no such class."""
    try:
        return cast(type[AudioTask], get_class(cfg.task._target_))
    except (ImportError, ValueError) as error:
        raise UserError(
            f"There is no task {cfg.task._target_}: set task._target_ to a class that can be imported."
        ) from error


def task(cfg: DictConfig, data: AudioDataModule) -> AudioTask:
    """A task to train: everything that the data knows flows into it. `data` has been set up."""
    try:
        pl.seed_everything(cfg.seed, verbose=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"seed={cfg.seed} is no seed: set it to a whole number from 0 to 4294967295."
        ) from error
    answering = {part: OmegaConf.to_container(cfg, resolve=True)[part] for part in ANSWERING}  # type: ignore
    augment = instantiate(cfg.augment, "augment")
    built = assemble(answering, data.info, augment, recipe(cfg), cfg.seed)
    built.augment.refuse_misfit(built.frontend)
    finetune: Any = OmegaConf.to_container(cfg.get("finetune") or OmegaConf.create())
    if lora := finetune.pop("lora", None):
        node = {"_target_": f"{add_lora.__module__}.add_lora", **lora}
        built.description["lora"] = instantiate(node, "finetune.lora", network=built.network)
    node = {"_target_": f"{FineTuning.__module__}.FineTuning", **finetune}
    roots, stages = built.learned()
    built.finetuning = instantiate(node, "finetune", roots=roots, stages=stages)
    if cfg.channels_last:
        built.network.to(memory_format=torch.channels_last)
    if cfg.compile:
        built.network.compile()  # in place: the names in a checkpoint stay as they are
    return built


def assemble(
    answering: dict[str, Any],
    info: DataInfo,
    augment: Augment | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> AudioTask:
    """A task from the four parts that answer and what the data know: what a checkpoint holds."""
    frontend = instantiate(answering["frontend"], "frontend", sample_rate=info.sample_rate)
    shape = shape_of(frontend)
    kind = cast(type[AudioTask], get_class(answering["task"]["_target_"]))
    outputs = kind.outputs_for(info.labels, answering["task"])
    network = instantiate(answering["network"], "network", in_shape=shape, num_outputs=outputs)
    built = instantiate(
        answering["task"],
        "task",
        frontend=frontend,
        normalize=Normalize(shape, answering["normalize"]),
        network=network,
        augment=augment or Augment(),
        recipe=recipe,
        info=info,
        seed=seed,
    )
    for part, module in (("frontend", frontend), ("network", network)):
        answering = {**answering, part: with_architecture(answering[part], module)}
    built.description = {"config": answering, "facts": info.facts()}
    return built


def with_architecture(node: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """The options of a part; with what its encoder read of itself beside its weights, where it did so."""
    architecture = getattr(getattr(module, "encoder", None), "architecture", None)
    return {**node, "encoder": {**node["encoder"], **architecture}} if architecture else node


def without_weights(node: Any) -> Any:
    """A description in which no part reads a weight file: the checkpoint has the weights."""
    if isinstance(node, dict):
        kept = {name: without_weights(child) for name, child in node.items()}
        return kept | {name: None for name in WEIGHTS if "_target_" in node and node.get(name)}
    return [without_weights(child) for child in node] if isinstance(node, list) else node


def keep_features(cfg: DictConfig, task: AudioTask, data: AudioDataModule) -> None:
    """Has training and validation read features that were computed once, where `loader.features` asks for it.

    Raises:
        UserError: training changes waveforms or the front end itself, or there is nothing to compute.
    """
    views = cfg.loader.get("views", 0)
    if views and not cfg.loader.features:
        raise UserError(f"loader.views={views} are views of kept features: set loader.features=true.")
    if not cfg.loader.features:
        return
    reason, mend = "", ""
    if changed := [name for name in task.augment.of_waveforms if name == "mix" or not views]:
        reason = "augmentation changes their waveforms"
        mend = f"set {' '.join(f'augment.{name}=null' for name in changed)}, or"
    elif task.concatenates:
        reason = f"{type(task).__name__} joins their waveforms"
    elif isinstance(task.frontend, Waveform):
        reason = "frontend=waveform computes nothing"
    elif any(parameter.requires_grad for parameter in task.frontend.parameters()):
        reason = f"the front end {type(task.frontend).__name__} is learned"
    if reason:
        raise UserError(
            f"loader.features=true keeps the features of clips as they are, and {reason}: {mend or 'set'} "
            "loader.features=false."
        )
    options = without_weights(task.description["config"]["frontend"])
    if weights := getattr(task.frontend, "digest", None):
        options |= {"digest": weights}
        device = own_accelerator() if cfg.trainer.accelerator != "cpu" else None
        task.frontend.to(device or "cpu")
    told = OmegaConf.to_container(cfg.augment, resolve=True).get("waveform")  # type: ignore[union-attr]
    kept = views_of(task.augment, told, cfg.seed, views, data.learned)
    data.keep_features(cast(FrontEnd, task.frontend), options, kept)
    task.frontend.cpu()


def recipe(cfg: DictConfig) -> Recipe:
    """Optimizer and schedule of a run, not yet bound to weights."""
    optimizer = instantiate(cfg.optimizer, "optimizer")
    factor = instantiate(cfg.schedule, "schedule")
    # Both are used once on nothing: a wrong option shows here, not when training starts.
    weights = [torch.zeros(1, requires_grad=True)]
    used = instantiate({**cfg.optimizer, "_partial_": False}, "optimizer", params=weights)
    at = instantiate({**cfg.schedule, "_partial_": False}, "schedule", step=0, total=1)
    Schedule(used, lambda _: at)
    return Recipe(optimizer, cfg.optimizer.lr, cfg.optimizer.get("weight_decay", 0.0), factor)
