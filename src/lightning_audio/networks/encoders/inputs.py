"""What the encoders of transformers are given: its feature extractors once more, batched, on the device."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.frontend.fourier import mel_powers
from lightning_audio.frontend.log_mel import mel_filters
from lightning_audio.frontend.mask import frame_mask, mask_frames, mean_over_time
from lightning_audio.networks.base import strided

RATE = 16000
WINDOW, HOP = 400, 160  # samples: 25 ms every 10 ms


def standardized(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Each waveform of `(B, T)` with mean 0 and variance 1, as Wav2Vec2FeatureExtractor; zeros behind it."""
    centred = mask_frames(waveforms - mean_over_time(waveforms, lengths)[:, None], lengths)
    variance = centred.square().sum(-1) / lengths
    return centred / (variance + 1e-7).sqrt()[:, None]


class WhisperLogMel(nn.Module):
    """log10 of Slaney's mel powers, 8 below the loudest at least, as WhisperFeatureExtractor.

    Waveforms `(B, T)` -> `(B, F, frames)` with a frame every 10 ms; not padded to 30 s.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        filters = mel_filters(RATE, WINDOW, n_mels, 0.0, RATE / 2, htk=False)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)` -> log-mel `(B, n_mels, T')` and lengths in frames; zeros behind each clip."""
        counts = strided(lengths, HOP)
        with torch.autocast(waveforms.device.type, enabled=False):
            # A reflection in front, as there; behind the clip are the zeros that fill it up there.
            x = functional.pad(waveforms.float(), (0, WINDOW))
            x = torch.cat([x[:, 1 : WINDOW // 2 + 1].flip(-1), x], dim=-1)
            total = strided(waveforms.shape[-1], HOP)
            if torch.jit.is_tracing():
                power = mel_powers(x, self.window, HOP, self.filters)[:, :total]
            else:
                frames = x.unfold(-1, WINDOW, HOP)[:, :total]
                power = torch.fft.rfft(frames * self.window).abs().square() @ self.filters
            log_mel = power.clamp(min=1e-10).log10().mT
            own = frame_mask(counts, log_mel.shape[-1])[:, None]
            loudest = log_mel.masked_fill(~own, -10.0).amax((-2, -1), keepdim=True)
            return mask_frames((log_mel.maximum(loudest - 8) + 4) / 4, counts), counts


def kaldi_fbank(waveforms: Tensor, n_mels: int, window: str, scale: float) -> Tensor:
    """`(B, T)` -> Kaldi's log-mel energies `(B, frames, F)`, of frames that lie within the waveforms."""
    options = {"num_mel_bins": n_mels, "window_type": window, "sample_frequency": float(RATE)}
    return torch.stack([torchaudio.compliance.kaldi.fbank(w[None] * scale, **options) for w in waveforms])


def seamless_fbank(waveforms: Tensor) -> Tensor:
    """`(B, T)` -> `(B, frames // 2, 160)`: two frames of 80 bands, standardised over time, for each state.

    As SeamlessM4TFeatureExtractor, which wav2vec2-BERT takes.
    """
    x = kaldi_fbank(waveforms, 80, "povey", 2.0**15)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-7).sqrt()
    return x[:, : x.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2)


def ast_fbank(waveforms: Tensor, n_mels: int, mean: float, std: float) -> Tensor:
    """`(B, T)` -> `(B, frames, F)`, as ASTFeatureExtractor but not padded to ten seconds."""
    return (kaldi_fbank(waveforms, n_mels, "hanning", 1.0) - mean) / (2 * std)
