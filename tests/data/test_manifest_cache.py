"""Tables of clips by column: what was read comes back, only while nothing has changed, and never half."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from conftest import sine, write_wav

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable, Texts
from lightning_audio.data.corpora.manifest import Manifest
from lightning_audio.data.manifest_cache import read_columns, remembered, write_columns
from lightning_audio.data.manifests import read_manifest, write_manifest
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError

CLIPS = [
    Clip("a", "/x/a.wav"),
    Clip("b", "rel/b.wav", 1.25, 0.1, ("dog", "bell"), "naïve \u2028 “text”\n", "val", 3, "r 1"),
    Clip("c", "rel/b.wav", 0.1 + 0.2, 1e-9, ("dog", "bell"), "", "train", 0, "r 1"),
    Clip("\ud800", "d", 2.0, None, (), None, None, None, ""),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_columns(ClipTable.of(CLIPS), tmp_path / "table.npz")
    return tmp_path / "table.npz"


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever `read` of a test runs; manifests of any size are worth remembering."""
    monkeypatch.setattr("lightning_audio.data.manifest_cache.WORTH_IT", 0)
    return []


def test_clips_come_back_as_they_were(table: Path) -> None:
    clips = read_columns(table)
    assert clips is not None
    assert clips == CLIPS
    assert [type(clip.start) for clip in clips] == [float] * 4
    assert [hash(clip) for clip in clips] == [hash(clip) for clip in CLIPS]
    with pytest.raises(FrozenInstanceError):
        clips[0].id = "b"  # type: ignore[misc]
    assert clips[1].labels is clips[2].labels
    assert clips[1].group is clips[2].group
    assert [path.name for path in table.parent.iterdir()] == ["table.npz"]


def test_texts_in_bytes_come_back_as_they_were(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_audio.data.manifest_cache.MANY", 0)
    write_columns(ClipTable.of(CLIPS), table)
    clips = read_columns(table)
    assert clips is not None
    assert clips == CLIPS
    assert isinstance(clips.column("text").values, Texts)
    assert [clips[row] for row in range(4)] == CLIPS


def test_a_table_without_rows(tmp_path: Path) -> None:
    write_columns(ClipTable.of([]), tmp_path / "none.npz")
    assert read_columns(tmp_path / "none.npz") == []


@pytest.mark.parametrize("old", [b"[3, 0]", b"fold.codes", b"PK\x05\x06"])
def test_a_damaged_table_is_none(old: bytes, table: Path) -> None:
    content = table.read_bytes()
    assert old in content
    table.write_bytes(content.replace(old, bytes(reversed(old))))
    assert read_columns(table) is None
    table.write_bytes(content[:-5])
    assert read_columns(table) is None


def test_no_table_is_none(tmp_path: Path) -> None:
    assert read_columns(tmp_path / "table.npz") is None


def look_up(file: Path, counted: list[str], options: Sequence[object] = ()) -> ClipTable:
    def read() -> list[Clip]:
        counted.append(file.read_text())
        return [Clip(line, "a.wav") for line in file.read_text().split()]

    return remembered([file], options, file.parent / "cache", read)


def test_what_was_read_is_read_anew_only_when_something_has_changed(
    tmp_path: Path, counted: list[str]
) -> None:
    file = tmp_path / "clips.csv"
    file.write_text("one two")
    stat = file.stat()
    for _ in range(3):
        assert [clip.id for clip in look_up(file, counted)] == ["one", "two"]
    assert counted == ["one two"]
    file.write_text("one six")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the content counts, not the time
    assert [clip.id for clip in look_up(file, counted)] == ["one", "six"]
    look_up(file, counted, ["group"])
    assert counted == ["one two", "one six", "one six"]
    (tmp_path / "other.csv").write_text("one six")
    look_up(tmp_path / "other.csv", counted)
    assert len(counted) == 4, "paths and ids are named after the file"


def test_a_damaged_table_is_read_anew(tmp_path: Path, counted: list[str]) -> None:
    file = tmp_path / "clips.csv"
    file.write_text("one two")
    look_up(file, counted)
    (table,) = (tmp_path / "cache" / "tables").iterdir()
    table.write_bytes(table.read_bytes()[:-5])
    for _ in range(2):
        assert [clip.id for clip in look_up(file, counted)] == ["one", "two"]
    assert len(counted) == 2


def test_a_small_manifest_and_a_cache_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clips.csv"
    counted: list[str] = []
    file.write_text("one two")
    look_up(file, counted)
    assert not (tmp_path / "cache").exists(), "it is not worth it"
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setattr("lightning_audio.data.manifest_cache.WORTH_IT", 0)
    for _ in range(2):
        assert [clip.id for clip in look_up(file, counted)] == ["one", "two"]
    assert len(counted) == 3


def test_a_manifest_is_remembered_and_its_missing_audio_is_not_forgotten(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_wav(tmp_path / f"{n}.wav", sine(300, 0.1, 8000), 8000) for n in range(4)]
    clips = [Clip(f"{n}", str(path), labels=("dog",), group=f"{n}") for n, path in enumerate(paths)]
    write_manifest(clips, tmp_path / "clips.jsonl")
    options: dict[str, Any] = {"cache": str(tmp_path / "cache"), "file": str(tmp_path / "clips.jsonl")}
    assert Manifest(**options).rows() == clips == read_manifest(tmp_path / "clips.jsonl")

    def refuse(*_: object) -> None:
        raise AssertionError("the manifest was read again")

    monkeypatch.setattr("lightning_audio.data.corpora.manifest.read_manifests", refuse)
    assert Manifest(**options).rows() == clips
    with pytest.raises(AssertionError, match="read again"):
        Manifest(**options, group=None).rows()
    paths[2].unlink()
    again = Manifest(**options).rows()
    with pytest.raises(UserError, match=r"^1 of 4 audio files are missing, such as .*2\.wav"):
        WaveStore.open(again, 8000, tmp_path / "cache")


def test_a_manifest_that_is_not_there_is_still_one_sentence(tmp_path: Path, counted: list[str]) -> None:
    with pytest.raises(UserError, match=r"^There is no manifest .*nowhere\.csv"):
        Manifest(str(tmp_path), file=str(tmp_path / "nowhere.csv")).rows()
