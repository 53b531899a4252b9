"""What every transform shares: on in train mode, off in eval mode, and a draw of its own for each sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr


class Transform(nn.Module):
    """Changes `(x, lengths)` in train mode, each sample with probability `p`; passes them on in eval mode.

    `strength`, which a `RandomPolicy` sets, says how far from `neutral` drawn values go: 1 is all the way.
    """

    strength = 1.0

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"{type(self).__name__} has p={p}: give a probability between 0 and 1.")
        self.p = p

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.change(x, lengths) if self.training else (x, lengths)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What it does in train mode: waveforms `(B, T)` or features `(B, F, T)` or `(B, C, F, T)`, and their
        lengths `(B,)` in samples or frames -> both as they become."""
        raise NotImplementedError

    def refuse_misfit(self, frontend: nn.Module, option: str) -> None:
        """Raises UserError where the transform, under this option, is for features of another front end."""

    def draw(self, x: Tensor, low: float, high: float, neutral: float) -> Tensor:
        """`(B,)` on the device of `x`: uniform in low..high, and `neutral` where a sample stays as it is."""
        return sent(self.draw_on_cpu(len(x), low, high, neutral), x.device)

    def draw_on_cpu(self, count: int, low: float, high: float, neutral: float) -> Tensor:
        """The same, not yet sent: for what Python has to know, which must not wait for the device."""
        values = torch.empty(count).uniform_(low, high)
        if self.strength != 1 and math.isinf(neutral):  # decibels below the signal: its amplitude is scaled
            values = values - 20 * math.log10(max(self.strength, 1e-9))
        elif self.strength != 1:
            values = neutral + self.strength * (values - neutral)
        return torch.where(torch.rand(count) < self.p, values, neutral)

    def chosen(self, x: Tensor) -> Tensor:
        """`(B,)` on the device of `x`: which samples are changed, for what has no strength."""
        torch.rand(len(x))  # as many numbers as `draw` takes: what is drawn behind it stays what it was
        return sent(torch.rand(len(x)) < self.p, x.device)

    def extra_repr(self) -> str:
        return options_repr(self)


def check_range(owner: nn.Module, name: str, low: float, high: float) -> None:
    """Raises UserError where `min_name` is above `max_name` in a transform's settings."""
    if low > high:
        raise UserError(
            f"{type(owner).__name__} has min{name}={low} above max{name}={high}: give the smaller one as min."
        )


def random_below(limits: Tensor) -> Tensor:
    """For each limit an integer drawn uniformly from 0 to limit - 1 (0 where the limit is 0)."""
    numbers = (sent(torch.rand(limits.shape), limits.device) * limits).long()
    return torch.minimum(numbers, limits - 1).clamp(min=0)
