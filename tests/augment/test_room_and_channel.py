"""Rooms, telephones, codecs, lost packets, stretches, warps and policies follow their laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from conftest import sine, write_wav
from torch import Tensor

from lightning_audio import build
from lightning_audio.augment import Augment
from lightning_audio.augment.base import Transform
from lightning_audio.augment.channel import Clipping, PacketLoss, Telephone, gilbert, mu_law
from lightning_audio.augment.features import FilterAugment, PatchOut, SpecAugment
from lightning_audio.augment.mix import Mix
from lightning_audio.augment.noise import BackgroundNoise
from lightning_audio.augment.policy import RandomPolicy
from lightning_audio.augment.room import Reverb, convolve
from lightning_audio.augment.spectral import Codec, PitchShift, TimeStretch, overlapped, spectra
from lightning_audio.augment.warp import VTLN, TimeWarp
from lightning_audio.augment.waveform import Gain, Polarity, Speed, TimeRoll
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.frontend.base import fast_size
from lightning_audio.frontend.log_mel import LogMel, hz_of_mel, mel_of_hz
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.frontend.mfcc import MFCC

RATE = 8000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tone(hz: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(round(seconds * rate)) / rate)


def pitch(x: Tensor, rate: int = RATE) -> float:
    """The strongest frequency in the middle of a waveform in Hz, to a fraction of a bin."""
    middle = x[len(x) // 4 : -len(x) // 4]
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle)), 8 * len(middle)).abs()
    return float(spectrum.argmax()) * rate / (8 * len(middle))


def full(x: Tensor) -> Tensor:
    return torch.full((len(x),), x.shape[1])


# ---------------------------------------------------------------------------------------------------- rooms


@pytest.mark.parametrize("size", [1, 8, 9, 31, 1000, 4097, 110_250])
def test_a_fast_size_is_near_and_has_small_factors(size: int) -> None:
    found = fast_size(size)
    assert size <= found <= max(1.25 * size, 8)
    for factor in (2, 3, 5):
        while found % factor == 0:
            found //= factor
    assert found == 1


def test_convolution_equals_the_sum_over_all_delays() -> None:
    x, response = torch.randn(3, 50), torch.randn(3, 20)
    for row, h, found in zip(x, response, convolve(x, response), strict=True):
        expected = np.convolve(row.numpy(), h.numpy())[:50]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("rt60", [0.1, 0.3])
def test_a_made_room_decays_by_60_db_in_its_reverberation_time(rt60: float) -> None:
    clicks = torch.zeros(64, RATE)
    clicks[:, 0] = 1
    heard = Reverb(RATE, rt60, rt60, 3.0, 3.0, p=1.0)(clicks, full(clicks))[0]
    torch.testing.assert_close(heard.square().sum(1), torch.ones(64))  # the power that it came with
    direct, tail = heard[:, 0].square(), heard[:, 1:].square()
    ratio_db = 10 * (direct / tail.sum(1)).log10()
    torch.testing.assert_close(ratio_db, torch.full((64,), 3.0), atol=0.01, rtol=0)
    left = tail.mean(0).flip(0).cumsum(0).flip(0)  # Schroeder's backward integral
    curve = 10 * (left / left[0]).log10()
    span = slice(0, int(rt60 / 2 * RATE))  # the first 30 dB
    slope, _ = np.polyfit(np.arange(len(curve))[span] / RATE, curve[span].numpy(), 1)
    assert slope == pytest.approx(-60 / rt60, rel=0.05)


def test_reverberation_times_and_ratios_are_drawn_for_each_clip() -> None:
    clicks = torch.zeros(300, RATE // 2)
    clicks[:, 0] = 1
    heard = Reverb(RATE, 0.1, 0.2, -6, 12, p=1.0)(clicks, full(clicks))[0]
    ratios = 10 * (heard[:, 0].square() / heard[:, 1:].square().sum(1)).log10()
    assert ratios.min() >= -6.01
    assert ratios.max() <= 12.01
    assert ratios.mean().item() == pytest.approx(3, abs=4 * 18 / 12**0.5 / 300**0.5)
    # Of exp(-2 k t) half of the energy has come at ln 2 / 2 k.
    energy = heard[:, 1:].square().cumsum(1)
    half = (energy < energy[:, -1:] / 2).sum(1) / RATE
    assert 0.09 < (2 * math.log(1000) * half / math.log(2)).mean() < 0.2


def test_measured_responses_come_from_their_peak_on(tmp_path: Path) -> None:
    response = np.zeros(900, np.int16)
    response[[300, 340, 800]] = 20000, -10000, 5000
    response[100] = 900  # before the direct sound
    write_wav(tmp_path / "room.wav", response, RATE)
    x = torch.randn(4, 3000)
    lengths = torch.tensor([3000, 2000, 1000, 500])
    x = x * frame_mask(lengths, 3000)
    heard, same = Reverb(RATE, folder=str(tmp_path), p=1.0)(x, lengths)
    assert torch.equal(same, lengths)
    for row, wet, length in zip(x, heard, lengths.tolist(), strict=True):
        expected = row[:length].clone()
        expected[40:] -= 0.5 * row[: length - 40]
        if length > 500:
            expected[500:] += 0.25 * row[: length - 500]
        expected *= row.norm() / expected.norm()
        torch.testing.assert_close(wet[:length], expected, atol=1e-4, rtol=0)
        assert not wet[length:].any()


def test_measured_responses_of_several_folders_are_all_drawn(tmp_path: Path) -> None:
    for place, name in enumerate("ab"):
        response = np.zeros(200, np.int16)
        response[[0, 50 + 50 * place]] = 20000, 15000
        write_wav(tmp_path / name / "room.wav", response, RATE)
    clicks = torch.zeros(40, 400)
    clicks[:, 0] = 1
    both = [str(tmp_path / name) for name in "ab"]
    heard = Reverb(RATE, folder=both, p=1.0)(clicks, full(clicks))[0]
    assert set(heard[:, 1:].argmax(1).tolist()) == {49, 99}
    silent = Reverb(RATE, folder=both, p=1.0)(torch.zeros(2, 400), torch.tensor([400, 0]))[0]
    assert not silent.any()


def test_noise_can_come_from_several_folders(tmp_path: Path) -> None:
    for name, hz in (("a", 100), ("b", 1000)):
        write_wav(tmp_path / name / "noise.wav", sine(hz, 1.0, RATE), RATE)
    x = 1e-3 * torch.randn(30, RATE // 2)
    folders = [str(tmp_path / name) for name in "ab"]
    noisy = BackgroundNoise(-60, -60, folder=folders, sample_rate=RATE)(x, full(x))[0]
    assert {round(pitch(row), -1) for row in noisy} == {100, 1000}


# ------------------------------------------------------------------------------------------------ the line


def test_clipping_cuts_at_a_share_of_the_peak() -> None:
    x = torch.randn(500, 300)
    cut, _ = Clipping(0.2, 0.8, p=1.0)(x, full(x))
    level = cut.abs().amax(1)
    share = level / x.abs().amax(1)
    assert share.min() >= 0.2
    assert share.max() <= 0.8
    assert share.mean().item() == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(cut, torch.maximum(torch.minimum(x, level[:, None]), -level[:, None]))


@pytest.mark.parametrize("bits", [4, 8])
def test_mu_law_is_that_of_torchaudio(bits: int) -> None:
    x = torch.linspace(-1, 1, 4001)
    codes = torchaudio.functional.mu_law_encoding(x, 2**bits)
    torch.testing.assert_close(mu_law(x, bits), torchaudio.functional.mu_law_decoding(codes, 2**bits))


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_telephone_has_its_band_and_its_steps(rate: int) -> None:
    line = Telephone(rate, p=1.0)
    heard = {}
    for hz in (60, 1000, 3000, 3700):
        x = 0.5 * tone(hz, 0.5, rate)[None]
        heard[hz] = (line(x, full(x))[0] - x * (hz in (1000, 3000)))[0, rate // 20 : -rate // 20]
    for hz, error in heard.items():
        power_db = 10 * math.log10(error.square().mean().item() / 0.125 + 1e-12)
        assert power_db < -30, hz  # of what it lets through G.711's noise is left, 38 dB below
        if hz in (1000, 3000):
            assert power_db > -45, hz
    noise = 0.1 * torch.randn(4, rate)
    power = torch.fft.rfft(line(noise, full(noise))[0]).abs().square().mean(0)
    assert power[4050:].sum() < 1e-4 * power.sum()


def test_lost_packets_have_their_share_and_their_runs() -> None:
    for share, burst in ((0.1, 1.0), (0.1, 3.0), (0.4, 2.0), (0.5, 1.2)):
        lost = gilbert(torch.full((200, 1), share), burst, 1000).int()
        assert lost.float().mean().item() == pytest.approx(share, rel=0.04)
        begun = (lost[:, 1:] > lost[:, :-1]).sum() + lost[:, 0].sum()
        assert (lost.sum() / begun).item() == pytest.approx(burst, rel=0.04)


def test_a_lost_packet_is_silent_as_a_whole() -> None:
    x = torch.ones(400, 1000)
    heard, _ = PacketLoss(RATE, 40 / RATE, max_share=0.3, p=1.0)(x, full(x))
    packets = heard.view(400, 25, 40)
    assert ((packets == 0).all(2) | (packets == 1).all(2)).all()
    shares = 1 - heard.mean(1)
    assert shares.mean().item() == pytest.approx(0.15, abs=0.02)


# ----------------------------------------------------------------------------------- by short-time spectra


@pytest.mark.parametrize(("hop", "root"), [(16, False), (32, True), (64, False)])
def test_spectra_come_back_as_they_were(hop: int, root: bool) -> None:
    window = torch.hann_window(128)
    window = window.sqrt() if root else window
    x = torch.randn(3, 1001)
    torch.testing.assert_close(overlapped(spectra(x, window, hop), window, hop, 1001), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [0.73, 1.27])
def test_a_stretch_is_torchaudios_phase_vocoder(rate: float) -> None:
    x = torch.randn(2, 6000)
    stretched, lengths = TimeStretch(rate, rate, p=1.0, n_fft=256)(x, torch.tensor([6000, 5000]))
    assert lengths.tolist() == [round(6000 / rate), round(5000 / rate)]
    window = torch.hann_window(256)
    options: dict[str, Any] = {"n_fft": 256, "hop_length": 64, "window": window}
    spectrum = torch.stft(x[0], **options, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * 64, 129)[:, None]
    frames = torchaudio.functional.phase_vocoder(spectrum, rate, advance)
    expected = torch.istft(frames, **options)
    size = min(len(expected), int(lengths[0])) - 256
    torch.testing.assert_close(stretched[0, :size], expected[:size], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [0.8, 1.3])
def test_a_stretch_keeps_the_pitch_and_a_click_its_place(rate: float) -> None:
    x = tone(440)[None]
    stretched, lengths = TimeStretch(rate, rate, p=1.0)(x, full(x))
    assert int(lengths) == round(RATE / rate)
    assert pitch(stretched[0, : int(lengths)]) == pytest.approx(440, abs=1)
    clicks = torch.zeros(1, RATE)
    clicks[0, 4000] = 1
    moved = TimeStretch(rate, rate, p=1.0, n_fft=256)(clicks, full(clicks))[0]
    energy = moved[0].square()
    centre = (energy * torch.arange(len(energy))).sum() / energy.sum()
    assert centre.item() == pytest.approx(4000 / rate, abs=64)


@pytest.mark.parametrize("semitones", [-7, -2, 3, 12])
def test_a_shift_of_pitch_is_in_semitones_and_keeps_the_length(semitones: int) -> None:
    x = tone(440)[None]
    shifted, lengths = PitchShift(semitones, semitones, p=1.0)(x, full(x))
    assert shifted.shape == x.shape
    assert torch.equal(lengths, full(x))
    assert pitch(shifted[0]) == pytest.approx(440 * 2 ** (semitones / 12), rel=3e-3)
    assert 0.35 < shifted[0, 2000:6000].square().mean() < 0.55  # windows that overlap lose some


def test_a_higher_pitch_folds_nothing_back() -> None:
    x = tone(3000)[None]  # an octave up it would be above half the rate
    shifted, _ = PitchShift(12, 12, p=1.0)(x, full(x))
    assert shifted[0, 1000:-1000].square().mean() < 1e-3


@pytest.mark.parametrize("snr_db", [15.0, 25.0])
def test_a_codec_leaves_noise_at_its_ratio_in_each_band(snr_db: float) -> None:
    colour = torch.logspace(0, -1, 2 * RATE + 1)  # 20 dB from the lowest to the highest
    x = torch.fft.irfft(torch.fft.rfft(torch.randn(8, 4 * RATE)) * colour)
    heard = Codec(RATE, snr_db, snr_db, 9000, 9000, p=1.0)(x, full(x))[0]
    signal = torch.fft.rfft(x).abs().square().view(8, -1)[:, :-1].view(8, 10, -1).mean((0, 2))
    noise = torch.fft.rfft(heard - x).abs().square().view(8, -1)[:, :-1].view(8, 10, -1).mean((0, 2))
    torch.testing.assert_close(
        10 * (signal / noise).log10(), torch.full((10,), snr_db), atol=1.5, rtol=0, check_dtype=False
    )


def test_a_codec_leaves_nothing_above_its_cut_off_and_less_of_little() -> None:
    x = torch.randn(6, RATE)
    heard = Codec(RATE, 30, 30, 2000, 2000, p=1.0)(x, full(x))[0]
    power = torch.fft.rfft(heard).abs().square().mean(0)
    assert power[2100:].mean() < 1e-3 * power[:1900].mean()
    coarse = Codec(RATE, -6, -6, 9000, 9000, p=1.0)(x, full(x))[0]
    assert coarse.square().mean() < 0.5 * x.square().mean()


# -------------------------------------------------------------------------------------- warps and patches


def test_a_time_warp_is_two_straight_lines_from_end_to_end() -> None:
    lengths = torch.tensor([200, 150, 40, 2, 1, 0] * 40)
    ramp = torch.arange(200.0).expand(len(lengths), 3, -1).contiguous()  # every frame tells its own place
    warped, same = TimeWarp(30, 0.2, p=1.0)(ramp, lengths)
    assert torch.equal(same, lengths)
    farthest = 0.0
    for row, length in zip(warped[:, 1], lengths.tolist(), strict=True):
        assert torch.equal(row[length:], torch.arange(200.0)[length:])
        inside = row[:length]
        if length < 3:
            assert torch.equal(inside, torch.arange(float(length)))
            continue
        assert inside[0] == 0
        assert inside[-1].item() == pytest.approx(length - 1, abs=1e-3)
        assert (inside.diff() > 0).all()
        bends = (inside.diff(n=2).abs() > 1e-3).nonzero()[:, 0]
        assert len(bends) <= 2
        moved = (inside - torch.arange(float(length))).abs().max().item()
        assert moved <= min(30, 0.2 * (length - 1)) + 1e-3
        farthest = max(farthest, moved)
    assert farthest > 25


def test_bands_are_those_of_the_front_end() -> None:
    front = LogMel(RATE, f_min=20.0, htk=True)
    Augment(features=[VTLN(RATE, 20.0, None, True), FilterAugment()]).refuse_misfit(front)
    with pytest.raises(
        UserError, match=r"policy\.transforms\.warp is for other bands .* f_min=20, .* htk=true"
    ):
        Augment(features={"policy": RandomPolicy({"warp": VTLN(RATE)}, n=1)}).refuse_misfit(front)
    with pytest.raises(UserError, match="warps mel bands, and MFCC has none"):
        Augment(features=[VTLN(RATE)]).refuse_misfit(MFCC(RATE))
    with pytest.raises(UserError, match="adds decibels to bands, and MFCC has none"):
        Augment(features=[FilterAugment()]).refuse_misfit(MFCC(RATE))


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("factor", [0.85, 1.2])
def test_vtln_moves_frequencies_by_its_factor(factor: float, htk: bool) -> None:
    bins, rate = 80, 16000
    ends = mel_of_hz(torch.tensor([20.0, 8000.0]), htk)
    centres = hz_of_mel(torch.linspace(float(ends[0]), float(ends[1]), bins + 2)[1:-1], htk)
    x = centres[None, :, None].expand(1, bins, 5).contiguous()  # every band tells its own frequency
    warp = VTLN(rate, 20.0, None, htk, factor, factor, p=1.0)
    source = warp(x, torch.tensor([5]))[0][0, :, 0]
    low = (centres > 60) & (centres < 0.84 * 8000 * min(factor, 1))
    torch.testing.assert_close(source[low], centres[low] / factor, rtol=0.01, atol=4)
    assert (source.diff() > 0).all()
    image, heard = 0.85 * 8000 * min(factor, 1), 0.85 * 8000 * min(1 / factor, 1)
    line = heard + (centres - image) * (8000 - heard) / (8000 - image)
    high = centres > image
    torch.testing.assert_close(source[high], line[high].clamp(max=float(centres[-1])), rtol=0.01, atol=4)


def test_a_warped_tone_is_the_tone_of_another_frequency() -> None:
    mel = LogMel(RATE, 512, 400, 80, 60, 20.0, htk=True, top_db=None)
    low, high = (mel(tone(hz)[None], torch.tensor([RATE]))[0] for hz in (1000, 1150))
    warped = VTLN(RATE, 20.0, None, True, 1.15, 1.15, p=1.0)(low, torch.tensor([low.shape[-1]]))[0]
    assert (warped[0, :, 50].argmax() - high[0, :, 50].argmax()).abs() <= 1
    assert (low[0, :, 50].argmax() - high[0, :, 50].argmax()).abs() >= 3


def test_patches_are_left_out_whole_in_their_share() -> None:
    x = torch.randn(600, 64, 96)
    out = PatchOut(16, 16, share=0.6)(x, torch.full((600,), 96))[0] != x
    patches = out.view(600, 4, 16, 6, 16).transpose(2, 3).flatten(3)
    assert (patches.all(3) | ~patches.any(3)).all()
    shares = patches.all(3).float().mean((1, 2))
    assert shares.mean().item() == pytest.approx(0.3, abs=0.02)
    # Uniform shares, and 24 patches that are drawn by themselves.
    assert shares.var().item() == pytest.approx(0.6**2 / 12 + (0.3 - 0.36 / 3) / 24, rel=0.15)


# -------------------------------------------------------------------------------------------- mix, policy


def test_cutmix_labels_are_the_shares_of_the_clip() -> None:
    lengths = torch.tensor([1000, 800, 600, 400])
    x = torch.arange(1.0, 5)[:, None] * frame_mask(lengths, 1000)
    widths = []
    for _ in range(30):
        mixed, same, labels = Mix("cutmix")(x, lengths, torch.eye(4))
        assert torch.equal(same, lengths)
        for row in range(4):
            inside = mixed[row, : lengths[row]]
            assert not mixed[row, lengths[row] :].any()
            partner = int(labels[row].clone().index_fill_(0, torch.tensor([row]), -1).argmax())
            cut = inside != row + 1
            assert labels[row, row].item() == pytest.approx(1 - cut.float().mean().item(), abs=1e-6)
            assert labels[row].sum().item() == pytest.approx(1)
            assert set(inside[cut].tolist()) <= {partner + 1.0, 0.0}
            assert (cut.int().diff() != 0).sum() <= 2
            widths.append(cut.float().mean().item())
    assert np.mean(widths) == pytest.approx(0.5, abs=0.1)


def test_a_policy_gives_each_clip_n_transforms() -> None:
    transforms = {str(place): Gain(db, db) for place, db in enumerate((1.0, 10.0, 100.0))}
    x = torch.ones(3000, 4)
    heard, _ = RandomPolicy(transforms, n=2, strength=1.0)(x, full(x))
    total = (20 * heard[:, 0].log10()).round().long()
    counts = {db: int((total == db).sum()) for db in (11, 101, 110)}
    assert sum(counts.values()) == 3000
    assert all(count == pytest.approx(1000, abs=110) for count in counts.values())


def test_the_strength_of_a_policy_says_how_far_values_go() -> None:
    x = torch.randn(200, 500)
    gains = RandomPolicy({"gain": Gain(-8, 8)}, n=1, strength=0.25)(x, full(x))[0] / x
    db = 20 * gains[:, 0].log10()
    assert 1.8 < db.abs().max() <= 2.001
    speeds = RandomPolicy({"speed": Speed(0.5, 1.5)}, n=1, strength=0.2)(x, full(x))[1]
    assert round(500 / 1.1) <= speeds.min() < 460
    assert 545 < speeds.max() <= round(500 / 0.9)
    white = BackgroundNoise(10, 10, colour="white")
    noise = RandomPolicy({"noise": white}, n=1, strength=0.1)(x, full(x))[0] - x
    snr = 10 * (x.square().sum(1) / noise.square().sum(1)).log10()
    torch.testing.assert_close(snr, torch.full((200,), 30.0), atol=0.05, rtol=0)
    masked = RandomPolicy({"masks": SpecAugment(1, 8, 0, 0)}, n=1, strength=0.5)
    frames = torch.randn(400, 40, 10)
    assert (masked(frames, torch.full((400,), 10))[0] != frames).all(2).sum(1).max() == 4
    turned = RandomPolicy({"polarity": Polarity(p=1)}, n=1, strength=0.1)(x, full(x))[0]
    assert torch.equal(turned, -x)


def test_a_policy_of_speeds_says_how_short_clips_become() -> None:
    policy = RandomPolicy({"a": Speed(1, 1.2), "b": Gain(), "c": TimeStretch(0.9, 1.5)}, n=1)
    assert policy.fastest == 1.5
    policy = RandomPolicy({"a": Speed(1, 1.2), "b": Gain(), "c": TimeStretch(0.9, 1.5), "d": None}, n=2)
    assert policy.fastest == pytest.approx(1.8)


@pytest.mark.parametrize("name", ["telephone", "far_field"])
def test_presets_disturb_their_share_of_the_clips(name: str) -> None:
    cfg = compose_config([f"augment={name}", "data.sample_rate=16000"])
    augment = build.instantiate(cfg.augment, "augment")
    augment.delayed, part = frozenset(), {"telephone": "telephone", "far_field": "room"}[name]
    x = 0.1 * torch.randn(300, 4000)
    heard, lengths, _ = augment.waveforms(x, full(x), torch.eye(300))
    assert heard.shape[0] == len(lengths) == 300
    alone = augment.waveform_transforms[part](x, full(x))[0]
    share = (alone != x).any(1).float().mean().item()
    assert share == pytest.approx(cfg.augment.waveform[part].p, abs=0.12)
    assert augment.eval().waveforms(x, full(x), torch.eye(300))[0] is x


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Reverb(RATE, 0.5, 0.2), "min_rt60=0.5 above max_rt60=0.2"),
        (lambda: Reverb(RATE, folder="there_is_none"), "there_is_none"),
        (lambda: Clipping(0, 1), "Clipping has min=0"),
        (lambda: Telephone(4000), "not sample_rate=4000"),
        (lambda: Telephone(RATE, high=5000), "high=5000"),
        (lambda: PacketLoss(RATE, burst=0.5), "burst=0.5"),
        (lambda: TimeStretch(n_fft=30), "n_fft=30"),
        (lambda: PitchShift(2, -2), "min=2 above max=-2"),
        (lambda: Codec(RATE, bands=0), "bands=0"),
        (lambda: TimeWarp(max_share=0.5), "max_share=0.5"),
        (lambda: VTLN(RATE, f_min=5000), "f_min=5000"),
        (lambda: PatchOut(share=1), "share=1"),
        (lambda: RandomPolicy({"roll": TimeRoll()}, n=2), "n=2 of 1 transforms"),
    ],
)
def test_mistakes_end_in_a_sentence(make: Callable[[], Transform], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
