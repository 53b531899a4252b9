"""Pitch of one voice at a time, by YIN; batched and aware of lengths."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr, refuse_graph
from lightning_audio.frontend.mask import mask_frames

CHUNK = 2**19  # samples of frames worked on at once, some of its products are twice as large
FrameFunction = Callable[[Tensor], tuple[Tensor, ...]]


class Periodicity(nn.Module):
    """What front ends of pitch share: overlapping frames, and the difference d' of YIN over their periods.

    Frame k is centred at sample `k * hop_length`; what lies beyond the edges of a clip is zeros.

    Args:
        sample_rate: of the waveforms in Hz.
        f_min, f_max: lowest and highest pitch in Hz.
        frame_length: samples in a frame: two periods of `f_min` and more.
        hop_length: samples from one frame to the next.

    Raises:
        UserError: an option is out of its range.
    """

    def __init__(
        self, sample_rate: int, f_min: float, f_max: float, frame_length: int, hop_length: int
    ) -> None:
        super().__init__()
        if not 0 < f_min < f_max <= sample_rate / 2 or hop_length < 1:
            raise UserError(
                f"frontend.f_min={f_min} and f_max={f_max} have to rise, up to half the sample rate of "
                f"{sample_rate} Hz, and hop_length={hop_length} to be 1 or more: change them."
            )
        if frame_length < 2 * sample_rate / f_min:
            raise UserError(
                f"frontend.frame_length={frame_length} holds no two periods of f_min={f_min} Hz: raise it to "
                f"{math.ceil(2 * sample_rate / f_min)} or more."
            )
        self.sample_rate, self.f_min, self.f_max = sample_rate, f_min, f_max
        self.frame_length, self.hop_length = frame_length, hop_length
        self.shortest = math.floor(sample_rate / f_max)
        self.longest = min(math.ceil(sample_rate / f_min), frame_length - 1)

    def extra_repr(self) -> str:
        return options_repr(self)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return (lengths - self.frame_length % 2) // self.hop_length + 1

    def of_frames(self, waveforms: Tensor, function: FrameFunction, chunk: int) -> list[Tensor]:
        """What `function` makes of frames `(B, k, frame_length)`, `chunk` samples at once."""
        refuse_graph(self)
        edge = self.frame_length // 2
        with torch.autocast(waveforms.device.type, enabled=False):
            padded = functional.pad(waveforms.float(), (edge, edge))
            frames = padded.unfold(1, self.frame_length, self.hop_length)
            most = max(chunk // self.frame_length // len(frames), 1)
            parts = [function(part) for part in frames.split(most, dim=1)]
        return [torch.cat(part, 1) for part in zip(*parts, strict=True)]

    def normalized_difference(self, frames: Tensor) -> Tensor:
        """d' `(B, k, P)` of the periods from the shortest to the longest, of frames `(B, k, n)`."""
        spectrum = torch.fft.rfft(frames, 2 * self.frame_length)
        power = torch.view_as_real(spectrum).square().sum(-1)
        correlation = torch.fft.irfft(power)[..., : self.longest + 1]
        energy = frames.square().cumsum(-1)[..., : self.longest]
        difference = 2 * (correlation[..., :1] - correlation[..., 1:]) - energy
        lags = torch.arange(1, self.longest + 1, device=frames.device)
        mean = difference.cumsum(-1) / lags
        wanted = difference[..., self.shortest - 1 :], mean[..., self.shortest - 1 :]
        # In silence no period is better than another, and d' is 1 of all of them.
        return torch.where(wanted[1] == 0, 1.0, wanted[0] / (wanted[1] + torch.finfo(frames.dtype).tiny))

    def troughs(self, normalized: Tensor) -> tuple[Tensor, Tensor]:
        """Where d' `(B, k, P)` has its local minima, and by how much a parabola moves each period."""
        low, here, high = normalized[..., :-2], normalized[..., 1:-1], normalized[..., 2:]
        bend, slope = high + low - 2 * here, (high - low) / 2
        shift = torch.where(slope.abs() < bend.abs(), -slope / bend, 0.0)
        trough = functional.pad((here < low) & (here <= high), (1, 1))
        trough[..., 0] = normalized[..., 0] < normalized[..., 1]
        trough[..., -1] = normalized[..., -1] < normalized[..., -2]
        return trough, functional.pad(shift, (1, 1))


class Pitch(Periodicity):
    """Pitch and periodicity `(B, 2, T')`: semitones above `f_min`, and 1 - d', which is 1 for a pure period.

    Pitch is that of `librosa.yin` (de Cheveigne and Kawahara 2002). Where nothing is periodic YIN names some
    pitch all the same: the periodicity tells, which is 0 in silence.

    Args:
        sample_rate, f_min, f_max, frame_length, hop_length: as of `Periodicity`.
        threshold: a dip of d' below this is taken for the period.

    Raises:
        UserError: an option is out of its range.
    """

    shape = (1, 2)

    def __init__(
        self,
        sample_rate: int,
        f_min: float = 65.0,
        f_max: float = 2093.0,
        frame_length: int = 2048,
        hop_length: int = 512,
        threshold: float = 0.1,
    ) -> None:
        super().__init__(sample_rate, f_min, f_max, frame_length, hop_length)
        self.threshold = threshold

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frequency, aperiodicity = self.yin(waveforms)
        semitones = 12 * (frequency / self.f_min).log2()
        lengths = self.output_lengths(lengths)
        return mask_frames(torch.stack([semitones, 1 - aperiodicity], 1), lengths), lengths

    def yin(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Hz and d' at that period, both `(B, T')`, of waveforms `(B, T)`."""
        frequency, aperiodicity = self.of_frames(waveforms, self._yin, CHUNK)
        return frequency, aperiodicity

    def _yin(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        normalized = self.normalized_difference(frames)
        trough, shift = self.troughs(normalized)
        deep = trough & (normalized < self.threshold)
        place = torch.where(deep.any(-1), deep.int().argmax(-1), normalized.argmin(-1))[..., None]
        period = self.shortest + place + shift.gather(-1, place)
        return (self.sample_rate / period)[..., 0], normalized.gather(-1, place)[..., 0]
