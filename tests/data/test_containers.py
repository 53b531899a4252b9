"""Files that end before their headers say are found; ordinary ones, whose headers estimate, never are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_audio.data.audio_file import AudioError
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode, decode_clips
from lightning_audio.data.inspect.clips import inspect_clip
from lightning_audio.data.wave_store import WaveStore

SECONDS = 3
KINDS = {
    "16.wav": (44100, "PCM_16"),
    "24.wav": (44100, "PCM_24"),
    "float.wav": (16000, "FLOAT"),
    "adpcm.wav": (16000, "IMA_ADPCM"),
    "gsm.wav": (16000, "GSM610"),
    "a.aiff": (16000, "PCM_16"),
    "a.au": (16000, "PCM_16"),
    "a.w64": (16000, "PCM_16"),
    "a.rf64": (16000, "PCM_16"),
    "a.caf": (16000, "PCM_16"),
    "a.flac": (44100, "PCM_16"),
    "vorbis.ogg": (44100, "VORBIS"),
    "opus.ogg": (48000, "OPUS"),
    "a.mp3": (44100, "MPEG_LAYER_III"),
    "low.mp3": (22050, "MPEG_LAYER_III"),
}


def made(folder: Path, name: str, seconds: float = SECONDS) -> bytes:
    rate, subtype = KINDS[name]
    noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    soundfile.write(folder / name, noise, rate, subtype=subtype)
    return (folder / name).read_bytes()


def problem(path: Path, start: float = 0.0, duration: float | None = None) -> str | None:
    """What the store says of the file; that `check` says the same is part of it."""
    clip = Clip("clip", str(path), start, duration)
    (result,) = decode_clips([clip], 16000)
    said = result.reason if isinstance(result, AudioError) else None
    assert inspect_clip(clip).problem == said
    return said


@pytest.mark.parametrize("kept", [0.5, 0.8])
@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_was_cut_is_found(name: str, kept: float, tmp_path: Path) -> None:
    whole = made(tmp_path, name)
    (tmp_path / name).write_bytes(whole[: round(kept * len(whole))])
    said = problem(tmp_path / name)
    assert said is not None
    assert "it is cut short: " in said or (name in ("a.flac", "a.caf") and "cannot be decoded" in said)


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_file_is_not(name: str, tmp_path: Path) -> None:
    for seconds in (0.05, 0.5, 1.7, SECONDS):
        whole = made(tmp_path, name, seconds)
        assert problem(tmp_path / name) is None
        (tmp_path / name).write_bytes(whole + b"a tag behind the audio" * 9)
        assert problem(tmp_path / name) is None


@pytest.mark.parametrize("name", KINDS)
def test_a_file_behind_another_is_read_or_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(2 * made(tmp_path, name))
    if problem(tmp_path / name) is None:
        assert len(decode(tmp_path / name, 8000)) == pytest.approx(2 * SECONDS * 8000, abs=2500)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB, 0xFFFFFF00, 0x80000000])
def test_the_placeholder_of_a_recorder_is_no_promise(size: int, tmp_path: Path) -> None:
    whole = bytearray(made(tmp_path, "16.wav"))
    place = whole.index(b"data") + 4
    whole[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "16.wav").write_bytes(whole)
    assert problem(tmp_path / "16.wav") is None


def without_count(mp3: bytes) -> bytes:
    """As encoders leave it that write to a pipe: the header is there, what it counts is not."""
    place = mp3.index(b"Info") if b"Info" in mp3[:200] else mp3.index(b"Xing")
    return mp3[: place + 8] + bytes(8) + mp3[place + 16 :]


def without_header(mp3: bytes) -> bytes:
    """Frames alone, as players record them: how long it is can only be estimated."""
    return mp3[mp3.index(mp3[:2], 200) :]


def with_tag(mp3: bytes) -> bytes:
    """Behind an ID3v2 tag of 1,000 bytes."""
    return b"ID3\x04\x00\x00\x00\x00\x07\x68" + bytes(1000) + mp3


@pytest.mark.parametrize("change", [without_count, without_header, with_tag])
def test_an_mp3_whose_length_is_an_estimate_is_not_called_cut(
    change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    mp3 = made(tmp_path, "a.mp3")
    (tmp_path / "a.mp3").write_bytes(change(mp3))
    assert problem(tmp_path / "a.mp3") is None
    if change is not with_tag:
        (tmp_path / "a.mp3").write_bytes(change(mp3)[: len(mp3) // 2])
        assert problem(tmp_path / "a.mp3") is None


def test_a_stretch_that_is_there_is_taken_from_a_file_that_was_cut(tmp_path: Path) -> None:
    whole = made(tmp_path, "16.wav")
    (tmp_path / "16.wav").write_bytes(whole[: len(whole) // 2])
    assert problem(tmp_path / "16.wav", 0.2, 1.0) is None
    assert problem(tmp_path / "16.wav", 1.0, 1.0) == problem(tmp_path / "16.wav") is not None
    # Whoever asks for an answer gets one from what there is.
    assert len(decode(tmp_path / "16.wav", 16000)) == pytest.approx(SECONDS * 8000, abs=20)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [([], "it holds no samples"), ([0, np.nan], "no numbers"), ([0, np.inf], "no numbers")],
)
def test_what_holds_no_samples_or_no_numbers_goes_into_quarantine(
    samples: list[float], reason: str, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "bad.wav", np.array(samples, np.float32), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", np.ones(100), 8000)
    clips = [Clip(name, str(tmp_path / f"{name}.wav")) for name in ("bad", "good")]
    store = WaveStore.open(clips, 8000, tmp_path / "cache", max_bad_fraction=0.5)
    assert store.ids == ("good",)
    assert reason in store.quarantined[0].reason


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 20])
def test_a_real_recording_is_called_cut_only_where_it_is(
    every: int, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    files = sorted((real_data("ESC-50") / "ESC-50" / "audio").iterdir())[::every]
    assert files
    assert [path for path in files if problem(path)] == []
    cut = tmp_path / files[0].name
    cut.write_bytes(files[0].read_bytes()[:-100])
    assert "it is cut short" in (problem(cut) or "")
