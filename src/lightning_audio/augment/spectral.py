"""Transforms of waveforms by short-time spectra: tempo without pitch, pitch without tempo, lossy codecs.

Samples beyond a clip's length are 0 and stay 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.augment.base import Transform, check_range
from lightning_audio.augment.waveform import FRACTION_BITS, Speed, resample
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask


def spectra(x: Tensor, window: Tensor, hop: int) -> Tensor:
    """Short-time spectra `(B, k, n // 2 + 1)` of `x` `(B, T)`; frame i is centred at sample `i * hop`."""
    size = len(window)
    padded = F.pad(x, (size // 2, size // 2 + -x.shape[1] % hop))
    return torch.fft.rfft(padded.unfold(1, size, hop) * window)


def overlapped(spectrum: Tensor, window: Tensor, hop: int, size: int) -> Tensor:
    """Waveforms `(B, size)` from spectra `(B, k, n // 2 + 1)`: what `spectra` gave comes back as it was.

    A window is a whole number of hops long.
    """
    frames = torch.fft.irfft(spectrum, len(window)) * window
    weight = window.square().expand(1, frames.shape[1], -1)
    # The margin before the first centre is left out; what no window covers stays 0.
    whole = _sum_of(frames, hop) / _sum_of(weight, hop).clamp(min=1e-6)
    return F.pad(whole, (0, size))[:, len(window) // 2 :][:, :size]


def _sum_of(frames: Tensor, hop: int) -> Tensor:
    count, parts = frames.shape[1], frames.shape[2] // hop
    hops = frames.view(len(frames), count, parts, hop)
    total = hops.new_zeros(len(frames), count + parts - 1, hop)
    for part in range(parts):
        total[:, part : part + count] += hops[:, :, part]
    return total.flatten(1)


def vocoder(x: Tensor, step: Tensor, size: int, n_fft: int, highest: Tensor | None = None) -> Tensor:
    """`(B, size)`: waveforms `(B, T)`, `step` `(B,)` / 2**FRACTION_BITS times as fast at their own pitch.

    The phase vocoder (Flanagan and Golden 1966): magnitudes between frames are interpolated, phases advance
    as they do from one frame to the next. Bins from `highest` `(B,)` on are left out.
    """
    window, hop = torch.hann_window(n_fft, device=x.device), n_fft // 4
    spectrum = F.pad(torch.view_as_real(spectra(x, window, hop)), (0, 0, 0, 0, 0, 2))
    spectrum = torch.view_as_complex(spectrum)
    position = torch.arange(-(-size // hop) + 1, device=x.device) * step[:, None]
    index = (position >> FRACTION_BITS).clamp_(max=spectrum.shape[1] - 2)[..., None]
    index = index.expand(-1, -1, spectrum.shape[2])
    t = ((position & (2**FRACTION_BITS - 1)).to(x.dtype) / 2**FRACTION_BITS)[..., None]
    magnitude, phase = spectrum.abs(), spectrum.angle()
    # Frames are as far apart as before, so that the advance of a whole hop needs no unwrapping.
    advance = (phase[:, 1:] - phase[:, :-1]).gather(1, index[:, :-1])
    phase = torch.cat([phase[:, :1], advance], 1).cumsum(1)
    magnitude = torch.lerp(magnitude.gather(1, index), magnitude.gather(1, index + 1), t)
    if highest is not None:
        magnitude = magnitude * (torch.arange(spectrum.shape[2], device=x.device) < highest[:, None, None])
    return overlapped(torch.polar(magnitude, phase), window, hop, size)


class TimeStretch(Speed):
    """Plays each clip at its own tempo, the pitch as it was: its length becomes length / rate.

    By a phase vocoder with windows of `n_fft` samples, 20 to 50 ms; clips at rate 1 stay as they are.
    """

    def __init__(
        self, min: float = 0.9, max: float = 1.1, p: float = 0.5, keep_length: bool = False, n_fft: int = 1024
    ) -> None:
        super().__init__(min, max, p, keep_length)
        self.n_fft = checked_fft(self, n_fft)

    def _played(self, x: Tensor, step: Tensor, size: int) -> Tensor:
        same = F.pad(x, (0, size - x.shape[1]))
        return torch.where((step == 1 << FRACTION_BITS)[:, None], same, vocoder(x, step, size, self.n_fft))


class PitchShift(Transform):
    """Moves the pitch of each clip by a drawn number of semitones; its length and its tempo stay.

    Stretched by a phase vocoder with windows of `n_fft` samples, then played as much faster or slower.
    """

    def __init__(self, min: float = -2.0, max: float = 2.0, p: float = 0.5, n_fft: int = 1024) -> None:
        super().__init__(p)
        check_range(self, "", min, max)
        self.min, self.max, self.n_fft = min, max, checked_fft(self, n_fft)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        factors = 2 ** (self.draw_on_cpu(len(x), self.min, self.max, 0.0).double() / 12)
        size = math.ceil(x.shape[1] * float(factors.max())) + self.n_fft
        factor, one = sent(factors.float(), x.device), 1 << FRACTION_BITS
        step = sent((one * factors).long(), x.device)
        slower = sent((one / factors).long(), x.device)
        # Bins that the faster play would fold back at half the rate are left out beforehand.
        highest = (self.n_fft // 2 + 1) / factor.clamp(min=1.0)
        shifted = resample(vocoder(x, slower, size, self.n_fft, highest), step, x.shape[1])
        shifted = torch.where((factor == 1)[:, None], x, shifted)
        return shifted * frame_mask(lengths, x.shape[1]), lengths


class Codec(Transform):
    """What a lossy codec leaves of each clip: nothing above a drawn frequency, and noise in each band below.

    The short-time spectrum, real and imaginary parts alike, is rounded to steps, one for each of `bands` and
    each window, that put the noise at a drawn ratio in dB below what the band holds; what is less than half a
    step becomes nothing, as in MP3 and its kin (Brandenburg 1999). Real codecs are in `augment.recode`.

    Raises:
        UserError: a min is above its max, or an option is not above 0.
    """

    def __init__(
        self,
        sample_rate: int,
        min_snr_db: float = 3.0,
        max_snr_db: float = 20.0,
        min_hz: float = 3000.0,
        max_hz: float = 8000.0,
        bands: int = 20,
        n_fft: int = 512,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        check_range(self, "_snr_db", min_snr_db, max_snr_db)
        check_range(self, "_hz", min_hz, max_hz)
        self.n_fft = checked_fft(self, n_fft)
        if min(sample_rate, min_hz) <= 0 or not 1 <= bands <= n_fft // 4:
            raise UserError(
                f"Codec has min_hz={min_hz} and bands={bands}: give a frequency above 0, and 1 to "
                f"{n_fft // 4} bands."
            )
        self.sample_rate, self.bands = sample_rate, bands
        self.min_snr_db, self.max_snr_db, self.min_hz, self.max_hz = min_snr_db, max_snr_db, min_hz, max_hz
        # As ears have them: as wide as each other below 500 Hz, then in proportion to their frequency.
        place = torch.asinh(torch.arange(n_fft // 2 + 1) * sample_rate / n_fft / 500)
        self._band = (place / place[-1] * bands).long().clamp(max=bands - 1)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        snr_db = self.draw(x, self.min_snr_db, self.max_snr_db, neutral=torch.inf)[:, None, None]
        cut_off = sent(torch.empty(len(x)).uniform_(self.min_hz, self.max_hz), x.device)[:, None, None]
        window, hop = torch.hann_window(self.n_fft, device=x.device).sqrt(), self.n_fft // 2
        spectrum = spectra(x, window, hop)
        band = sent(self._band, x.device)
        power = torch.view_as_real(spectrum).square().sum(-1)
        sums = power.new_zeros(*power.shape[:2], self.bands).index_add_(2, band, power)
        sizes = power.new_zeros(self.bands).index_add_(0, band, torch.ones_like(power[0, 0]))
        wanted = (sums / sizes.clamp(min=1)).index_select(2, band) * 10 ** (-snr_db / 10)
        # Steps s leave noise of s**2 / 12 in a part, of which windows that overlap by half keep a half.
        step = (12 * wanted).sqrt().clamp(min=1e-9)[..., None]
        rounded = torch.view_as_complex((torch.view_as_real(spectrum) / step).round_() * step)
        hz = torch.arange(len(band), device=x.device) * self.sample_rate / self.n_fft
        heard = overlapped(rounded * (hz < cut_off), window, hop, x.shape[1])
        heard = torch.where(snr_db[:, 0].isinf(), x, heard)
        return heard * frame_mask(lengths, x.shape[1]), lengths


def checked_fft(owner: Transform, n_fft: int) -> int:
    """`n_fft`, a multiple of 4 from 16 on; raises UserError where it is none."""
    if n_fft < 16 or n_fft % 4:
        raise UserError(f"{type(owner).__name__} has n_fft={n_fft}: give a multiple of 4 from 16 on.")
    return n_fft
