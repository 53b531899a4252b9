"""What a run begins with: its own first weights, or by `init` those of runs that have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from lightning_audio.checkpoint import description_of, find_checkpoint, merged, read
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.frontend.normalize import FITTED
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.language_model import LanguageModel
from lightning_audio.training.normalizer import fit_normalizer

SHOWN = 8  # weights that begin anew, each in a line


def initialise(cfg: DictConfig, task: AudioTask, data: AudioDataModule) -> None:
    """Fits the normaliser; where `init` names runs, takes what fits of them, and tells what that is.

    Of a language model it takes the predictor alone (Graves 2013, section 3.2), and no normaliser: it hears
    nothing.

    Raises:
        UserError: as `take_weights`.
    """
    init = cfg.get("init") or []
    heard: dict[str, Any] | None = None
    for place in [init] if isinstance(init, str) else init:
        checkpoint, lines = take_weights(task, place)
        heard = heard or (None if is_language_model(checkpoint) else checkpoint)
        for line in [*lines, *may_know_the_test(checkpoint, data)]:
            rank_zero_only(print)(line, flush=True)
    other = heard and other_features(task, heard)
    if heard is None or other:
        if other and task.normalize.by in FITTED:
            told = f"It has another {other}: the normaliser is fitted to the clips of this run."
            rank_zero_only(print)(told, flush=True)
        fit_normalizer(task, data)
    else:
        for name, buffer in task.normalize.named_buffers():
            buffer.copy_(heard["state_dict"][f"normalize.{name}"])


def is_language_model(checkpoint: dict[str, Any]) -> bool:
    """Whether a described checkpoint is of `task=language_model`."""
    named = checkpoint["lightning_audio"]["config"]["task"].get("_target_")
    return bool(named == f"{LanguageModel.__module__}.{LanguageModel.__qualname__}")


def take_weights(task: AudioTask, place: str) -> tuple[dict[str, Any], list[str]]:
    """Takes over by name and shape what fits of a run or a checkpoint; of that nothing but weights is used.

    What depends on the labels is taken where these are the same, in the same order.

    Returns:
        The checkpoint, and what was taken of it and what begins anew, in lines.

    Raises:
        UserError: there is no such checkpoint, or none of its weights fits.
    """
    path = find_checkpoint(place)
    checkpoint = read(path)
    answering, facts = description_of(checkpoint, path)
    checkpoint["lightning_audio"] |= {"config": answering, "facts": facts}  # under the names of today
    roots, stages = task.learned()
    spoken = is_language_model(checkpoint)
    parts = [name for name, child in task.named_children() if child in roots]
    learned = tuple(f"{name}." for name in (["predictor"] if spoken else parts))
    every = {n: v for n, v in task.state_dict(keep_vars=True).items() if n.startswith(learned)}
    # What LoRA adds is not looked for: it begins with nothing.
    own = {n.replace(".base_layer.", "."): v for n, v in every.items() if ".lora_" not in n}
    weights = {name for name, value in own.items() if isinstance(value, nn.Parameter)}
    saved = under_own_names(merged(checkpoint, path), task, str(answering["normalize"]))
    shapes = {n: f"is {list(v.shape)} there" for n, v in saved.items()}
    new = {name: shapes.get(name, "is not there") for name in own}
    there = {n: v for n, v in saved.items() if n in own and v.shape == own[n].shape}
    head = {id(p) for part in list(stages.values())[-1] for p in part.parameters()}
    if list(facts["labels"]) != list(task.labels):
        outputs = type(task).encoding.outputs_for(task.labels)
        for name in [n for n in there if id(own[n]) in head and own[n].shape[:1] == (outputs,)]:
            del there[name]
            new[name] = "is of other labels there"
    # Biases fit by chance; a head alone counts where the network is nothing else.
    large = {n for n in weights & there.keys() if own[n].ndim > 1}
    telling = {n for n in large if id(own[n]) not in head or len(stages) == 1}
    refuse_misfit(path, task, there, {"predictor.embedding.weight"} & there.keys() if spoken else telling)
    with torch.no_grad():
        for name, value in there.items():
            own[name].copy_(value)
    anew = [f"  new: {n} {list(own[n].shape)} {new[n]}" for n in own if n in weights and n not in there]
    lines = [f"Starts from {path}: {len(weights) - len(anew)} of {len(weights)} weights.", *anew[:SHOWN]]
    return checkpoint, lines + [f"  new: {len(anew) - SHOWN} more"] * (len(anew) > SHOWN)


def refuse_misfit(path: Path, task: AudioTask, there: dict[str, Tensor], telling: set[str]) -> None:
    """Raises UserError where none of the weights `there` tells anything, or one is infinite."""
    if not telling:
        raise UserError(
            f"No weight of {path} fits {type(task.network).__name__}: set network and its options to those "
            "of that run, or init=null; a language model fits task=transducer with its task.text and the "
            "kind and hidden of its predictor."
        )
    if lost := [name for name, value in there.items() if not value.isfinite().all()]:
        raise UserError(f"{path} holds infinite weights such as {lost[0]}: use another checkpoint.")


def under_own_names(saved: dict[str, Tensor], task: AudioTask, normalize: str) -> dict[str, Tensor]:
    """Weights of a run with a frozen encoder, as a network that trains the encoder with its head has them.

    Raises:
        UserError: that run normalised each clip by itself, which such a network does not.
    """
    renamed: dict[str, str] = getattr(task.network, "frozen_names", {})
    if not renamed or not any(name.startswith(next(iter(renamed))) for name in saved):
        return saved
    if normalize.startswith("per_clip"):
        raise UserError(
            f"The run of init has learned from states with normalize={normalize}, which is done to no states "
            "that change: train it with normalize=per_feature, corpus or none."
        )
    own, found = task.state_dict(), {}
    for name, value in saved.items():
        prefix = next((prefix for prefix in renamed if name.startswith(prefix)), "")
        name = renamed.get(prefix, "") + name.removeprefix(prefix)
        fits = name in own and value.numel() == 1 < own[name].numel() and prefix == "normalize."
        found[name] = value.expand_as(own[name]) if fits else value  # one mean of all features
    return found


def other_features(task: AudioTask, checkpoint: dict[str, Any]) -> str:
    """What of the features of a checkpoint is not as in a task, in words; nothing where they are the same."""
    answering, facts = (checkpoint["lightning_audio"][part] for part in ("config", "facts"))
    ours = task.description["config"]
    if facts["sample_rate"] != task.sample_rate:
        return f"sample rate ({facts['sample_rate']} Hz)"
    if answering["frontend"] != ours["frontend"]:
        there, here = answering["frontend"], ours["frontend"]
        differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        return f"front end ({', '.join(differing)})"
    return "" if answering["normalize"] == ours["normalize"] else f"normaliser ({answering['normalize']})"


def may_know_the_test(checkpoint: dict[str, Any], data: AudioDataModule) -> list[str]:
    """A warning where a run has split the same recordings in another way, otherwise nothing."""
    state = checkpoint.get(type(data).__qualname__)
    told = state.get("identity") if isinstance(state, dict) else None
    same = {p: isinstance(told, dict) and told.get(p) == data.identity[p] for p in ("samples", "test")}
    if same["test"] or not same["samples"]:
        return []
    return [
        "It was tested on other clips of the same recordings: it may have learned from some of those that "
        "are tested here, and the score would be too good."
    ]
