"""Files read whole: lengths that headers leave open, estimate or lie about; channels, levels, odd names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_audio.data.audio_file import AudioError, channels_of, read_audio

RATE = 16000
NON_SEEKABLE = [
    ("WAV", "GSM610"),
    ("WAV", "G721_32"),
    ("WAV", "NMS_ADPCM_16"),
    ("AIFF", "GSM610"),
    ("W64", "GSM610"),
    ("AU", "G721_32"),
    ("AU", "G723_24"),
    ("AU", "G723_40"),
]


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, level, round(seconds * RATE))
    return samples.clip(-0.9, 0.9).astype(np.float32)


def written(path: Path, samples: np.ndarray, form: str, subtype: str, rate: int = RATE) -> bytes:
    soundfile.write(path, samples, rate, format=form, subtype=subtype)
    return path.read_bytes()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def reason(path: Path, **stretch: float | int | str) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, **stretch)  # type: ignore[arg-type]
    return caught.value.reason


def mp3(folder: Path, seed: int = 0) -> tuple[bytes, bytes]:
    """8 s whose first 2 are nearly silent, at a variable bit rate: with its Xing header, and without."""
    samples = np.concatenate([noise(2, 0.0005, seed), noise(6, 0.2, seed)])
    path = folder / "vbr.mp3"
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5}
    soundfile.write(path, samples, RATE, format="MP3", subtype="MPEG_LAYER_III", **options)
    content = path.read_bytes()
    return content, content[content.index(content[:2], 4) :]


def test_an_mp3_without_a_header_is_read_to_its_end(tmp_path: Path) -> None:
    with_header, without = mp3(tmp_path)
    path = put(tmp_path / "a.mp3", without)
    assert soundfile.info(path).frames < 64_000  # what libsndfile estimates
    audio, expected = read_audio(path), read_audio(put(tmp_path / "b.mp3", with_header)).samples
    # 225 frames of 576; the header says how many of them to cut off: 1,105 are the delay of the codec.
    assert (len(audio.samples), len(expected), audio.remarks()) == (225 * 576, 128_000, {})
    np.testing.assert_allclose(audio.samples[1105 + 2000 : 1105 + 120_000], expected[2000:120_000], atol=2e-4)


@pytest.mark.parametrize(("start", "duration"), [(0.5, 0.3), (3.3, 0.2), (5.0, 1.0), (6.5, None), (7.9, 5.0)])
def test_a_stretch_of_an_mp3_without_a_header_is_cut_from_the_whole(
    start: float, duration: float | None, tmp_path: Path
) -> None:
    path = put(tmp_path / "a.mp3", mp3(tmp_path)[1])
    end = None if duration is None else round((start + duration) * RATE)
    expected = read_audio(path).samples[round(start * RATE) : end]
    found = read_audio(path, start, duration).samples
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_start_behind_the_end_of_an_mp3_without_a_header_is_refused(tmp_path: Path) -> None:
    assert "ends before the start at 9 s" in reason(put(tmp_path / "a.mp3", mp3(tmp_path)[1]), start=9.0)


def test_mp3_files_that_were_joined_are_read_whole(tmp_path: Path) -> None:
    first, first_bare = mp3(tmp_path, seed=1)
    second, second_bare = mp3(tmp_path, seed=2)
    one, two = (read_audio(put(tmp_path / "a.mp3", part)).samples for part in (first, second))
    joined = read_audio(put(tmp_path / "a.mp3", first + second))
    np.testing.assert_array_equal(joined.samples, np.concatenate([one, two]))
    tagged = first + b"TAG" + bytes(125) + b"ID3\x04\x00\x00\x00\x00\x07\x68" + bytes(1000) + second
    np.testing.assert_array_equal(read_audio(put(tmp_path / "a.mp3", tagged)).samples, joined.samples)
    bare = read_audio(put(tmp_path / "a.mp3", first_bare + second_bare))
    assert len(bare.samples) == 2 * 225 * 576
    end = read_audio(put(tmp_path / "a.mp3", first + second), start=8.5, duration=0.5).samples
    np.testing.assert_array_equal(end, two[8000:16000])


def test_rubbish_between_the_frames_of_an_mp3_costs_none(tmp_path: Path) -> None:
    for content in mp3(tmp_path):
        frame = content.index(content[:2], len(content) // 2)
        rubbish = np.random.default_rng(0).integers(0, 0xE0, 3000).astype(np.uint8).tobytes()
        expected = read_audio(put(tmp_path / "a.mp3", content)).samples
        found = read_audio(put(tmp_path / "a.mp3", content[:frame] + rubbish + content[frame:]))
        assert found.cut or len(found.samples) == len(expected)


def test_mp3_files_of_two_rates_that_were_joined_are_refused(tmp_path: Path) -> None:
    low = written(tmp_path / "low.mp3", noise(1), "MP3", "MPEG_LAYER_III", 22050)
    assert "differ in rate" in reason(put(tmp_path / "a.mp3", mp3(tmp_path)[0] + low))
    stereo = written(tmp_path / "b.mp3", np.stack([noise(1)] * 2, 1), "MP3", "MPEG_LAYER_III")
    assert "differ in rate or channels" in reason(put(tmp_path / "a.mp3", mp3(tmp_path)[1] + stereo))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_chained_ogg_is_read_whole(subtype: str, tmp_path: Path) -> None:
    parts = [written(tmp_path / "a.ogg", noise(2, seed=seed), "OGG", subtype) for seed in (1, 2, 3)]
    alone = [read_audio(put(tmp_path / "a.ogg", part)).samples for part in parts]
    chained = put(tmp_path / "a.ogg", b"".join(parts))
    np.testing.assert_array_equal(read_audio(chained).samples, np.concatenate(alone))
    np.testing.assert_array_equal(
        read_audio(chained, start=3.5, duration=1.0).samples[:8000], alone[1][24000:]
    )
    np.testing.assert_array_equal(
        read_audio(chained, start=3.5, duration=1.0).samples[8000:], alone[2][:8000]
    )
    other = written(tmp_path / "b.ogg", np.stack([noise(2)] * 2, 1), "OGG", subtype)
    assert "its parts differ" in reason(put(tmp_path / "a.ogg", parts[0] + other))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_a_damaged_or_missing_page_is_refused(subtype: str, tmp_path: Path) -> None:
    content = written(tmp_path / "a.ogg", noise(5), "OGG", subtype)
    places = [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]
    flipped = bytearray(content)
    flipped[(places[-2] + places[-1]) // 2] ^= 1
    reason(put(tmp_path / "a.ogg", bytes(flipped)))
    assert "missing" in reason(put(tmp_path / "a.ogg", content[: places[-2]] + content[places[-1] :]))
    assert "last page is missing" in (read_audio(put(tmp_path / "a.ogg", content[: places[-1]])).cut or "")


@pytest.mark.parametrize(("form", "subtype"), NON_SEEKABLE)
def test_formats_that_cannot_seek_are_read(form: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    written(path, noise(3), form, subtype)
    whole = read_audio(path).samples
    with soundfile.SoundFile(path) as file:
        expected = file.read(file.frames, dtype="float32")
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(read_audio(path, 1.0, 0.5).samples, whole[16000:24000])
    np.testing.assert_array_equal(read_audio(path, 2.5).samples, whole[40000:])
    assert reason(path, start=4.0).startswith("it ends at 3")


def unstated(form: str, content: bytes) -> bytes:
    """The file as a writer to a pipe leaves it, who can't go back and say how long it has become."""
    at = {"WAV": content.find(b"data") + 4, "AU": 8, "RF64": 28, "CAF": content.find(b"data") + 4}.get(
        form, 0
    )
    size = {"RF64": 8, "CAF": 8}.get(form, 4)
    if form == "FLAC":  # the number of samples in STREAMINFO: the last 36 bits of these 8 bytes
        return content[:21] + bytes([content[21] & 0xF0]) + bytes(4) + content[26:]
    return content[:at] + (b"\xff" * 8 if form == "CAF" else bytes(size)) + content[at + size :]


@pytest.mark.parametrize("form", ["WAV", "AU", "RF64", "CAF", "FLAC"])
def test_a_length_that_the_header_leaves_open_is_that_of_the_file(form: str, tmp_path: Path) -> None:
    samples = (noise(2) * 32767).astype(np.int16)
    content = written(tmp_path / "a", samples, form, "PCM_16")
    path = put(tmp_path / "a", unstated(form, content))
    audio = read_audio(path)
    np.testing.assert_array_equal(audio.samples, samples)
    assert audio.remarks() == {}
    np.testing.assert_array_equal(read_audio(path, 0.5, 0.25).samples, samples[8000:12000])


def test_a_wav_without_samples_before_another_chunk_is_empty(tmp_path: Path) -> None:
    content = written(tmp_path / "a.wav", np.zeros(0), "WAV", "PCM_16")
    extra = (
        b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + (14).to_bytes(4, "little") + b"a program here"
    )
    assert reason(put(tmp_path / "a.wav", content + extra)) == "it holds no samples"


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "FLAC"])
def test_files_that_were_joined_and_can_not_be_read_whole_are_refused(form: str, tmp_path: Path) -> None:
    content = written(tmp_path / "a", noise(1), form, "PCM_16")
    assert read_audio(tmp_path / "a").remarks() == {}
    reason(put(tmp_path / "a", content + content))


def test_a_flac_whose_header_lies_is_read_in_bounds_or_refused(tmp_path: Path) -> None:
    samples = (noise(2) * 32767).astype(np.int16)
    content = written(tmp_path / "a.flac", samples, "FLAC", "PCM_16")
    most = content[:21] + bytes([content[21] | 0x0F]) + b"\xff" * 4
    path = put(tmp_path / "a.flac", most + content[26:])
    np.testing.assert_array_equal(read_audio(path).samples, samples)  # its checksum is of all of them
    unsummed = read_audio(put(tmp_path / "a.flac", most + bytes(16) + content[42:]))
    assert unsummed.cut == "it is cut short: of 68,719,476,735 samples 32,000 are there"
    fewer = content[:22] + (20_000).to_bytes(4, "big") + content[26:]
    assert "checksum" in reason(put(tmp_path / "a.flac", fewer))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_checksum_of_a_flac_is_that_of_its_samples(subtype: str, channels: int, tmp_path: Path) -> None:
    samples = np.stack([noise(3, seed=seed) for seed in range(channels)], 1)
    content = written(tmp_path / "a.flac", samples, "FLAC", subtype)
    stored, _ = soundfile.read(tmp_path / "a.flac", dtype="int32", always_2d=True)
    width = 2 if subtype == "PCM_16" else 3
    as_bytes = stored.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes()
    assert content[26:42] == hashlib.md5(as_bytes, usedforsecurity=False).digest()
    expected = stored.mean(axis=1) / 2**31 * (32768 if subtype == "PCM_16" and channels == 1 else 1)
    np.testing.assert_allclose(read_audio(tmp_path / "a.flac").samples, expected, atol=1e-7)
    wrong = content[:26] + bytes([content[26] ^ 1]) + content[27:]
    assert "checksum" in reason(put(tmp_path / "a.flac", wrong))


def test_a_header_that_ends_the_samples_within_the_file_is_refused(tmp_path: Path) -> None:
    for form, at in (("WAV", 40), ("AIFF", 42)):
        content = written(tmp_path / "a", noise(2), form, "PCM_16")
        size = (1008).to_bytes(4, "little" if form == "WAV" else "big")
        path = put(tmp_path / "a", content[:at] + size + content[at + 4 :])
        assert reason(path).startswith("by its header the samples end at byte 1,0")
    content = written(tmp_path / "a", noise(2), "AU", "PCM_16")
    fewer = content[:8] + (1000).to_bytes(4, "big") + content[12:]
    assert "by its header the samples end at byte 1,024 of 64,024" in reason(put(tmp_path / "a", fewer))


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_named(rate: int, tmp_path: Path) -> None:
    content = written(tmp_path / "a.wav", noise(0.1), "WAV", "PCM_16")
    path = put(tmp_path / "a.wav", content[:24] + rate.to_bytes(4, "little") + content[28:])
    assert f"its rate of {rate} Hz is outside 1000 to 768000 Hz" in reason(path)


@pytest.mark.parametrize(("channel", "which"), [(0, 0), ("1", 1), (2, 2)])
def test_a_channel_is_taken_alone(channel: int | str, which: int, tmp_path: Path) -> None:
    samples = np.stack([noise(0.5, seed=seed) for seed in range(3)], 1)
    written(tmp_path / "a.wav", samples, "WAV", "FLOAT")
    audio = read_audio(tmp_path / "a.wav", 0.1, 0.2, channel)
    np.testing.assert_array_equal(audio.samples, samples[1600:4800, which])
    assert (audio.mix_db, audio.channels, channels_of(tmp_path / "a.wav")) == (0, 3, 3)
    for mean in (None, "mean"):
        found = read_audio(tmp_path / "a.wav", channel=mean).samples
        np.testing.assert_allclose(found, samples.mean(axis=1), atol=1e-7)


def test_a_channel_that_is_not_there_is_the_reason(tmp_path: Path) -> None:
    written(tmp_path / "a.wav", np.stack([noise(0.1)] * 2, 1), "WAV", "PCM_16")
    assert reason(tmp_path / "a.wav", channel=2) == "it has no channel 2, but 2, counted from 0"


@pytest.mark.parametrize(
    ("right", "db"), [(-1.0, -np.inf), (-0.98, -39.91), (0.0, -3.01), (1.0, 0.0), (None, -3.0)]
)
def test_channels_that_cancel_are_told(right: float | None, db: float, tmp_path: Path) -> None:
    left = noise(1)
    other = noise(1, seed=1) if right is None else np.float32(right) * left
    written(tmp_path / "a.wav", np.stack([left, other], 1), "WAV", "FLOAT")
    audio = read_audio(tmp_path / "a.wav")
    assert audio.mix_db == pytest.approx(db, abs=0.1)
    assert ("cancelling" in audio.remarks()) == (db < -13)
    assert "cancelling" not in read_audio(tmp_path / "a.wav", channel=0).remarks()


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5])
def test_channels_that_are_inverted_for_a_part_are_told_with_its_share(share: float, tmp_path: Path) -> None:
    left = noise(3)
    turned = np.where(np.arange(len(left)) < share * len(left), -left, left)
    written(tmp_path / "a.wav", np.stack([left, turned], 1), "WAV", "PCM_16")
    told = read_audio(tmp_path / "a.wav").remarks().get("cancelling", "channels in 0%")
    assert float(told.split(" in ")[1].split("%")[0]) / 100 == pytest.approx(share, abs=0.02)


def test_two_of_many_channels_that_cancel_are_named(tmp_path: Path) -> None:
    one, other, third = (noise(1, seed=seed) for seed in range(3))
    written(tmp_path / "a.wav", np.stack([one, other, -0.9 * one, third], 1), "WAV", "PCM_16")
    written(tmp_path / "b.wav", np.stack([one, other, -0.5 * other - 0.5 * one, third], 1), "WAV", "PCM_16")
    assert read_audio(tmp_path / "a.wav").cancelling == "channels 0 and 2 cancel each other"
    assert read_audio(tmp_path / "b.wav").cancelling is None


def test_silence_between_sounds_is_no_part_that_cancels(tmp_path: Path) -> None:
    samples = np.zeros((16000, 2), np.float32)
    samples[:1600] = noise(0.1)[:1600, None]
    samples[1600:, 0], samples[1600:, 1] = 1e-4, -1e-4  # an offset of the converter
    written(tmp_path / "a.wav", samples, "WAV", "PCM_16")
    assert read_audio(tmp_path / "a.wav").remarks() == {}


def test_a_tag_before_a_flac_is_no_second_file(tmp_path: Path) -> None:
    content = written(tmp_path / "a.flac", noise(0.5), "FLAC", "PCM_16")
    (tmp_path / "tagged.flac").write_bytes(b"ID3\3\0\0\0\0\7\x76" + bytes(1014) + content)
    whole, tagged = read_audio(tmp_path / "a.flac"), read_audio(tmp_path / "tagged.flac")
    np.testing.assert_array_equal(tagged.samples, whole.samples)
    assert tagged.remarks() == {}
    (tmp_path / "two.flac").write_bytes((tmp_path / "tagged.flac").read_bytes() + content)
    assert "another file follows at byte" in reason(tmp_path / "two.flac")


def test_silent_channels_cancel_nothing(tmp_path: Path) -> None:
    written(tmp_path / "a.wav", np.zeros((1000, 2)), "WAV", "PCM_16")
    assert read_audio(tmp_path / "a.wav").remarks() == {}


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_samples_beyond_full_scale_are_scaled_and_told(subtype: str, tmp_path: Path) -> None:
    samples = noise(1)
    written(tmp_path / "a.wav", samples * 2.5 / np.abs(samples).max(), "WAV", subtype)
    audio = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(audio.samples, samples / np.abs(samples).max(), atol=1e-6)
    assert audio.scaled == pytest.approx(0.4)
    assert "its peak is 2.5 times full scale" in audio.remarks()["over_full_scale"]


@pytest.mark.parametrize(
    ("full", "mend"), [(2**15, "divide them by 32768"), (2**31, "divide them by 2147483648"), (1e38, "")]
)
def test_float_samples_of_another_scale_are_refused_by_name(full: float, mend: str, tmp_path: Path) -> None:
    written(tmp_path / "a.wav", noise(1) * np.float32(full), "WAV", "FLOAT")
    said = reason(tmp_path / "a.wav")
    assert "where float audio lies in [-1, 1]" in said
    assert mend in said


@pytest.mark.parametrize(("subtype", "faint"), [("PCM_24", True), ("FLOAT", True), ("PCM_16", False)])
def test_audio_that_is_too_faint_for_16_bits_is_told(subtype: str, faint: bool, tmp_path: Path) -> None:
    tone = 1e-4 * np.sin(np.arange(RATE) / 5)
    written(tmp_path / "a.wav", tone, "WAV", subtype)
    told = read_audio(tmp_path / "a.wav").remarks().get("faint", "")
    assert bool(told) == faint
    assert not faint or told == "its peak is -80 dB, where 16 bits have 7 levels: raise its level"


def test_a_name_that_is_no_utf_8_is_read_and_told_in_letters(tmp_path: Path) -> None:
    content = written(tmp_path / "a.wav", noise(0.1), "WAV", "PCM_16")
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    assert len(read_audio(put(path, content)).samples) == 1600
    with pytest.raises(
        AudioError, match=r"caf\\udce9\.wav: Format not recognised|caf\\udce9.wav: it"
    ) as caught:
        read_audio(put(path, b"words" * 100))
    str(caught.value).encode()


@pytest.mark.parametrize(
    "raised", [ValueError("odd"), MemoryError("32 GiB"), TypeError("no"), RuntimeError("x")]
)
def test_whatever_the_library_raises_is_the_reason_of_the_file(
    raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise raised

    written(tmp_path / "a.wav", noise(0.1), "WAV", "PCM_16")
    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    assert f"{type(raised).__name__}: {raised}" in reason(tmp_path / "a.wav")


def test_real_recordings_are_read_as_libsndfile_does_and_without_a_remark(
    real_data: Callable[[str], Path],
) -> None:
    files = sorted((real_data("ESC-50") / "ESC-50" / "audio").iterdir())[::40]
    for path in files:
        expected, _ = soundfile.read(path, dtype="float32")
        audio = read_audio(path)
        np.testing.assert_array_equal(audio.samples, expected)
        assert audio.remarks() == {}
