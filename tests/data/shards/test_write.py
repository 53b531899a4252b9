"""Shards as they are written: the same bytes when a job is killed, added to, never over others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import write_wav

from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import AudioError, decode, decode_clips
from lightning_audio.data.shards import table as tables
from lightning_audio.data.shards.shard_set import Index, ShardSet
from lightning_audio.data.shards.shard_store import ShardStore
from lightning_audio.data.shards.storage import Storage
from lightning_audio.data.shards.write import Written, verify, write_shards
from lightning_audio.errors import UserError

RATE, SIZE = 8000, 20_000
SAMPLES = Index("int16", RATE, "Manifest", folds=False)
FILES = Index("files", 0, "Manifest", folds=False)


def noise(samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9999, 9999, samples).astype(np.int16)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """60 clips of 1,000 to 1,590 samples, each fifth to test on."""
    found = []
    for n in range(60):
        path = write_wav(tmp_path / "audio" / f"{n}.wav", noise(1000 + 10 * n, n), RATE)
        split = "test" if n % 5 == 0 else "train"
        found.append(
            Clip(f"clip-{n:02d}", str(path), labels=(f"label {n % 3}",), split=split, group=f"{n // 2}")
        )
    return found


def write(
    clips: Sequence[Clip], out: Path, part: tuple[int, int] = (1, 1), kind: Index = SAMPLES, size: int = SIZE
) -> Written:
    root = Path(clips[0].path).parent
    return write_shards(clips, root, Storage(str(out)), kind, part, size)


def content(folder: Path) -> dict[str, str]:
    """The digest of every shard, by its name."""
    paths = [*folder.glob("*/*.int16"), *folder.glob("*/*.files")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def assert_holds(folder: Path, clips: Sequence[Clip], rate: int = RATE) -> None:
    store = ShardStore(ShardSet.open(str(folder)), rate, folder.parent / "cache", 1.0)
    by_id = sorted(clips, key=lambda clip: clip.id)
    assert [*store.set.clips.column("id")] == [clip.id for clip in by_id]
    gathered, lengths = store.gather(range(len(by_id)))
    for row, (clip, length) in enumerate(zip(by_id, lengths.tolist(), strict=True)):
        expected = decode(clip.path, rate, clip.start, clip.duration, channel=clip.channel)
        np.testing.assert_array_equal(gathered[row, :length].numpy(), expected)
        assert not gathered[row, length:].any()


def test_labels_of_many_kinds_come_back_as_they_were() -> None:
    """So many that a code of one byte is not enough for all, and lists of every length."""
    names = [f"label {number}" for number in range(128)]
    labels = [(), *((name,) for name in names), *zip(names, names[::-1], strict=True), ("label 1",) * 3, ()]
    clips = [Clip(f"{n:03d}", "a.wav", labels=those) for n, those in enumerate(labels)]
    parts = [tables.to_parquet([tables.Row(clip) for clip in some]) for some in (clips[::2], clips[1::2])]
    assert tables.clips(tables.Table(parts, "made up")) == clips
    assert tables.rows(tables.Table(parts[:1], "made up")) == [tables.Row(clip) for clip in clips[::2]]


def test_shards_hold_the_samples_and_the_table(clips: list[Clip], tmp_path: Path) -> None:
    done = write(clips, tmp_path / "set")
    assert_holds(tmp_path / "set", clips)
    found = ShardSet.open(str(tmp_path / "set")).clips
    assert found == [replace(clip, path=Path(clip.path).name) for clip in clips]
    samples = sum(2 * (1000 + 10 * n) for n in range(60))
    assert done == Written(60, samples, [])
    large = tmp_path / "large"
    write([replace(c, id=f"{c.id}-{n}") for n in range(20) for c in clips], large, size=10 * SIZE)
    total = sum(path.stat().st_size for path in large.rglob("*") if path.is_file())
    assert 20 * samples < total < 1.1 * 20 * samples
    assert verify(ShardSet.open(str(tmp_path / "set"))) == []


def test_a_shard_is_of_one_split_and_in_no_order_of_names(clips: list[Clip], tmp_path: Path) -> None:
    write(clips, tmp_path / "set")
    found = ShardSet.open(str(tmp_path / "set"))
    splits = np.array([*found.clips.column("split")])
    assert all(len({*splits[found.shards == shard]}) == 1 for shard in range(len(found.names)))
    train = np.flatnonzero(splits == "train")
    assert abs(np.corrcoef(train, found.shards[train])[0, 1]) < 0.4


def test_parts_make_what_one_job_makes(clips: list[Clip], tmp_path: Path) -> None:
    for number in (3, 1, 2):
        if number == 2:
            with pytest.raises(UserError, match="part 2 of 3 is not done"):
                ShardSet.open(str(tmp_path / "set"))
        write(clips, tmp_path / "set", (number, 3))
    assert_holds(tmp_path / "set", clips)
    before = content(tmp_path / "set")
    assert write(clips, tmp_path / "set", (2, 3)) == Written(0, 0, ())  # is done
    assert content(tmp_path / "set") == before


@pytest.mark.parametrize("writes", range(2, 9))
def test_a_killed_job_goes_on_and_ends_with_the_same_shards(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    write(clips, tmp_path / "whole")
    left, write_file = writes, Storage.write

    def killed(self: Storage, name: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write_file(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            write(clips, tmp_path / "set")
    decoded: list[str] = []

    def noted(clips: Sequence[Clip], sample_rate: int) -> Iterator[np.ndarray | AudioError]:
        decoded.extend(clip.id for clip in clips)
        return decode_clips(clips, sample_rate)

    with monkeypatch.context() as patch:
        patch.setattr("lightning_audio.data.shards.write.decode_clips", noted)
        write(clips, tmp_path / "set")
    assert content(tmp_path / "set") == content(tmp_path / "whole")
    assert_holds(tmp_path / "set", clips)
    assert len(decoded) < 60 or writes < 3  # what was on the disk is not decoded again
    assert not [*(tmp_path / "set").rglob(".part*")]


def test_clips_are_added_and_nothing_is_rewritten(clips: list[Clip], tmp_path: Path) -> None:
    write(clips[:40], tmp_path / "set")
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "set").glob("*/*")}
    assert write(clips, tmp_path / "set").clips == 20
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in before} == before
    assert_holds(tmp_path / "set", clips)
    assert write(clips, tmp_path / "set") == Written(0, 0, ())


def test_what_others_have_written_is_left_alone(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt and no shards\.json"):
        write(clips, tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["thesis.txt"]
    write(clips[:40], tmp_path / "other")
    before = content(tmp_path / "other")
    with pytest.raises(UserError, match="holds int16 of Manifest at 8000 Hz, and this would be int16"):
        write(clips, tmp_path / "other", kind=replace(SAMPLES, sample_rate=16000))
    with pytest.raises(UserError, match=r"1 clip stands in .* with other labels"):
        write([replace(clips[0], labels=("another",)), *clips[1:]], tmp_path / "other")
    assert content(tmp_path / "other") == before
    (tmp_path / "other" / "shards.json").write_text("{}")
    with pytest.raises(UserError, match="is none of"):
        write(clips, tmp_path / "other")


def test_an_addition_that_is_not_finished_keeps_others_out(clips: list[Clip], tmp_path: Path) -> None:
    write(clips[:40], tmp_path / "set", (1, 2))
    for part in ((1, 1), (1, 3)):
        with pytest.raises(UserError, match="an addition of 40 clips in 2 parts that is not finished"):
            write(clips[: 40 + 20 * (part == (1, 1))], tmp_path / "set", part)


def test_two_commands_at_once_do_not_lose_each_others_clips(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tmp_path / "others"
    write(clips[40:], others)
    write_file = Storage.write

    def overtaken(self: Storage, name: str, content: bytes) -> None:
        write_file(self, name, content)
        if name.endswith(".parquet"):  # the index of a command that began before this one had written its own
            shutil.copytree(others, self.root, dirs_exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", overtaken)
        with pytest.raises(UserError, match="does not know of these clips: another command"):
            write(clips[:40], tmp_path / "set")
    write(clips[:40], tmp_path / "set")
    assert_holds(tmp_path / "set", clips)


def test_files_are_kept_as_they_are(tmp_path: Path) -> None:
    folder, clips = tmp_path / "audio", []
    folder.mkdir()
    for n in range(8):
        path = folder / f"{n}.flac"
        soundfile.write(path, np.stack([noise(16000 + 7 * n, n), noise(16000 + 7 * n, 99)], 1), 16000)
        clips.append(Clip(f"whole-{n}", str(path), split="train", channel=n % 2 if n > 3 else None))
        clips.append(Clip(f"cut-{n}", str(path), 0.25, 0.5, split="train"))
    for number in (1, 2):
        write(clips, tmp_path / "set", (number, 2), FILES, size=100_000)
    for rate in (16000, 11025):
        assert_holds(tmp_path / "set", clips, rate)
    kept = sum(path.stat().st_size for path in (tmp_path / "set").rglob("*.files"))
    assert kept == sum(path.stat().st_size for path in folder.iterdir())  # each file once
    assert verify(ShardSet.open(str(tmp_path / "set"))) == []


def test_clips_that_cannot_be_read_are_listed(clips: list[Clip], tmp_path: Path) -> None:
    Path(clips[7].path).write_bytes(b"RIFF")
    for kind in (SAMPLES, FILES):
        done = write(clips, tmp_path / kind.content, kind=kind)
        assert [line.split(":")[0] for line in done.unreadable] == ["clip-07"]
        store = ShardStore(ShardSet.open(str(tmp_path / kind.content)), RATE, tmp_path / "cache", 1.0)
        assert [row.id for row in store.quarantined] == ["clip-07"]
        assert len(store) == 59
        expected = decode(clips[8].path, RATE)
        np.testing.assert_array_equal(store.gather([7])[0][0].numpy(), expected)  # the row behind it


def test_damage_is_found_by_reading_all(clips: list[Clip], tmp_path: Path) -> None:
    write(clips, tmp_path / "set")
    shard = max((tmp_path / "set").rglob("*.int16"))
    shard.write_bytes(shard.read_bytes()[:-2] + b"\0\1")
    (found,) = verify(ShardSet.open(str(tmp_path / "set")))
    assert f"{shard.name} is damaged" in found
    store = ShardStore(ShardSet.open(str(tmp_path / "set")), RATE, tmp_path / "cache", 1.0)
    with pytest.raises(UserError, match=f"{shard.name} is damaged: clip clip-"):
        store.gather(range(60))


def test_what_no_shard_has_is_one_sentence(clips: list[Clip], tmp_path: Path) -> None:
    write(clips[:3], tmp_path / "set")
    index = tmp_path / "set" / "shards.json"
    told = json.loads(index.read_text())
    addition = told["additions"][0]
    for odd in ({"parts": 10**12}, {"parts": "1"}, {"name": "../other"}, {"name": None}):
        index.write_text(json.dumps({**told, "additions": [{**addition, **odd}]}))
        with pytest.raises(UserError, match=r"shards\.json is damaged"):
            ShardSet.open(str(tmp_path / "set"))
    index.write_text(json.dumps(told))
    part = tmp_path / "set" / addition["name"] / "part-0001-of-0001.parquet"
    (row, *others) = tables.rows(tables.Table([part.read_bytes()], "set"))
    rows: list[dict[str, Any]] = [{"offset": -2}, {"length": 10**12}, {"shard": "../../x"}, {"shard": "/x"}]
    for wrong in rows:
        part.write_bytes(tables.to_parquet([replace(row, **wrong), *others]))
        with pytest.raises(UserError, match=r"A table of .* is damaged"):
            ShardSet.open(str(tmp_path / "set"))


def test_names_that_are_no_utf8_are_spelled_and_stay_known(tmp_path: Path) -> None:
    name, spelled = os.fsdecode(b"caf\xe9"), "caf\\udce9"
    file = write_wav(tmp_path / "in" / "a.wav", noise(400, 0), RATE)
    file = file.rename(file.with_name(f"{name}.wav"))
    rows = [Clip(name, str(file), labels=(name,), split="train", group=name)]
    assert write(rows, tmp_path / "set").clips == 1
    (clip,) = ShardSet.open(str(tmp_path / "set")).clips
    assert (clip.id, clip.labels, clip.group) == (spelled, (spelled,), spelled)
    assert clip.path == f"{spelled}.wav"
    assert write(rows, tmp_path / "set").clips == 0  # nothing is added twice


def test_a_clip_that_cannot_be_read_does_not_part_clips_of_one_file(tmp_path: Path) -> None:
    path = str(write_wav(tmp_path / "audio" / "a.wav", noise(4000, 0), RATE))
    starts = {"a": 0.0, "b": 9.0, "c": 0.25}  # of 0.5 s
    clips = [Clip(name, path, start, 0.125, split="train") for name, start in starts.items()]
    assert len(write(clips, tmp_path / "set", kind=FILES, size=1).unreadable) == 1
    found = ShardSet.open(str(tmp_path / "set"))
    gathered, _ = ShardStore(found, RATE, tmp_path / "cache", 1.0).gather([0, 1])
    np.testing.assert_array_equal(gathered.numpy(), noise(4000, 0)[:3000].reshape(3, 1000)[[0, 2]])
    assert verify(found) == []


def test_a_damaged_table_is_never_read_as_another(clips: list[Clip], tmp_path: Path) -> None:
    rows = [tables.Row(clip, "shard", 10 * n, 10, RATE, 5, 7919 * n) for n, clip in enumerate(clips)]
    content = tables.to_parquet(rows)
    whole, rng, refused = tables.rows(tables.Table([content], "set")), np.random.default_rng(0), 0
    body = len(content) - int.from_bytes(content[-8:-4], "little") - 8  # what is behind it describes it
    for place in rng.integers(4, body, 100):
        damaged = content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]
        try:
            assert tables.rows(tables.Table([damaged], "set")) == whole
        except UserError as error:
            refused += "is damaged" in str(error)
    assert refused > 50
