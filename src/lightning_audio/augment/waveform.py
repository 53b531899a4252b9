"""Transforms of waveforms `(B, T)` with lengths `(B,)` in samples: roll, shift, crop, gain, polarity, speed.

Samples beyond a clip's length are 0 and stay 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_audio.augment.base import Transform, check_range, random_below
from lightning_audio.data.batch import sent
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask, in_export, mask_frames

# Positions are whole numbers of 2**-32 samples: float32 would lose the fraction in a long clip.
FRACTION_BITS = 32


def roll(x: Tensor, lengths: Tensor, shifts: Tensor) -> Tensor:
    """Each clip shifted in a circle within its own length, to the right by `shifts` `(B,)` samples."""
    shifts = shifts % lengths.clamp(min=1)
    if in_export():
        places = (torch.arange(x.shape[1], device=x.device) - shifts[:, None]) % lengths.clamp(min=1)[:, None]
        return mask_frames(x.gather(1, places), lengths)
    if x.device.type == "cpu":
        return _roll_rows(x, lengths.tolist(), shifts.tolist())
    return _roll_windows(x, lengths, shifts)


def _roll_windows(x: Tensor, lengths: Tensor, shifts: Tensor) -> Tensor:
    size, rows = x.shape[1], torch.arange(len(x), device=x.device)
    windows, start = stretches(x, size, margin=size), size - shifts
    # What stays, shifted, beside what comes round: each is 0 where the other is not.
    rolled = windows[rows, start].add_(windows[rows, start + lengths])
    return rolled.masked_fill_(~frame_mask(lengths, size), 0)


def _roll_rows(x: Tensor, lengths: list[int], shifts: list[int]) -> Tensor:
    # Two copies a clip: on a CPU a ninth of what the padded windows of a whole batch cost.
    rolled = torch.zeros_like(x)
    for row, source, length, shift in zip(rolled, x, lengths, shifts, strict=True):
        row[:shift], row[shift:length] = source[length - shift : length], source[: length - shift]
    return rolled


def stretches(x: Tensor, size: int, margin: int) -> Tensor:
    """`[b, margin + s]` is what follows sample s of clip b, `size` samples long: a view, and no copies.

    Silence of `margin` samples lies around `x` `(B, T)`, so that s may be anything from -margin on.
    """
    return F.pad(x, (margin, margin)).unfold(1, size, 1)


class TimeRoll(Transform):
    """Shifts each clip in a circle by any number of samples, all equally likely."""

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        shifts = (self.draw(x, 0.0, 1.0, neutral=0.0) * lengths).long()
        return roll(x, lengths, shifts), lengths


class TimeShift(Transform):
    """Shifts each clip by up to `seconds` to either side; silence comes in, and what leaves the clip is lost.

    Not in a circle: for a clip with a beginning, such as a word in a window of a second. A clip is shifted by
    no more than `max_share` of its length, so that a short one stays heard.
    """

    def __init__(self, seconds: float, sample_rate: int, p: float = 1.0, max_share: float = 0.25) -> None:
        super().__init__(p)
        if seconds < 0 or not 0 <= max_share <= 1:
            raise UserError(
                f"TimeShift has seconds={seconds} and max_share={max_share}: give 0 or more seconds, and a "
                "share between 0 and 1."
            )
        self.seconds, self.sample_rate, self.max_share = seconds, sample_rate, max_share
        self.size = round(seconds * sample_rate)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        farthest = (lengths * self.max_share).clamp(max=self.size)
        shifts = (self.draw(x, -1.0, 1.0, neutral=0.0) * farthest).round().long()
        rows = torch.arange(len(x), device=x.device)
        shifted = stretches(x, x.shape[1], margin=self.size)[rows, self.size - shifts]
        return shifted.masked_fill_(~frame_mask(lengths, x.shape[1]), 0), lengths


class RandomCrop(Transform):
    """A random stretch of `seconds` of each clip, after `pad` seconds of silence on both of its sides.

    Every clip comes out with that length; a shorter one stands at a random place in silence. With `pad` half
    of `seconds` it is the crop of EnvNet-v2 (Tokozume et al. 2018, https://arxiv.org/abs/1711.10282). With
    `loud` the stretch lies around a moment that is drawn in proportion to its amplitude, so that a bark in
    a clip that is silent otherwise is heard. With `cut` a shorter clip is taken for half of a word, and
    stands at that end of the stretch at which it is louder, as if the stretch had cut it.
    """

    def __init__(
        self, seconds: float, sample_rate: int, pad: float = 0.0, loud: bool = False, cut: bool = False
    ) -> None:
        super().__init__()
        self.seconds, self.sample_rate, self.pad, self.loud, self.cut = seconds, sample_rate, pad, loud, cut
        self.size, self.silence = round(seconds * sample_rate), round(pad * sample_rate)
        if self.size < 1 or self.silence < 0:
            raise UserError(f"RandomCrop has seconds={seconds} and pad={pad}: give above 0, and 0 or above.")

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        room = lengths + 2 * self.silence - self.size  # below 0: the clip is the shorter one, moves inside
        start = torch.sign(room) * random_below(room.abs() + 1) - self.silence
        if self.cut:
            short = (lengths - self.size).clamp(max=0)
            start = torch.where(short < 0, short * self._louder_at_end(x, lengths), start)
        if self.loud:
            start = torch.where(room > 0, self._around_sound(x, lengths), start)
        margin = self.size + self.silence
        rows = torch.arange(len(x), device=x.device)
        cropped = stretches(x, self.size, margin)[rows, margin + start]
        return cropped, torch.full_like(lengths, self.size)

    def _louder_at_end(self, x: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        balance = (place - lengths[:, None] / 2) * frame_mask(lengths, x.shape[1])
        return (x.square() * balance).sum(1) > 0

    def _around_sound(self, x: Tensor, lengths: Tensor) -> Tensor:
        heard = x.abs().cumsum(1)
        moment = torch.searchsorted(heard, sent(torch.rand(len(x), 1), x.device) * heard[:, -1:])[:, 0]
        first = (moment - self.size + 1).clamp(min=-self.silence)  # of the stretches that hold it
        last = torch.minimum(moment, lengths + self.silence - self.size)
        return first + random_below(last - first + 1)


class Gain(Transform):
    """Louder or quieter by a random number of decibels."""

    def __init__(self, min_db: float = -6.0, max_db: float = 6.0, p: float = 1.0) -> None:
        super().__init__(p)
        check_range(self, "_db", min_db, max_db)
        self.min_db, self.max_db = min_db, max_db

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        gain_db = self.draw(x, self.min_db, self.max_db, neutral=0.0)
        return x * 10 ** (gain_db[:, None] / 20), lengths


class Polarity(Transform):
    """Turns the sign of the waveform, which nobody hears."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(self.chosen(x)[:, None], -x, x), lengths


class Speed(Transform):
    """Plays each clip at its own rate: speed and pitch move together, and its length becomes length / rate.

    Cubic (Catmull-Rom) interpolation of four samples, without a low-pass filter: at a rate r above 1, what
    lies above 1/r of the Nyquist frequency folds back. With `keep_length` a clip is cut at its old length, or
    filled with silence up to it.
    """

    def __init__(self, min: float = 0.9, max: float = 1.1, p: float = 1.0, keep_length: bool = False) -> None:
        super().__init__(p)
        check_range(self, "", min, max)
        if min <= 0:
            raise UserError(f"Speed has min={min}: give a rate above 0, 1 being the clip's own speed.")
        self.min, self.max, self.keep_length = min, max, keep_length

    @property
    def fastest(self) -> float:
        """The factor by which a clip may become shorter."""
        return 1.0 if self.keep_length else max(self.max, 1.0)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        steps = (self.draw_on_cpu(len(x), self.min, self.max, 1.0) * 2**FRACTION_BITS).long()
        step = sent(steps, x.device)
        resampled = self._resampled(lengths, step)
        if self.keep_length:
            heard, size, new_lengths = torch.minimum(resampled, lengths), x.shape[1], lengths
        else:
            # The longest clip of all would have to be asked of a device, which would have to be waited for.
            longest = (
                resampled if x.device.type == "cpu" else self._resampled(torch.tensor(x.shape[1]), steps)
            )
            heard, size, new_lengths = resampled, max(x.shape[1], int(longest.max())), resampled
        return self._played(x, step, size) * frame_mask(heard, size), new_lengths

    def _resampled(self, lengths: Tensor, step: Tensor) -> Tensor:
        """Samples that clips of these lengths become, one at least where there is one."""
        resampled = ((lengths << FRACTION_BITS) + step // 2) // step
        return torch.maximum(resampled, lengths.clamp(max=1))

    def _played(self, x: Tensor, step: Tensor, size: int) -> Tensor:
        """`(B, size)`: the clips at their own rates, `step` `(B,)` being a rate times 2**FRACTION_BITS."""
        return resample(x, step, size)


def resample(x: Tensor, step: Tensor, size: int) -> Tensor:
    """`(B, size)`: what lies in `x` `(B, T)` every `step` `(B,)` / 2**FRACTION_BITS samples, by a cubic."""
    if x.device.type != "cpu":
        return _cubic(x, step[:, None], size)
    # A clip at a time stays in the cache of a CPU: a seventh of what a whole batch costs.
    played = x.new_zeros(len(x), size)
    for row, source, own in zip(played, x, step, strict=True):
        if own == 1 << FRACTION_BITS:
            row[: len(source)] = source[:size]
        else:
            row.copy_(_cubic(source, own, size))
    return played


def _cubic(x: Tensor, step: Tensor, size: int) -> Tensor:
    """`resample` of `x` `(..., T)` at steps that go with its leading axes, `(..., 1)`, or one for a clip."""
    extent = x.shape[-1]
    position = torch.arange(size, device=x.device) * step
    fraction = position & (2**FRACTION_BITS - 1)
    t = fraction.to(x.dtype).div_(2**FRACTION_BITS)
    index = (position >> FRACTION_BITS).clamp_(max=extent)
    padded, span = F.pad(x, (1, 3)), extent + 1
    before, here, after, beyond = (_read(padded[..., tap : tap + span], index) for tap in range(4))
    slope = after - before
    twist = (here - after).mul_(3).add_(beyond).sub_(before)
    bend = before.add_(after).sub_(here, alpha=2).sub_(twist)
    return twist.mul_(t).add_(bend).mul_(t).add_(slope).mul_(t).div_(2).add_(here)


def _read(x: Tensor, index: Tensor) -> Tensor:
    # index_select takes a third of the time that gather does, and is for one clip alone.
    return x.index_select(0, index) if x.dim() == 1 else x.gather(1, index)
