"""Ten everyday sounds in noise, made of random numbers.

A sound is a function of a generator and a time axis `(T,)` in seconds; it returns `(T,)` at any level. The
sounds come in pairs that resemble each other, and the ranges of a pair overlap where they do in life. At
16 kHz and above every sound has its fundamental below half the sample rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy import ndarray
from numpy.random import Generator

# Part of the name of what was written to the cache: raise it when any sound changes.
SYNTHESIS_VERSION = 1

Sound = Callable[[Generator, ndarray], ndarray]


def render(sound: Sound, rng: Generator, time: ndarray, min_snr_db: float, max_snr_db: float) -> ndarray:
    """A clip `(T,)` in [-1, 1]: the sound in coloured noise, at a random level and SNR (over the clip)."""
    clean = sound(rng, time)
    noise = tilted_noise(rng, time, exponent=rng.uniform(0.0, 2.0))
    # The square root makes few clips hard: an SNR is the more likely, the higher it is.
    snr_db = min_snr_db + (max_snr_db - min_snr_db) * np.sqrt(rng.uniform())
    mixed = clean / rms(clean) + noise / rms(noise) * 10 ** (-snr_db / 20)
    peak = 10 ** (rng.uniform(-30.0, -1.0) / 20)
    return mixed / np.abs(mixed).max() * peak


def overlapping(sounds: Sequence[Sound]) -> Sound:
    """Several sounds at once, each up to 6 dB above or below the same power; a single one is itself."""

    def together(rng: Generator, time: ndarray) -> ndarray:
        parts = [sound(rng, time) for sound in sounds]
        levels = [10 ** (rng.uniform(-6.0, 6.0) / 20) for _ in parts]
        return np.sum([level * part / rms(part) for level, part in zip(levels, parts, strict=True)], axis=0)

    return sounds[0] if len(sounds) == 1 else together


# Engine and helicopter: low pulses, of tone and of noise.


def engine(rng: Generator, time: ndarray) -> ndarray:
    """Firing strokes at 20 to 90 per second with many harmonics, uneven cylinders, exhaust noise."""
    firing = log_uniform(rng, 20.0, 90.0) * (1 + 0.15 * slow_curve(rng, time, rate=1.0))
    harmonics = rng.uniform(0.2, 1.0, size=20) / np.arange(1, 21) ** rng.uniform(0.3, 1.0)
    strokes = oscillator(time, firing, harmonics)
    uneven = 1 + rng.uniform(0.1, 0.6) * oscillator(time, firing / 2, np.ones(1))
    exhaust = band_noise(rng, time, 80.0, log_uniform(rng, 600.0, 2500.0)) * pulses(time, firing, 2.0)
    mixed = strokes / rms(strokes) + rng.uniform(0.2, 1.5) * exhaust / rms(exhaust)
    return uneven * mixed * held(rng, time)


def helicopter(rng: Generator, time: ndarray) -> ndarray:
    """Blades that chop the air 9 to 28 times a second, above the tone of a turbine."""
    blades = log_uniform(rng, 9.0, 28.0) * (1 + 0.08 * slow_curve(rng, time, rate=1.0))
    air = band_noise(rng, time, 50.0, log_uniform(rng, 400.0, 2500.0))
    chop = air * (0.15 + pulses(time, blades, rng.uniform(1.5, 6.0)))
    harmonics = rng.uniform(0.2, 1.0, size=12) / np.arange(1, 13)
    turbine = oscillator(time, blades * rng.integers(3, 9), harmonics)
    return (chop / rms(chop) + rng.uniform(0.1, 0.8) * turbine / rms(turbine)) * held(rng, time)


# Siren and chirps: tones that glide, slowly and quickly.


def siren(rng: Generator, time: ndarray) -> ndarray:
    """A tone that glides up and down between a low of 450 to 800 Hz and 1.5 to 2.5 times as much."""
    low, ratio = log_uniform(rng, 450.0, 800.0), rng.uniform(1.5, 2.5)
    swings = log_uniform(rng, 0.3, 4.0) * time + rng.uniform()
    glide = 0.5 - 0.5 * np.cos(2 * np.pi * swings)
    harmonics = rng.uniform(0.3, 1.0, size=5) / np.arange(1, 6) ** rng.uniform(0.5, 2.0)
    return oscillator(time, low * ratio**glide, harmonics) * held(rng, time)


def chirps(rng: Generator, time: ndarray) -> ndarray:
    """A bird's phrase: notes of 40 to 250 ms, each gliding by up to an octave, between 0.9 and 5 kHz."""
    centre, spread = log_uniform(rng, 1200.0, 4000.0), rng.uniform(-1.0, 1.0)
    note, tempo = log_uniform(rng, 0.04, 0.25), log_uniform(rng, 2.5, 9.0)
    tempo = min(tempo, 0.8 / note)
    octaves, level = np.zeros_like(time), np.zeros_like(time)
    for onset in phrase(rng, time, tempo, notes=int(rng.integers(3, 12))):
        place = (time - onset) / note
        inside = (place >= 0) & (place < 1)
        octaves[inside] = (place[inside] - 0.5) * spread + rng.normal(0.0, 0.08)
        level[inside] = np.sin(np.pi * place[inside]) * rng.uniform(0.5, 1.0)
    return level * oscillator(time, centre * 2**octaves, np.array([1.0, rng.uniform(0.0, 0.3)]))


# Bell and phone: struck metal, a few times and many times.


def bell(rng: Generator, time: ndarray) -> ndarray:
    """One to four strokes on a bell of 300 to 1100 Hz whose partials die away one after another."""
    metal = bell_metal(rng, time, log_uniform(rng, 300.0, 1100.0), log_uniform(rng, 0.25, 1.5))
    return struck(rng, time, metal, phrase(rng, time, log_uniform(rng, 1.0, 5.0), int(rng.integers(1, 5))))


def phone(rng: Generator, time: ndarray) -> ndarray:
    """The clapper of an old telephone, 12 to 24 strokes a second on two small bells."""
    pitch, rate = log_uniform(rng, 700.0, 2400.0), log_uniform(rng, 12.0, 24.0)
    onsets = phrase(rng, time, rate, notes=int(rate * rng.uniform(0.6, 1.6)), unevenness=0.02)
    decay = log_uniform(rng, 0.08, 0.3)
    first = struck(rng, time, bell_metal(rng, time, pitch, decay), onsets[0::2])
    second = struck(rng, time, bell_metal(rng, time, pitch * rng.uniform(1.05, 1.3), decay), onsets[1::2])
    return first + second


# Clock and knocks: short blows, regular and high, or in a group and low.


def clock(rng: Generator, time: ndarray) -> ndarray:
    """Ticks of a few ms at 2 to 6 per second, every other one of another timbre, from end to end."""
    spacing = 1 / log_uniform(rng, 2.0, 6.0)
    onsets = np.arange(rng.uniform(0.0, spacing), time[-1], spacing)
    tick, tock = (wooden(rng, time, 900.0, 5000.0, log_uniform(rng, 0.003, 0.02)) for _ in range(2))
    return struck(rng, time, tick, onsets[0::2], 0.9) + struck(rng, time, tock, onsets[1::2], 0.9)


def knocks(rng: Generator, time: ndarray) -> ndarray:
    """Two to seven knocks on wood, 2.5 to 8 per second, not quite regular."""
    wood = wooden(rng, time, 150.0, 1800.0, log_uniform(rng, 0.01, 0.06))
    onsets = phrase(rng, time, log_uniform(rng, 2.5, 8.0), int(rng.integers(2, 8)), unevenness=0.08)
    return struck(rng, time, wood, onsets)


# Rain and wind: noise, of drops and of gusts.


def rain(rng: Generator, time: ndarray) -> ndarray:
    """A steady hiss under 20 to 300 drops a second, of three sizes."""
    hiss = tilted_noise(rng, time, exponent=rng.uniform(-0.5, 1.2))
    onsets = rng.uniform(0.0, time[-1], size=(3, int(log_uniform(rng, 7.0, 100.0) * time[-1]) + 1))
    sizes = [wooden(rng, time, 800.0, 6000.0, log_uniform(rng, 0.001, 0.006)) for _ in onsets]
    fall = [struck(rng, time, drop, when, softest=0.1) for drop, when in zip(sizes, onsets, strict=True)]
    drops = np.sum(fall, axis=0)
    return hiss / rms(hiss) + rng.uniform(0.3, 1.5) * drops / rms(drops)


def wind(rng: Generator, time: ndarray) -> ndarray:
    """Gusts: the stronger they blow, the higher their noise reaches; at times they whistle in a gap."""
    gust = 1 + slow_curve(rng, time, rate=log_uniform(rng, 1.0, 4.0)) * rng.uniform(0.4, 0.9)
    edges = log_uniform(rng, 100.0, 300.0) * 2.0 ** np.arange(5)
    bands = [band_noise(rng, time, edge / 2, edge) for edge in edges]
    howl = np.sum([band / rms(band) * (0.7 * gust) ** (n + 1) for n, band in enumerate(bands)], axis=0)
    gap = log_uniform(rng, 300.0, 1200.0)
    whistle = band_noise(rng, time, gap, gap * 1.05, order=8) * gust**3
    return howl / rms(howl) + rng.uniform(0.0, 0.6) * whistle / rms(whistle)


_IN_ORDER = (engine, helicopter, siren, chirps, bell, phone, clock, knocks, rain, wind)
SOUNDS: dict[str, Sound] = {sound.__name__: sound for sound in _IN_ORDER}


def rms(samples: ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A number whose logarithm is spread evenly, as pitch and tempo are heard."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def slow_curve(rng: Generator, time: ndarray, rate: float) -> ndarray:
    """A smooth random curve `(T,)` in [-1, 1] that turns about `rate` times a second."""
    knots = np.arange(0.0, time[-1] + 2 / rate, 1 / rate)
    values = rng.uniform(-1.0, 1.0, size=len(knots))
    place = time * rate
    left = place.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (place - left))
    return values[left] * (1 - blend) + values[left + 1] * blend


def held(rng: Generator, time: ndarray) -> ndarray:
    """The loudness `(T,)` of a sound that comes and goes; it is there for a third of the clip at least."""
    length = rng.uniform(0.35, 1.3) * time[-1]
    start = rng.uniform(min(0.0, time[-1] - length), max(0.0, time[-1] - length))
    fade = rng.uniform(0.05, 0.3)
    return np.clip(np.minimum(time - start, start + length - time) / fade, 0.0, 1.0)


def phrase(rng: Generator, time: ndarray, tempo: float, notes: int, unevenness: float = 0.05) -> ndarray:
    """Onsets `(N,)` in seconds, `tempo` per second, of which no more than fit into the clip."""
    notes = max(1, min(notes, int(0.9 * time[-1] * tempo)))
    jitter = rng.normal(0.0, unevenness, size=notes).clip(-0.3, 0.3)
    start = rng.uniform(0.0, max(0.95 * time[-1] - notes / tempo, 0.05 * time[-1]))
    return np.sort(np.maximum(start + (np.arange(notes) + jitter) / tempo, 0.0))


def phase_of(time: ndarray, frequency: ndarray) -> ndarray:
    return 2 * np.pi * np.cumsum(frequency) * (time[1] - time[0])


def oscillator(time: ndarray, frequency: ndarray, harmonics: ndarray) -> ndarray:
    """A tone of a frequency `(T,)` in Hz and the amplitudes `(H,)` of its harmonics; aliases are left out."""
    phase, top = phase_of(time, frequency), 0.45 / (time[1] - time[0])
    # sin(n * phase) is the imaginary part of z ** n, and a polynomial costs far less than many sines.
    audible = np.where(np.arange(1, len(harmonics) + 1) * frequency.max() < top, harmonics, 0.0)
    return np.polyval([*audible[::-1], 0.0], np.exp(1j * phase)).imag


def pulses(time: ndarray, frequency: ndarray, sharpness: float) -> ndarray:
    """One bump in [0, 1] each period, the narrower the sharper."""
    return (0.5 + 0.5 * np.sin(phase_of(time, frequency))) ** sharpness


def filtered_noise(rng: Generator, time: ndarray, response: Callable[[ndarray], ndarray]) -> ndarray:
    """Noise `(T,)` whose amplitude at a frequency in Hz is `response` of it; nothing at 0 Hz."""
    frequency = np.fft.rfftfreq(len(time), time[1] - time[0])
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    spectrum[0] = 0.0
    spectrum[1:] *= response(frequency[1:])
    return np.fft.irfft(spectrum, len(time))


def tilted_noise(rng: Generator, time: ndarray, exponent: float) -> ndarray:
    """Noise whose power falls as 1 / frequency ** exponent: 0 is white, 1 pink, 2 brown."""
    # Level below 40 Hz, where brown noise would otherwise have all its power and nothing would be masked.
    return filtered_noise(rng, time, lambda hz: np.maximum(hz, 40.0) ** (-exponent / 2))


def band_noise(rng: Generator, time: ndarray, low: float, high: float, order: int = 2) -> ndarray:
    """Noise between two frequencies in Hz, with the slopes of a Butterworth filter."""
    power = 2 * order
    return filtered_noise(
        rng, time, lambda hz: ((1 + (low / hz) ** power) * (1 + (hz / high) ** power)) ** -0.5
    )


def modes(time: ndarray, frequencies: ndarray, decays: ndarray, levels: ndarray) -> ndarray:
    """What a struck body answers `(<= T,)`: decaying sines, each with its time constant in seconds."""
    below = frequencies < 0.45 / (time[1] - time[0])
    time = time[time < 7 * decays.max()]  # -61 dB: what follows is not heard
    rows = np.exp(-time / decays[:, None]) * np.sin(2 * np.pi * frequencies[:, None] * time)
    return (levels * below) @ rows


def bell_metal(rng: Generator, time: ndarray, pitch: float, decay: float) -> ndarray:
    """The partials of a bell (hum, prime, tierce, quint, nominal and above), the high ones dying first."""
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 3.0, 4.2]) * rng.normal(1.0, 0.015, size=8)
    return modes(time, pitch * ratios, decay / ratios**0.8, rng.uniform(0.2, 1.0, size=8))


def wooden(rng: Generator, time: ndarray, low: float, high: float, decay: float) -> ndarray:
    """A dull body: five modes spread over a range in Hz around a random centre, which soon die away."""
    centre = log_uniform(rng, low * 1.5, high / 1.5)
    frequencies = centre * rng.uniform(0.6, 1.6, size=5)
    return modes(time, frequencies, decay * rng.uniform(0.5, 1.5, size=5), rng.uniform(0.3, 1.0, size=5))


def struck(rng: Generator, time: ndarray, body: ndarray, onsets: ndarray, softest: float = 0.5) -> ndarray:
    """The body's answer `(T,)` to blows at `onsets` in seconds, each of a force from `softest` to 1."""
    answer = np.zeros_like(time)
    for start in (onsets / (time[1] - time[0])).astype(int):
        stop = min(start + len(body), len(time))
        answer[start:stop] += rng.uniform(softest, 1.0) * body[: stop - start]
    return answer
