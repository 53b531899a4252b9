"""Every augmentation follows its law, draws for each sample by itself, and is off in eval mode."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sine, write_wav
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_audio.augment import Augment
from lightning_audio.augment.base import Transform
from lightning_audio.augment.channel import Clipping, PacketLoss, Telephone
from lightning_audio.augment.features import FilterAugment, PatchOut, SpecAugment
from lightning_audio.augment.mix import Mix, loudest_level
from lightning_audio.augment.noise import BackgroundNoise, Dither, NoiseFloor
from lightning_audio.augment.policy import RandomPolicy
from lightning_audio.augment.room import Reverb
from lightning_audio.augment.spectral import Codec, PitchShift, TimeStretch
from lightning_audio.augment.warp import VTLN, TimeWarp
from lightning_audio.augment.waveform import (
    FRACTION_BITS,
    Gain,
    Polarity,
    RandomCrop,
    Speed,
    TimeRoll,
    TimeShift,
    _cubic,
    _roll_windows,
    resample,
    roll,
)
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask

RATE = 8000
CONF = Path(__file__).parents[2] / "conf" / "augment"

WAVEFORM: dict[str, Callable[[], nn.Module]] = {
    "roll": TimeRoll,
    "shift": lambda: TimeShift(0.1, RATE),
    "crop": lambda: RandomCrop(0.5, RATE, pad=0.25),
    "crop_cut": lambda: RandomCrop(0.5, RATE, pad=0.25, cut=True),
    "crop_loud": lambda: RandomCrop(0.5, RATE, loud=True),
    "gain": Gain,
    "polarity": Polarity,
    "white": lambda: BackgroundNoise(0, 20, colour="white"),
    "pink": lambda: BackgroundNoise(0, 20, colour="pink"),
    "brown": lambda: BackgroundNoise(0, 20, colour="brown"),
    "speed": Speed,
    "speed_keep_length": lambda: Speed(keep_length=True),
    "reverb": lambda: Reverb(RATE, p=1.0),
    "clipping": lambda: Clipping(0.1, 0.9, p=1.0),
    "telephone": lambda: Telephone(RATE),
    "packet_loss": lambda: PacketLoss(RATE, 0.005, max_share=0.4, p=1.0),
    "stretch": lambda: TimeStretch(p=1.0, n_fft=256),
    "stretch_keep_length": lambda: TimeStretch(p=1.0, keep_length=True, n_fft=256),
    "pitch": lambda: PitchShift(p=1.0, n_fft=256),
    "codec": lambda: Codec(RATE, min_hz=1000, max_hz=3000, p=1.0),
    "policy": lambda: RandomPolicy({"gain": Gain(), "speed": Speed(), "roll": TimeRoll()}, n=2),
}
FEATURES: dict[str, Callable[[], nn.Module]] = {
    "spec_augment": SpecAugment,
    "filter_linear": FilterAugment,
    "filter_step": lambda: FilterAugment(kind="step"),
    "patch_out": PatchOut,
    "time_warp": lambda: TimeWarp(p=1.0),
    "vtln": lambda: VTLN(RATE, p=1.0),
    "policy_of_features": lambda: RandomPolicy({"masks": SpecAugment(), "filter": FilterAugment()}, n=1),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def clips(count: int = 6, size: int = 6000) -> tuple[Tensor, Tensor]:
    """Noise of several lengths, zeros behind the shorter ones."""
    lengths = torch.linspace(size // 2, size, count).long()
    return torch.randn(count, size) * frame_mask(lengths, size), lengths


def log_mels(count: int = 6, bins: int = 64, frames: int = 200) -> tuple[Tensor, Tensor]:
    lengths = torch.linspace(frames // 2, frames, count).long()
    return torch.randn(count, bins, frames) * 10 - 40, lengths


def one_hot(classes: list[int]) -> Tensor:
    return nn.functional.one_hot(torch.tensor(classes)).float()


def rms_db(x: Tensor) -> Tensor:
    return 10 * x.double().square().sum(1).log10()


# ------------------------------------------------------------------------------------ what all have in common


@pytest.mark.parametrize("name", [*WAVEFORM, *FEATURES])
def test_eval_mode_is_the_identity_and_the_seed_decides_the_draw(name: str) -> None:
    transform = (WAVEFORM | FEATURES)[name]()
    x, lengths = clips() if name in WAVEFORM else log_mels()
    same, same_lengths = transform.eval()(x, lengths)
    assert torch.equal(same, x)
    assert torch.equal(same_lengths, lengths)
    before = x.clone()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(transform.train()(x, lengths)[0])
    assert torch.equal(draws[0], draws[1])
    assert draws[0].shape != draws[2].shape or not torch.equal(draws[0], draws[2])
    assert torch.equal(x, before), "the input is left as it was"


@pytest.mark.parametrize("name", WAVEFORM)
def test_samples_beyond_a_length_stay_zero(name: str) -> None:
    x, lengths = WAVEFORM[name]()(*clips())
    assert x.dtype == torch.float32
    assert lengths.dtype == torch.int64
    assert not x[~frame_mask(lengths, x.shape[1])].any()
    assert (lengths <= x.shape[1]).all()


@pytest.mark.parametrize("name", [*WAVEFORM, *FEATURES])
def test_equal_samples_of_a_batch_are_drawn_differently(name: str) -> None:
    x, lengths = clips() if name in WAVEFORM else log_mels()
    count = 8
    twins = x[-1:].expand(count, *x.shape[1:]).clone()
    changed, _ = (WAVEFORM | FEATURES)[name]()(twins, lengths[-1:].expand(count))
    differing = {tuple(row.flatten()[:2000].tolist()) for row in changed}
    assert len(differing) == (2 if name in ("polarity", "telephone") else count)


@pytest.mark.parametrize(
    ("build", "share"),
    [
        (lambda: TimeRoll(p=0.3), 0.3),
        (lambda: TimeShift(1.0, RATE, p=0.6), 0.6),
        (lambda: Gain(3, 6, p=0.7), 0.7),
        (lambda: Polarity(), 0.5),
        (lambda: BackgroundNoise(0, 9, p=0.4, colour="white"), 0.4),
        (lambda: Speed(1.2, 1.3, p=0.6), 0.6),
        (lambda: SpecAugment(time_masks=9, p=0.2), 0.2),
        (lambda: FilterAugment(p=0.8), 0.8),
        (lambda: Reverb(RATE, p=0.3), 0.3),
        (lambda: Clipping(0.2, 0.9, p=0.3), 0.3),
        (lambda: Telephone(RATE, p=0.7), 0.7),
        (lambda: TimeStretch(1.2, 1.3, p=0.6, n_fft=16), 0.6),
        (lambda: PitchShift(1, 2, p=0.4, n_fft=16), 0.4),
        (lambda: Codec(RATE, p=0.7, n_fft=64, bands=4), 0.7),
        (lambda: TimeWarp(max_share=0.4, p=0.6), 0.6),
        (lambda: VTLN(RATE, min=1.2, max=1.3, p=0.3), 0.3),
        (lambda: RandomPolicy({"gain": Gain(3, 6), "polarity": Polarity(p=1)}, n=1, p=0.4), 0.4),
    ],
)
def test_each_sample_is_changed_with_probability_p(build: Callable[[], nn.Module], share: float) -> None:
    transform = build()
    of_features = isinstance(transform, SpecAugment | FilterAugment | TimeWarp | VTLN)
    shape = (2000, 16, 30) if of_features else (2000, 64)
    x = torch.randn(shape)
    changed, _ = transform(x, torch.full((2000,), shape[-1]))
    changed_share = (changed[..., : x.shape[-1]] != x).flatten(1).any(1).float().mean().item()
    assert changed_share == pytest.approx(share, abs=0.04)


# ----------------------------------------------------------------------------------------- time roll and crop


def test_roll_equals_torch_roll_within_each_length() -> None:
    x, lengths = clips()
    shifts = torch.tensor([0, 1, -5, 3999, 10_000, 6000])
    rolled = roll(x, lengths, shifts)
    for row, source, length, shift in zip(rolled, x, lengths.tolist(), shifts.tolist(), strict=True):
        assert torch.equal(row[:length], source[:length].roll(shift))
        assert not row[length:].any()


def test_roll_on_a_device_equals_roll_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([50, 1, 37, 20])
    x = torch.randn(4, 50, generator=generator).masked_fill(torch.arange(50) >= lengths[:, None], 0)
    for shifts in torch.randint(0, 50, (20, 4), generator=generator) % lengths:
        assert torch.equal(_roll_windows(x, lengths, shifts), roll(x, lengths, shifts))


def test_time_roll_is_a_permutation_and_its_shifts_are_uniform() -> None:
    x, lengths = clips()
    rolled, same_lengths = TimeRoll()(x, lengths)
    assert torch.equal(rolled.sort(1).values, x.sort(1).values)
    assert torch.equal(same_lengths, lengths)
    impulses = torch.zeros(4000, 100)
    impulses[:, 0] = 1
    shifts = TimeRoll()(impulses, torch.full((4000,), 80))[0].argmax(1)
    counts = torch.bincount(shifts, minlength=100)
    assert not counts[80:].any()
    # Chi-square with 79 degrees of freedom: mean 79, deviation 12.6.
    assert ((counts[:80] - 50.0).square() / 50).sum() < 79 + 4 * 12.6


def test_a_shift_brings_in_silence_from_either_side() -> None:
    lengths = torch.tensor([400, 800, 1000] * 200)
    clip = torch.arange(1.0, 1001)  # every sample tells its own place
    shifted, same_lengths = TimeShift(0.05, RATE, max_share=1.0)(clip * frame_mask(lengths, 1000), lengths)
    assert torch.equal(same_lengths, lengths)
    shifts = []
    for row, length in zip(shifted, lengths.tolist(), strict=True):
        first = int(row.argmax() - row.max() + 1)  # where the first sample now is, or would be
        expected = [place - first + 1 if first <= place < first + length else 0 for place in range(length)]
        assert row[:length].tolist() == expected
        assert not row[length:].any()
        shifts.append(first)
    assert max(map(abs, shifts)) <= 400
    assert min(shifts) < -380
    assert max(shifts) > 380
    assert np.mean(shifts) == pytest.approx(0, abs=4 * 400 / 3**0.5 / 600**0.5)


def test_a_shift_of_more_than_the_clip_leaves_silence_where_it_may() -> None:
    x = torch.ones(400, 10)
    shifted, _ = TimeShift(10 / RATE, RATE, max_share=1.0)(x, torch.full((400,), 10))
    kept = shifted.sum(1)
    assert set(kept.tolist()) == set(range(11))


def test_a_shift_is_no_more_than_its_share_of_a_short_clip() -> None:
    lengths = torch.tensor([8, 100, 400, 4000] * 300)
    x = frame_mask(lengths, 4000).float()
    lost = (lengths - TimeShift(0.1, RATE)(x, lengths)[0].sum(1)).view(-1, 4)
    assert lost.amax(0).tolist() == pytest.approx([2, 25, 100, 800], rel=0.03)
    assert (lost >= 0).all()


@pytest.mark.parametrize(("seconds", "pad"), [(0.1, 0.0), (0.1, 0.05), (0.1, 0.4), (0.5, 0.0), (0.5, 0.1)])
def test_a_crop_is_a_stretch_of_the_padded_clip(seconds: float, pad: float) -> None:
    size, margin = round(seconds * RATE), round(pad * RATE)
    lengths = torch.tensor([0, 1, 700, 800, 2000, 2400] * 4)
    clip = torch.arange(1.0, 2401)  # every sample tells its own place
    x = clip * frame_mask(lengths, 2400)
    cropped, new_lengths = RandomCrop(seconds, RATE, pad)(x, lengths)
    assert cropped.shape == (24, size)
    assert (new_lengths == size).all()
    for row, length in zip(cropped, lengths.tolist(), strict=True):
        spare = max(size - length - 2 * margin, 0)
        padded = nn.functional.pad(clip[:length], (margin + spare, margin + spare))
        assert (padded.unfold(0, size, 1) == row).all(1).any()


def test_crops_begin_everywhere() -> None:
    x = torch.arange(1.0, 101).expand(5000, -1)
    starts = RandomCrop(40 / RATE, RATE)(x, torch.full((5000,), 100))[0][:, 0].long()
    assert set(starts.tolist()) == set(range(1, 62))
    places = RandomCrop(110 / RATE, RATE)(x, torch.full((5000,), 100))[0].argmax(1) - 99
    assert set(places.tolist()) == set(range(11))


# --------------------------------------------------------------------------------------------- gain, polarity


def test_a_loud_crop_holds_the_one_sound_of_a_clip_wherever_it_is() -> None:
    x, lengths = torch.zeros(3000, RATE), torch.full((3000,), RATE)
    x[:, 2000:2100] = 0.5
    cropped, new_lengths = RandomCrop(0.5, RATE, loud=True)(x, lengths)
    assert (new_lengths == 4000).all()
    sums = cropped.sum(1)
    assert (sums > 0).all()
    assert (sums == 50).float().mean().item() == pytest.approx(
        1 - 100 / 4000, abs=0.015
    )  # whole, but at an edge
    ordinary = RandomCrop(0.25, RATE)(x, lengths)[0]
    assert ordinary.any(1).float().mean().item() == pytest.approx(2000 / 6000, abs=0.03)


def test_a_crop_puts_half_a_word_against_the_end_at_which_it_was_cut() -> None:
    lengths = torch.tensor([60, 60, 100, 100])
    x = torch.stack([torch.arange(1.0, 101), torch.arange(100, 0.0, -1)]).repeat(2, 1)
    x = x * frame_mask(lengths, 100)
    cropped, new_lengths = RandomCrop(100 / RATE, RATE, pad=0.5, cut=True)(x, lengths)
    assert new_lengths.tolist() == [100] * 4
    assert cropped[0].tolist() == [0] * 40 + x[0, :60].tolist()
    assert cropped[1].tolist() == x[1].tolist()
    whole = x[2:].repeat(99, 1)
    places, _ = RandomCrop(100 / RATE, RATE, pad=40 / RATE, cut=True)(whole, torch.full((198,), 100))
    assert len({tuple(row.tolist()) for row in places}) > 81  # whole ones stand anywhere


def test_a_loud_crop_of_an_even_sound_starts_anywhere() -> None:
    x = torch.arange(1, 101.0).expand(5000, -1)
    even = x.sign() + x * 1e-4  # tells where it starts
    lengths = torch.full((5000,), 100)
    starts = ((RandomCrop(40 / RATE, RATE, loud=True)(even, lengths)[0][:, 0] - 1) * 1e4).round().long() - 1
    assert starts.min() == 0
    assert starts.max() == 60
    assert starts.float().mean().item() == pytest.approx(30, abs=1)
    assert starts.bincount(minlength=61).max() < 3 * 5000 / 61  # no edge is drawn much more often than others


def test_gains_fill_their_range_in_decibels() -> None:
    x, lengths = torch.randn(3000, 50), torch.full((3000,), 50)
    gains = rms_db(Gain(-9, 3)(x, lengths)[0]) - rms_db(x)
    assert gains.min() >= -9.001
    assert gains.max() <= 3.001
    assert gains.mean().item() == pytest.approx(-3, abs=0.2)
    assert gains.std().item() == pytest.approx(12 / 12**0.5, rel=0.03)
    assert torch.corrcoef(torch.stack([gains[:-1], gains[1:]]))[0, 1].abs() < 0.06


def test_polarity_turns_its_share_of_the_clips() -> None:
    x, lengths = torch.randn(4000, 10), torch.full((4000,), 10)
    turned, _ = Polarity(p=0.25)(x, lengths)
    is_turned = (turned == -x).all(1)
    assert (is_turned | (turned == x).all(1)).all()
    assert is_turned.float().mean().item() == pytest.approx(0.25, abs=0.025)


# ------------------------------------------------------------------------------------------------------ noise


def snr_db(x: Tensor, noisy: Tensor) -> Tensor:
    return rms_db(x) - rms_db(noisy.double() - x)


@pytest.mark.parametrize("colour", ["white", "pink", "brown"])
def test_the_snr_is_reached_over_the_length_of_each_clip(colour: str) -> None:
    x, lengths = clips()
    x[2] = 0
    noisy, _ = BackgroundNoise(7, 7, colour=colour)(x, lengths)
    reached = snr_db(x, noisy)[[0, 1, 3, 4, 5]]
    torch.testing.assert_close(reached, torch.full_like(reached, 7), atol=1e-3, rtol=0)
    assert not noisy[2].any(), "a silent clip stays silent"
    reached = snr_db(x, BackgroundNoise(-5, 15, colour=colour)(x, lengths)[0])[[0, 1, 3, 4, 5]]
    assert ((reached >= -5.001) & (reached <= 15.001)).all()
    assert len(set(reached.tolist())) == 5


@pytest.mark.parametrize(("colour", "exponent"), [("white", 0), ("pink", 1), ("brown", 2)])
def test_the_spectrum_of_noise_falls_with_its_colour(colour: str, exponent: int) -> None:
    x = torch.full((64, 6000), 1e-4)
    noise = BackgroundNoise(-60, -60, colour=colour)(x, torch.full((64,), 6000))[0] - x
    window = torch.hann_window(6000)
    power = torch.fft.rfft((noise - noise.mean(1, keepdim=True)) * window).abs().square().mean(0).numpy()
    bins = np.arange(20, 2500)
    slope, _ = np.polyfit(np.log(bins), np.log(power[bins]), 1)
    assert slope == pytest.approx(-exponent, abs=0.08)


def test_recorded_noise_comes_from_any_recording_and_any_place(tmp_path: Path) -> None:
    write_wav(tmp_path / "noise" / "low.wav", sine(100, 1.5, RATE), RATE)
    write_wav(tmp_path / "noise" / "deeper" / "high.wav", sine(3001, 2.0, 2 * RATE), 2 * RATE)
    x, lengths = clips(count=24)
    noisy, _ = BackgroundNoise(5, 10, folder=str(tmp_path / "noise"), sample_rate=RATE)(x, lengths)
    reached = snr_db(x, noisy)
    assert ((reached > 5 - 1e-3) & (reached < 10 + 1e-3)).all()
    noise = (noisy - x)[:, :2400]
    peaks = torch.fft.rfft(noise).abs().argmax(1) * RATE / 2400
    assert set(peaks.round().int().tolist()) == {100, 3000}
    starts = noise[:, 0] / noise.abs().amax(1)
    assert len({round(start, 3) for start in starts.tolist()}) > 12


def test_a_silent_recording_adds_nothing(tmp_path: Path) -> None:
    write_wav(tmp_path / "silent.wav", np.zeros(500), RATE)
    x, lengths = clips()
    lengths[0], x[0] = 0, 0
    noisy, _ = BackgroundNoise(0, 0, folder=str(tmp_path), sample_rate=RATE)(x, lengths)
    assert torch.equal(noisy, x)


def test_a_short_recording_is_repeated(tmp_path: Path) -> None:
    recording = np.random.default_rng(0).integers(-9999, 9999, 700).astype(np.int16)
    write_wav(tmp_path / "short.wav", recording, RATE)
    x, lengths = torch.randn(4, 6000), torch.full((4,), 6000)
    noisy, _ = BackgroundNoise(-20, -20, folder=str(tmp_path), sample_rate=RATE)(x, lengths)
    noise = (noisy - x).numpy()
    np.testing.assert_allclose(noise[:, 700:], noise[:, :-700], atol=1e-5)
    for row in noise:
        correlations = [np.corrcoef(np.roll(recording, -start), row[:700])[0, 1] for start in range(700)]
        assert max(correlations) == pytest.approx(1, abs=1e-6)


def test_a_noise_floor_is_as_loud_as_it_was_recorded_times_a_gain(tmp_path: Path) -> None:
    write_wav(tmp_path / "tone.wav", sine(1000, 2.0, RATE, level=0.8), RATE)
    x, lengths = clips(count=400, size=2400)
    x[:200] = 0  # also what is silent gets it
    noisy, same_lengths = NoiseFloor(str(tmp_path), RATE, 0.1, 0.5)(x, lengths)
    assert torch.equal(same_lengths, lengths)
    noise = noisy - x
    assert not noise[~frame_mask(lengths, 2400)].any()
    gains = noise[:, :1200].square().mean(1).sqrt() / (0.8 / 2**0.5)
    assert gains.min() >= 0.1 - 1e-3
    assert gains.max() <= 0.5 + 1e-3
    assert gains.mean().item() == pytest.approx(0.3, abs=0.025)
    assert gains[:200].std().item() == pytest.approx(0.4 / 12**0.5, rel=0.15)


def test_a_noise_floor_uses_the_first_share_of_a_recording(tmp_path: Path) -> None:
    recording = np.concatenate([np.full(6000, 8000), np.full(2000, -8000)]).astype(np.int16)
    write_wav(tmp_path / "steps.wav", recording, RATE)
    silent, lengths = torch.zeros(300, 700), torch.full((300,), 700)
    level = 8000 / 32768
    noise, _ = NoiseFloor(str(tmp_path), RATE, 1.0, 1.0, share=0.75)(silent, lengths)
    assert (noise == level).all()
    ones = torch.ones(300, 700)
    noisy, _ = BackgroundNoise(0, 0, folder=str(tmp_path), sample_rate=RATE, share=0.75)(ones, lengths)
    torch.testing.assert_close(noisy, 2 * ones)
    noise, _ = NoiseFloor(str(tmp_path), RATE, 1.0, 1.0)(silent, lengths)
    assert (noise == -level).float().mean().item() == pytest.approx(0.25, abs=0.09)


# ------------------------------------------------------------------------------------------------------ speed


def peak_frequency(x: Tensor) -> float:
    """The frequency of a sine in cycles per sample, to a small part of a bin."""
    spectrum = torch.fft.rfft(x.double() * torch.hann_window(len(x), dtype=torch.float64), 16 * len(x)).abs()
    return spectrum.argmax().item() / (16 * len(x))


def test_speed_moves_pitch_and_length_together() -> None:
    lengths = torch.tensor([8000, 7000, 6000, 8000])
    tone = torch.from_numpy(sine(200, 1.0, RATE)).float()
    x = tone.expand(4, -1) * frame_mask(lengths, 8000)
    changed, new_lengths = Speed(0.8, 1.25)(x, lengths)
    rates = []
    for row, old, new in zip(changed, lengths.tolist(), new_lengths.tolist(), strict=True):
        rate = peak_frequency(row[:new]) * RATE / 200
        assert new == pytest.approx(old / rate, rel=2e-3)
        rates.append(rate)
    assert len({round(rate, 3) for rate in rates}) == 4
    assert min(rates) > 0.798
    assert max(rates) < 1.252


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.1])
def test_speed_hits_the_samples_between_the_samples(rate: float) -> None:
    wave = lambda time: torch.sin(0.05 * time) + 0.3 * torch.cos(0.11 * time)  # noqa: E731
    x = wave(torch.arange(50_000, dtype=torch.float64)).float()[None]
    changed, new_lengths = Speed(rate, rate)(x, torch.tensor([50_000]))
    assert new_lengths.item() == round(50_000 / rate)
    exact_rate = torch.tensor(rate).item()  # rates are drawn as float32
    expected = wave(torch.arange(new_lengths.item(), dtype=torch.float64) * exact_rate).float()
    torch.testing.assert_close(changed[0, 5 : new_lengths - 5], expected[5:-5], atol=2e-4, rtol=0)
    if rate == 1.0:
        assert torch.equal(changed, x)


def test_speed_is_catmull_rom_interpolation() -> None:
    x = torch.randn(1, 400)
    changed, _ = Speed(0.73, 0.73)(x, torch.tensor([400]))
    nodes = torch.nn.functional.pad(x[0], (1, 3)).double().numpy()
    for n in range(changed.shape[1] - 3):
        i, t = int(n * 0.73), n * 0.73 - int(n * 0.73)
        a, b, c, d = nodes[i : i + 4]
        hermite = (2 * t**3 - 3 * t**2 + 1) * b + (3 * t**2 - 2 * t**3) * c
        hermite += (t**3 - 2 * t**2 + t) * (c - a) / 2 + (t**3 - t**2) * (d - b) / 2
        assert changed[0, n].item() == pytest.approx(hermite, abs=1e-3)


@pytest.mark.parametrize("name", [*WAVEFORM, *FEATURES])
def test_no_transform_asks_a_device_for_a_number(name: str) -> None:
    """Tensors without data stand in for it: what Python has to know of them, and would wait for, raises."""
    x, lengths = clips() if name in WAVEFORM else log_mels()
    changed, new = (WAVEFORM | FEATURES)[name]()(x.to("meta"), lengths.to("meta"))
    assert len(changed) == len(new) == len(x)


@pytest.mark.parametrize("size", [400, 300, 700])
def test_a_cpu_resamples_clip_by_clip_what_a_device_does_at_once(size: int) -> None:
    x, step = torch.randn(3, 400), torch.tensor([7 << 29, 1 << FRACTION_BITS, 5 << 30])
    assert torch.equal(resample(x, step, size), _cubic(x, step[:, None], size))


def test_speed_on_a_device_asks_it_for_no_length() -> None:
    """Tensors without data stand in for it: what Python has to know of them raises."""
    x, lengths = torch.empty(3, 500, device="meta"), torch.empty(3, dtype=torch.long, device="meta")
    for keep_length in (True, False):
        fast, _ = Speed(1.1, 1.2, keep_length=keep_length)(x, lengths)
        assert fast.shape == (3, 500)
        slow, _ = Speed(0.5, 0.5, keep_length=keep_length)(x, lengths)
        assert slow.shape == (3, 500 if keep_length else 1000)


def test_the_shortest_clip_keeps_a_sample_at_any_speed() -> None:
    _, lengths = Speed(4, 4)(torch.ones(3, 9), torch.tensor([0, 1, 9]))
    assert lengths.tolist() == [0, 1, 2]


def test_speed_can_keep_lengths() -> None:
    x, lengths = clips()
    slow, same = Speed(0.5, 0.5, keep_length=True)(x, lengths)
    assert torch.equal(same, lengths)
    assert slow.shape == x.shape
    assert torch.equal(slow[:, 0 : len(x) : 2], x[:, : (len(x) + 1) // 2])
    fast, same = Speed(2, 2, keep_length=True)(x, lengths)
    assert torch.equal(same, lengths)
    assert torch.equal(fast[-1, :3000], x[-1, ::2])
    assert not fast[-1, 3000:].any()


# ----------------------------------------------------------------------------------------------------- mixing


def planted(x: Tensor, mixed: Tensor, row: int) -> tuple[int, float, float]:
    """The partner of a row and the two weights, by least squares over all clips of the batch."""
    weights = torch.linalg.lstsq(x.double().T, mixed[row].double()[:, None]).solution[:, 0]
    others = weights.clone()
    others[row] = 0
    partner = int(others.abs().argmax())
    others[partner] = 0
    assert others.abs().max() < 1e-5, "only two clips are in it"
    return partner, weights[row].item(), weights[partner].item()


@pytest.mark.parametrize("mode", ["mixup", "power", "between_class"])
def test_labels_weigh_what_the_mixture_holds(mode: str) -> None:
    x, lengths = clips(count=8)
    x = x * torch.logspace(-1, 0, 8)[:, None]
    targets = one_hot(list(range(8)))
    mixed, new_lengths, labels = Mix(mode, window=500)(x, lengths, targets)
    torch.testing.assert_close(labels.sum(1), torch.ones(8))
    level = loudest_level(x, 500)
    for row in range(8):
        partner, own, other = planted(x, mixed, row)
        ratio = labels[row, row].item()
        assert labels[row, partner].item() == pytest.approx(1 - ratio, abs=1e-6)
        assert partner != row
        assert new_lengths[row] == max(lengths[row], lengths[partner])
        if mode == "mixup":
            assert (own, other) == pytest.approx((ratio, 1 - ratio), abs=1e-5)
        elif mode == "power":
            assert (own**2, other**2) == pytest.approx((ratio, 1 - ratio), abs=1e-5)
        else:
            heard, heard_other = own * level[row].item(), other * level[partner].item()
            assert heard / (heard + heard_other) == pytest.approx(ratio, abs=1e-4)
            assert own**2 + other**2 == pytest.approx(1, abs=1e-5)
    assert len({round(labels[row, row].item(), 4) for row in range(8)}) == 8


def test_between_class_weights_are_those_of_the_paper() -> None:
    x, lengths = torch.randn(2, 4000) * torch.tensor([[1.0], [0.1]]), torch.full((2,), 4000)
    mixed, _, labels = Mix("between_class", window=400)(x, lengths, one_hot([0, 1]))
    gain_db = 20 * loudest_level(x, 400).log10()
    ratio = labels[0, 0].item()
    p = 1 / (1 + 10 ** ((gain_db[0] - gain_db[1]).item() / 20) * (1 - ratio) / ratio)
    expected = (p * x[0] + (1 - p) * x[1]) / (p**2 + (1 - p) ** 2) ** 0.5
    torch.testing.assert_close(mixed[0], expected, atol=1e-5, rtol=1e-4)


def test_loudness_is_the_loudest_window() -> None:
    x = torch.zeros(3, 3000)
    x[0, 1000:1500] = 0.5
    x[1, 2990:] = 0.5
    level = loudest_level(x, 500)
    assert level[0].item() == pytest.approx(0.5)
    assert level[1].item() == pytest.approx(0.5 * (10 / 500) ** 0.5)
    assert level[2].item() == pytest.approx(1e-5)
    assert loudest_level(torch.full((1, 20), 0.5), 500).item() == pytest.approx(0.5 * (20 / 500) ** 0.5)


def test_power_mixing_keeps_power_and_shares_it_as_the_labels_say() -> None:
    time = torch.arange(8000) / 8000
    x = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (100, 200, 300, 400)])  # orthogonal
    mixed, _, labels = Mix("power")(x, torch.full((4,), 8000), torch.eye(4))
    power = (mixed @ x.T / 4000).square()
    torch.testing.assert_close(power, labels, atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed.square().mean(1), x.square().mean(1), atol=1e-4, rtol=0)


def test_between_class_partners_are_of_another_class_where_there_is_one() -> None:
    x, lengths = torch.randn(7, 500), torch.full((7,), 500)
    classes = [0, 0, 0, 0, 0, 1, 2]
    partners = set()
    for _ in range(30):
        mixed, _, _ = Mix("between_class")(x, lengths, one_hot(classes))
        for row in range(7):
            partner, _, _ = planted(x, mixed, row)
            assert classes[partner] != classes[row]
            partners.add((row, partner))
    assert len(partners) == 5 * 2 * 2 + 2, "every pair that is allowed comes up"
    alike, _, labels = Mix("between_class")(x, lengths, torch.ones(7, 1))
    assert all(planted(x, alike, row)[0] != row for row in range(7))
    torch.testing.assert_close(labels, torch.ones(7, 1))


@pytest.mark.parametrize(("alpha", "deviation"), [(1.0, 12**-0.5), (0.2, (1 / 5.6) ** 0.5), (8.0, 68**-0.5)])
def test_ratios_follow_the_beta_distribution(alpha: float, deviation: float) -> None:
    count = 2000
    labels = Mix("power", alpha=alpha)(torch.ones(count, 1), torch.ones(count).long(), torch.eye(count))[2]
    ratios = labels.diagonal()
    assert ratios.mean().item() == pytest.approx(0.5, abs=0.03)
    assert ratios.std().item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("mode", ["mixup", "power", "between_class"])
def test_clips_that_are_not_mixed_stay_as_they_are(mode: str) -> None:
    x, lengths = clips(count=400, size=60)
    mixed, new_lengths, labels = Mix(mode, p=0.3)(x, lengths, torch.eye(400))
    is_mixed = labels.diagonal() < 1
    assert is_mixed.float().mean().item() == pytest.approx(0.3, abs=0.07)
    torch.testing.assert_close(mixed[~is_mixed], x[~is_mixed])
    assert torch.equal(new_lengths[~is_mixed], lengths[~is_mixed])
    assert not mixed[~frame_mask(new_lengths, 60)].any()


@pytest.mark.parametrize("mode", ["mixup", "power", "between_class"])
def test_silence_and_a_lone_clip_can_be_mixed(mode: str) -> None:
    silent, _, labels = Mix(mode)(torch.zeros(3, 50), torch.full((3,), 50), torch.eye(3))
    assert not silent.any()
    assert labels.isfinite().all()
    x = torch.randn(1, 50)
    assert torch.equal(Mix(mode)(x, torch.tensor([50]), torch.eye(1))[0], x)


def test_mixing_ends_where_it_is_told_to() -> None:
    x, lengths = clips()
    augment = Augment(mix=Mix("power", until=0.88))
    targets = torch.eye(6)
    for progress, is_on in ((0.0, True), (0.87, True), (0.88, False), (1.0, False)):
        augment.progress = progress
        assert augment.progress == progress
        mixed, _, labels = augment.waveforms(x, lengths, targets)
        assert torch.equal(mixed, x) is not is_on
        assert torch.equal(labels, targets) is not is_on


# --------------------------------------------------------------------------------------------------- features


def runs(mask: Tensor) -> list[tuple[int, int]]:
    """(start, width) of each run of True in a vector."""
    edges = torch.diff(nn.functional.pad(mask.int(), (1, 1)))
    starts = (edges == 1).nonzero()[:, 0].tolist()
    return [(a, b - a) for a, b in zip(starts, (edges == -1).nonzero()[:, 0].tolist(), strict=True)]


def test_one_mask_of_each_kind_lies_where_it_may() -> None:
    count, bins, frames = 3000, 40, 120
    lengths = torch.randint(21, frames + 1, (count,))
    x = torch.randn(count, bins, frames)
    masked, _ = SpecAugment(1, 7, 1, 20, max_time_share=1.0)(x, lengths)
    changed = masked != x
    assert not (changed & ~frame_mask(lengths, frames)[:, None]).any(), "the padding is left alone"
    freq_widths, time_widths, freq_starts = [], [], []
    for row, length in zip(changed, lengths.tolist(), strict=True):
        time, freq = runs(row.all(0)), runs(row[:, :length].all(1))
        assert len(freq) <= 1
        assert len(time) <= 1
        freq_widths.append(freq[0][1] if freq else 0)
        freq_starts.append(freq[0][0] if freq else 0)
        time_widths.append(time[0][1] if time else 0)
    assert set(freq_widths) == set(range(8))
    assert set(time_widths) == set(range(21))
    assert np.mean(freq_widths) == pytest.approx(3.5, abs=0.15)
    assert np.mean(time_widths) == pytest.approx(10, abs=0.5)
    assert min(freq_starts) == 0
    assert max(freq_starts) == 39


@pytest.mark.parametrize(("share", "widest"), [(1.0, [4, 10, 20, 20]), (0.2, [0, 2, 8, 20])])
def test_a_mask_of_frames_is_no_wider_than_its_share_of_the_clip(share: float, widest: list[int]) -> None:
    """Park et al. 2019: whatever the padding is, every clip has its own bound."""
    sizes = [4, 10, 40, 200]
    lengths = torch.tensor(sizes * 400)
    x = torch.randn(len(lengths), 3, 200)
    changed = (SpecAugment(0, 0, 1, 20, max_time_share=share)(x, lengths)[0] != x).all(1)
    assert not (changed & ~frame_mask(lengths, 200)).any()
    widths = changed.sum(1).view(-1, 4)
    assert widths.amax(0).tolist() == widest
    assert widths.float().mean(0).tolist() == pytest.approx([w / 2 for w in widest], abs=0.8)


@pytest.mark.parametrize(("bins", "widest"), [(1, 0), (4, 1), (13, 4), (40, 8)])
def test_a_mask_of_bands_leaves_few_features_readable(bins: int, widest: int) -> None:
    """13 MFCCs, or the one band of waveforms, are not erased by masks that were meant for 64 mel bands."""
    x = torch.randn(2000, bins, 30)
    lengths = torch.full((len(x),), 30)
    widths = (SpecAugment(1, 8, 0, 0)(x, lengths)[0] != x).all(2).sum(1)
    assert widths.max() == widest
    assert widths.float().mean().item() == pytest.approx(widest / 2, abs=0.3)
    changed = SpecAugment(2, 8, 0, 0)(x, lengths)[0] != x
    assert changed.all(2).sum(1).max() <= 0.7 * bins


def test_the_masks_of_every_recipe_leave_most_frames_of_a_short_clip() -> None:
    lengths = torch.arange(1, 25).repeat(50)
    x = torch.randn(len(lengths), 64, 24)
    for name in ("environment", "keyword", "digit", "speech"):
        options = OmegaConf.load(CONF / f"{'keyword' if name == 'digit' else name}.yaml").features.masks
        if name == "digit":
            options = OmegaConf.merge(options, OmegaConf.load(CONF / "digit.yaml").features.masks)
        kept = ((instantiate(options)(x, lengths)[0] == x).any(1) & frame_mask(lengths, 24)).sum(1)
        assert (kept >= 0.6 * lengths).all(), name


def test_masks_hold_the_mean_of_the_clip_and_their_share_is_lawful() -> None:
    x, lengths = log_mels(count=500, frames=300)
    x[~frame_mask(lengths, 300)[:, None].expand_as(x)] = 1e4  # what the padding holds does not count
    masked, _ = SpecAugment(2, 8, 2, 20)(x, lengths)
    changed = masked != x
    for row, before, length, where in zip(masked, x, lengths.tolist(), changed, strict=True):
        values = row[where]
        torch.testing.assert_close(values, before[:, :length].mean().expand_as(values), atol=1e-3, rtol=0)
    # A bin is left if both freq masks miss it, each of 4 of 64 bins in the mean; frames likewise.
    inside = frame_mask(lengths, 300)[:, None].expand_as(x)
    kept = (1 - 4 / 64) ** 2 * ((1 - 10 / lengths.double()) ** 2 * lengths).sum() / lengths.sum()
    assert changed[inside].double().mean().item() == pytest.approx(1 - kept.item(), abs=0.01)


def test_masks_of_two_samples_are_independent() -> None:
    x = torch.randn(2000, 30, 40)
    changed = (SpecAugment(1, 9, 0, 0)(x, torch.full((2000,), 40))[0] != x).all(2).float()
    widths = changed.sum(1)
    assert torch.corrcoef(torch.stack([widths[:-1], widths[1:]]))[0, 1].abs() < 0.07


def test_several_masks_are_drawn_one_by_one() -> None:
    x = torch.randn(300, 200, 10)
    changed = SpecAugment(3, 6, 0, 0)(x, torch.full((300,), 10))[0] != x
    found = [runs(row.all(1)) for row in changed]
    assert max(len(masks) for masks in found) == 3
    assert all(sum(width for _, width in masks) <= 18 for masks in found)
    assert sum(len({width for _, width in masks}) > 1 for masks in found) > 100


def test_filter_augment_adds_one_gain_to_a_band() -> None:
    x, lengths = log_mels(count=400)
    changed, _ = FilterAugment(2, 4, -8, 5, kind="step")(x, lengths)
    added = changed - x
    inside = frame_mask(lengths, 200)
    assert torch.equal(changed[~inside[:, None].expand_as(x)], x[~inside[:, None].expand_as(x)])
    gains = added[:, :, 0]
    torch.testing.assert_close(added[:, :, :100], gains[..., None].expand(-1, -1, 100), atol=1e-4, rtol=0)
    assert gains.min() >= -8.001
    assert gains.max() <= 5.001
    bands = 1 + (gains.diff(dim=1).abs() > 1e-3).sum(1)
    assert set(bands.tolist()) <= {1, 2, 3, 4}, "two edges may fall between the same bins"
    assert {2, 3, 4} <= set(bands.tolist())
    assert torch.bincount(bands, minlength=5)[2:].min() > 80


def test_linear_filter_augment_is_made_of_straight_lines() -> None:
    x, lengths = log_mels(count=300, bins=128)
    gains = (FilterAugment(3, 3, -6, 6)(x, lengths)[0] - x)[:, :, 0]
    assert gains.abs().max() <= 6.001
    bends = (gains.diff(n=2, dim=1).abs() > 1e-3).sum(1)
    # Two inner edges; each lies between two bins and so bends the line at one or both of them.
    assert bends.max() <= 4
    assert bends.float().mean() > 2
    one_line = (FilterAugment(1, 1, -6, 6)(x, lengths)[0] - x)[:, :, 0]
    assert one_line.diff(n=2, dim=1).abs().max() < 1e-3
    assert one_line.diff(dim=1).abs().max() > 0.02


@pytest.mark.parametrize("name", FEATURES)
def test_channels_of_a_clip_are_changed_alike(name: str) -> None:
    x, lengths = log_mels()
    torch.manual_seed(5)
    single, _ = FEATURES[name]()(x, lengths)
    torch.manual_seed(5)
    stacked, _ = FEATURES[name]()(torch.stack([x, x + 7, x - 7], 1), lengths)
    assert torch.equal(stacked[:, 0], single)
    torch.testing.assert_close(stacked[:, 1] - 7, single, atol=1e-4, rtol=0)
    torch.testing.assert_close(stacked[:, 2] + 7, single, atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------- the whole, mistakes


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        (TimeRoll(p=0.3), "TimeRoll(p=0.3)"),
        (TimeShift(0.1, RATE), "TimeShift(seconds=0.1, sample_rate=8000, p=1.0, max_share=0.25)"),
        (
            RandomCrop(0.5, RATE, 0.25),
            "RandomCrop(seconds=0.5, sample_rate=8000, pad=0.25, loud=False, cut=False)",
        ),
        (Gain(-3.0, 3.0), "Gain(min_db=-3.0, max_db=3.0, p=1.0)"),
        (Polarity(), "Polarity(p=0.5)"),
        (Speed(0.9, 1.1), "Speed(min=0.9, max=1.1, p=1.0, keep_length=False)"),
        (Dither(), "Dither(amplitude=1e-05, p=1.0)"),
        (Mix("power"), "Mix(mode='power', alpha=1.0, p=1.0, until=1.0, window=2048)"),
    ],
)
def test_a_transform_shows_what_it_was_built_with(module: nn.Module, shown: str) -> None:
    assert repr(module) == shown


KINDS = [kind for kind in Transform.__subclasses__() if kind is not RandomPolicy]  # which shows its children


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_option_of_a_transform_is_shown(kind: type[Transform], tmp_path: Path) -> None:
    write_wav(tmp_path / "noise.wav", sine(440, 0.1, RATE), RATE)
    needed: dict[str, Any] = {
        "seconds": 0.1,
        "sample_rate": RATE,
        "min_snr_db": 0.0,
        "max_snr_db": 9.0,
        "folder": str(tmp_path),
        "codecs": ["gsm"],
    }
    names = list(inspect.signature(kind).parameters)
    shown = kind(**{name: needed[name] for name in names if name in needed}).extra_repr()
    assert [option.split("=")[0] for option in shown.split(", ")] == names


@pytest.mark.parametrize("name", ["none", "environment"])
def test_configs_build_what_they_say(name: str) -> None:
    augment = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    x, lengths = clips()
    f, frames = log_mels()
    targets = torch.eye(6)
    changed, _, labels = augment.train().waveforms(x, lengths, targets)
    masked, _ = augment.features(f, frames)
    for after, before in ((changed, x), (labels, targets), (masked, f)):
        assert torch.equal(after, before) is (name == "none")
    augment.eval()
    assert torch.equal(augment.waveforms(x, lengths, targets)[0], x)
    assert torch.equal(augment.waveforms(x, lengths, targets)[2], targets)
    assert torch.equal(augment.features(f, frames)[0], f)


def test_the_keyword_config_takes_noise_and_rate_from_the_data(tmp_path: Path) -> None:
    write_wav(tmp_path / "_background_noise_" / "tap.wav", sine(100, 1.0, RATE), RATE)
    cfg = OmegaConf.create({"data": {"root": str(tmp_path), "sample_rate": RATE}})
    cfg.augment = OmegaConf.load(CONF / "keyword.yaml")
    augment = instantiate(cfg.augment).train()
    x, lengths, targets = torch.zeros(500, 800), torch.full((500,), 800), torch.eye(500)
    noisy, _, labels = augment.waveforms(x, lengths, targets)
    assert noisy.any(1).float().mean().item() == pytest.approx(0.8, abs=0.08)
    assert 0.04 < noisy.abs().max() <= 0.1 * 0.5 + 1e-3
    assert torch.equal(labels, targets)
    assert augment.waveform_transforms["shift"].size == 800


def test_transforms_come_in_their_order_and_mixing_last() -> None:
    augment = Augment(waveform=[RandomCrop(0.1, RATE), Gain(-6, -6)], mix=Mix("mixup"))
    x, lengths = torch.ones(3, 2000), torch.full((3,), 2000)
    changed, new_lengths, _ = augment.waveforms(x, lengths, torch.eye(3))
    assert new_lengths.tolist() == [800] * 3
    torch.testing.assert_close(changed, torch.full((3, 800), 10 ** (-6 / 20)))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Gain(6, -6), "min_db=6 above max_db=-6"),
        (lambda: Speed(1.1, 0.9), "min=1.1 above max=0.9"),
        (lambda: Speed(0, 1), "rate above 0"),
        (lambda: TimeRoll(p=1.5), "TimeRoll has p=1.5"),
        (lambda: RandomCrop(0, RATE), "RandomCrop has seconds=0"),
        (lambda: TimeShift(0.1, RATE, max_share=2), "max_share=2"),
        (lambda: SpecAugment(time_width=-3), "time_width=-3"),
        (lambda: SpecAugment(max_time_share=1.5), "max_time_share=1.5"),
        (lambda: Mix("add"), "no mode 'add'"),
        (lambda: Mix("mixup", alpha=0), "alpha above 0"),
        (lambda: FilterAugment(kind="cubic"), "no kind 'cubic'"),
        (lambda: FilterAugment(0, 2), "min_bands=0"),
        (lambda: BackgroundNoise(0, 9, colour="blue"), "no colour 'blue'"),
        (lambda: BackgroundNoise(0, 9), "either colour or folder"),
        (lambda: BackgroundNoise(0, 9, folder="there_is_none", sample_rate=RATE), "there_is_none"),
        (lambda: BackgroundNoise(0, 9, folder="."), "needs sample_rate"),
    ],
)
def test_mistakes_end_in_a_sentence(build: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build()
