"""Front ends against librosa, and that padding, company and half precision never reach the features."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_audio.errors import UserError
from lightning_audio.frontend.log_mel import AMIN, LogMel
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.frontend.mfcc import MFCC
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.frontend.waveform import Waveform

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {"sample_rate": 16000},
    "telephone": {"sample_rate": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 40, "f_min": 60.0},
    "short window": {"sample_rate": 22050, "win_length": 551, "hop_length": 441, "n_mels": 64},
    "odd window": {"sample_rate": 16000, "n_fft": 512, "win_length": 401, "hop_length": 160, "n_mels": 40},
    "music": {"sample_rate": 44100, "n_fft": 2048, "hop_length": 512, "n_mels": 128},
    "edges": {"sample_rate": 16000, "n_mels": 48, "f_min": 50.0, "f_max": 7600.0},
    "htk": {"sample_rate": 16000, "n_fft": 512, "hop_length": 160, "n_mels": 40, "htk": True},
    "all levels": {"sample_rate": 22050, "hop_length": 256, "top_db": None},
    "htk, all levels": {"sample_rate": 44100, "n_mels": 80, "f_max": 16000.0, "htk": True, "top_db": None},
    "few levels": {"sample_rate": 16000, "top_db": 30.0},
}
CHANNELS = {"n_fft": 1024, "hop_length": 160, "n_mels": 32}


def audio(seconds: float, sample_rate: int, seed: int = 0) -> Tensor:
    """A rising tone over noise that swells, then 50 ms of digital silence."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tone = 0.5 * np.sin(2 * np.pi * (100 + sample_rate / 8 * time) * time)
    noise = np.random.default_rng(seed).normal(0, 0.1, len(time)) * (0.1 + time)
    samples = tone + noise
    samples[-round(0.05 * sample_rate) :] = 0
    return torch.from_numpy(samples).float()


def librosa_mel(samples: Tensor, settings: dict[str, Any]) -> np.ndarray:
    """librosa's mel spectrogram in decibels, worked out in double precision."""
    htk = settings.get("htk", False)
    power = librosa.feature.melspectrogram(
        y=samples.double().numpy(),
        sr=settings["sample_rate"],
        n_fft=settings.get("n_fft", 1024),
        win_length=settings.get("win_length"),
        hop_length=settings.get("hop_length", 320),
        n_mels=settings.get("n_mels", 64),
        fmin=settings.get("f_min", 0.0),
        fmax=settings.get("f_max"),
        htk=htk,
        norm=None if htk else "slaney",
    )
    return librosa.power_to_db(power, top_db=settings.get("top_db", 80.0))


def assert_agrees(found: Tensor, expected: np.ndarray) -> None:
    """The largest difference is at most 1e-4 of the largest value, in dB: under 0.01 dB."""
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def alone(frontend: torch.nn.Module, samples: Tensor) -> Tensor:
    features, lengths = frontend(samples[None], torch.tensor([len(samples)]))
    assert lengths.tolist() == [features.shape[-1]]
    return features[0]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_log_mel_is_that_of_librosa(settings: dict[str, Any]) -> None:
    samples = audio(0.7, settings["sample_rate"])
    log_mel = LogMel(**settings)
    assert_agrees(alone(log_mel, samples), librosa_mel(samples, settings))
    assert log_mel.shape == (1, settings.get("n_mels", 64))


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("sample_rate", [8000, 11025, 16001, 44100])
@pytest.mark.parametrize(("win_length", "n_mels"), [(None, 80), (200, 20), (255, 80)])
@pytest.mark.parametrize(("n_fft", "hop_length"), [(256, 80), (256, 161), (401, 80), (401, 161)])
def test_log_mel_is_that_of_librosa_for_odd_sizes_too(
    n_fft: int, hop_length: int, win_length: int | None, n_mels: int, sample_rate: int, htk: bool
) -> None:
    options: dict[str, Any] = {
        "sample_rate": sample_rate,
        "n_fft": n_fft,
        "hop_length": hop_length,
        "win_length": win_length,
        "n_mels": n_mels,
        "htk": htk,
        "top_db": None,
    }
    samples = audio(0.2, sample_rate)
    for size in (161 * 9, len(samples)):  # whole hops, and not
        assert_agrees(alone(LogMel(**options), samples[:size]), librosa_mel(samples[:size], options))


def test_filters_of_an_older_checkpoint_are_used_whole() -> None:
    """Those of odd rates were others: they reach where the ones of this version are zero."""
    log_mel, older = LogMel(11025, n_fft=401, n_mels=40), LogMel(11025, n_fft=401, n_mels=40)
    older.mel.fb = torch.rand(older.mel.fb.shape)
    log_mel.load_state_dict(older.state_dict())
    waveforms = torch.rand(1, 2000)
    expected = older._by_torchaudio(waveforms, older.spectrograms[0])
    torch.testing.assert_close(log_mel.powers(waveforms), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3 * 1024, 30 * 1024, 2**19])
@pytest.mark.parametrize("n_mels", [7, 64, 128])
def test_chunks_give_what_torchaudio_gives(chunk: int, n_mels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_audio.frontend.log_mel.CHUNK", chunk)
    log_mel, waveforms = LogMel(16000, n_mels=n_mels, win_length=801), torch.stack([audio(0.3, 16000)] * 3)
    waveforms.requires_grad_()
    found = log_mel._in_chunks(waveforms, log_mel.spectrograms[0])
    expected = log_mel._by_torchaudio(waveforms, log_mel.spectrograms[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    ours, theirs = (
        torch.autograd.grad(x.clamp(min=1e-3).log().sum(), waveforms)[0] for x in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("compiling", [True, False])
def test_chunks_are_for_a_cpu_that_compiles_nothing(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And elsewhere it is torchaudio's way, to the last bit."""
    log_mel, waveforms, lengths = LogMel(16000), audio(0.3, 16000)[None], torch.tensor([4800])
    with monkeypatch.context() as patched:
        patched.setattr(LogMel, "_in_chunks", LogMel._by_torchaudio)
        expected, _ = log_mel(waveforms, lengths)
    asked: list[int] = []
    chunks = LogMel._in_chunks

    def counted(self: LogMel, waveforms: Tensor, spectrogram: Any) -> Tensor:
        asked.append(len(waveforms))
        return chunks(self, waveforms, spectrogram)

    monkeypatch.setattr(LogMel, "_in_chunks", counted)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    found, _ = log_mel(waveforms, lengths)
    assert asked == ([] if compiling else [1])
    assert torch.equal(found, expected) or not compiling


def test_a_checkpoint_holds_windows_and_filters_by_their_old_names() -> None:
    names = {"spectrograms.0.window", "spectrograms.1.window", "mel.fb"}
    assert set(LogMel(16000, win_length=(400, 800)).state_dict()) == names


def test_silence_is_the_floor_and_not_infinite() -> None:
    features = alone(LogMel(16000), torch.zeros(4000))
    assert_agrees(features, librosa_mel(torch.zeros(4000), {"sample_rate": 16000}))
    assert features.unique().tolist() == pytest.approx([10 * np.log10(AMIN)])


@pytest.mark.parametrize("name", ["defaults", "short window", "htk, all levels"])
@pytest.mark.parametrize("n_mfcc", [13, 40])
def test_mfcc_is_that_of_librosa(name: str, n_mfcc: int) -> None:
    settings = SETTINGS[name]
    samples = audio(0.5, settings["sample_rate"])
    expected = librosa.feature.mfcc(S=librosa_mel(samples, settings), n_mfcc=n_mfcc)
    assert_agrees(alone(MFCC(n_mfcc=n_mfcc, **settings), samples), expected)


FRONTENDS = {
    "log_mel": LogMel(16000, n_mels=40, top_db=80.0),
    "all levels": LogMel(16000, n_mels=40, top_db=None),
    "three windows": LogMel(16000, win_length=(200, 400, 800), **CHANNELS),  # type: ignore[arg-type]
    "mfcc": MFCC(16000, n_mfcc=20),
    "waveform": Waveform(16000),
}


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_a_clip_alone_and_in_a_padded_batch_has_the_same_frames(frontend: torch.nn.Module) -> None:
    sizes = (8000, 16000, 319, 320, 321, 5001, 1)
    clips = [
        level * audio(1, 16000, seed)[:size]
        for seed, (size, level) in enumerate(zip(sizes, [1, 0.01] * 4, strict=False))
    ]
    padded = torch.zeros(len(clips), max(sizes))
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    features, lengths = frontend(padded, torch.tensor(sizes))
    for clip, found, length in zip(clips, features, lengths.tolist(), strict=True):
        expected = alone(frontend, clip)
        assert expected.shape[-1] == length
        torch.testing.assert_close(found[..., :length], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("top_db", [80.0, 20.0, None])
def test_several_windows_give_one_channel_each(top_db: float | None) -> None:
    windows = (160, 400, 1024)
    samples = audio(0.5, 16000)
    stacked = LogMel(16000, win_length=windows, top_db=top_db, **CHANNELS)  # type: ignore[arg-type]
    assert stacked.shape == (3, 32)
    channels = alone(stacked, samples)
    for window, channel in zip(windows, channels, strict=True):
        single = LogMel(16000, win_length=window, top_db=top_db, **CHANNELS)  # type: ignore[arg-type]
        torch.testing.assert_close(channel, alone(single, samples), rtol=0, atol=0)
    assert not torch.allclose(channels[0], channels[2], atol=1.0)


@pytest.mark.parametrize("frontend", FRONTENDS.values(), ids=FRONTENDS)
def test_half_precision_does_not_change_the_features(frontend: torch.nn.Module) -> None:
    samples, lengths = audio(0.5, 16000)[None], torch.tensor([8000])
    expected, _ = frontend(samples, lengths)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found, _ = frontend(samples, lengths)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


STREAMING = {name: SETTINGS[name] for name in ("telephone", "short window", "odd window", "htk, all levels")}


@pytest.mark.parametrize("settings", STREAMING.values(), ids=STREAMING)
@pytest.mark.parametrize("kind", [LogMel, MFCC])
def test_frames_are_those_that_lie_within_the_clip(kind: type, settings: dict[str, Any]) -> None:
    options = {**settings, "top_db": None} | ({"n_mfcc": 20} if kind is MFCC else {})
    frontend, samples = kind(**options), audio(0.5, settings["sample_rate"])
    n_fft, hop = frontend.n_fft, frontend.hop_length
    # Frame k of a clip is centred at k * hop: so these begin where frame n_fft / 2 / hop does, or between.
    start = (n_fft // 2 + hop - 1) // hop
    found = frontend.frames(samples[None, start * hop - n_fft // 2 :])[0]
    assert found.shape[-1] == (len(samples) - start * hop - n_fft // 2) // hop + 1
    expected = alone(frontend, samples)[..., start : start + found.shape[-1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_fft", [400, 401])
@pytest.mark.parametrize("size", [1, 159, 160, 161, 1600])
def test_a_clip_has_a_frame_for_every_hop_and_one_more(n_fft: int, size: int) -> None:
    frontend = LogMel(16000, n_fft=n_fft, hop_length=160, n_mels=20)
    hops = size // 160 if n_fft % 2 == 0 else (size - 1) // 160  # as librosa has them
    assert alone(frontend, audio(1, 16000)[:size]).shape == (20, hops + 1)


def planted(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features `(B, *shape, T)` of known mean and deviation per channel and bin, lengths, mean, deviation.

    Behind the end of each clip stands what must not count.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([400, 1, 250, 333])
    mean = 100 * torch.randn(*shape, 1, generator=generator)
    deviation = 1 + 5 * torch.rand(*shape, 1, generator=generator)
    noise = torch.randn(4, *shape, 400, generator=generator)
    inside = mask_frames(torch.ones_like(noise), lengths).bool()
    count = lengths.sum()
    centre = (noise * inside).sum((0, -1), keepdim=True) / count
    spread = (((noise - centre) * inside).square().sum((0, -1), keepdim=True) / count).sqrt()
    features = mean + deviation * (noise - centre) / spread
    return torch.where(inside, features, 1e4), lengths, mean, deviation


def in_batches(features: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(features[:1], lengths[:1]), (features[1:], lengths[1:])]


@pytest.mark.parametrize("shape", [(12,), (3, 12)])
def test_the_statistics_of_every_bin_are_found(shape: tuple[int, ...]) -> None:
    features, lengths, mean, deviation = planted(shape)
    normalize = Normalize((1, *shape)[-2:], "per_feature")  # type: ignore[arg-type]
    normalize.fit(in_batches(features, lengths))
    torch.testing.assert_close(normalize.mean, mean, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(normalize.std, deviation, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(12,), (3, 12)])
def test_the_statistics_of_every_channel_are_found(shape: tuple[int, ...]) -> None:
    features, lengths, mean, deviation = planted(shape)
    normalize = Normalize((1, *shape)[-2:], "corpus")  # type: ignore[arg-type]
    normalize.fit(in_batches(features, lengths))
    overall = mean.mean(-2, keepdim=True)
    variance = (deviation.square() + mean.square()).mean(-2, keepdim=True) - overall.square()
    torch.testing.assert_close(normalize.mean, overall, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(normalize.std, variance.sqrt(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("by", ["corpus", "per_feature", "per_clip"])
@pytest.mark.parametrize("shape", [(12,), (3, 12)])
def test_normalised_features_have_mean_0_and_deviation_1(by: str, shape: tuple[int, ...]) -> None:
    features, lengths, _, _ = planted(shape)
    normalize = Normalize((1, *shape)[-2:], by)  # type: ignore[arg-type]
    normalize.fit(in_batches(features, lengths))
    found, _ = normalize(features, lengths)
    inside = mask_frames(torch.ones_like(found), lengths).bool()
    assert found[~inside].unique().tolist() == [0.0]
    for channel in range(shape[0] if len(shape) > 1 else 1):
        view, within = (found[:, channel], inside[:, channel]) if len(shape) > 1 else (found, inside)
        groups = {
            "corpus": [view[within]],
            "per_feature": [view[:, bin][within[:, bin]] for bin in range(shape[-1])],
            "per_clip": [view[row][within[row]] for row in range(len(found))],
        }
        for values in groups[by]:
            assert float(values.mean()) == pytest.approx(0, abs=1e-3)
            assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(12,), (3, 12)])
def test_what_a_microphone_colours_is_taken_away(shape: tuple[int, ...]) -> None:
    features, lengths, _, _ = planted(shape)
    normalize = Normalize((1, *shape)[-2:], "per_clip_cmn")  # type: ignore[arg-type]
    found, _ = normalize(features, lengths)
    tilt = torch.linspace(-20, 20, shape[-1])[:, None]  # dB
    torch.testing.assert_close(normalize(2 * (features + tilt), lengths)[0], found, rtol=1e-4, atol=1e-4)
    inside = mask_frames(torch.ones_like(found), lengths)
    torch.testing.assert_close(found * inside, found)
    means, squares = (x.sum(-1) / inside.sum(-1) for x in (found, found.square()))
    torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-4)
    several = lengths > 1  # a single frame is its own mean
    torch.testing.assert_close(squares.mean(-1)[several], torch.ones_like(squares.mean(-1)[several]))
    assert float(squares[several].max()) > 1.1, "bins keep their own deviations"


def test_statistics_are_kept_with_the_weights_and_not_fitted_per_clip() -> None:
    features, lengths, _, _ = planted((12,))
    fitted, fresh, by_clip = Normalize((1, 12)), Normalize((1, 12)), Normalize((1, 12), "per_clip")
    fitted.fit([(features, lengths)])
    fresh.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(fresh(features, lengths)[0], fitted(features, lengths)[0], rtol=0, atol=0)
    by_clip.fit([(features, lengths)])
    assert (float(by_clip.mean), float(by_clip.std)) == (0.0, 1.0)


def test_none_only_clears_the_padding() -> None:
    features, lengths, _, _ = planted((12,))
    found, found_lengths = Normalize((1, 12), "none")(features, lengths)
    torch.testing.assert_close(found, mask_frames(features, lengths), rtol=0, atol=0)
    torch.testing.assert_close(found_lengths, lengths)


def test_a_constant_band_is_not_blown_up() -> None:
    features = torch.randn(2, 4, 50)
    features[:, 1] = -100.0
    normalize = Normalize((1, 4), "per_feature")
    normalize.fit([(features, torch.tensor([50, 30]))])
    found, _ = normalize(features, torch.tensor([50, 30]))
    assert float(found[:, 1].abs().max()) < 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"win_length": 2048}, r"frontend\.win_length=2048 is longer than frontend\.n_fft=1024"),
        ({"win_length": [400, 1025]}, r"frontend\.win_length=1025 is longer"),
        ({"f_max": 8001.0}, r"frontend\.f_max=8001\.0 Hz is above half the sample rate of 16000 Hz"),
        ({"hop_length": 0}, "have to be 1 or more"),
        ({"n_mels": -1}, "have to be 1 or more"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LogMel(16000, **options)
    with pytest.raises(UserError, match=sentence):
        MFCC(16000, n_mfcc=4, **options)


def test_mfcc_takes_one_window_and_no_more_coefficients_than_bands() -> None:
    for options in ({"n_mfcc": 65}, {"win_length": [400, 800]}):
        with pytest.raises(UserError, match="one window and n_mfcc <= n_mels"):
            MFCC(16000, **options)


def test_an_unknown_normalisation_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"normalize\.by=all is unknown"):
        Normalize((1, 64), "all")


def test_front_ends_show_what_they_were_built_with() -> None:
    shown = (
        "sample_rate=16000, n_fft=512, win_length=400, hop_length=320, n_mels=40, f_min=0.0, f_max=None, "
        "htk=True, top_db=80.0"
    )
    log_mel = LogMel(16000, n_fft=512, win_length=400, n_mels=40, htk=True)
    assert log_mel.extra_repr() == shown
    assert MFCC(16000, n_mfcc=20).extra_repr() == "sample_rate=16000, n_mfcc=20"
    assert repr(Waveform(8000)) == "Waveform(sample_rate=8000)"
    assert repr(Normalize((1, 40), "per_feature")) == "Normalize(shape=(1, 40), by='per_feature')"
