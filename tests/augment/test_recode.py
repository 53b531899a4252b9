"""Real codecs give a clip back in its place and length, and leave of it what their rate of bits allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lightning_audio.augment.recode import Recode, Recoder
from lightning_audio.errors import UserError


def noise(rate: int, seconds: float = 1.0) -> np.ndarray:
    """Noise below a sixth of the rate, int16."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(round(rate * seconds)))
    spectrum[len(spectrum) // 3 :] = 0
    return (6000 * np.fft.irfft(spectrum, round(rate * seconds))).astype(np.int16)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("codec", ["mp3@32k", "mp3@48k", "opus@16k", "opus@64k", "gsm"])
def test_a_codec_keeps_place_and_length(codec: str, rate: int) -> None:
    samples = noise(rate)
    heard = Recoder.parse(codec)(samples, rate)
    assert heard.shape == samples.shape
    assert heard.dtype == np.float32
    size = 1 << (2 * len(samples)).bit_length()
    spectra = [np.fft.rfft(x, size) for x in (samples / 32768, heard)]
    correlation = np.fft.irfft(spectra[1] * np.conj(spectra[0]), size)
    assert int(correlation.argmax()) in (0, 1, size - 1)


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_more_bits_leave_more(name: str) -> None:
    samples = noise(16000, 2.0)
    rates = (8, 24, 64)
    errors = [
        float(np.square(Recoder(name, kbps)(samples, 16000) - samples / 32768).mean()) for kbps in rates
    ]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


def test_a_gsm_line_has_no_high_frequencies() -> None:
    rate = 16000
    tone = (8000 * np.sin(2 * math.pi * 6000 / rate * np.arange(rate))).astype(np.int16)
    heard = Recoder.parse("gsm")(tone, rate)
    assert np.square(heard).mean() < 1e-2 * np.square(tone / 32768).mean()


def test_each_clip_meets_its_own_codec_within_its_length() -> None:
    torch.manual_seed(0)
    x = torch.from_numpy(noise(16000) / 32768).float().repeat(24, 1)
    lengths = torch.tensor([16000, 9000, 0] * 8)
    x = x * (torch.arange(16000) < lengths[:, None])
    transform = Recode(16000, ["mp3@16k", "gsm"], p=0.5)
    heard, same = transform(x, lengths)
    assert torch.equal(same, lengths)
    assert not heard[torch.arange(16000) >= lengths[:, None]].any()
    kinds = {tuple(row[:4000:50].tolist()) for row in heard[::3]}
    assert len(kinds) == 3, "as it was, by MP3, by GSM"
    changed = (heard != x).any(1)
    assert 0 < changed.sum() < 16
    torch.manual_seed(1)
    first = transform(x, lengths)[0]
    torch.manual_seed(1)
    assert torch.equal(transform(x, lengths)[0], first)
    assert transform.eval()(x, lengths)[0] is x


@pytest.mark.parametrize("text", ["flac", "mp3", "opus@fast", "gsm@20k"])
def test_an_unknown_codec_is_told(text: str) -> None:
    with pytest.raises(UserError, match="is no codec: name mp3@32k"):
        Recode(16000, [text])


def test_a_rate_of_bits_that_a_codec_lacks_is_told() -> None:
    with pytest.raises(UserError, match="mp3@320k is no rate of bits for 16000 Hz: give 8 to 160"):
        Recoder.parse("mp3@320k")(noise(16000), 16000)
    with pytest.raises(UserError, match="no codecs"):
        Recode(16000, [])
