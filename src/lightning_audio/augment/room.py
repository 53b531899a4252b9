"""Reverberation: clips as a room would make them heard, from measured impulse responses or made ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.augment.base import Transform, check_range, random_below
from lightning_audio.augment.noise import decoded, listed
from lightning_audio.data.batch import samples_to_float, sent
from lightning_audio.data.decode import audio_files
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import fast_size
from lightning_audio.frontend.mask import frame_mask

DECAY = math.log(1000)  # of the amplitude in a reverberation time, which is 60 dB


class Reverb(Transform):
    """Convolves each clip with an impulse response of its own; its length and its mean power stay.

    Responses are recordings under `folder` (one or several), from their loudest sample on. Without a folder a
    response is the direct sound and, behind it, noise whose power falls by 60 dB in a reverberation time
    drawn in seconds, at a drawn ratio of direct to reverberant energy in dB (Polack's model of a diffuse
    room). What lies more than `seconds` behind the direct sound is cut off.

    Raises:
        UserError: a min is above its max, the folder holds no audio, or a recording cannot be read once it is
            drawn.
    """

    def __init__(
        self,
        sample_rate: int,
        min_rt60: float = 0.15,
        max_rt60: float = 0.8,
        min_direct_db: float = -6.0,
        max_direct_db: float = 12.0,
        folder: str | Sequence[str] | None = None,
        seconds: float = 1.0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p)
        check_range(self, "_rt60", min_rt60, max_rt60)
        check_range(self, "_direct_db", min_direct_db, max_direct_db)
        if min_rt60 <= 0 or seconds <= 0:
            raise UserError(f"Reverb has min_rt60={min_rt60} and seconds={seconds}: give seconds above 0.")
        self.sample_rate, self.seconds, self.folder = sample_rate, seconds, folder
        self.min_rt60, self.max_rt60 = min_rt60, max_rt60
        self.min_direct_db, self.max_direct_db = min_direct_db, max_direct_db
        self.recordings = [] if folder is None else audio_files(listed(folder))

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        response = self._recorded(x) if self.recordings else self._made(x)
        wet = convolve(x, response) * frame_mask(lengths, x.shape[1])
        power, wet_power = x.square().sum(1), wet.square().sum(1)
        gain = (power / wet_power).sqrt().where(wet_power > 0, 0.0)
        return torch.where(self.chosen(x)[:, None], wet * gain[:, None], x), lengths

    def _made(self, x: Tensor) -> Tensor:
        """`(B, R)`: responses with the direct sound, 1, in front."""
        size = round(min(self.seconds, self.strength * self.max_rt60) * self.sample_rate) + 1
        shortest, longest = (self.strength * rt60 for rt60 in (self.min_rt60, self.max_rt60))
        rt60 = sent(torch.empty(len(x)).uniform_(shortest, longest), x.device)[:, None]
        direct_db = torch.empty(len(x)).uniform_(self.min_direct_db, self.max_direct_db)
        time = torch.arange(1, size, device=x.device) / self.sample_rate
        tail = torch.randn(len(x), size - 1, device=x.device) * torch.exp(-DECAY * time / rt60)
        level = sent(10 ** (-direct_db / 20), x.device)[:, None] / tail.norm(dim=1, keepdim=True)
        return F.pad(tail * level, (1, 0), value=1.0)

    def _recorded(self, x: Tensor) -> Tensor:
        """`(B, R)`: a recording for each clip, drawn anew."""
        files = random_below(torch.full((len(x),), len(self.recordings))).tolist()
        size, responses = round(self.seconds * self.sample_rate), []
        for file in files:
            samples = samples_to_float(decoded(self.recordings[file], self.sample_rate))
            responses.append(samples[int(samples.abs().argmax()) :][:size])
        longest = max(map(len, responses))
        return sent(torch.stack([F.pad(r, (0, longest - len(r))) for r in responses]), x.device)


def convolve(x: Tensor, response: Tensor) -> Tensor:
    """`(B, T)`: each clip of `x` `(B, T)` convolved with its response `(B, R)`, cut at T samples."""
    size = fast_size(x.shape[1] + response.shape[1])
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(response, size)
    return torch.fft.irfft(spectrum, size)[:, : x.shape[1]]
