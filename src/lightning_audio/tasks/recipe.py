"""How weights are learned: the optimizer, its schedule, and the seed of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_audio.networks.base import Network


@dataclass(frozen=True)
class Recipe:
    """How weights are learned; a task that only answers needs none.

    `optimizer` takes parameter groups, `lr` and `weight_decay` are its own; `factor` is a schedule.
    """

    optimizer: Callable[..., Optimizer]
    lr: float
    weight_decay: float
    factor: Callable[..., float]

    def bind(self, network: Network, total_steps: int) -> tuple[Optimizer, LambdaLR]:
        """Optimizer and schedule of a network, the latter by the step."""
        groups = network.parameter_groups(self.weight_decay)
        for group in groups:
            group["lr"] = self.lr * group.pop("lr_scale", 1.0)
        optimizer, factor = self.optimizer(groups), self.factor
        return optimizer, LambdaLR(optimizer, lambda step: factor(step, total=total_steps))


def seed_draws(seed: int, device: torch.device) -> None:
    """Seeds what is drawn on the CPU and on `device`, as torch.manual_seed does for all kinds of devices.

    That one notes the call stack for each kind that has not been used yet, which takes half a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
