"""Level, noise, silence and bandwidth of clips that are made so."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_audio.data.decode import resample
from lightning_audio.data.inspect.sound import measure

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
