"""How weights are learned: the optimizer, its schedule, the seed of a step, and whether that is now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_audio.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How weights are learned; a task that only answers needs none.

    `optimizer` takes parameter groups, `lr` and `weight_decay` are its own; `factor` is a schedule.
    """

    optimizer: Callable[..., Optimizer]
    lr: float
    weight_decay: float
    factor: Callable[..., float | tuple[float, float]]

    def bind(self, groups: list[dict[str, Any]], total_steps: int) -> tuple[Optimizer, Schedule]:
        """Optimizer and schedule of groups of parameters, the latter by the step."""
        optimizer = self.optimizer(groups)
        return optimizer, Schedule(optimizer, partial(self.factor, total=total_steps))


class Schedule(LambdaLR):
    """Rates by the factor of each step, and momentum as well where `at` gives `(factor, momentum)`.

    Raises:
        UserError: there is a momentum, and the optimizer has none.
    """

    def __init__(self, optimizer: Optimizer, at: Callable[[int], float | tuple[float, float]]) -> None:
        # Asked once a step, not by each group: Hydra examines what it made whenever that is called.
        self.at = at = lru_cache(1)(at)
        super().__init__(optimizer, lambda step: found[0] if isinstance(found := at(step), tuple) else found)

    def get_lr(self) -> list[float | Tensor]:
        self._set_momentum()
        return super().get_lr()

    def _set_momentum(self) -> None:
        found = self.at(self.last_epoch)
        if not isinstance(found, tuple):
            return
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (found[1], *group["betas"][1:])
            elif group.get("momentum"):
                group["momentum"] = found[1]
            else:
                raise UserError(
                    f"schedule.momentum is for optimizers with momentum, and {type(self.optimizer).__name__} "
                    "has none here: set it to null, or another optimizer."
                )

    def restore(self, settings: list[dict[str, Any]]) -> None:
        """Lets settings of the groups count, such as rates and decays, from the step on that was loaded."""
        self.base_lrs = [group["initial_lr"] for group in settings]
        groups = zip(self.optimizer.param_groups, settings, self.lr_lambdas, strict=True)
        for group, configured, factor in groups:
            group |= configured
            group["lr"] = configured["initial_lr"] * factor(self.last_epoch)
        self._set_momentum()

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "at"}


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds what is drawn on the CPU and on `device`, as torch.manual_seed does for all kinds of devices.

    That one notes the call stack for each kind that has not been used yet, which takes half a millisecond.
    NumPy is what encoders of transformers draw their masks and the layers that they drop from.

    Args:
        seed: from 0 to 2**32 - 1.
        device: that of the draws.
    """
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def in_training(trainer: pl.Trainer) -> bool:
    """Whether what runs is of the training: no sanity check of a few clips, no validation behind it."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
