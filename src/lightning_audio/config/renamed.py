"""What parts and options were called in older versions, whose names are understood for one version."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

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
        "guard.Guard": "training.callbacks.divergence.DivergenceGuard",
        "listen.Listen": "training.callbacks.training_examples.TrainingExamples",
        "loggers.CSVLogger": "training.loggers.CSVLogger",
        "training.callbacks.divergence.Guard": "training.callbacks.divergence.DivergenceGuard",
        "schedule.constant": "training.schedule.constant",
        "schedule.cosine": "training.schedule.cosine",
        "schedule.one_cycle": "training.schedule.one_cycle",
    }.items()
}

# Options that have another name since version 0.1; the old one is understood for one version.
RENAMED_OPTIONS = {
    "augment.later": "augment.delayed",
    "callbacks.listen": "callbacks.training_examples",
    "loader.bad_files": "loader.max_bad_fraction",
    "loader.batch_seconds": "loader.max_batch_duration",
    "loader.longest": "loader.max_duration",
    "loader.shortest_first": "loader.curriculum_epochs",
    "loader.validation": "loader.val_fraction",
    "network.freeze_batch_norm": "finetune.batch_norm.statistics",
    "network.freeze_epochs": "finetune.unfreeze",
    "network.layer_decay": "finetune.lr_decay",
    "task.in_a_row": "task.clips_per_sequence",
    "task.wake": "task.start_below_blank_rate",
}
RENAMED_VALUES: dict[str, dict[Any, str]] = {
    "normalize": {"bin": "per_feature", "clip": "per_clip", "clip_bin": "per_clip_cmn"},
    "finetune.batch_norm.statistics": {
        True: "frozen",
        False: "learned",
        "true": "frozen",
        "false": "learned",
    },
}


def up_to_date(config: Any) -> Any:
    """A saved configuration, plain values, under the names that parts, options and values have today."""

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: moved(value) for key, value in node.items()}
        if isinstance(node, list):
            return [moved(value) for value in node]
        return MOVED_TARGETS.get(node, node) if isinstance(node, str) else node

    config = moved(config)
    for old, new in RENAMED_OPTIONS.items():
        node, key = _place(config, old)
        if key in node:
            place, name = _place(config, new, make=True)
            place[name] = node.pop(key)
    for option, values in RENAMED_VALUES.items():
        node, key = _place(config, option)
        if isinstance(node.get(key), str | bool):
            node[key] = values.get(node[key], node[key])
    return config


def _place(config: Any, name: str, make: bool = False) -> tuple[dict[str, Any], str]:
    """The part of a configuration, plain values, that holds an option, and the option's key in it."""
    *parents, key = name.split(".")
    for parent in parents:
        config = config if isinstance(config, dict) else {}
        config = config.setdefault(parent, {}) if make else config.get(parent)
    return (config if isinstance(config, dict) else {}), key


def renamed(override: str) -> str:
    """A command-line override under today's names; where it has an older one, stderr says the new one."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    old = next((one for one in RENAMED_OPTIONS if f"{name}.".startswith(f"{one}.")), name)
    new = RENAMED_OPTIONS.get(old, old) + name[len(old) :]
    value = RENAMED_VALUES.get(new, {}).get(value, value)
    current = f"{key[: len(key) - len(name)]}{new}{equals}{value}"
    if current != override:
        print(f"{override} is now written {current}.", file=sys.stderr)
    return current


def rename_in(cfg: DictConfig) -> None:
    """Moves what YAML files of the user's own give under older names."""
    OmegaConf.set_struct(cfg, False)
    for old, new in RENAMED_OPTIONS.items():
        parent, _, key = old.rpartition(".")
        node = OmegaConf.select(cfg, parent)
        if isinstance(node, DictConfig) and key in node:
            print(f"{old} is now named {new}.", file=sys.stderr)
            OmegaConf.update(cfg, new, node.pop(key))
    for name, values in RENAMED_VALUES.items():
        if isinstance(value := OmegaConf.select(cfg, name), str | bool) and value in values:
            print(f"{name}: {value} is now written {values[value]}.", file=sys.stderr)
            OmegaConf.update(cfg, name, values[value])
    OmegaConf.set_struct(cfg, True)
