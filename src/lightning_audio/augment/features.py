"""Transforms of log-mel features in dB, `(B, F, T)` or `(B, C, F, T)` with lengths `(B,)` in frames.

They come before normalisation, since a gain is added as decibels. Channels of a clip are changed alike, and
frames beyond its length stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_audio.augment.base import Transform, check_range, random_below
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.frozen import Frozen
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.frontend.mfcc import MFCC
from lightning_audio.frontend.music import Chroma
from lightning_audio.frontend.pitch import Periodicity
from lightning_audio.frontend.waveform import Waveform

KINDS = ("linear", "step")
NO_DECIBELS = (Chroma, Frozen, MFCC, Periodicity, Waveform)  # front ends to whose features no gain is added


class SpecAugment(Transform):
    """Masks bands of mel bins and stretches of frames with the clip's mean value.

    Each mask is drawn by itself: its width is uniform in 0..width, its place uniform within the bins or the
    clip's own length; masks may overlap. No mask of frames is wider than `max_time_share` of its clip (the
    upper bound p of Park et al. 2019, arXiv:1904.08779; no warping here), and none of bins wider than
    `max_freq_share` of them: of a short clip, or of few features, the masks would else leave nothing.
    """

    def __init__(
        self,
        freq_masks: int = 2,
        freq_width: int = 8,
        time_masks: int = 2,
        time_width: int = 20,
        p: float = 1.0,
        max_time_share: float = 0.2,
        max_freq_share: float = 0.35,
    ) -> None:
        super().__init__(p)
        shares = (max_time_share, max_freq_share)
        if min(freq_masks, freq_width, time_masks, time_width, *shares) < 0 or max(shares) > 1:
            raise UserError(
                f"SpecAugment has freq_masks={freq_masks}, freq_width={freq_width}, time_masks={time_masks}, "
                f"time_width={time_width}, max_time_share={max_time_share} and "
                f"max_freq_share={max_freq_share}: give numbers from 0 on, and shares between 0 and 1."
            )
        self.max_time_share, self.max_freq_share = max_time_share, max_freq_share
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width = time_masks, time_width

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        bins, frames = x.shape[-2:]
        chosen = self.chosen(x)
        every = torch.full_like(lengths, bins)
        most = min(int(bins * self.max_freq_share), round(self.strength * self.freq_width))
        freq = random_stretches(every, self.freq_masks, torch.full_like(lengths, most), bins)
        widest = (lengths * self.max_time_share).long().clamp(max=round(self.strength * self.time_width))
        time = random_stretches(lengths, self.time_masks, widest, frames)
        masked = (freq[:, :, None] | time[:, None, :]) & chosen[:, None, None]
        return masked_by_mean(x, lengths, masked), lengths


def masked_by_mean(x: Tensor, lengths: Tensor, masked: Tensor) -> Tensor:
    """Each clip's mean where `masked` `(B, F, T)` says so, within its length."""
    inside = frame_mask(lengths, x.shape[-1])[:, None, :]
    mean = x.where(_over_channels(inside, x), 0.0).sum((-2, -1), keepdim=True)
    mean = mean / (x.shape[-2] * _over_channels(lengths.clamp(min=1)[:, None, None], x))
    return torch.where(_over_channels(masked & inside, x), mean, x)


def random_stretches(sizes: Tensor, count: int, widest: Tensor, extent: int) -> Tensor:
    """`(B, extent)`: True in `count` random stretches of up to `widest` `(B,)`, within the sizes `(B,)`."""
    sizes = sizes[:, None].expand(-1, count)
    widths = random_below((widest + 1)[:, None].expand(-1, count))
    starts = random_below(sizes - widths + 1)
    index = torch.arange(extent, device=sizes.device)
    return ((index >= starts[..., None]) & (index < (starts + widths)[..., None])).any(1)


class PatchOut(Transform):
    """Replaces a share of the patches of `bins` by `frames` with the clip's mean, drawn patch by patch.

    What a transformer that reads patches can do without (Koutini et al. 2022,
    https://arxiv.org/abs/2110.05069): there they are left out, here their places stay, so that any network
    can be trained so. `share` is the greatest one; each clip draws its own.
    """

    def __init__(self, bins: int = 16, frames: int = 16, share: float = 0.4, p: float = 1.0) -> None:
        super().__init__(p)
        if min(bins, frames) < 1 or not 0 <= share < 1:
            raise UserError(
                f"PatchOut has bins={bins}, frames={frames} and share={share}: give 1 or more, and a share "
                "from 0 to below 1."
            )
        self.bins, self.frames, self.share = bins, frames, share

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = -(-x.shape[-2] // self.bins), -(-x.shape[-1] // self.frames)
        share = self.draw_on_cpu(len(x), 0.0, self.share, neutral=0.0)[:, None, None]
        patches = sent(torch.rand(len(x), rows, columns) < share, x.device)
        out = patches.repeat_interleave(self.bins, 1).repeat_interleave(self.frames, 2)
        return masked_by_mean(x, lengths, out[:, : x.shape[-2], : x.shape[-1]]), lengths


class FilterAugment(Transform):
    """Raises or lowers random bands of mel bins by random decibels, as another room or microphone would.

    step: one gain for a band; linear: one gain for an edge of a band, and straight lines between the edges
    (Nam et al. 2022, https://arxiv.org/abs/2110.03282, without its smallest width of a band).
    """

    def __init__(
        self,
        min_bands: int = 2,
        max_bands: int = 5,
        min_db: float = -6.0,
        max_db: float = 6.0,
        p: float = 1.0,
        kind: str = "linear",
    ) -> None:
        super().__init__(p)
        check_range(self, "_bands", min_bands, max_bands)
        check_range(self, "_db", min_db, max_db)
        if min_bands < 1:
            raise UserError(f"FilterAugment has min_bands={min_bands}: give 1 or more.")
        if kind not in KINDS:
            raise UserError(f"FilterAugment knows no kind {kind!r}: give one of {', '.join(KINDS)}.")
        self.min_bands, self.max_bands = min_bands, max_bands
        self.min_db, self.max_db, self.kind = min_db, max_db, kind

    def refuse_misfit(self, frontend: nn.Module, option: str) -> None:
        if isinstance(frontend, NO_DECIBELS):
            raise UserError(
                f"{option} adds decibels to bands, and {type(frontend).__name__} has none: set it to null."
            )

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        bins, frames = x.shape[-2:]
        chosen = self.chosen(x) * self.strength
        gain_db = (sent(self._gains(len(x), bins), x.device) * chosen[:, None])[..., None]
        inside = frame_mask(lengths, frames)[:, None, :]
        return x + _over_channels(gain_db * inside, x), lengths

    def _gains(self, count: int, bins: int) -> Tensor:
        edges = self._edges(count) * bins
        edge_gains = torch.empty(edges.shape).uniform_(self.min_db, self.max_db)
        place = torch.arange(bins).expand(count, -1).float().contiguous()
        band = torch.searchsorted(edges, place, right=True) - 1
        gain = edge_gains.gather(1, band)
        if self.kind == "step":
            return gain
        left, right = edges.gather(1, band), edges.gather(1, band + 1)
        return torch.lerp(gain, edge_gains.gather(1, band + 1), (place - left) / (right - left))

    def _edges(self, count: int) -> Tensor:
        """`(count, max_bands + 1)`: edges of the bands in 0..1, rising; what a sample has too many are 1."""
        bands = self.min_bands + random_below(torch.full((count, 1), self.max_bands - self.min_bands + 1))
        inner = torch.rand(count, self.max_bands - 1)
        inner = inner.where(torch.arange(1, self.max_bands) < bands, 1.0).sort(1).values
        return torch.cat([torch.zeros(count, 1), inner, torch.ones(count, 1)], 1)


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """`values` `(B, F, T)` with a channel axis where the features have one."""
    return values if x.ndim == 3 else values[:, None]
