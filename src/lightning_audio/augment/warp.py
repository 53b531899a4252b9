"""Warps of log-mel features `(B, F, T)` or `(B, C, F, T)`: along time, and along frequency.

Channels of a clip are warped alike, and frames beyond its length stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_audio.augment.base import Transform, check_range
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.log_mel import LogMel, hz_of_mel, mel_of_hz
from lightning_audio.frontend.mask import frame_mask


class TimeWarp(Transform):
    """Moves a random frame of each clip by up to `frames`, and with it all others in proportion.

    The first and the last frame stay (Park et al. 2019, https://arxiv.org/abs/1904.08779). No frame moves by
    more than `max_share` of its clip; values between frames are interpolated.
    """

    def __init__(self, frames: int = 40, max_share: float = 0.2, p: float = 0.5) -> None:
        super().__init__(p)
        if frames < 0 or not 0 <= max_share < 0.5:
            raise UserError(
                f"TimeWarp has frames={frames} and max_share={max_share}: give 0 or more, and a "
                "share below 0.5."
            )
        self.frames, self.max_share = frames, max_share

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        size = x.shape[-1]
        last = (lengths - 1).clamp(min=0)[:, None].to(x.dtype)
        most = (last * self.max_share).clamp(max=self.frames)
        moved = self.draw(x, -1.0, 1.0, neutral=0.0)[:, None] * most
        # As far from both ends as it may move, so that nothing is turned round.
        point = most + sent(torch.rand(len(x)), x.device)[:, None] * (last - 2 * most)
        place = torch.arange(size, device=x.device).expand(len(x), -1).to(x.dtype)
        goal = point + moved
        before = place * point / goal.clamp(min=1e-3)
        behind = point + (place - goal) * (last - point) / (last - goal).clamp(min=1e-3)
        source = torch.where(place < goal, before, behind)
        inside = frame_mask(lengths, size) & (moved != 0)
        source = torch.where(inside, torch.minimum(source.clamp(min=0), last), place)
        return interpolated(x, source, axis=-1), lengths


class VTLN(Transform):
    """Warps the frequencies of each clip by a factor of its own, as a longer or shorter vocal tract would.

    What was heard at f Hz is heard at `factor * f`, as long as both lie below `edge` of the highest; from
    there on a straight line leads to the highest, which stays (Lee and Rose 1998; the piecewise linear warp
    of Kaldi and HTK). Bands are those of the front end: `f_min`, `f_max` in Hz and `htk` are its own.
    """

    def __init__(
        self,
        sample_rate: int,
        f_min: float = 0.0,
        f_max: float | None = None,
        htk: bool = False,
        min: float = 0.9,
        max: float = 1.1,
        edge: float = 0.85,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        check_range(self, "", min, max)
        highest = sample_rate / 2 if f_max is None else f_max
        if min <= 0 or not 0 < edge < 1 or not 0 <= f_min < highest:
            raise UserError(
                f"VTLN has min={min}, edge={edge}, f_min={f_min} and f_max={highest}: give factors above 0, "
                "an edge between 0 and 1, and frequencies that rise."
            )
        self.sample_rate, self.f_min, self.f_max, self.htk = sample_rate, f_min, f_max, htk
        self.min, self.max, self.edge, self._highest = min, max, edge, highest

    def refuse_misfit(self, frontend: nn.Module, option: str) -> None:
        if not isinstance(frontend, LogMel):
            raise UserError(
                f"{option} warps mel bands, and {type(frontend).__name__} has none: set it to null, or "
                "frontend=log_mel."
            )
        rate = frontend.sample_rate
        there = (rate, frontend.f_min, frontend.f_max or rate / 2, frontend.htk)
        if there != (self.sample_rate, self.f_min, self._highest, self.htk):
            raise UserError(
                f"{option} is for other bands than those of the front end: set its sample_rate={rate}, "
                f"f_min={there[1]:g}, f_max={there[2]:g} and htk={str(there[3]).lower()}."
            )

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        bins = x.shape[-2]
        factor = self.draw(x, self.min, self.max, neutral=1.0)[:, None]
        ends = mel_of_hz(torch.tensor([self.f_min, self._highest]).double(), self.htk).tolist()
        step = (ends[1] - ends[0]) / (bins + 1)
        mel = ends[0] + step * torch.arange(1, bins + 1, device=x.device)
        source = (mel_of_hz(self.heard_at(hz_of_mel(mel, self.htk), factor), self.htk) - ends[0]) / step - 1
        source = torch.where(factor == 1, torch.arange(bins, device=x.device), source.clamp(0, bins - 1))
        warped = interpolated(x, source.to(x.dtype), axis=-2)
        inside = frame_mask(lengths, x.shape[-1]).view(len(x), *[1] * (x.ndim - 2), -1)
        return torch.where(inside, warped, x), lengths

    def heard_at(self, hz: Tensor, factor: Tensor) -> Tensor:
        """Where in the clip, in Hz, that was which is heard at `hz` `(F,)` once it is warped."""
        image = self.edge * self._highest * factor.clamp(max=1.0)
        source = image / factor
        above = source + (hz - image) * (self._highest - source) / (self._highest - image)
        return torch.where(hz < image, hz / factor, above)


def interpolated(x: Tensor, source: Tensor, axis: int) -> Tensor:
    """`x` read along an axis at the places `source` `(B, n)`, by straight lines between its values."""
    low = source.floor().clamp(min=0, max=x.shape[axis] - 1)
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[axis] = -1
    t = (source - low).view(shape)
    index = low.long().view(shape).expand(x.shape)
    after = (index + 1).clamp(max=x.shape[axis] - 1)
    return torch.lerp(x.gather(axis, index), x.gather(axis, after), t)
