"""Decoding: bit for bit where it can be, else soundfile and soxr by hand; every bad file in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import sine, write_wav

from lightning_audio.data.batch import samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import audio_files, decode, decode_clips, resample
from lightning_audio.errors import UserError


def by_hand(path: Path, sample_rate: int) -> np.ndarray:
    """The whole file, channel by channel: averaged, resampled and rounded in float64."""
    samples, source_rate = soundfile.read(path, dtype="float64", always_2d=True)
    mono = sum(samples.T) / samples.shape[1]
    resampled = soxr.resample(mono, source_rate, sample_rate) if source_rate != sample_rate else mono
    return np.round(resampled * 32768).clip(-32768, 32767).astype(np.int16)


def noise(seconds: float, sample_rate: int, channels: int = 1) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, (round(seconds * sample_rate), channels))
    return samples[:, 0] if channels == 1 else samples


def amplitude(samples: np.ndarray, frequency: float, sample_rate: int) -> float:
    """Of the sine of this frequency, from the second of three seconds, where no edge is."""
    second = samples[sample_rate : 2 * sample_rate] / 32768
    spectrum = np.abs(np.fft.rfft(second)) * 2 / sample_rate
    assert spectrum.argmax() == frequency
    return float(spectrum.max())


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bit_pcm_is_kept_bit_for_bit(tmp_path: Path, name: str) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.int16)
    samples[:4] = [-32768, 32767, 0, -1]
    path = write_wav(tmp_path / name, samples, 16000)
    np.testing.assert_array_equal(decode(path, 16000), samples)


@pytest.mark.parametrize(
    ("name", "subtype", "channels", "source_rate"),
    [
        ("float.wav", "FLOAT", 1, 16000),
        ("deep.wav", "PCM_24", 1, 16000),
        ("byte.wav", "PCM_U8", 1, 16000),
        ("stereo.wav", "PCM_16", 2, 16000),
        ("stereo.flac", "PCM_24", 2, 44100),
        ("phone.wav", "PCM_16", 1, 8000),
        ("six.wav", "FLOAT", 6, 48000),
        ("a.ogg", "VORBIS", 1, 16000),
        ("b.ogg", "VORBIS", 2, 44100),
        ("a.mp3", "MPEG_LAYER_III", 1, 16000),
        ("b.mp3", "MPEG_LAYER_III", 2, 44100),
    ],
)
def test_agrees_with_decoding_by_hand(
    tmp_path: Path, name: str, subtype: str, channels: int, source_rate: int
) -> None:
    path = write_wav(tmp_path / name, noise(1.0, source_rate, channels), source_rate, subtype)
    found, expected = decode(path, 16000).astype(int), by_hand(path, 16000).astype(int)
    assert len(found) == len(expected)
    # float32 against float64 can fall on the other side of a half.
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_real_recordings_agree_with_decoding_by_hand(real_data: Callable[[str], Path]) -> None:
    paths = audio_files([real_data("ESC-50") / "ESC-50" / "audio"])[::80]
    assert len(paths) > 1
    for path in paths:
        found, expected = decode(path, 22050).astype(int), by_hand(path, 22050).astype(int)
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.5), (0.25, 0.5), (1.2345, None), (1.5, 9.0)])
def test_a_stretch_is_cut_from_the_whole(
    tmp_path: Path, name: str, start: float, duration: float | None
) -> None:
    path = write_wav(tmp_path / name, noise(2.0, 16000), 16000)
    end = None if duration is None else round((start + duration) * 16000)
    expected = decode(path, 16000)[round(start * 16000) : end].astype(int)
    found = decode(path, 16000, start, duration)
    assert len(found) == len(expected)
    # An MP3 frame leans on those before it: a decoder that jumps in differs in the last bit.
    assert np.abs(found - expected).max() <= (1 if name == "a.mp3" else 0)


def test_resampling_keeps_frequency_and_level_and_does_not_fold_back(tmp_path: Path) -> None:
    low = write_wav(tmp_path / "low.wav", sine(1000, 3.0, 44100, level=0.5), 44100)
    high = write_wav(tmp_path / "high.wav", sine(7000, 3.0, 44100, level=0.5), 44100)
    assert len(decode(low, 8000)) == 24000
    assert amplitude(decode(low, 8000), 1000, 8000) == pytest.approx(0.5, abs=1e-3)
    assert amplitude(decode(low, 48000), 1000, 48000) == pytest.approx(0.5, abs=1e-3)
    assert np.abs(decode(high, 8000)[800:-800]).max() <= 2  # Above half the new rate: nothing is left.


def test_samples_to_float_gives_back_what_was_rounded(tmp_path: Path) -> None:
    samples = np.array([0.25, -0.3333, 0.99999, -1.0, 1.0])
    path = write_wav(tmp_path / "a.wav", samples, 16000, "FLOAT")
    found = samples_to_float(torch.from_numpy(decode(path, 16000))).numpy()
    np.testing.assert_allclose(found, samples.clip(-1, 32767 / 32768), atol=0.5 / 32768)


def test_what_is_odd_about_a_file_that_is_read_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = noise(1.0, 16000)
    paths = [
        write_wav(tmp_path / "cancels.wav", np.stack([left, -left], 1), 16000),
        write_wav(tmp_path / "loud.wav", 3 * left / np.abs(left).max(), 16000, "FLOAT"),
    ]
    for path in paths:
        decode(path, 16000)
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [str(path) for path in paths]
    assert "cancel each other" in caplog.text
    assert "its peak is 3 times full scale" in caplog.text
    caplog.clear()
    clips = [Clip(f"{path.stem}{number}", str(path)) for path in paths for number in range(7)]
    assert all(isinstance(found, np.ndarray) for found in decode_clips(clips, 16000))
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(": ")[:2] for line in told] == [
        ["7 clips (cancelling)", "cancels0"],
        ["7 clips (over full scale)", "loud0"],
    ]
    assert all("; and 2 more" in line for line in told)


def test_clips_that_end_before_their_row_says_are_told(tmp_path: Path) -> None:
    """What is missing may have been said: a transcript would be of more than the audio."""
    path = str(write_wav(tmp_path / "a.wav", sine(440, 1.0, 8000), 8000))
    rows = [("late", 0.5, 0.54), ("long", 0.0, 3.0), ("short", 0.5, 0.8), ("whole", 0.0, 1.0)]
    remarks: list[str] = []
    clips = [Clip(name, path, start, duration) for name, start, duration in rows]
    found = [*decode_clips(clips, 8000, remarks)]
    assert [len(samples) for samples in found if isinstance(samples, np.ndarray)] == [4000, 8000, 4000, 8000]
    assert remarks == ["2 clips (ends early): long: of 3 s there are 1.00; short: of 0.8 s there are 0.50."]


def test_stereo_is_averaged(tmp_path: Path) -> None:
    samples = np.array([[100, 300], [-32768, 32766], [32767, 32767], [-4, -8]], dtype=np.int16)
    path = write_wav(tmp_path / "a.wav", samples, 16000)
    assert decode(path, 16000).tolist() == [200, -1, 32767, -6]


def test_a_header_that_promises_too_much_gives_what_is_there(tmp_path: Path) -> None:
    samples = np.arange(1000, dtype=np.int16)
    path = write_wav(tmp_path / "a.wav", samples, 16000)
    path.write_bytes(path.read_bytes()[:-600])
    np.testing.assert_array_equal(decode(path, 16000), samples[:700])
    np.testing.assert_array_equal(decode(path, 16000, start=0.04, duration=1.0), samples[640:700])


def damage(path: Path) -> Path:
    """Noise over the middle third."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = np.random.default_rng(0).bytes(third)
    path.write_bytes(content)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "none.wav", "there is no such file"),
        (lambda folder: folder, "there is no such file"),
        (lambda folder: written(folder / "a.wav", b""), "it is empty"),
        (lambda folder: written(folder / "a.wav", b"words " * 999), "Format not recognised"),
        (lambda folder: written(folder / "a.mp3", b"words " * 999), "Format not recognised"),
        (lambda folder: damage(write_wav(folder / "a.flac", noise(2.0, 8000), 8000)), "flac decoder"),
        (lambda folder: write_wav(folder / "a.wav", np.zeros(0), 16000), "it holds no samples"),
        (lambda folder: write_wav(folder / "a.wav", np.zeros((0, 2)), 8000), "it holds no samples"),
        (lambda folder: write_wav(folder / "a.wav", np.full(9, np.nan), 16000, "FLOAT"), "NaN"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        decode(path, 16000)
    assert str(caught.value).startswith(f"Cannot read {path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(1.0, 16000), 16000)
    with pytest.raises(UserError, match=r"it ends at 1 s, before the start at 1\.5 s"):
        decode(path, 16000, start=1.5)
    empty = write_wav(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(UserError, match="no samples"):
        decode(empty, 16000, start=1.5)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "deep/er/c.mp3", "deep/d.ogg", "notes.txt", "._b.wav", "take[1].wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["."], ["a.FLAC", "b.wav", "deep/d.ogg", "deep/er/c.mp3", "take[1].wav"]),
        (["deep"], ["deep/d.ogg", "deep/er/c.mp3"]),
        (["notes.txt"], ["notes.txt"]),
        (["take[1].wav"], ["take[1].wav"]),
        (["*.wav"], ["b.wav", "take[1].wav"]),
        (["*"], ["a.FLAC", "b.wav", "deep/d.ogg", "deep/er/c.mp3", "take[1].wav"]),
        (["**/*.mp3"], ["deep/er/c.mp3"]),
        (["deep", "b.wav", "deep/d.ogg", "*.wav"], ["b.wav", "deep/d.ogg", "deep/er/c.mp3", "take[1].wav"]),
    ],
)
def test_audio_files_of_folders_and_globs(tree: Path, given: list[str], expected: list[str]) -> None:
    found = audio_files([tree / name for name in given])
    assert [str(path.relative_to(tree)) for path in found] == expected
    assert audio_files([str(tree / name) for name in given]) == found


def test_audio_files_of_relative_names_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert audio_files(["b.wav", "./b.wav", "b.*", tree / "b.wav"]) == [tree / "b.wav"]
    assert audio_files(["deep/*"]) == [Path("deep/d.ogg"), Path("deep/er/c.mp3")]


@pytest.mark.parametrize("name", ["none.wav", "*.opus", "hollow"])
def test_nothing_found_is_told(tree: Path, name: str) -> None:
    (tree / "hollow").mkdir()
    with pytest.raises(UserError, match="gives no audio"):
        audio_files([tree / "b.wav", tree / name])


@pytest.mark.parametrize(
    ("samples", "rate", "sentence"),
    [
        (np.zeros((2, 400), np.float32), 8000, "more channels than samples"),
        (np.zeros(400, np.int32), 8000, "An array of int32 has no full scale"),
        (np.zeros(400, np.uint8), 8000, "An array of uint8 has no full scale"),
        (np.zeros(400, np.float32), 0, "sample_rate=0 is no rate"),
        (np.zeros(400, np.float32), 1, "sample_rate=1 is no rate between 1000 and 768000 Hz"),
        (np.full(400, 20_000.0), 8000, r"reach 20000, where float audio lies in \[-1, 1\]: divide"),
        (np.array([0.1, -1.5]), 8000, r"reach 1\.5, where float audio lies"),
        (np.array([0.1, np.nan]), 8000, "no numbers"),
    ],
)
def test_arrays_that_would_be_misread_are_refused(samples: np.ndarray, rate: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resample(samples, rate, 8000)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16])
def test_arrays_become_what_files_of_them_do(dtype: type, tmp_path: Path) -> None:
    samples = noise(1.0, 16000, 2)
    array = (samples * 32768).round().astype(np.int16) if dtype is np.int16 else samples.astype(dtype)
    stored = ("PCM_16", array) if dtype is np.int16 else ("FLOAT", array.astype(np.float32))
    path = write_wav(tmp_path / "a.wav", stored[1], 16000, stored[0])
    np.testing.assert_array_equal(resample(array, 16000, 8000), decode(path, 8000))
    found = resample(array[:, 0], 16000, 16000)
    np.testing.assert_array_equal(found, decode(path, 16000, channel=0))


def test_an_array_whose_channels_cancel_is_told(caplog: pytest.LogCaptureFixture) -> None:
    left = noise(0.1, 16000)
    assert not resample(np.stack([left, -left], 1), 16000, 16000).any()
    assert "cancel each other" in caplog.text
