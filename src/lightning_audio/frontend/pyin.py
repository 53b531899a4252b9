"""Pitch of one voice by probabilistic YIN, and where there is a voice; batched and aware of lengths."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.frontend.mask import frame_mask, mask_frames
from lightning_audio.frontend.pitch import Periodicity

CHUNK = 2**17  # samples of frames worked on at once: each period of a frame is held against all thresholds
THRESHOLDS = 100
BETA = 2.0, 18.0  # prior of the threshold, mean 0.1
BOLTZMANN = 2.0  # of two troughs below a threshold the one of the shorter period is likelier by e**2
NO_TROUGH = 0.01  # chance that the lowest trough is a period where it is not below the threshold
BINS = 10  # pitches in a semitone
RATE_OF_CHANGE = 35.92  # octaves a second
SWITCH = 0.01  # chance that a voice begins or ends from one frame to the next
LOG_ZERO = math.log(np.finfo(np.float64).tiny)


class PYin(Periodicity):
    """Pitch and voice `(B, 3, T')`: semitones above `f_min` or 0; voice, 1 or 0; its probability.

    The path of `librosa.pyin` (Mauch and Dixon 2014) with its constants: every trough of YIN's difference is
    a candidate, weighted by a prior of thresholds, and the likeliest path over tenths of a semitone, with and
    without a voice, is taken. As the path looks ahead, it needs the whole clip.

    Args:
        sample_rate, f_min, f_max, frame_length, hop_length: as of `Periodicity`.

    Raises:
        UserError: an option is out of its range.
    """

    shape = (1, 3)
    prior: Tensor
    steps: Tensor

    def __init__(
        self,
        sample_rate: int,
        f_min: float = 65.0,
        f_max: float = 2093.0,
        frame_length: int = 2048,
        hop_length: int = 512,
    ) -> None:
        super().__init__(sample_rate, f_min, f_max, frame_length, hop_length)
        self.pitches = math.floor(12 * BINS * math.log2(f_max / f_min)) + 1
        # Pitches up or down in a frame: the whole width of both directions is RATE_OF_CHANGE in librosa.
        self.reach = round(RATE_OF_CHANGE * 12 * hop_length / sample_rate) * BINS // 2
        from scipy.stats import beta  # takes a second to import

        below = beta.cdf(np.linspace(0, 1, THRESHOLDS + 1), *BETA)
        self.register_buffer("prior", torch.from_numpy(np.diff(below)).float(), persistent=False)
        self.register_buffer("steps", self._steps(), persistent=False)

    def _steps(self) -> Tensor:
        """Log-probability `(pitches, 2 reach + 1)` of coming to a pitch from each of those around it."""
        pitch, step = torch.arange(self.pitches), torch.arange(-self.reach, self.reach + 1)
        weight = (self.reach + 1 - step.abs()).double()
        inside = (pitch[:, None] + step >= 0) & (pitch[:, None] + step < self.pitches)
        leaving = (weight * inside).sum(1)  # what a pitch near an edge can't reach goes to the others
        source = (pitch[:, None] + step).clamp(0, self.pitches - 1)
        return torch.where(inside, (weight / leaving[source]).log(), -math.inf).float()

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        lengths = self.output_lengths(lengths)
        candidates = self.of_frames(waveforms, self._candidates, CHUNK)[0]
        voiced = candidates.sum(-1).clamp(0, 1)
        state = self._path(candidates, voiced, lengths)
        has_voice = state < self.pitches
        semitones = torch.where(has_voice, state / BINS, 0.0)
        return mask_frames(torch.stack([semitones, has_voice.float(), voiced], 1), lengths), lengths

    def _candidates(self, frames: Tensor) -> tuple[Tensor]:
        """Probability of each pitch `(B, k, pitches)` in frames `(B, k, n)`."""
        normalized = self.normalized_difference(frames)
        trough, shift = self.troughs(normalized)
        thresholds = torch.linspace(0, 1, THRESHOLDS + 1, device=frames.device)[1:]
        height = torch.where(trough, normalized, math.inf)
        below = height[..., None] < thresholds
        before = below.cumsum(-2) - 1
        share = (1 - math.exp(-BOLTZMANN)) / (1 - (-BOLTZMANN * below.sum(-2, keepdim=True)).exp())
        probability = torch.where(below, share * (-BOLTZMANN * before).exp(), 0.0) @ self.prior
        lowest = height.argmin(-1, keepdim=True)
        missed = (~below.gather(-2, lowest[..., None].expand(*lowest.shape, THRESHOLDS))).float() @ self.prior
        probability.scatter_add_(-1, lowest, NO_TROUGH * missed * trough.any(-1, keepdim=True))

        period = torch.arange(normalized.shape[-1], device=frames.device)
        frequency = self.sample_rate / (self.shortest + period + shift)
        pitch = (12 * BINS * (frequency / self.f_min).log2()).round().clamp(0, self.pitches).long()
        # Of two troughs of one pitch the longer period counts; what is above the highest pitch is cut off.
        of_pitch = torch.full((*pitch.shape[:-1], self.pitches + 1), -1, device=frames.device)
        of_pitch.scatter_reduce_(-1, pitch, torch.where(probability > 0, period, -1), "amax")
        taken = functional.pad(probability, (1, 0)).gather(-1, of_pitch + 1)
        return (taken[..., : self.pitches],)

    def _path(self, candidates: Tensor, voiced: Tensor, lengths: Tensor) -> Tensor:
        """The likeliest states `(B, T')`: a pitch with a voice, or `pitches` more without one (Viterbi)."""
        frames = candidates.shape[1]
        unvoiced = ((1 - voiced) / self.pitches)[..., None].expand_as(candidates)
        emitted = torch.stack([candidates, unvoiced], 2).log().clamp_min(LOG_ZERO)
        switch = torch.tensor([[1 - SWITCH, SWITCH], [SWITCH, 1 - SWITCH]], device=candidates.device).log()
        within = frame_mask(lengths, frames)
        own = torch.arange(2 * self.pitches, device=candidates.device)
        score, back = emitted[:, 0], []
        for frame in range(1, frames):
            around = functional.pad(score, (self.reach, self.reach), value=-math.inf)
            best, step = (around.unfold(-1, 2 * self.reach + 1, 1) + self.steps).max(-1)
            moved, voice = (best[:, :, None] + switch[..., None]).max(1)
            came = own[: self.pitches] + step.gather(1, voice) - self.reach + voice * self.pitches
            moved = moved + emitted[:, frame]
            inside = within[:, frame, None]
            # Beyond its end a clip stays where it is: the last state is the same, however long the batch.
            score = torch.where(inside[..., None], moved - moved.amax((1, 2), keepdim=True), score)
            back.append(torch.where(inside, came.flatten(1), own).short())
        state = [score.flatten(1).argmax(1, keepdim=True)]
        for came in reversed(back):
            state.append(came.gather(1, state[-1]).long())
        return torch.cat(state[::-1], 1)
