"""A recording of any length in pieces that a network takes: cut at pauses, or windows that overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.errors import UserError
from lightning_audio.inference.events import events

LONGEST = 20.0  # seconds of a piece
FRAME = 0.01  # seconds whose energy is measured
BLOCK = 6000  # frames at a time, so that an hour takes no more memory than a minute
SMOOTHED = 5  # frames: the closure of a plosive is no pause
FLOOR_PERCENT = 10  # of the frames are taken to be background
LOUD_PERCENT = 75  # of the frames that stand out of the background give the level of sound: clicks are few
DEEPEST_DB = 60.0  # what is further below that level counts as this: digital silence has no level
FLAT_DB = 6.0  # sound that varies less has no pauses in it
RANGE_DB = 30.0  # or less, from background to sound: thresholds are shares of it
ON, OFF = 0.35, 0.2
SILENT_DB = -70.0  # below full scale: nothing is there to be heard
PAUSE = 0.2  # seconds of quiet at which may be cut
BREAK = 1.0  # and at which always is
MARGIN = 0.3  # seconds of quiet that a piece keeps at its ends
OVERLAP = 2.0  # seconds that two windows share, at most a quarter of a piece

SampleRange = tuple[int, int]


def segments(samples: np.ndarray, rate: int, longest: float = LONGEST, grid: int = 1) -> list[SampleRange]:
    """`(first sample, behind the last)` of pieces in order: all that is not silence, none above `longest`.

    What is no longer than `longest` is one piece, silence and all. Otherwise pauses of a second and more are
    cut at, and what is left too long is cut at its longest pause, again and again. A piece keeps up to 0.3 s
    of the pauses at its ends, the rest is left out. Where there is no pause, windows of `longest` share two
    seconds with their neighbours: those pieces, and only those, overlap.

    Args:
        samples: int16 `(T,)`.
        rate: in Hz.
        longest: seconds.
        grid: samples; windows that overlap begin a multiple of it apart.

    Raises:
        UserError: `longest` is too short for a window.
    """
    size = round(longest * rate) if math.isfinite(longest) else 0
    if size < max(4 * grid, rate * FRAME):
        raise UserError(f"Pieces of {longest:g} s hold no speech: let them be a few seconds long.")
    if len(samples) <= size:
        return [(0, len(samples))]
    stretches = _at_pauses(sounding(samples, rate), len(samples), rate, size)
    return [piece for stretch in stretches for piece in windows_over(*stretch, size, rate, grid)]


def windows_over(first: int, last: int, size: int, rate: int, grid: int = 1) -> list[SampleRange]:
    """The stretch itself, or windows of at most `size` samples that cover it, spread evenly."""
    length, overlap = last - first, min(round(OVERLAP * rate), size // 4)
    if length <= size:
        return [(first, last)]
    width = size - grid  # a start that is moved down to the grid makes the last window longer
    count = math.ceil((length - overlap) / (width - overlap))
    starts = [first + (length - width) * i // (count - 1) // grid * grid for i in range(count)]
    return [(start, min(start + width, last)) for start in starts[:-1]] + [(starts[-1], last)]


def sounding(samples: np.ndarray, rate: int) -> list[SampleRange]:
    """Stretches of sound, in samples, with pauses of more than 0.2 s between them.

    The background is the level under which a tenth of the frames lie. The level of sound is what a quarter
    of the frames that stand out of it reach: one click does not hide speech that is far less loud. Sound
    begins 35 % and ends 20 % of the way from background to that level, or to 30 dB above where that is less.
    """
    frame = max(round(FRAME * rate), 1)
    decibels = levels(samples, frame)
    if decibels.max(initial=-math.inf) < SILENT_DB:
        return []
    background = float(np.percentile(decibels, FLOOR_PERCENT))
    standing_out = decibels[decibels > max(background, SILENT_DB) + FLAT_DB]
    if not len(standing_out):
        return [(0, len(samples))]
    loud = float(np.percentile(standing_out, LOUD_PERCENT))
    background = max(background, loud - DEEPEST_DB)
    scores = ((decibels - background) / min(loud - background, RANGE_DB)).clip(0, 1)
    found = events(scores[:, None], 1.0, ["sound"], ON, OFF, max_gap=PAUSE / FRAME)
    return [(round(one.start) * frame, min(round(one.end) * frame, len(samples))) for one in found]


def levels(samples: np.ndarray, frame: int) -> np.ndarray:
    """The level of each `frame` samples with its neighbours, in dB below full scale: `(T / frame,)`."""
    power = np.concatenate([np.zeros(0), *_powers(samples, frame)])
    power = np.pad(power, SMOOTHED // 2, mode="edge")
    return 10 * np.log10(np.maximum(np.convolve(power, np.full(SMOOTHED, 1 / SMOOTHED), "valid"), 1e-20))


def _powers(samples: np.ndarray, frame: int) -> Iterator[np.ndarray]:
    for first in range(0, len(samples), BLOCK * frame):
        block = samples[first : first + BLOCK * frame] / INT16_SCALE
        yield np.square(np.pad(block, (0, -len(block) % frame))).reshape(-1, frame).mean(axis=1)


def _at_pauses(runs: Sequence[SampleRange], total: int, rate: int, size: int) -> Iterator[SampleRange]:
    """Stretches of sound, cut at pauses, with what they keep of those at their ends."""
    if not runs:
        return
    edges = np.array([0, *(edge for run in runs for edge in run), total])
    pauses = edges[1::2] - edges[::2]
    kept = np.minimum(pauses // 2, round(MARGIN * rate))
    kept[[0, -1]] = np.minimum(pauses[[0, -1]], round(MARGIN * rate))
    waiting = [(0, len(runs) - 1)]
    while waiting:
        first, last = waiting.pop()
        start, end = int(runs[first][0] - kept[first]), int(runs[last][1] + kept[last + 1])
        inner = pauses[first + 1 : last + 1]
        if len(inner) and (end - start > size or inner.max() >= BREAK * rate):
            longest = (first + np.flatnonzero(inner == inner.max())).tolist()
            # Of several that are as long, the one by which the halves are the most alike.
            middle = min(longest, key=lambda place: abs(runs[place][1] + runs[place + 1][0] - start - end))
            waiting += [(middle + 1, last), (first, middle)]
        else:
            yield start, end
