"""Log-mel spectrograms that agree with librosa, batched and aware of lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr
from lightning_audio.frontend.fourier import mel_powers
from lightning_audio.frontend.mask import in_graph, mask_frames

AMIN = 1e-10  # power below which decibels are cut, as in librosa.power_to_db

CHUNK = 2**18  # samples of windowed frames worked on at once: 1 MB, which stay near the core

MOST_MELS, LARGEST_FILTERS = 2**13, 2**27  # bands; numbers in all filters together, half a gigabyte

BANDS = 16  # mel bands multiplied at once: few, so that most of the filters' zeros are left out


class LogMel(nn.Module):
    """Mel spectrogram in decibels: `librosa.feature.melspectrogram` then `librosa.power_to_db`, batched.

    Waveforms `(B, T)` become `(B, F, T')`, or `(B, C, F, T')` with several windows. Frame k is centred at
    sample `k * hop_length`; what lies beyond the edges of a clip is zeros. Odd transforms and rates are
    librosa's too.

    Args:
        sample_rate: rate of the waveforms in Hz.
        n_fft: samples in a Fourier transform.
        win_length: samples in a window, at most `n_fft`; several of them give that many channels, each a
            trade between resolution in time and in frequency.
        hop_length: samples from one frame to the next.
        n_mels: mel bands.
        f_min, f_max: edges of the lowest and highest band in Hz; f_max is half the rate by default.
        htk: HTK's mel scale without band normalisation, instead of Slaney's.
        top_db: values more than this below the loudest of a clip (in each channel) are raised to it. None
            keeps them all, and lets frames be computed before the clip has ended.
    """

    def __init__(
        self,
        sample_rate: int,
        n_fft: int = 1024,
        win_length: int | Sequence[int] | None = None,
        hop_length: int = 320,
        n_mels: int = 64,
        f_min: float = 0.0,
        f_max: float | None = None,
        htk: bool = False,
        top_db: float | None = 80.0,
    ) -> None:
        super().__init__()
        windows = [win_length or n_fft] if win_length is None or isinstance(win_length, int) else win_length
        if min(n_fft, hop_length, n_mels, *windows) < 1:
            raise UserError(
                "frontend.n_fft, win_length, hop_length and n_mels have to be 1 or more: raise them."
            )
        if n_mels > MOST_MELS or len(windows) * n_fft * n_mels > LARGEST_FILTERS:
            raise UserError(f"frontend.n_fft={n_fft} and frontend.n_mels={n_mels} are too many: lower them.")
        if max(windows) > n_fft:
            raise UserError(
                f"frontend.win_length={max(windows)} is longer than frontend.n_fft={n_fft}: lower it."
            )
        if (f_max or 0) > sample_rate / 2:
            raise UserError(
                f"frontend.f_max={f_max} Hz is above half the sample rate of {sample_rate} Hz: lower it to "
                f"{sample_rate / 2:g} or raise data.sample_rate."
            )
        self.sample_rate, self.n_fft, self.hop_length, self.top_db = sample_rate, n_fft, hop_length, top_db
        self.win_length, self.n_mels, self.f_min, self.f_max, self.htk = win_length, n_mels, f_min, f_max, htk
        self.shape = (len(windows), n_mels)
        self.spectrograms = nn.ModuleList(
            torchaudio.transforms.Spectrogram(n_fft, window, hop_length, power=2.0, center=False)
            for window in windows
        )
        scale, norm = ("htk", None) if htk else ("slaney", "slaney")
        self.mel = torchaudio.transforms.MelScale(
            n_mels, sample_rate, f_min, f_max, n_fft // 2 + 1, norm=norm, mel_scale=scale
        )
        # torchaudio places the bins as if there were an even number of samples in a frame and in a second.
        self.mel.fb = mel_filters(sample_rate, n_fft, n_mels, f_min, f_max or sample_rate / 2, htk)
        self._bands = [slice(first, first + BANDS) for first in range(0, n_mels, BANDS)]
        self._find_bins()
        # A checkpoint brings its own filters.
        self.register_load_state_dict_post_hook(lambda module, _: module._find_bins())

    def use_filters(self, filters: Tensor) -> None:
        """Weighs the bins by `filters` `(n_fft // 2 + 1, F)` instead of by mel bands."""
        self.mel.fb = filters
        self._bands = [slice(first, first + BANDS) for first in range(0, filters.shape[1], BANDS)]
        self._find_bins()

    def _find_bins(self) -> None:
        self._bins = [_extent(self.mel.fb[:, bands]) for bands in self._bands]

    def extra_repr(self) -> str:
        return options_repr(self)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return (lengths - self.n_fft % 2) // self.hop_length + 1

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms `(B, n)` with lengths in samples -> decibels as of `frames`, with lengths in frames."""
        lengths, floor = self.output_lengths(lengths), 10 * math.log10(AMIN)
        # Zeros beyond the edges, not a reflection: what lies behind a clip in a padded batch is zeros too.
        # Not len(waveforms), which would be the same number for all batches of a graph.
        edge = waveforms.new_zeros(waveforms.shape[0], self.n_fft // 2)
        decibels = self.frames(torch.cat([edge, waveforms, edge], dim=1))
        decibels = mask_frames(decibels - floor, lengths) + floor
        if self.top_db is not None:
            decibels = decibels.maximum(decibels.amax((-2, -1), keepdim=True) - self.top_db)
        return decibels, lengths

    def frames(self, waveforms: Tensor) -> Tensor:
        """Decibels `(B, F, k)` or `(B, C, F, k)` of the frames that lie wholly within waveforms `(B, n)`.

        There are `(n - n_fft) // hop_length + 1` of them, n being at least `n_fft`; `top_db` is left out.
        """
        with torch.autocast(waveforms.device.type, enabled=False):
            return 10 * self.powers(waveforms).clamp(min=AMIN).log10()

    def powers(self, waveforms: Tensor) -> Tensor:
        """The same before the logarithm."""
        # Powers span more than half precision holds.
        with torch.autocast(waveforms.device.type, enabled=False):
            mel = self._by_torchaudio
            if torch.jit.is_tracing():
                mel = self._by_products
            elif waveforms.device.type == "cpu" and not in_graph():
                mel = self._in_chunks
            channels = [mel(waveforms.float(), spectrogram) for spectrogram in self.spectrograms]
            return channels[0] if len(channels) == 1 else torch.stack(channels, dim=1)

    def _by_torchaudio(self, waveforms: Tensor, spectrogram: nn.Module) -> Tensor:
        """Mel powers `(B, F, k)`."""
        return self.mel(spectrogram(waveforms))

    def _by_products(self, waveforms: Tensor, spectrogram: nn.Module) -> Tensor:
        """The same in a graph for other runtimes."""
        return mel_powers(waveforms, self._window(spectrogram), self.hop_length, self.mel.fb).transpose(
            -1, -2
        )

    def _window(self, spectrogram: nn.Module) -> Tensor:
        """`(n_fft,)`, with zeros around a shorter one."""
        short = cast(Tensor, spectrogram.window)
        before = (self.n_fft - len(short)) // 2
        return functional.pad(short, (before, self.n_fft - len(short) - before))

    def _in_chunks(self, waveforms: Tensor, spectrogram: nn.Module) -> Tensor:
        """The same, so few frames at a time that what lies between the steps stays in the cache."""
        frames, window = waveforms.unfold(-1, self.n_fft, self.hop_length), self._window(spectrogram)
        most = max(CHUNK // self.n_fft, 1)
        doubled = self.mel.fb.repeat_interleave(2, dim=0)
        filters = [doubled[bins, bands] for bins, bands in zip(self._bins, self._bands, strict=True)]
        chunks = [
            torch.cat([self._mel_powers(part * window, filters) for part in clips.split(most, dim=1)], dim=1)
            for clips in frames.split(max(most // frames.shape[1], 1))
        ]
        return torch.cat(chunks).transpose(-1, -2)

    def _mel_powers(self, frames: Tensor, filters: Sequence[Tensor]) -> Tensor:
        """`(B, k, F)` of windowed frames `(B, k, n_fft)`; each row of the filters stands twice."""
        # Real and imaginary parts by turns: the product adds their squares faster than a step of its own.
        squares = torch.view_as_real(torch.fft.rfft(frames)).square().flatten(-2)
        bands = zip(self._bins, filters, strict=True)
        return torch.cat([squares[..., bins] @ weights for bins, weights in bands], dim=-1)


def mel_filters(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float, htk: bool) -> Tensor:
    """`(n_fft // 2 + 1, n_mels)`: triangles between edges evenly spaced in mel, as `librosa.filters.mel`."""
    lowest, highest = mel_of_hz(torch.tensor([f_min, f_max], dtype=torch.float64), htk).tolist()
    edges = hz_of_mel(torch.linspace(lowest, highest, n_mels + 2, dtype=torch.float64), htk)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / n_fft
    widths = edges.diff()
    rising, falling = (bins - edges[:-2]) / widths[:-1], (edges[2:] - bins) / widths[1:]
    filters = torch.minimum(rising, falling).clamp(min=0)
    return (filters if htk else filters * 2 / (edges[2:] - edges[:-2])).float()


# Slaney's Auditory Toolbox (1998): linear up to 1000 Hz, which is mel 15; above, 27 steps a factor of 6.4.


def mel_of_hz(frequency: Tensor, htk: bool) -> Tensor:
    """Frequencies in Hz on the mel scale, HTK's or Slaney's."""
    if htk:
        return 2595 * (1 + frequency / 700).log10()
    above = 15 + (frequency / 1000).clamp(min=1).log() * 27 / math.log(6.4)
    return torch.where(frequency < 1000, frequency * 3 / 200, above)


def hz_of_mel(mel: Tensor, htk: bool) -> Tensor:
    """The other way round."""
    if htk:
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _extent(filters: Tensor) -> slice:
    """Parts of bins, two each, from the first to the last bin that any of the filters `(bins, F)` hears."""
    heard = filters.any(dim=1).nonzero().flatten().tolist() or [0]
    return slice(2 * heard[0], 2 * heard[-1] + 2)
