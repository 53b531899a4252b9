"""Which values options take, and what is said of a configuration that can't be composed."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError, did_you_mean

# What Hydra's parser says of an override that is not KEY=VALUE.
UNREADABLE = (
    "mismatched input",
    "no viable alternative",
    "token recognition",
    "LexerNoViable",
    "group override",
    "Error parsing override",
)
FAILURES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AssertionError)

# The smallest and the largest number that an option takes; a list, that each of its numbers takes. Where both
# are whole, it takes whole numbers alone. The first pattern counts that fits the dotted name. Where no range
# stands, the part that is built refuses by itself.
MANY = 2**63
SHARE, POSITIVE, ANY = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
COUNT, SIZE = (0, MANY), (1, MANY)
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "loader.batch_size": SIZE,
    "loader.eval_batch_size": SIZE,
    "loader.val_fraction": (0.0, 0.99),
    "loader.train_dev_fraction": (0.0, 0.99),
    "loader.max_bad_fraction": SHARE,
    "loader.views": (0, 100),
    "loader.workers": (0, 1024),
    "loader.timeout": POSITIVE,
    "loader.jitter": POSITIVE,
    "loader.curriculum_epochs": COUNT,
    "loader.max_duration": (0.001, math.inf),
    "loader.max_batch_duration": (0.001, math.inf),
    "loader.cache_gb": (0.001, math.inf),
    "report.train_clips": COUNT,
    "report.clips": COUNT,
    "report.megabytes": POSITIVE,
    "trainer.max_epochs": (-1, MANY),
    "trainer.min_epochs": COUNT,
    "trainer.max_steps": (-1, MANY),
    "trainer.min_steps": COUNT,
    "trainer.accumulate_grad_batches": SIZE,
    "trainer.gradient_clip_val": POSITIVE,
    "trainer.check_val_every_n_epoch": SIZE,
    "trainer.log_every_n_steps": COUNT,
    "trainer.limit_*_batches": POSITIVE,
    "trainer.overfit_batches": POSITIVE,
    "trainer.num_sanity_val_steps": (-1, MANY),
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": SHARE,
    "optimizer.betas": SHARE,
    "optimizer.weight_decay": POSITIVE,
    "schedule.warmup": SHARE,
    "schedule.start": SHARE,
    "schedule.end": SHARE,
    "schedule.at": SHARE,
    "schedule.by": SHARE,
    "schedule.momentum": (0.0, 0.999),
    "callbacks.average.k": SIZE,
    "callbacks.ema.decay": SHARE,
    "callbacks.swa.start": SHARE,
    "callbacks.early_stopping.patience": COUNT,
    "callbacks.early_stopping.min_delta": POSITIVE,
    "callbacks.guard.factor": (1.0, math.inf),
    "callbacks.guard.window": SIZE,
    "callbacks.guard.least": POSITIVE,
    "callbacks.guard.stop_at": SIZE,
    "callbacks.inspection.every_n_steps": SIZE,
    "callbacks.inspection.pr_curves": COUNT,
    "callbacks.training_examples.clips": COUNT,
    "callbacks.training_examples.every_n_epochs": SIZE,
    "frontend.n_fft": SIZE,
    "frontend.hop_length": SIZE,
    "frontend.win_length": SIZE,
    "frontend.n_mels": SIZE,
    "frontend.n_mfcc": SIZE,
    "frontend.f_min": POSITIVE,
    "frontend.f_max": POSITIVE,
    "frontend.top_db": POSITIVE,
    "finetune.lr_decay": SHARE,
    "finetune.*": POSITIVE,
    "network.dropout": SHARE,
    "network.layers": COUNT,
    "network.width": SIZE,
    "network.widths": SIZE,
    "network.hidden": SIZE,
    "network.channels": SIZE,
    "network.filters": SIZE,
    "network.maps": SIZE,
    "network.stem": SIZE,
    "network.heads": SIZE,
    "network.feedforward": SIZE,
    "network.kernel": SIZE,
    "network.kernels": SIZE,
    "network.stride": SIZE,
    "network.strides": SIZE,
    "network.stack": SIZE,
    "network.chunk": SIZE,
    "network.left_chunks": COUNT,
    "network.blocks": SIZE,
    "network.repeat": SIZE,
    "network.sub_bands": SIZE,
    "network.tau": (0.01, math.inf),
    "task.label_smoothing": SHARE,
    "task.class_weights": POSITIVE,
    "task.shifts": SIZE,
    "task.temperature": (0.01, math.inf),
    "task.teacher_weight": SHARE,
    "task.gamma": POSITIVE,
    "task.margin": POSITIVE,
    "task.max_false_alarms_per_hour": POSITIVE,
    "task.window": POSITIVE,
    "task.hop": POSITIVE,
    "task.refractory": POSITIVE,
    "task.smoothing": POSITIVE,
    "task.label_prior": POSITIVE,
    "task.consistency": POSITIVE,
    "task.clips_per_sequence": SIZE,
    "task.start_below_blank_rate": SHARE,
    "task.width": SIZE,
    "task.ctc_weight": SHARE,
    "task.decoder.dropout": SHARE,
    "task.decoder.*": SIZE,
    "task.scheduled_sampling": SHARE,
    "task.start_below_error": SHARE,
    "task.search.beam": SIZE,
    "task.search.coverage": POSITIVE,
    "task.predictor.dropout": SHARE,
    "task.predictor.*": SIZE,
    "task.max_symbols": SIZE,
    "task.start_after": SHARE,
    "task.part_megabytes": (0.1, math.inf),
    "task.text.tokenizer.size": SIZE,
    "augment.mix.alpha": POSITIVE,
    "augment.mix.until": SHARE,
    "augment.features.masks.*_share": SHARE,
    "augment.features.masks.*": COUNT,
    "augment.waveform.speed.max": (0.1, 10.0),
    "augment.waveform.speed.min": (0.1, 10.0),
    "augment.waveform.shift.seconds": POSITIVE,
    "augment.*.share": SHARE,
    "augment.*.p": SHARE,
    "data.sample_rate": (1_000, 768_000),
    "data.num_folds": (2, MANY),
    "data.seed": (0, 2**32 - 1),
    "data.split_seed": (0, 2**32 - 1),
    "data.seconds": (0.001, math.inf),
    "data.clips_per_class": SIZE,
    "data.clips_per_fold": SIZE,
    "data.*_utterances": SIZE,
    "data.silence_share": POSITIVE,  # for each keyword clip
    "data.unknown_share": POSITIVE,
    "data.*_share": SHARE,
}
TEXT_TOO = ("task.class_weights",)  # a word may stand for the numbers


def dotted(node: Any, place: str = "") -> Iterator[str]:
    """The dotted names of everything in a configuration."""
    for key in node if isinstance(node, DictConfig) else ():
        yield f"{place}{key!s}"
        yield from dotted(node._get_node(key), f"{place}{key!s}.")


def refuse_other_kinds(given: Any, usual: Any, place: str = "") -> None:
    """Raises UserError for an option that nothing reads, or that is of another kind than its default."""
    if place in ("", "paths."):  # what is built refuses for itself
        refuse_unread(given, usual, place)
    for key, value in given.items():
        name, default = f"{place}{key}", usual.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            refuse_other_kinds(value, default, f"{name}.")
        elif kind := _kind_that_fits(value, default, whole=place in ("loader.", "trainer.")):
            raise UserError(f"{name}={value} does not fit: give {kind}, such as {default}.")


def refuse_unread(given: Any, usual: Any, place: str) -> None:
    """Raises UserError for an option that is not among the usual ones."""
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


def refuse_out_of_range(given: dict[str, Any]) -> None:
    """Raises UserError for a number outside of its range, wherever it was set."""
    for name, value in _leaves(given, ""):
        if not isinstance(value, int | float) or isinstance(value, bool):
            if isinstance(value, str) and name in RANGES and name not in TEXT_TOO:
                raise UserError(f"{name}={value} does not fit: give a number.")
            continue
        low, high = next((RANGES[pattern] for pattern in RANGES if fnmatchcase(name, pattern)), ANY)
        whole = isinstance(low, int) and isinstance(high, int)
        if not low <= value <= high or not math.isfinite(value) or (whole and value != int(value)):
            ends = [f"{end}" if isinstance(end, int) else f"{end:g}" for end in (low, high)]
            wanted = f"from {ends[0]} to {ends[1]}" if high < MANY else f"of {ends[0]} or more"
            wanted = wanted if math.isfinite(low) else "that is finite"
            kind = "whole number" if whole else "number"
            raise UserError(f"{name}={value} is out of range: give a {kind} {wanted}.")
        if (
            name.startswith("trainer.")
            and name.endswith("_batches")
            and isinstance(value, float)
            and value > 1
        ):
            raise UserError(f"{name}={value} is no share: give one up to 1.0, or a whole number of batches.")
    _refuse_crossed(given, "")
    trainer = given.get("trainer") or {}
    if trainer.get("max_epochs", 1) in (-1, None) and (trainer.get("max_steps") or -1) < 0:
        epochs = "null" if trainer["max_epochs"] is None else -1
        raise UserError(
            f"trainer.max_epochs={epochs} never ends, and no schedule can plan for that: set a number of "
            "epochs, or trainer.max_steps."
        )
    folder = Path(str(given.get("name", "run")))
    if folder.is_absolute() or ".." in folder.parts or folder == Path() or not str(folder).isprintable():
        raise UserError(f"name={folder} names no folder below paths.logs: use letters, digits, - and _.")


def _leaves(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from chain(*(_leaves(value, f"{place}.{key}".lstrip(".")) for key, value in node.items()))
    elif isinstance(node, list):
        yield from chain(*(_leaves(value, place) for value in node))
    else:
        yield place, node


def _refuse_crossed(node: Any, place: str) -> None:
    """Raises UserError where a least value is above the greatest one beside it."""
    if not isinstance(node, dict):
        return
    for key, low in node.items():
        other = str(key).replace("min", "max", 1)
        high = node.get(other) if other != key else None
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            raise UserError(f"{place}{key}={low} is above {place}{other}={high}: give a smaller one.")
        _refuse_crossed(low, f"{place}{key}.")


def may_be_added(cfg: DictConfig, key: str) -> bool:
    """Whether something would read an option that the configuration does not have.

    That is a part by a name of the user's own, as in `callbacks`, or an argument that has no value in YAML.
    """
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else None
    closed = ("loader", "paths", "report", "saving", "hydra", "search", "search.limits")
    if not isinstance(node, DictConfig) or parent in closed:
        return False
    if "_target_" not in node:
        return True
    try:
        parameters = inspect.signature(get_object(node._target_)).parameters
    except Exception:  # of any kind, since importing runs what is there
        return False
    return name in parameters


@contextlib.contextmanager
def sentences(chosen: Callable[[], DictConfig], groups: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra raises into one sentence.

    `chosen` composes what there is, to tell which options would do; `groups` may be left out of it.
    """
    try:
        yield
    except FAILURES as error:
        raise UserError(_sentence(error, chosen, groups)) from error


def _sentence(error: BaseException, chosen: Callable[[], DictConfig], groups: Sequence[str]) -> str:
    """What Hydra means; where it advises to add a `+`, only if something would read the option."""
    while isinstance(error.__cause__, FAILURES) and not str(error):
        error = error.__cause__
    message = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name} is no YAML at line {mark.line + 1}: {error.problem}."
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n")
        text = error.object.splitlines()[line].decode(errors="backslashreplace")
        return f"A file of the configuration is no UTF-8 in its line {line + 1} ({text}): save it as UTF-8."
    if found := re.search(
        r"Could not find '(\w+)/([^']*)'.*?Available options in '[^']*':\s*(.*?)(?:\nConfig search|$)",
        message,
        re.S,
    ):
        group, name, known = found[1], found[2], found[3].split()
        return f"There is no {group} {name!r}{did_you_mean(name, known)}: choose one of {', '.join(known)}."
    if found := re.search(r"Could not override '([^']*)'", message):
        return _unknown(found[1].split("@")[0], chosen(), groups)
    if found := re.search(r"An item is already at '([^']*)'", message):
        return f"'{found[1]}' is an option already: write it without the +."
    if found := re.search(r"In '([^']*)': .*Cannot merge DictConfig with ListConfig", message, re.S):
        return f"{found[1]}.yaml holds no options: write them as KEY: VALUE, one a line."
    if found := re.search(r"Recursive interpolation detected\s+full_key: (\S+)", message):
        return f"{found[1]} is made of itself: give it a value."
    if found := re.search(r"Interpolation key '([^']*)' not found\s+full_key: (\S+)", message):
        return (
            f"{found[2]} is made of {found[1]}, which is not there: set one of them, or leave out the part "
            f"by {found[2].rpartition('.')[0] or found[2]}=null."
        )
    if found := re.search(r"Environment variable '([^']*)' not found", message):
        return f"The configuration reads the environment variable {found[1]}, which is not set: set it."
    if "INTERVAL_SWEEP" in message:
        return (
            "A multirun takes lists of values, and interval(...) has none: draw from it by `lightning-audio "
            "sweep` with sweep=random, or list the values to try."
        )
    if any(words in message for words in UNREADABLE):
        reason = message.splitlines()[0]
        return f"An override can't be read ({reason}): write KEY=VALUE, quotes around odd characters."
    return " ".join(message.split()).rstrip(".") + "."


def _unknown(key: str, cfg: DictConfig, groups: Sequence[str]) -> str:
    """The sentence for an option that the configuration does not have."""
    if may_be_added(cfg, key):
        return f"{key!r} has no value in conf/, but what is built there takes it: write +{key}=VALUE."
    others = [name for name in (*dotted(cfg), *groups) if not key.startswith(f"{name}.")]
    return f"{key!r} is no option{did_you_mean(key, others)}: see conf/ for what can be set."
