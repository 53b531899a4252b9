"""Constant-Q, variable-Q, chroma and pitch are those of librosa, and padding changes nothing."""

from __future__ import annotations

import math
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.music import CQT, Chroma
from lightning_audio.frontend.pitch import Pitch
from lightning_audio.frontend.pyin import PYin

RATE = 22050


def chord(rate: int = RATE, seconds: float = 2.0) -> np.ndarray:
    """Partials of known frequencies that come and go, and some noise."""
    rng, time = np.random.default_rng(0), np.arange(round(rate * seconds)) / rate
    partials = (55.0, 110.5, 220.0, 331.0, 440.0, 1234.0, 2500.0)
    tones = sum(rng.uniform(0.1, 0.3) * np.sin(2 * np.pi * hz * time + rng.uniform(0, 6)) for hz in partials)
    swell = np.sin(np.pi * time / seconds) ** 2
    return ((tones + 0.02 * rng.standard_normal(len(time))) * swell).astype(np.float32)


def batch(y: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(y)[None], torch.tensor([len(y)])


@pytest.mark.parametrize(
    ("rate", "options", "tolerance"),
    [
        (22050, {}, 5e-3),
        (16000, {"hop_length": 256, "n_bins": 72}, 5e-3),
        (16000, {"hop_length": 200, "n_bins": 60}, 5e-3),
        (22050, {"n_bins": 252, "bins_per_octave": 36}, 5e-3),
        (22050, {"gamma": None}, 0.025),  # there the wide low filters reach where librosa halves the rate
    ],
)
def test_cqt_and_vqt_are_librosas(rate: int, options: dict[str, Any], tolerance: float) -> None:
    """Of the loudest value; of librosa without its sparsity, which leaves a part of each filter out."""
    front, y = CQT(rate, **options), chord(rate)
    shared: dict[str, Any] = {"sr": rate, "hop_length": front.hop_length, "fmin": front.f_min, "sparsity": 0}
    shared |= {"n_bins": front.n_bins, "bins_per_octave": front.bins_per_octave, "tuning": 0.0}
    expected = np.abs(librosa.vqt(y, gamma=front.gamma, **shared))
    found = front.amplitudes(batch(y)[0])[0].numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance * expected.max(), rtol=0)


@pytest.mark.parametrize("gamma", [0.0, None])
def test_a_bin_is_the_sum_over_its_window(gamma: float | None) -> None:
    front, y = CQT(8000, 256, 110.0, 24, 12, gamma), chord(8000)
    found = front.amplitudes(batch(y)[0])[0]
    padded = np.pad(y.astype(np.float64), 8000)
    for number in (0, 7, 23):
        halved = 2.0 ** front._halvings[number]
        size = front._sizes[number] * halved
        for frame in (0, 1, 30, found.shape[1] - 1):
            place = np.arange(math.ceil(-size / 2), math.floor(size / 2) + 1)
            window = 0.5 + 0.5 * np.cos(2 * np.pi * place / size)
            wave = np.exp(-2j * np.pi * front.frequencies[number] / 8000 * place)
            total = (padded[8000 + 256 * frame + place] * window * wave).sum() / (size / 2)
            expected = abs(total) * math.sqrt(front.lengths[number])
            assert found[number, frame].item() == pytest.approx(expected, abs=5e-4 * float(found.max()))


def test_a_note_is_loudest_in_its_own_bin() -> None:
    front = CQT(RATE)
    for semitones in (0, 17, 40, 83):
        hz = front.f_min * 2 ** (semitones / 12)
        tone = torch.sin(2 * math.pi * hz * torch.arange(RATE) / RATE)[None]
        decibels, lengths = front(tone, torch.tensor([RATE]))
        assert int(lengths) == decibels.shape[-1] == RATE // 512 + 1
        middle = decibels[0, :, 20]
        assert int(middle.argmax()) == semitones
        # A sine of amplitude 1 gives half the root of its filter's length.
        expected = 20 * math.log10(math.sqrt(front.lengths[semitones]) / 2)
        assert middle.max().item() == pytest.approx(expected, abs=0.2)
        assert decibels.min() >= decibels.max() - 80


@pytest.mark.parametrize("kind", ["stft", "cqt"])
def test_chroma_is_librosas(kind: str) -> None:
    y = chord()
    found = Chroma(RATE, kind)(*batch(y))[0][0].numpy()
    if kind == "stft":
        expected = librosa.feature.chroma_stft(y=y, sr=RATE, tuning=0, pad_mode="constant")
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        expected = librosa.feature.chroma_cqt(y=y, sr=RATE, tuning=0)
        # Of silence at both ends the shares of next to nothing are compared.
        np.testing.assert_allclose(found[:, 4:-4], expected[:, 4:-4], atol=0.02)
    assert found.max() == 1


def test_a_triad_has_its_three_classes() -> None:
    time = torch.arange(RATE) / RATE
    notes = [torch.sin(2 * math.pi * hz * time) for hz in (261.63, 329.63, 392.0)]  # C, E, G
    triad = torch.stack(notes).sum(0)
    for kind in ("stft", "cqt"):
        strength = Chroma(RATE, kind)(triad[None], torch.tensor([RATE]))[0][0, :, 20]
        assert sorted(strength.argsort(descending=True)[:3].tolist()) == [0, 4, 7], kind


@pytest.mark.parametrize("threshold", [0.1, 0.01])
def test_pitch_is_librosas_yin(threshold: float) -> None:
    time = np.arange(2 * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(220 * 2 ** (time / 2)) / RATE  # an octave up
    voice = (
        np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.05 * np.random.default_rng(0).standard_normal(len(time))
    )
    for y in (voice.astype(np.float32), chord()):
        front = Pitch(RATE, threshold=threshold)
        found = front.yin(batch(y)[0])[0][0].numpy()
        expected = librosa.yin(y, fmin=65, fmax=2093, sr=RATE, trough_threshold=threshold)
        assert found.shape == expected.shape
        assert np.mean(np.abs(found / expected - 1) < 1e-4) > 0.98  # silence at the ends is rounding
    features, lengths = Pitch(RATE)(*batch(voice.astype(np.float32)))
    glide = 12 * np.log2(220 * 2 ** (512 * np.arange(int(lengths)) / RATE / 2) / 65)
    np.testing.assert_allclose(features[0, 0, 4:-4].numpy(), glide[4:-4], atol=0.2)
    assert features[0, 1, 4:-4].min() > 0.8


@pytest.mark.parametrize(("rate", "frame", "hop"), [(RATE, 2048, 512), (8000, 512, 80)])
def test_path_is_that_of_librosas_pyin(rate: int, frame: int, hop: int) -> None:
    rng, time = np.random.default_rng(0), np.arange(2 * rate) / rate
    phase = 2 * np.pi * np.cumsum(120 * 2 ** (time / 2)) / rate
    voice = np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.3 * np.sin(3 * phase)
    voice *= (time % 0.7) < 0.45  # comes and goes
    for y in (voice + 0.03 * rng.standard_normal(len(time)), rng.standard_normal(len(time)), chord(rate)):
        y = y.astype(np.float32)
        features, _ = PYin(rate, f_max=1000, frame_length=frame, hop_length=hop)(*batch(y))
        pitch, voiced, probability = librosa.pyin(
            y, fmin=65, fmax=1000, sr=rate, frame_length=frame, hop_length=hop, fill_na=65.0
        )
        semitones, has_voice, likely = features[0].numpy()
        np.testing.assert_allclose(likely, probability, atol=1e-3)
        assert np.mean(has_voice == voiced) > 0.99
        both = voiced & (has_voice > 0)
        np.testing.assert_allclose(semitones[both], 12 * np.log2(pitch[both] / 65), atol=1e-3)


@pytest.mark.parametrize(
    "front", [CQT(RATE), CQT(RATE, top_db=50.0), Chroma(RATE), Chroma(RATE, "stft"), Pitch(RATE), PYin(RATE)]
)
def test_padding_changes_nothing(front: nn.Module) -> None:
    long, short = torch.from_numpy(chord()), torch.from_numpy(chord(seconds=1.1))
    both = torch.zeros(2, len(long))
    both[0], both[1, : len(short)] = long, short
    features, lengths = front(both, torch.tensor([len(long), len(short)]))
    assert lengths.tolist() == [len(long) // 512 + 1, len(short) // 512 + 1]
    alone, own = front(short[None], torch.tensor([len(short)]))
    # Behind its swell a clip is silent, where rounding decides what YIN finds.
    inside = slice(2, int(own) - 2) if isinstance(front, (Pitch, PYin)) else slice(0, int(own))
    torch.testing.assert_close(
        features[1, :, : int(own)][:, inside], alone[0][:, inside], atol=2e-2, rtol=1e-3
    )
    behind = features[1, :, int(own) :]
    assert behind.max() == behind.min() or isinstance(front, (Pitch, PYin))
    assert front.shape == (1, features.shape[1])
    changed, _ = front(both.roll(1, 0), torch.tensor([len(short), len(long)]))
    torch.testing.assert_close(changed[0][:, inside], features[1][:, inside], atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CQT(8000), "n_bins=84 reach .* lower n_bins"),
        (lambda: CQT(RATE, n_bins=0), "1 or more"),
        (lambda: Chroma(RATE, "mel"), "kind=mel is unknown"),
        (lambda: Chroma(RATE, bins_per_octave=30), "a multiple of n_chroma"),
        (lambda: Pitch(RATE, f_min=20), "frame_length=2048 holds no two periods"),
        (lambda: PYin(8000, f_max=5000), "up to half the sample rate"),
    ],
)
def test_mistakes_end_in_a_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_silence_has_no_period() -> None:
    features, _ = Pitch(RATE)(*batch(np.zeros(RATE, np.float32)))
    assert not features[0, 1].any()


@pytest.mark.parametrize("front", [CQT(RATE), Chroma(RATE), Pitch(RATE), PYin(RATE)])
def test_what_is_no_graph_is_not_traced(front: nn.Module) -> None:
    with pytest.raises(UserError, match="runs in torch alone: to export, train with"):
        torch.jit.trace(front, batch(chord(seconds=0.5)))
