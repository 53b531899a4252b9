"""Level, noise, silence and bandwidth of clips that are made so."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_audio.data.decode import resample
from lightning_audio.data.inspect.sound import alike, fingerprint, measure

RATE = 16000


def to_int16(waveform: np.ndarray) -> np.ndarray:
    return np.round(waveform * 32767).astype(np.int16)


@pytest.mark.parametrize("snr", [10.0, 25.0])
def test_noise_is_measured(snr: float) -> None:
    """A tone for half of the time in white noise: loud frames hold both, quiet ones noise alone."""
    rng, time = np.random.default_rng(0), np.arange(4 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * time) * (time % 1 < 0.5)
    noise = rng.normal(scale=0.3 / np.sqrt(2) * 10 ** (-snr / 20), size=len(time))
    assert measure(to_int16(tone + noise), RATE).snr == pytest.approx(snr, abs=1.5)


def test_level_and_silence() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    sound = measure(to_int16(np.concatenate([tone, np.zeros(3 * RATE)])), RATE)
    assert sound.silence == pytest.approx(0.75, abs=0.01)
    assert sound.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)) + 10 * np.log10(0.25), abs=0.05)
    assert measure(np.zeros(100, dtype=np.int16), RATE).level == -100


def test_audio_of_half_the_rate_is_narrow() -> None:
    noise = to_int16(np.random.default_rng(2).normal(scale=0.1, size=2 * RATE))
    assert measure(noise, RATE).bandwidth > 0.98 * RATE / 2
    narrow = resample(resample(noise, RATE, RATE // 2), RATE // 2, RATE)
    assert measure(narrow, RATE).bandwidth == pytest.approx(RATE / 4, rel=0.06)


def speech_like(seed: int, rate: int = 16000, seconds: float = 4.0) -> np.ndarray:
    """Bursts of coloured noise and tones at drawn times, int16."""
    rng = np.random.default_rng(seed)
    samples = 20 * rng.normal(size=round(seconds * rate))
    for start in rng.uniform(0, seconds - 0.5, 12):
        burst = np.arange(round(0.3 * rate)) / rate
        tone = np.sin(2 * np.pi * rng.uniform(150, 3000) * burst) * np.hanning(len(burst))
        samples[round(start * rate) :][: len(burst)] += rng.uniform(500, 8000) * tone
    return samples.astype(np.int16)


def test_clips_of_one_recording_are_alike_and_others_are_not() -> None:
    """At another level, rate, with noise 20 dB below, or 30 ms later; of ten that are not."""
    clip = speech_like(0)
    noisy = clip + np.random.default_rng(9).normal(0, clip.std() / 10, len(clip))
    changed = [
        (clip // 8, 16000),
        (resample(clip, 16000, 8000), 8000),
        (noisy.clip(-32768, 32767).astype(np.int16), 16000),
        (np.roll(clip, 480), 16000),
    ]
    vectors = [fingerprint(clip, 16000), *(fingerprint(*one) for one in changed)]
    vectors += [fingerprint(speech_like(seed), 16000) for seed in range(1, 11)]
    rain = [np.random.default_rng(seed).normal(0, 2000, 64000).astype(np.int16) for seed in (1, 2)]
    vectors += [fingerprint(one, 16000) for one in rain]
    matrix = np.stack(vectors) @ np.stack(vectors).T
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    assert matrix[0, 1:5].min() > 0.85
    np.fill_diagonal(matrix, 0)
    assert matrix[5:].max() < 0.6
    assert fingerprint(np.zeros(10, np.int16), 8000).tolist() == [0.0] * (24 * 64)


def test_pairs_that_are_alike_are_those_of_the_whole_matrix() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 3)) * 5
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = unit @ unit.T
    found = alike(vectors, 0.9)
    expected = {(a, b) for a in range(40) for b in range(a + 1, 40) if matrix[a, b] >= 0.9}
    assert {(a, b) for a, b, _ in found} == expected
    cosines = sorted((matrix[a, b] for a, b in expected), reverse=True)
    assert [cosine for *_, cosine in found] == pytest.approx(cosines)
