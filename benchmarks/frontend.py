"""Log-mel of 5-s clips: LogMel and torchaudio on the batch at once, and one clip after another."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import torch
import torchaudio
from timing import arguments, interleaved, report
from torch import Tensor, nn

from lightning_audio.frontend import LogMel

SAMPLE_RATE, SECONDS = 22050, 5
SIZES: dict[str, Any] = {"n_fft": 1024, "hop_length": 441, "n_mels": 64}


def torchaudio_log_mel() -> nn.Sequential:
    mel = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, **SIZES, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )
    return nn.Sequential(mel, torchaudio.transforms.AmplitudeToDB("power", top_db=80))


def per_clip_librosa(waveforms: np.ndarray) -> Tensor:
    mels = (librosa.feature.melspectrogram(y=waveform, sr=SAMPLE_RATE, **SIZES) for waveform in waveforms)
    return torch.from_numpy(np.stack([librosa.power_to_db(mel) for mel in mels]))


def main() -> None:
    options = arguments(__doc__ or "", repeats=15)
    clips = 8 if options.quick else 32
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(clips, SECONDS * SAMPLE_RATE, generator=generator)
    lengths, arrays = torch.full((clips,), waveforms.shape[1]), waveforms.numpy()
    frontend, per_clip = LogMel(SAMPLE_RATE, **SIZES), torchaudio_log_mel()
    contenders = {
        "LogMel, the batch at once": lambda: frontend(waveforms, lengths)[0],
        "torchaudio, the batch at once": lambda: per_clip(waveforms),
        "torchaudio, clip by clip": lambda: torch.stack([per_clip(waveform) for waveform in waveforms]),
        "librosa, clip by clip": lambda: per_clip_librosa(arrays),
    }
    batched, *others = (work() for work in contenders.values())
    for other in others:
        torch.testing.assert_close(other, batched, rtol=1e-4, atol=1e-3)
    report("Log-mel, 64 bands", interleaved(contenders, options.repeats), clips)


if __name__ == "__main__":
    main()
