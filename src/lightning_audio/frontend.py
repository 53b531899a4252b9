"""From waveforms to features: modules on the device, batched, aware of lengths.

Every front end is `forward(waveforms (B, T), lengths (B,)) -> (features, lengths in frames)` with features
`(B, F, T)`, or `(B, C, F, T)` where it has several channels. `shape` is `(channels, features per frame)`, and
`output_lengths` tells the frames of so many samples.
A clip's frames do not depend on what else is in its batch.

A front end that can run on a stream says how many samples a frame takes (`n_fft`) and how many it is from one
to the next (`hop_length`), and computes `frames`; its `top_db` is None where it does not need the whole clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError

AMIN = 1e-10  # power below which decibels are cut, as in librosa.power_to_db
CHUNK = 2**19  # samples of windowed frames worked on at once: 2 MB, which stay near the core
MOST_MELS, LARGEST_FILTERS = 2**13, 2**27  # bands; numbers in all filters together, half a gigabyte
NORMALIZERS = ("corpus", "bin", "clip", "clip_bin", "none")
BANDS = 32  # mel bands multiplied at once: few, so that most of the filters' zeros are left out


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """`(B, frames)`, True where a frame lies within its clip."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def mask_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Zeros behind the end of every clip, `x` itself where there is nothing behind; `x` is `(B, ..., T)`."""
    # On a GPU the question would have to wait for the device, and a graph has one answer for all batches.
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and int(lengths.min()) >= x.shape[-1]:
        return x
    mask = frame_mask(lengths, x.shape[-1]).to(x.dtype)
    return x * mask.view(len(x), *[1] * (x.dim() - 2), x.shape[-1])


class Waveform(nn.Module):
    """The samples themselves, as `(B, 1, T)`: for networks that learn their own front end."""

    shape = (1, 1)

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return lengths

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waveforms[:, None], lengths


class LogMel(nn.Module):
    """Mel spectrogram in decibels: `librosa.feature.melspectrogram` then `librosa.power_to_db`, batched.

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
        self.shape = (len(windows), n_mels)
        self.spectrograms = nn.ModuleList(
            torchaudio.transforms.Spectrogram(n_fft, window, hop_length, power=2.0, center=False)
            for window in windows
        )
        scale, norm = ("htk", None) if htk else ("slaney", "slaney")
        self.mel = torchaudio.transforms.MelScale(
            n_mels, sample_rate, f_min, f_max, n_fft // 2 + 1, norm=norm, mel_scale=scale
        )
        self._bands = [slice(first, first + BANDS) for first in range(0, n_mels, BANDS)]
        self._bins = [_extent(self.mel.fb[:, bands]) for bands in self._bands]

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return lengths // self.hop_length + 1

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        lengths, floor = self.output_lengths(lengths), 10 * math.log10(AMIN)
        # Zeros beyond the edges, not a reflection: what lies behind a clip in a padded batch is zeros too.
        decibels = self.frames(functional.pad(waveforms, (self.n_fft // 2, self.n_fft - self.n_fft // 2)))
        decibels = mask_frames(decibels - floor, lengths) + floor
        if self.top_db is not None:
            decibels = decibels.maximum(decibels.amax((-2, -1), keepdim=True) - self.top_db)
        return decibels, lengths

    def frames(self, waveforms: Tensor) -> Tensor:
        """Decibels `(B, F, k)` or `(B, C, F, k)` of the frames that lie wholly within waveforms `(B, n)`.

        There are `(n - n_fft) // hop_length + 1` of them, n being at least `n_fft`; `top_db` is left out.
        """
        # Powers span more than half precision holds.
        with torch.autocast(waveforms.device.type, enabled=False):
            chunked = waveforms.device.type == "cpu" and not torch.compiler.is_compiling()
            mel = self._in_chunks if chunked else self._by_torchaudio
            channels = [mel(waveforms.float(), spectrogram) for spectrogram in self.spectrograms]
            power = channels[0] if len(channels) == 1 else torch.stack(channels, dim=1)
            return 10 * power.clamp(min=AMIN).log10()

    def _by_torchaudio(self, waveforms: Tensor, spectrogram: nn.Module) -> Tensor:
        """Mel powers `(B, F, k)`."""
        return self.mel(spectrogram(waveforms))

    def _in_chunks(self, waveforms: Tensor, spectrogram: nn.Module) -> Tensor:
        """The same, so few frames at a time that what lies between the steps stays in the cache."""
        frames = waveforms.unfold(-1, self.n_fft, self.hop_length)
        short = cast(Tensor, spectrogram.window)
        before = (self.n_fft - len(short)) // 2
        window = functional.pad(short, (before, self.n_fft - len(short) - before))
        most = max(CHUNK // self.n_fft, 1)
        chunks = [
            torch.cat([self._mel_powers(part * window) for part in clips.split(most, dim=1)], dim=1)
            for clips in frames.split(max(most // frames.shape[1], 1))
        ]
        return torch.cat(chunks).transpose(-1, -2)

    def _mel_powers(self, frames: Tensor) -> Tensor:
        """`(B, k, F)` of windowed frames `(B, k, n_fft)`."""
        real, imaginary = torch.view_as_real(torch.fft.rfft(frames)).unbind(-1)
        power = real.square().addcmul_(imaginary, imaginary)
        spans = zip(self._bins, self._bands, strict=True)
        return torch.cat([power[..., bins] @ self.mel.fb[bins, bands] for bins, bands in spans], dim=-1)


def _extent(filters: Tensor) -> slice:
    """The bins from the first to the last that any of the filters `(bins, F)` hears."""
    heard = filters.any(dim=1).nonzero().flatten().tolist() or [0]
    return slice(heard[0], heard[-1] + 1)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: the orthonormal DCT-II of `LogMel`, as `librosa.feature.mfcc`.

    Args:
        n_mfcc: coefficients that are kept.
        log_mel: what `LogMel` takes, with one window.
    """

    dct: Tensor

    def __init__(self, sample_rate: int, n_mfcc: int = 40, **log_mel: object) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate, **log_mel)  # type: ignore[arg-type]
        channels, n_mels = self.log_mel.shape
        if channels > 1 or n_mfcc > n_mels:
            raise UserError(
                f"MFCC wants one window and n_mfcc <= n_mels, not n_mfcc={n_mfcc}, n_mels={n_mels}."
            )
        self.sample_rate, self.shape = sample_rate, (1, n_mfcc)
        self.n_fft, self.hop_length = self.log_mel.n_fft, self.log_mel.hop_length
        self.top_db = self.log_mel.top_db
        dct = torchaudio.functional.create_dct(n_mfcc, n_mels, norm="ortho")
        self.register_buffer("dct", dct.T.contiguous(), persistent=False)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return self.log_mel.output_lengths(lengths)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        decibels, lengths = self.log_mel(waveforms, lengths)
        return self._cepstrum(decibels), lengths

    def frames(self, waveforms: Tensor) -> Tensor:
        """Coefficients `(B, F, k)` of the frames that lie wholly within `(B, n)`, as `LogMel.frames`."""
        return self._cepstrum(self.log_mel.frames(waveforms))

    def _cepstrum(self, decibels: Tensor) -> Tensor:
        with torch.autocast(decibels.device.type, enabled=False):
            return self.dct @ decibels


class Normalize(nn.Module):
    """Takes features to mean 0 and deviation 1, and to 0 behind the end of every clip.

    Args:
        shape: `(channels, features per frame)` of the front end.
        by: `corpus`: one mean and deviation for each channel, over the training clips; `bin`: one for each
            feature; `clip`: every clip by its own; `clip_bin`: the same, but each feature from its own mean,
            which takes away how a microphone and a room colour (for speech: CMN by utterance); `none`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int], by: str = "corpus") -> None:
        super().__init__()
        if by not in NORMALIZERS:
            raise UserError(f"normalize.by={by} is unknown: set it to one of {', '.join(NORMALIZERS)}.")
        self.by, self.per_clip = by, by.startswith("clip")
        sizes = (shape[0], shape[1] if by == "bin" else 1, 1)
        self.register_buffer("mean", torch.zeros(sizes if shape[0] > 1 else sizes[1:]))
        self.register_buffer("std", torch.ones_like(self.mean))

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Mean and deviation of `(features, lengths)` batches, counting only frames within their clips."""
        if self.by not in ("corpus", "bin"):
            return
        over = [0, -1] if self.by == "bin" else [0, -2, -1]
        count, total, squares = (
            0.0,
            torch.zeros_like(self.mean).double(),
            torch.zeros_like(self.mean).double(),
        )
        for features, lengths in batches:
            x = mask_frames(features, lengths).double()
            count += float(lengths.sum()) * (1 if self.by == "bin" else x.shape[-2])
            total += x.sum(over).view_as(total)
            squares += x.square().sum(over).view_as(total)
        mean = total / count
        self.mean.copy_(mean)
        # A band that never changes (a silent one) keeps its scale instead of being blown up.
        self.std.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.by == "none":
            return mask_frames(features, lengths), lengths
        mean, std = self.mean, self.std
        if self.per_clip:
            mean, std = clip_statistics(features, lengths, by_bin=self.by == "clip_bin")
        return mask_frames((features - mean) / std, lengths), lengths


def clip_statistics(features: Tensor, lengths: Tensor, by_bin: bool = False) -> tuple[Tensor, Tensor]:
    """Mean of every clip (and channel, and bin) over its own frames, and one deviation from it for the clip
    (and channel), shaped to broadcast.

    A deviation for each bin would blow up the noise of bins in which a clip has nothing else.
    """
    frames, bins = lengths.view(-1, *[1] * (features.dim() - 1)), features.shape[-2]
    over, count = ((-1,), frames) if by_bin else ((-2, -1), frames * bins)
    mean = mask_frames(features, lengths).sum(over, keepdim=True) / count
    squares = mask_frames(features - mean, lengths).square().sum((-2, -1), keepdim=True)
    return mean, (squares / (frames * bins)).clamp(min=1e-8).sqrt()


FrontEnd = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def shape_of(frontend: nn.Module) -> tuple[int, int]:
    """`(channels, features per frame)` of a front end."""
    return cast(tuple[int, int], frontend.shape)
