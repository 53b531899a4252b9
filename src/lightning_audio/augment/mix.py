"""Mixing two clips and their labels: mixup, mixing by power, between-class mixing, cutting in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.augment.base import random_below
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr

MODES = ("between_class", "power", "mixup", "cutmix")


class Mix(nn.Module):
    """Mixes each clip with another of its batch, and their labels at r : 1 - r, where r ~ Beta(alpha, alpha).

    mixup: r x1 + (1 - r) x2 (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).
    power: sqrt(r) x1 + sqrt(1 - r) x2, which keeps the level: r weighs the power, not the amplitude.
    between_class: with a clip that shares no label where the batch has one; the amplitudes make the two
    heard at r : 1 - r whatever their own levels are, and the sum is divided by the root of the squared
    weights (Tokozume et al. 2018, https://arxiv.org/abs/1711.10282). Loudness is the highest mean power over
    windows of `window` samples (2048 is 0.1 s at 20 kHz), without A-weighting.

    cutmix: a random stretch of the clip, 1 - r of it, gives way to what the other one has there, or silence
    where that one is shorter (Yun et al. 2019, https://arxiv.org/abs/1905.04899, in time).

    Where a clip may have several labels, one that both have keeps its 1, and each of the others its share.

    `progress`, the share of the training that is done, is set from outside: mixing is on while it is below
    `until`, so that training can end on clips as they are. A batch of one clip stays as it is.
    """

    def __init__(
        self, mode: str, alpha: float = 1.0, p: float = 1.0, until: float = 1.0, window: int = 2048
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(f"Mix knows no mode {mode!r}: give one of {', '.join(MODES)}.")
        if alpha <= 0 or not 0 <= p <= 1:
            raise UserError(f"Mix has alpha={alpha} and p={p}: give alpha above 0, and p between 0 and 1.")
        self.mode, self.alpha, self.p, self.until, self.window = mode, alpha, p, until, window
        self.progress = 0.0

    def extra_repr(self) -> str:
        return options_repr(self)

    def forward(self, x: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms `(B, T)`, lengths `(B,)` (the longer one counts in a pair), soft labels `(B, C)`."""
        if not self.training or self.progress >= self.until or len(x) < 2:
            return x, lengths, targets
        partner = self._partner(targets)
        ratio = torch.distributions.Beta(self.alpha, self.alpha).sample((len(x),))
        mixed = torch.rand(len(x)) < self.p
        ratio = sent(torch.where(mixed, ratio, 1.0), x.device)[:, None]
        if self.mode == "cutmix":
            return cut_in(x, lengths, targets, partner, ratio)
        own, other = self._weights(x, partner, ratio)
        longest = torch.maximum(lengths, lengths[partner])
        lengths = torch.where(sent(mixed, x.device), longest, lengths)
        targets = ratio * targets + (1 - ratio) * targets[partner]
        return torch.addcmul(x * own, x[partner], other), lengths, targets

    def _partner(self, targets: Tensor) -> Tensor:
        if self.mode == "between_class":
            return partner_of_other_class(targets)
        order = torch.randperm(len(targets), device="cpu")
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # along one circle through all clips: nobody meets himself
        return sent(partner, targets.device)

    def _weights(self, x: Tensor, partner: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        if self.mode == "mixup":
            return ratio, 1 - ratio
        if self.mode == "power":
            return ratio.sqrt(), (1 - ratio).sqrt()
        level = loudest_level(x, self.window)[:, None]
        own, other = ratio * level[partner], (1 - ratio) * level
        norm = (own.square() + other.square()).sqrt()
        return own / norm, other / norm


def cut_in(
    x: Tensor, lengths: Tensor, targets: Tensor, partner: Tensor, ratio: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips with a stretch of 1 - `ratio` `(B, 1)` of them from their partners, and labels in proportion."""
    whole = lengths[:, None]
    width = ((1 - ratio) * whole).long()
    start = random_below(whole - width + 1)
    place = torch.arange(x.shape[1], device=x.device)
    cut = (place >= start) & (place < start + width)
    kept = 1 - width / whole.clamp(min=1)
    return torch.where(cut, x[partner], x), lengths, kept * targets + (1 - kept) * targets[partner]


def partner_of_other_class(targets: Tensor) -> Tensor:
    """For each of `targets` `(B, C)` a random sample that shares no label, or any other if there is none."""
    count = len(targets)
    score = sent(torch.rand(count, count), targets.device)  # in 0..1, so that adding 1 outranks every draw
    score += targets @ targets.T == 0
    score -= torch.eye(count, device=targets.device)
    return score.argmax(1)


def loudest_level(x: Tensor, window: int) -> Tensor:
    """`(B,)`: the root of the highest mean power over windows (half overlapping) of waveforms `(B, T)`.

    Never below -100 dB of full scale, so that the levels of two silent clips can still be compared.
    """
    power = F.avg_pool1d(F.pad(x.square(), (0, window)), window, stride=max(window // 2, 1))
    return power.amax(1).sqrt().clamp(min=1e-5)
