"""Long audio made of clips: words at known times in a bed of background noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from lightning_audio.data.decode import to_int16

WORD_FADE = 0.01  # seconds: a clip has noise of its own, which must not begin with a click
BED_FADE = 0.05  # seconds, from one piece of the background to the next
QUIETEST = 1e-3  # share of the bed's power under which a word is not pulled down with it
FULL_SCALE = 0.99


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A clip in long audio: from `start` to `end` in seconds, and which one (`clip`, its position)."""

    start: float
    end: float
    label: str
    clip: int


def long_audio(
    clips: Sequence[tuple[str, ndarray]],
    background: Sequence[ndarray],
    sample_rate: int,
    seed: int = 0,
    gap: tuple[float, float] = (0.5, 3.0),
    snr_db: tuple[float, float] = (5.0, 20.0),
) -> tuple[ndarray, list[SpokenWord]]:
    """Every clip once, in a drawn order, with gaps between them, in one stretch of background noise.

    The pieces of the background are brought to one power, put one behind the other in a drawn order, as often
    as it takes, and cross-faded. A clip is brought to its SNR over the background that it lies on, both
    measured over the whole clip. The bed is as loud as leaves a clip of median power and median SNR as it is.
    Where the sum would exceed full scale, all of it is lowered.

    Args:
        clips: `(label, int16 samples (T,))`, none of them silent.
        background: int16 samples `(T,)` of noise; white noise where none is given.
        sample_rate: of all of them in Hz.
        seed: all that is drawn depends on it alone.
        gap: seconds of background before, between and after the words, drawn evenly in this range.
        snr_db: signal-to-noise ratio of a word, drawn evenly in this range.

    Returns:
        int16 samples `(T,)`, and the words in the order of their times.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(clips))
    gaps = np.rint(rng.uniform(*gap, size=len(clips) + 1) * sample_rate).astype(int)
    snrs_db = rng.uniform(*snr_db, size=len(clips))
    sounds = [_faded(clips[position][1] / 1.0, round(WORD_FADE * sample_rate)) for position in order]
    starts = np.cumsum(gaps[:-1]) + np.cumsum([0, *map(len, sounds)])[:-1]
    mixed = bed(background, gaps.sum() + sum(map(len, sounds)), round(BED_FADE * sample_rate), rng)
    median_db = np.median([10 * np.log10(_power(sound)) for sound in sounds]) if len(clips) else 60.0
    mixed *= 10 ** ((median_db - np.mean(snr_db)) / 20) / np.sqrt(_power(mixed))
    floor = QUIETEST * _power(mixed)
    words = []
    for position, start, sound, snr in zip(order, starts, sounds, snrs_db, strict=True):
        under = mixed[start : start + len(sound)]
        wanted = max(_power(under), floor) * 10 ** (snr / 10)
        under += sound * np.sqrt(wanted / _power(sound))
        end = (start + len(sound)) / sample_rate
        words.append(SpokenWord(start / sample_rate, end, clips[position][0], int(position)))
    peak = np.abs(mixed).max() / (FULL_SCALE * 2**15)
    return to_int16(mixed / max(peak, 1.0) / 2**15), words


def bed(pieces: Sequence[ndarray], length: int, fade: int, rng: Generator) -> ndarray:
    """`(length,)` of power 1 throughout: the pieces in drawn orders, `fade` samples of each over the next."""
    # A piece that is silent, or all fades, makes no bed.
    pieces = [piece / np.sqrt(_power(piece)) for piece in pieces if len(piece) > 2 * fade and _power(piece)]
    if not pieces:
        return rng.standard_normal(length)
    laid, at = np.zeros(length + fade + max(map(len, pieces))), 0
    while at < length + fade:
        for position in rng.permutation(len(pieces)):
            piece = pieces[position]
            if at < length + fade:
                laid[at : at + len(piece)] += _faded(piece, fade)
                at += len(piece) - fade
    return laid[fade : fade + length]  # from where the first piece has come in


def _faded(samples: ndarray, fade: int) -> ndarray:
    """Both ends follow a quarter of a sine, so that the powers of a cross-fade add up to 1."""
    fade = min(fade, len(samples) // 2)
    ramp = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    return samples * np.concatenate([ramp, np.ones(len(samples) - 2 * fade), ramp[::-1]])


def _power(samples: ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=float)))
