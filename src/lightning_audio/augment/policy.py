"""Random transforms out of a list, a few for each clip: as RandAugment does with images."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_audio.augment.base import Transform
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError


class RandomPolicy(Transform):
    """Changes each clip by `n` of the transforms, all equally likely, at one `strength` in 0..1.

    Strength 1 draws from the ranges as they are, 0.5 goes half as far from what leaves a clip alone: gains in
    dB, rates, semitones, amplitudes of noise (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719). All are
    of waveforms, or all of features. They come in the order of the list, and each runs on its clips alone.

    Raises:
        UserError: there are fewer transforms than `n`, or `strength` is not in 0..1.
    """

    def __init__(
        self, transforms: Mapping[str, Transform | None], n: int = 2, strength: float = 0.5, p: float = 1.0
    ) -> None:
        super().__init__(p)
        chosen = {name: transform for name, transform in transforms.items() if transform is not None}
        if not 0 <= n <= len(chosen) or not 0 < strength <= 1:
            raise UserError(
                f"RandomPolicy has n={n} of {len(chosen)} transforms and strength={strength}: give no more "
                "than there are, and a strength above 0, up to 1."
            )
        self.n, self.strength = n, strength
        self.transforms = nn.ModuleDict(chosen)
        for transform in chosen.values():
            transform.strength = strength

    @property
    def fastest(self) -> float:
        """The factor by which a clip may become shorter."""
        factors = (getattr(transform, "fastest", 1.0) for transform in self.transforms.values())
        return math.prod(sorted(factors, reverse=True)[: self.n])

    def refuse_misfit(self, frontend: nn.Module, option: str) -> None:
        for name, transform in self.transforms.items():
            transform.refuse_misfit(frontend, f"{option}.transforms.{name}")  # type: ignore[operator]

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # Which clip meets which transform is known here, and no device has to be asked.
        meets = torch.rand(len(x), len(self.transforms)).argsort(1).argsort(1) < self.n
        meets &= (torch.rand(len(x)) < self.p)[:, None]
        for transform, met in zip(self.transforms.values(), meets.T, strict=True):
            if not met.any():
                continue
            rows = sent(met.nonzero()[:, 0], x.device)
            changed, new = transform(x.index_select(0, rows), lengths.index_select(0, rows))
            extent = max(x.shape[-1], changed.shape[-1])
            x, changed = (F.pad(part, (0, extent - part.shape[-1])) for part in (x, changed))
            x, lengths = x.index_copy(0, rows, changed), lengths.index_copy(0, rows, new)
        return x, lengths
