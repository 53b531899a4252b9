"""The sounds of the demo corpus and what they are made of obey their laws."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_audio.data.corpora.synthesis import (
    SOUNDS,
    modes,
    oscillator,
    phrase,
    render,
    rms,
    struck,
    tilted_noise,
)

RATE = 16000


def time_axis(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * RATE)) / RATE


def sounds_of(label: str, seconds: float, count: int = 12) -> list[np.ndarray]:
    """The sound without noise, peak 1, from generators that no clip uses."""
    clean = [SOUNDS[label](np.random.default_rng([99, n]), time_axis(seconds)) for n in range(count)]
    return [samples / np.abs(samples).max() for samples in clean]


def onsets_of(samples: np.ndarray, frame: int = 32, gap: float = 0.06) -> np.ndarray:
    """Times at which the level of 2-ms frames jumps by 6 dB over the loudest of the 16 ms before."""
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-4)
    before = np.pad(level, (8, 0), constant_values=-40.0)
    jumps = [n for n in range(len(level)) if level[n] > before[n : n + 8].max() + 6]
    kept = [n for i, n in enumerate(jumps) if i == 0 or (n - jumps[i - 1]) * frame / RATE > gap]
    return np.array(kept) * frame / RATE


@pytest.mark.parametrize("rate", [16000, 44100])
def test_every_sound_is_finite_and_heard_at_any_length(rate: int) -> None:
    for index, sound in enumerate(SOUNDS.values()):
        for number in range(4):
            time = np.arange(round((0.5 + number) * rate)) / rate
            samples = render(sound, np.random.default_rng([7, index, number]), time, 60.0, 60.0)
            assert samples.shape == time.shape
            assert np.isfinite(samples).all()
            assert 0.0 < np.abs(samples).max() < 1.0


@pytest.mark.parametrize("snr_db", [-12.0, 0.0, 15.0])
def test_the_snr_asked_for_is_reached(snr_db: float) -> None:
    time = time_axis(2.0)
    for label in ("siren", "bell", "knocks"):
        clean = SOUNDS[label](np.random.default_rng(4), time)
        mixed = render(SOUNDS[label], np.random.default_rng(4), time, snr_db, snr_db)
        gain = mixed @ clean / (clean @ clean)
        residual = mixed - gain * clean
        assert 20 * np.log10(rms(gain * clean) / rms(residual)) == pytest.approx(snr_db, abs=0.7)


def test_few_clips_are_hard() -> None:
    # An SNR between -12 and 24 dB of triangular density is below -4 dB in (8 / 36) ** 2 = 4.9 % of the clips.
    time, hard = time_axis(0.25), 0
    for number in range(400):
        clean = SOUNDS["siren"](np.random.default_rng(number), time)
        mixed = render(SOUNDS["siren"], np.random.default_rng(number), time, -12.0, 24.0)
        gain = mixed @ clean / (clean @ clean)
        hard += rms(gain * clean) < 10 ** (-4 / 20) * rms(mixed - gain * clean)
    assert 0.02 < hard / 400 < 0.09


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_tilted_noise_falls_with_its_exponent(exponent: float) -> None:
    noise = tilted_noise(np.random.default_rng(0), time_axis(8.0), exponent)
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = 100 * 2.0 ** np.arange(7)
    means = [power[(hz >= low) & (hz < 2 * low)].mean() for low in octaves]
    slope = np.polyfit(np.log2(octaves), np.log2(means), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_oscillator_equals_a_sum_of_sines_and_leaves_out_aliases() -> None:
    time = time_axis(1.0)
    tone = oscillator(time, np.full_like(time, 1000.0), np.array([1.0, 0.5, 0.25, 0, 0, 0, 0, 0, 1.0]))
    amplitudes = np.abs(np.fft.rfft(tone)) / (len(time) / 2)
    expected = np.zeros_like(amplitudes)
    expected[[1000, 2000, 3000]] = 1.0, 0.5, 0.25
    np.testing.assert_allclose(amplitudes, expected, atol=1e-6)


def test_modes_decay_with_their_time_constant_and_blows_add_up() -> None:
    time = time_axis(1.0)
    body = modes(time, np.array([500.0]), np.array([0.1]), np.array([1.0]))
    levels = np.array([rms(body[n : n + 160]) for n in range(0, 8000, 160)])
    slope = np.polyfit(np.arange(50) * 0.01, np.log(levels), 1)[0]
    assert slope == pytest.approx(-1 / 0.1, rel=0.01)
    twice = struck(np.random.default_rng(0), time, body, np.array([0.25, 0.5]), softest=1.0)
    expected = np.zeros_like(time)
    expected[4000:] += np.pad(body, (0, RATE))[:12000]
    expected[8000:] += np.pad(body, (0, RATE))[:8000]
    np.testing.assert_allclose(twice, expected, atol=1e-9)


def test_phrases_keep_their_tempo_and_fit_into_the_clip() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        onsets = phrase(rng, time_axis(2.0), tempo=4.0, notes=20, unevenness=0.05)
        assert len(onsets) == 7
        assert onsets.min() >= 0.0
        assert onsets.max() < 1.9
        assert np.diff(onsets).mean() == pytest.approx(0.25, abs=0.03)


def test_the_clock_ticks_evenly_two_to_six_times_a_second() -> None:
    for samples in sounds_of("clock", seconds=4.0):
        spacing = np.diff(onsets_of(samples))
        assert 1 / 6 - 0.004 < spacing.min() <= spacing.max() < 1 / 2 + 0.004
        assert spacing.max() - spacing.min() < 0.005


def test_knocks_come_in_a_group_of_two_to_seven() -> None:
    groups = [onsets_of(samples) for samples in sounds_of("knocks", seconds=4.0)]
    assert all(2 <= len(onsets) <= 7 for onsets in groups)
    assert len({len(onsets) for onsets in groups}) > 2
    spacings = np.array([np.diff(onsets).mean() for onsets in groups])
    assert ((spacings > 0.8 / 8) & (spacings < 1.2 / 2.5)).all()


def test_the_bell_dies_away_after_one_to_four_strokes() -> None:
    for samples in sounds_of("bell", seconds=6.0):
        level = 20 * np.log10(np.array([rms(frame) for frame in samples.reshape(-1, 800)]) + 1e-3)
        rises = np.flatnonzero(np.diff(level) > 1.0)
        assert 1 <= len(rises) <= 8
        assert (np.diff(level[level.argmax() :]) < 1.0).mean() > 0.9
        assert level[level > -55].std() > 1.0


def test_the_siren_glides_within_its_range() -> None:
    for samples in sounds_of("siren", seconds=4.0):
        frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024)
        loud = frames[np.array([rms(frame) for frame in frames]) > 0.3 * rms(samples)]
        spectra = np.abs(np.fft.rfft(loud * np.hanning(1024), 8192, axis=1))
        # The fundamental is the lowest peak; harmonics above it may be stronger.
        lowest = np.array([np.flatnonzero(row > 0.25 * row.max())[0] for row in spectra]) * RATE / 8192
        assert lowest.min() > 450 - 35
        assert lowest.max() < 2000
        assert lowest.max() / lowest.min() > 1.3
