"""What every transform shares: on in train mode, off in eval mode, and a draw of its own for each sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr


class Transform(nn.Module):
    """Changes `(x, lengths)` in train mode, each sample with probability `p`; passes them on in eval mode."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"{type(self).__name__} has p={p}: give a probability between 0 and 1.")
        self.p = p

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.change(x, lengths) if self.training else (x, lengths)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the transform does in train mode."""
        raise NotImplementedError

    def draw(self, x: Tensor, low: float, high: float, neutral: float) -> Tensor:
        """`(B,)` on the device of `x`: uniform in low..high, and `neutral` where a sample stays as it is."""
        return sent(self.draw_on_cpu(len(x), low, high, neutral), x.device)

    def draw_on_cpu(self, count: int, low: float, high: float, neutral: float) -> Tensor:
        """The same, not yet sent: for what Python has to know, which must not wait for the device."""
        values = torch.empty(count).uniform_(low, high)
        return torch.where(torch.rand(count) < self.p, values, neutral)

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
