"""Front ends for music: constant-Q and variable-Q transforms, chroma; batched and aware of lengths.

The values are librosa's. Its constant-Q transform goes down octave by octave, halving the rate; here it is
one Fourier transform of a whole clip, of which each filter takes its own bins.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import fast_size, options_repr, refuse_graph
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.frontend.mask import mask_frames

AMIN = 1e-5  # amplitude below which decibels are cut, as in librosa.amplitude_to_db
LOBES = 16  # side lobes of a filter to each side that count: what lies beyond is 80 dB below its top
HANN_BANDWIDTH = 1.50018310546875  # in bins, as librosa takes it for a Hann window
KEPT = 8  # lengths of padded batches whose filters are remembered
CHROMA = ("stft", "cqt")


class CQT(nn.Module):
    """Constant-Q transform in decibels: `abs(librosa.cqt)`, with `gamma` `abs(librosa.vqt)`, in dB, batched.

    Waveforms `(B, T)` become `(B, n_bins, T')`; bin n is at `f_min * 2 ** (n / bins_per_octave)`, frame k at
    sample `k * hop_length`. What lies beyond the edges of a clip is zeros. The filters are Hann windows of Q
    periods (Brown 1991; Schoerkhuber and Klapuri 2010).

    Args:
        sample_rate: of the waveforms in Hz.
        hop_length: samples from one frame to the next.
        f_min: frequency of the lowest bin in Hz; 32.7 is C1.
        n_bins, bins_per_octave: how many bins there are.
        gamma: Hz by which every filter is wider than constant-Q has it, so that low ones are shorter; null is
            the width that ears have (Schoerkhuber et al. 2014).
        filter_scale: below 1 filters are shorter, finer in time and coarser in frequency.
        top_db: values more than this below the loudest of a clip are raised to it; null keeps all.

    Raises:
        UserError: an option is out of its range, or the highest filter reaches above half the rate.
    """

    def __init__(
        self,
        sample_rate: int,
        hop_length: int = 512,
        f_min: float = 32.70319566257483,
        n_bins: int = 84,
        bins_per_octave: int = 12,
        gamma: float | None = 0.0,
        filter_scale: float = 1.0,
        top_db: float | None = 80.0,
    ) -> None:
        super().__init__()
        if min(hop_length, n_bins, bins_per_octave) < 1 or min(f_min, filter_scale) <= 0:
            raise UserError(
                "frontend.hop_length, n_bins and bins_per_octave have to be 1 or more, f_min and "
                "filter_scale above 0: raise them."
            )
        self.sample_rate, self.hop_length, self.f_min = sample_rate, hop_length, f_min
        self.n_bins, self.bins_per_octave, self.gamma = n_bins, bins_per_octave, gamma
        self.filter_scale, self.top_db = filter_scale, top_db
        self.shape = (1, n_bins)
        ratio = 2 ** (2 / bins_per_octave)
        alpha = (ratio - 1) / (ratio + 1)
        widening = alpha * 24.7 / 0.108 if gamma is None else gamma
        self.frequencies = f_min * 2 ** (np.arange(n_bins) / bins_per_octave)
        reach = self.frequencies * (1 + 0.5 * HANN_BANDWIDTH * alpha / filter_scale) + 0.5 * widening
        if reach[-1] > sample_rate / 2:
            raise UserError(
                f"frontend.n_bins={n_bins} reach {reach[-1]:.0f} Hz, above half the sample rate of "
                f"{sample_rate} Hz: lower n_bins or f_min, or raise data.sample_rate."
            )
        # Of the filters, in samples, not rounded; then rounded as librosa does at the rate of their octave.
        self.lengths = filter_scale / alpha * sample_rate / (self.frequencies + widening / alpha)
        self._halvings = self._halved(float(reach[-1]))
        halves = self.lengths / 2.0**self._halvings / 2
        self._sizes = np.floor(halves) + np.ceil(halves)
        self._filters: dict[int, list[tuple[int, Tensor]]] = {}

    def extra_repr(self) -> str:
        return options_repr(self)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return lengths // self.hop_length + 1

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        lengths, floor = self.output_lengths(lengths), 20 * math.log10(AMIN)
        decibels = 20 * self.amplitudes(waveforms).clamp(min=AMIN).log10()
        decibels = mask_frames(decibels - floor, lengths) + floor
        if self.top_db is not None:
            decibels = decibels.maximum(decibels.amax((-2, -1), keepdim=True) - self.top_db)
        return decibels, lengths

    def amplitudes(self, waveforms: Tensor) -> Tensor:
        """`(B, n_bins, T // hop_length + 1)`: the magnitudes of `librosa.cqt`."""
        refuse_graph(self)
        with torch.autocast(waveforms.device.type, enabled=False):
            frames = waveforms.shape[1] // self.hop_length + 1
            # Silence behind the longest clip, so that the circle of the transform does not close.
            reach = waveforms.shape[1] + int(self.lengths.max()) // 2 + 1
            count = fast_size(-(-reach // self.hop_length))
            spectrum = torch.fft.rfft(waveforms.float(), count * self.hop_length)
            bands = [self._band(spectrum, count, *one) for one in self._filters_of(count, spectrum.device)]
            return torch.fft.ifft(torch.stack(bands, 1))[..., :frames].abs()

    def _band(self, spectrum: Tensor, count: int, first: int, weights: Tensor) -> Tensor:
        """`(B, count)`: the spectrum of what a filter gives at each hop, which folds its bins by `count`."""
        part = spectrum[:, first : first + len(weights)] * weights
        before = first % count
        part = functional.pad(part, (before, -(before + len(weights)) % count))
        return part.view(len(part), -1, count).sum(1)

    def _filters_of(self, count: int, device: torch.device) -> list[tuple[int, Tensor]]:
        """For each filter its first bin and its weights, for clips of `count` hops."""
        if count not in self._filters:
            while len(self._filters) >= KEPT:
                self._filters.pop(next(iter(self._filters)))
            self._filters[count] = [self._filter(n, count * self.hop_length) for n in range(self.n_bins)]
        if self._filters[count][0][1].device != device:
            self._filters[count] = [(first, weights.to(device)) for first, weights in self._filters[count]]
        return self._filters[count]

    def _filter(self, number: int, samples: int) -> tuple[int, Tensor]:
        size, rate = self._sizes[number], self.sample_rate / 2.0 ** self._halvings[number]
        centre = self.frequencies[number] / self.sample_rate * samples
        reach = (LOBES + 1) / size * rate / self.sample_rate * samples
        first, last = max(math.floor(centre - reach), 0), min(math.ceil(centre + reach), samples // 2)
        turn = 2 * np.pi * (np.arange(first, last + 1) - centre) / samples * 2.0 ** self._halvings[number]
        weights = hann_spectrum(turn, size) * math.sqrt(self.lengths[number]) / self.hop_length
        return first, torch.from_numpy(weights.astype(np.float32))

    def _halved(self, highest: float) -> np.ndarray:
        """How often librosa halves the rate before it filters, of each bin."""
        octaves = math.ceil(self.n_bins / self.bins_per_octave)
        twos = (self.hop_length & -self.hop_length).bit_length() - 1
        spare = math.ceil(math.log2(self.sample_rate / 2 / highest)) - 2
        early = min(max(spare, 0), max(twos - octaves + 1, 0))
        octave = (self.n_bins - 1 - np.arange(self.n_bins)) // self.bins_per_octave
        return early + np.minimum(octave, twos - early)


def hann_spectrum(turn: np.ndarray, size: float) -> np.ndarray:
    """The spectrum of a periodic Hann window of `size` samples around its centre, 1 at its top.

    `turn` are radians a sample.
    """

    def dirichlet(x: np.ndarray) -> np.ndarray:
        small = np.abs(np.sin(x / 2)) < 1e-9
        return np.where(small, size, np.sin(size * x / 2) / np.where(small, 1.0, np.sin(x / 2)))

    step, half = 2 * np.pi / size, np.exp(1j * np.pi / size)
    sides = dirichlet(turn - step) / half + dirichlet(turn + step) * half
    # The centre of a periodic window is half a sample behind that of its samples: from there it is real.
    return np.real(np.exp(0.5j * turn) * (0.5 * dirichlet(turn) + 0.25 * sides)) / (0.5 * size)


class Chroma(nn.Module):
    """Strength of the twelve pitch classes, C first, the loudest of each frame at 1: `(B, n_chroma, T')`.

    `stft`: `librosa.feature.chroma_stft` without tuning; `cqt`: `librosa.feature.chroma_cqt` without tuning.

    Args:
        sample_rate: of the waveforms in Hz.
        kind: `stft`, or `cqt`, which tells low notes apart.
        hop_length: samples from one frame to the next.
        n_chroma: pitch classes in an octave.
        n_fft: of `stft`, samples in a Fourier transform.
        f_min, octaves, bins_per_octave: of `cqt`, its lowest frequency in Hz and its bins.

    Raises:
        UserError: an option is out of its range.
    """

    classes: Tensor

    def __init__(
        self,
        sample_rate: int,
        kind: str = "cqt",
        hop_length: int = 512,
        n_chroma: int = 12,
        n_fft: int = 2048,
        f_min: float = 32.70319566257483,
        octaves: int = 7,
        bins_per_octave: int = 36,
    ) -> None:
        super().__init__()
        if kind not in CHROMA:
            raise UserError(f"frontend.kind={kind} is unknown: set it to one of {', '.join(CHROMA)}.")
        if n_chroma < 1 or octaves < 1 or bins_per_octave % n_chroma:
            raise UserError(
                f"frontend.n_chroma={n_chroma} and octaves={octaves} have to be 1 or more, and "
                f"bins_per_octave={bins_per_octave} a multiple of n_chroma: change them."
            )
        from librosa import filters  # takes a second

        self.sample_rate, self.kind, self.hop_length, self.n_chroma = sample_rate, kind, hop_length, n_chroma
        self.n_fft, self.f_min, self.octaves, self.bins_per_octave = n_fft, f_min, octaves, bins_per_octave
        self.shape = (1, n_chroma)
        self.transform: nn.Module
        if kind == "stft":
            classes = filters.chroma(sr=sample_rate, n_fft=n_fft, n_chroma=n_chroma)
            self.transform = LogMel(sample_rate, n_fft, None, hop_length, top_db=None)
            self.transform.use_filters(torch.from_numpy(classes.T.copy()))
        else:
            bins = octaves * bins_per_octave
            self.transform = CQT(sample_rate, hop_length, f_min, bins, bins_per_octave)
            classes = filters.cq_to_chroma(
                bins, bins_per_octave=bins_per_octave, n_chroma=n_chroma, fmin=f_min
            )
            self.register_buffer("classes", torch.from_numpy(classes).float(), persistent=False)

    def extra_repr(self) -> str:
        return options_repr(self)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return self.transform.output_lengths(lengths)  # type: ignore[operator]

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)` with lengths in samples -> strength of each pitch class `(B, n_chroma, T')`, at most 1."""
        with torch.autocast(waveforms.device.type, enabled=False):
            if isinstance(self.transform, CQT):
                strength = self.classes @ self.transform.amplitudes(waveforms)
            else:
                assert isinstance(self.transform, LogMel)
                edge = self.n_fft // 2
                strength = self.transform.powers(functional.pad(waveforms, (edge, edge)))
        loudest = strength.amax(1, keepdim=True)
        strength = strength / loudest.where(loudest > torch.finfo(loudest.dtype).tiny, 1.0)
        lengths = self.output_lengths(lengths)
        return mask_frames(strength, lengths), lengths
