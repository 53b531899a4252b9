"""What a microphone and a line do to waveforms `(B, T)`: clipping, the telephone, packets that get lost.

Samples beyond a clip's length are 0 and stay 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.augment.base import Transform, check_range
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import fast_size
from lightning_audio.frontend.mask import frame_mask

LINE_RATE = 8000  # Hz, of a telephone line
ROLL_OFF = 200.0  # Hz from all to nothing at the edges of its band
MARGIN = 0.05  # seconds of silence in which what the filter rings with fades away


class Clipping(Transform):
    """Cuts each clip at a share of its peak, as a microphone that is driven too hard."""

    def __init__(self, min: float = 0.3, max: float = 1.0, p: float = 0.5) -> None:
        super().__init__(p)
        check_range(self, "", min, max)
        if min <= 0 or max > 1:
            raise UserError(f"Clipping has min={min} and max={max}: give shares of the peak, above 0 to 1.")
        self.min, self.max = min, max

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        level = self.draw(x, self.min, self.max, neutral=1.0)[:, None] * x.abs().amax(1, keepdim=True)
        return x.clamp(-level, level), lengths


class Telephone(Transform):
    """Each clip as a telephone line brings it: a band of `low` to `high` Hz, 8 kHz, and mu-law of `bits`.

    At 8 bits that is G.711. Levels are those of full scale: what is quiet has coarse steps for its size.
    """

    def __init__(
        self, sample_rate: int, low: float = 300.0, high: float = 3400.0, bits: int = 8, p: float = 0.5
    ) -> None:
        super().__init__(p)
        if sample_rate < LINE_RATE:
            raise UserError(
                f"Telephone is for {LINE_RATE} Hz and more, not sample_rate={sample_rate}: leave it out."
            )
        if not 0 <= low < high <= LINE_RATE / 2 or not 2 <= bits <= 16:
            raise UserError(
                f"Telephone has low={low}, high={high} and bits={bits}: give a band within 0 to "
                f"{LINE_RATE // 2} Hz, and 2 to 16 bits."
            )
        self.sample_rate, self.low, self.high, self.bits = sample_rate, low, high, bits

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        # A whole number of samples at both rates: the line's rate is then a matter of bins left out.
        unit = self.sample_rate // math.gcd(self.sample_rate, LINE_RATE)
        count = fast_size(math.ceil((x.shape[1] + MARGIN * self.sample_rate) / unit))
        size, line = count * unit, count * unit * LINE_RATE // self.sample_rate
        bins = line // 2 + 1
        hz = torch.arange(bins, device=x.device) * LINE_RATE / line
        edges = torch.minimum(hz - self.low, self.high - hz) / ROLL_OFF + 1  # 0 to 1 outside of the band
        weight = (1 - torch.cos(math.pi * edges.clamp(0, 1))) / 2
        sent_on = torch.fft.irfft(torch.fft.rfft(x, size)[:, :bins] * weight, line) * (line / size)
        spectrum = torch.fft.rfft(mu_law(sent_on, self.bits))
        spectrum = F.pad(torch.view_as_real(spectrum), (0, 0, 0, size // 2 + 1 - bins))
        heard = torch.fft.irfft(torch.view_as_complex(spectrum), size)[:, : x.shape[1]] * (size / line)
        return torch.where(self.chosen(x)[:, None], heard, x) * frame_mask(lengths, x.shape[1]), lengths


def mu_law(x: Tensor, bits: int) -> Tensor:
    """`x`, cut at full scale, in the nearest of 2**bits steps of the mu-law."""
    mu = 2**bits - 1
    compressed = x.sign() * torch.log1p(mu * x.abs().clamp(max=1)) / math.log1p(mu)
    steps = ((compressed + 1) / 2 * mu + 0.5).floor() / mu * 2 - 1
    return steps.sign() * torch.expm1(steps.abs() * math.log1p(mu)) / mu


class PacketLoss(Transform):
    """Silence where packets of `seconds` did not arrive: a share of each clip, drawn up to `max_share`.

    Losses come `burst` packets long in the mean (Gilbert 1960: two states, each with its chance to stay).
    """

    def __init__(
        self,
        sample_rate: int,
        seconds: float = 0.02,
        max_share: float = 0.2,
        burst: float = 2.0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.size = round(seconds * sample_rate)
        if self.size < 1 or not 0 <= max_share <= 0.5 or burst < 1:
            raise UserError(
                f"PacketLoss has seconds={seconds}, max_share={max_share} and burst={burst}: give packets of "
                "a sample or more, a share between 0 and 0.5, and 1 or more packets."
            )
        self.sample_rate, self.seconds, self.max_share, self.burst = sample_rate, seconds, max_share, burst

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        share = self.draw_on_cpu(len(x), 0.0, self.max_share, neutral=0.0)[:, None]
        lost = gilbert(share, self.burst, -(-x.shape[1] // self.size))
        return x * ~sent(lost, x.device).repeat_interleave(self.size, 1)[:, : x.shape[1]], lengths


def gilbert(share: Tensor, burst: float, count: int) -> Tensor:
    """`(B, count)`: True in a `share` `(B, 1)` of places, in runs of `burst` in the mean."""
    stay = 1 - 1 / burst  # the chance that behind a loss comes another
    begin = share * (1 - stay) / (1 - share)
    draw = torch.rand(len(share), count)
    # A draw between both chances leaves the state as it is: the last one outside decides. At most half of
    # the places are lost, so that `begin` is no more than 1 / burst; where it is above `stay`, states turn.
    turns = begin > stay
    low, high = torch.minimum(begin, torch.tensor(stay)), begin.clamp(min=stay)
    places = torch.arange(count).expand_as(draw)
    decided = (draw < low) | (draw >= high)
    decided[:, 0], lost = True, draw < low
    lost[:, 0] = torch.rand(len(share)) < share[:, 0]
    last = torch.where(decided, places, 0).cummax(1).values
    turned = (places - last) % 2 == 1
    return lost.gather(1, last) ^ (turned & turns)
