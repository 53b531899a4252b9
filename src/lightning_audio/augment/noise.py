"""Background noise at a random signal-to-noise ratio or amplitude: made here, or out of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_audio.augment.base import Transform, check_range, random_below
from lightning_audio.data.batch import samples_to_float, sent
from lightning_audio.data.decode import audio_files, decode
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask

# The power spectrum falls as 1 / frequency ** exponent.
EXPONENTS = {"white": 0, "pink": 1, "brown": 2}


class BackgroundNoise(Transform):
    """Adds noise to each clip at a signal-to-noise ratio drawn in dB, exact by mean power over the clip.

    The noise has a `colour` (white, pink, brown), or it is a random stretch of a random recording under
    `folder` (one or several), repeated where it is short. A recording is decoded when it is first drawn, to
    `sample_rate`, and stays in memory; only its first `share` is used, so that what lies behind can be kept
    for validation and test. Silent clips stay silent, and silent noise adds nothing.

    Raises:
        UserError: colour and folder are both given or both left out, the colour is unknown, the folder holds
            no audio, share is not in 0..1, or a recording cannot be read once it is drawn.
    """

    def __init__(
        self,
        min_snr_db: float,
        max_snr_db: float,
        p: float = 1.0,
        colour: str | None = None,
        folder: str | Sequence[str] | None = None,
        sample_rate: int | None = None,
        share: float = 1.0,
    ) -> None:
        super().__init__(p)
        check_range(self, "_snr_db", min_snr_db, max_snr_db)
        check_share(self, share)
        if (colour is None) == (folder is None):
            raise UserError("BackgroundNoise takes its noise from one source: give either colour or folder.")
        if colour is not None and colour not in EXPONENTS:
            raise UserError(f"BackgroundNoise knows no colour {colour!r}: use one of {', '.join(EXPONENTS)}.")
        if folder is not None and sample_rate is None:
            raise UserError("BackgroundNoise with a folder needs sample_rate: give that of the clips.")
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self.colour, self.folder, self.sample_rate, self.share = colour, folder, sample_rate, share
        self.recordings = [] if folder is None else audio_files(listed(folder))

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        snr_db = self.draw(x, self.min_snr_db, self.max_snr_db, neutral=torch.inf)
        noise = self._noise(x) * frame_mask(lengths, x.shape[1])
        signal_power, noise_power = x.square().sum(1), noise.square().sum(1)
        wanted_power = signal_power * 10 ** (-snr_db / 10)
        gain = (wanted_power / noise_power).sqrt().where(noise_power > 0, 0.0)
        return torch.addcmul(x, noise, gain[:, None]), lengths

    def _noise(self, x: Tensor) -> Tensor:
        if self.colour is not None:
            return coloured_noise(x, EXPONENTS[self.colour])
        assert self.sample_rate is not None
        return recorded_noise(x, self.recordings, self.sample_rate, self.share)


def check_share(owner: Transform, share: float) -> None:
    """Raises UserError where `share` is no part of a recording."""
    if not 0 < share <= 1:
        raise UserError(
            f"{type(owner).__name__} has share={share}: give a part of each recording above 0, up to 1."
        )


def listed(folder: str | Sequence[str]) -> list[str]:
    """One folder, or several, as a list."""
    return [folder] if isinstance(folder, str) else list(folder)


class Dither(Transform):
    """Adds white noise of a fixed, tiny amplitude, so that digital silence has a spectrum like any other."""

    def __init__(self, amplitude: float = 1e-5, p: float = 1.0) -> None:
        super().__init__(p)
        self.amplitude = amplitude

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        gain = self.draw(x, self.amplitude, self.amplitude, neutral=0.0)[:, None]
        return torch.addcmul(x, torch.randn_like(x), gain * frame_mask(lengths, x.shape[1])), lengths


class NoiseFloor(Transform):
    """Adds a random stretch of a random recording, its amplitude multiplied by a random gain.

    However loud a clip is, also a silent one, the noise is heard as it was recorded or less. A recording is
    decoded when it is first drawn, to `sample_rate`, and stays in memory; only its first `share` is used, so
    that what lies behind can be kept for validation and test. What a short one lacks, it repeats.

    Raises:
        UserError: the folder holds no audio, min is above max, share is not in 0..1, or a recording cannot be
            read once it is drawn.
    """

    def __init__(
        self,
        folder: str,
        sample_rate: int,
        min_gain: float = 0.0,
        max_gain: float = 0.1,
        share: float = 1.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        check_range(self, "_gain", min_gain, max_gain)
        check_share(self, share)
        self.min_gain, self.max_gain, self.share = min_gain, max_gain, share
        self.folder, self.sample_rate = folder, sample_rate
        self.recordings = audio_files([folder])

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        gain = self.draw(x, self.min_gain, self.max_gain, neutral=0.0)[:, None]
        noise = recorded_noise(x, self.recordings, self.sample_rate, self.share)
        return torch.addcmul(x, noise, gain * frame_mask(lengths, x.shape[1])), lengths


def recorded_noise(x: Tensor, recordings: list[Path], sample_rate: int, share: float = 1.0) -> Tensor:
    """A random stretch of the first `share` of a random recording for each clip of `x` `(B, T)`."""
    files = random_below(torch.full((len(x),), len(recordings)))
    sources = [decoded(recordings[file], sample_rate) for file in files.tolist()]
    sources = [source[: max(round(share * len(source)), 1)] for source in sources]
    starts = random_below(torch.tensor([len(source) for source in sources])).tolist()
    stretches = [_looped(*pair, x.shape[1]) for pair in zip(sources, starts, strict=True)]
    return samples_to_float(sent(torch.stack(stretches), x.device))


def coloured_noise(like: Tensor, exponent: float) -> Tensor:
    """Gaussian noise of the shape `(B, T)` of `like`, its power falling as 1 / frequency ** exponent."""
    if exponent == 0:
        return torch.randn_like(like)
    size = like.shape[1]
    # A power of two has a fast transform whatever T is, and what is cut off breaks the circle.
    spectrum = torch.fft.rfft(torch.randn(len(like), 2 ** size.bit_length(), device=like.device))
    frequency = torch.arange(spectrum.shape[1], device=like.device)
    shape = frequency.clamp(min=1) ** (-exponent / 2) * (frequency > 0)
    return torch.fft.irfft(spectrum * shape)[:, :size]


def _looped(source: Tensor, start: int, size: int) -> Tensor:
    repeats = -(-(start + size) // len(source))
    if repeats > 1:  # mostly it is long enough, and then nothing of it is copied
        source = source.repeat(repeats)
    return source[start : start + size]


@cache
def decoded(path: Path, sample_rate: int) -> Tensor:
    return torch.from_numpy(decode(path, sample_rate))
