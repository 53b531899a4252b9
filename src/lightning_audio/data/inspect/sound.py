"""What a clip sounds like in numbers: level, noise, silence, and how far up its spectrum reaches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lightning_audio.data.batch import INT16_SCALE

FRAME_SECONDS = 0.02
FLOOR_DB = -100.0  # of 16 bits
QUIET_DB = -60.0  # a frame below it is silence
SPECTRUM = 1024  # samples of a Fourier transform
BAND_SECONDS, BANDS, COLUMNS = 0.064, 24, 64  # of a fingerprint: its frames, and its values
EDGE_DB = -75.0  # below the peak of the spectrum: what lies there was cut off, or never recorded


@dataclass(frozen=True)
class Sound:
    """Of one clip: `level` in dB of full scale (RMS), `snr` in dB, `silence` (share of its frames) and
    `bandwidth` in Hz."""

    level: float
    snr: float
    silence: float
    bandwidth: float


def measure(samples: np.ndarray, rate: int) -> Sound:
    """The measures of int16 samples `(T,)`.

    The signal-to-noise ratio is an estimate: the loud frames (95th percentile) over the quiet ones (10th), so
    that it says how far a clip stands out of its own background; of a steady sound it says nothing. The
    bandwidth is the highest frequency at which the mean spectrum is within 75 dB of its peak and above the
    rounding to 16 bits: below half the rate where a file was made from one of a lower rate, or by a codec.
    """
    waveform = samples.astype(np.float64) / INT16_SCALE
    power = _powers(waveform, rate)
    return Sound(
        level=_db(float(np.square(waveform).mean())),
        snr=_ratio(power),
        silence=float((power < 10 ** (QUIET_DB / 10)).mean()),
        bandwidth=_bandwidth(waveform, rate),
    )


def noise_ratio(samples: np.ndarray, rate: int) -> float:
    """The signal-to-noise ratio alone that `measure` estimates, in dB, of int16 samples `(T,)`."""
    return _ratio(_powers(samples.astype(np.float64) / INT16_SCALE, rate))


def _powers(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Mean power of each whole frame of 20 ms, `(T / frame,)`."""
    size = max(round(FRAME_SECONDS * rate), 1)
    whole = waveform[: max(len(waveform) // size, 1) * size]
    return np.square(whole).reshape(-1, min(size, len(whole))).mean(1)


def _ratio(power: np.ndarray) -> float:
    loud, quiet = np.quantile(power, (0.95, 0.1))
    return min(_db(float(loud)) - _db(float(quiet)), -FLOOR_DB)


def fingerprint(samples: np.ndarray, rate: int) -> np.ndarray:
    """A vector `(D,)` of length 1 for int16 samples `(T,)`: two that were cut from one recording are alike.

    It says how the level of each band, from 100 to 3,600 Hz, comes and goes over the clip. Another level,
    codec, rate or equaliser changes it little; two rains, which are steady, have nothing in common by it.
    """
    size = max(round(BAND_SECONDS * rate), 16)
    waveform = np.pad(samples.astype(np.float32), (0, max(size - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[:: size // 2]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32))))
    edges = np.geomspace(100.0, 3600.0, BANDS + 1) / rate * size
    lines = np.clip(np.round(edges).astype(int), 1, power.shape[1] - 1)
    bands = np.stack([power[:, a : max(b, a + 1)].mean(1) for a, b in pairwise(lines)])
    levels = 10 * np.log10(np.maximum(bands, bands.max() * 1e-6 + 1e-12))
    places = np.linspace(0, levels.shape[1] - 1, COLUMNS)
    levels = np.stack([np.interp(places, np.arange(len(band)), band) for band in levels])
    changes = (levels - levels.mean(1, keepdims=True)).ravel()
    return (changes / max(float(np.linalg.norm(changes)), 1e-9)).astype(np.float32)


def alike(vectors: np.ndarray, least: float) -> list[tuple[int, int, float]]:
    """`(one, other, cosine)` of those pairs of `(N, D)` that are at least so much alike, the likest first."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    found = [
        (row, row + 1 + int(other), float(cosines[other]))
        for row in range(len(unit) - 1)
        for cosines in [unit[row + 1 :] @ unit[row]]
        for other in np.flatnonzero(cosines >= least)
    ]
    return sorted(found, key=lambda pair: -pair[2])


def _db(power: float) -> float:
    return max(10 * np.log10(power), FLOOR_DB) if power > 0 else FLOOR_DB


def _bandwidth(waveform: np.ndarray, rate: int) -> float:
    if len(waveform) < SPECTRUM:
        waveform = np.pad(waveform, (0, SPECTRUM - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, SPECTRUM)[:: SPECTRUM // 2]
    window = np.hanning(SPECTRUM)
    spectrum = np.square(np.abs(np.fft.rfft(frames * window))).mean(0)
    rounding = np.square(window).sum() / (12 * INT16_SCALE**2)
    there = np.flatnonzero(spectrum > max(spectrum.max() * 10 ** (EDGE_DB / 10), 4 * rounding))
    return float(there[-1] * rate / SPECTRUM) if len(there) else 0.0
