"""Mel-frequency cepstral coefficients."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr
from lightning_audio.frontend.log_mel import LogMel


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
        self.sample_rate, self.n_mfcc, self.shape = sample_rate, n_mfcc, (1, n_mfcc)
        self.n_fft, self.hop_length = self.log_mel.n_fft, self.log_mel.hop_length
        self.top_db = self.log_mel.top_db
        dct = torchaudio.functional.create_dct(n_mfcc, n_mels, norm="ortho")
        self.register_buffer("dct", dct.T.contiguous(), persistent=False)

    def extra_repr(self) -> str:
        return options_repr(self)

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
