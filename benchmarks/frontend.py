"""Log-mel of 5-s clips: LogMel and torchaudio on the batch at once, and one clip after another."""

from __future__ import annotations

import time
from typing import Any

import librosa
import numpy as np
import torch
import torchaudio
from timing import arguments, interleaved, report
from torch import Tensor, nn

from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.training.run import keep_freed_memory

SECONDS = 5
# By sample rate in Hz: that of the experiments on ESC-10, and that of many large models of everyday sounds.
SIZES: dict[int, dict[str, Any]] = {
    22050: {"n_fft": 1024, "hop_length": 441, "n_mels": 64},
    32000: {"n_fft": 1024, "hop_length": 320, "n_mels": 128},
}


def torchaudio_log_mel(sample_rate: int) -> nn.Sequential:
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate, **SIZES[sample_rate], pad_mode="constant", norm="slaney", mel_scale="slaney"
    )
    return nn.Sequential(mel, torchaudio.transforms.AmplitudeToDB("power", top_db=80))


def per_clip_librosa(waveforms: np.ndarray, sample_rate: int) -> Tensor:
    mels = (
        librosa.feature.melspectrogram(y=waveform, sr=sample_rate, **SIZES[sample_rate])
        for waveform in waveforms
    )
    return torch.from_numpy(np.stack([librosa.power_to_db(mel) for mel in mels]))


def rest() -> None:
    """Until the threads of the one before sleep: NumPy's, which librosa wakes, wait busily for more work, and
    would take a core away from the next.
    """
    time.sleep(0.2)


def compare(sample_rate: int, clips: int, repeats: int) -> None:
    """Checks that all ways give the same values, then times them."""
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(clips, SECONDS * sample_rate, generator=generator)
    lengths, arrays = torch.full((clips,), waveforms.shape[1]), waveforms.numpy()
    frontend, per_clip = LogMel(sample_rate, **SIZES[sample_rate]), torchaudio_log_mel(sample_rate)
    contenders = {
        "LogMel, the batch at once": lambda: frontend(waveforms, lengths)[0],
        "torchaudio, the batch at once": lambda: per_clip(waveforms),
        "torchaudio, clip by clip": lambda: torch.stack([per_clip(waveform) for waveform in waveforms]),
        "librosa, clip by clip": lambda: per_clip_librosa(arrays, sample_rate),
    }
    batched, *others = (work() for work in contenders.values())
    for other in others:
        torch.testing.assert_close(other, batched, rtol=1e-4, atol=1e-3)
    n_fft, hop_length, n_mels = SIZES[sample_rate].values()
    title = f"Log-mel at {sample_rate} Hz, n_fft {n_fft}, hop {hop_length}, {n_mels} bands"
    seconds = interleaved(contenders, repeats, before_each=rest)
    report(title, seconds, clips, {"torchaudio, the batch at once": ">= 1.5"})


def main() -> None:
    options = arguments(__doc__ or "", repeats=15)
    keep_freed_memory()  # as every run does
    for number, sample_rate in enumerate(SIZES):
        print(end="\n" if number else "")
        compare(sample_rate, 8 if options.quick else 32, options.repeats)


if __name__ == "__main__":
    main()
