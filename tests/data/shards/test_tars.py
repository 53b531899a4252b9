"""Tars of others are read as they are: webdataset's, NeMo's tarred manifests, lhotse's shar."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from bucket import Faults, served
from test_write import FILES, noise, write

from lightning_audio import build
from lightning_audio.cli.folds import cross_validate
from lightning_audio.cli.ngram import _clips_of_run
from lightning_audio.config import compose_config
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import at_rate
from lightning_audio.data.shards import storage, tars
from lightning_audio.data.shards.shard_store import ShardStore, open_set
from lightning_audio.errors import UserError

RATE = 16000


def flac(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="FLAC")
    return content.getvalue()


def tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))


def opened(address: object, cache: Path, rate: int = RATE) -> tuple[dict[str, Clip], ShardStore]:
    found = open_set(str(address), cache)
    store = ShardStore(found, rate, cache, 1.0)
    return {clip.id: clip for clip in found.clips}, store


def samples(store: ShardStore, clips: Mapping[str, Clip], name: str) -> np.ndarray:
    waveforms, _ = store.gather([[*clips].index(name)])
    return waveforms[0].numpy()


@pytest.fixture
def webdataset(tmp_path: Path) -> Path:
    """Keys 0 and 1 in two tars of train and one of test."""
    for number, place in enumerate(("train/a-0.tar", "train/a-1.tar", "test/b.tar")):
        members: dict[str, bytes] = {}
        for key in (0, 1):
            seed = 10 * number + key
            members |= {
                f"{key}.flac": flac(noise(4000 + seed, seed)),
                f"{key}.json": json.dumps({"transcript": f"text {seed}", "speaker": seed}).encode(),
                f"{key}.cls": f"{key}".encode(),
            }
        tar(tmp_path / "set" / place, members)
    return tmp_path / "set"


def test_webdataset_by_folders_of_splits(webdataset: Path, tmp_path: Path) -> None:
    clips, store = opened(webdataset, tmp_path / "cache")
    assert len(clips) == 6
    for number, place in enumerate(("train/a-0.tar", "train/a-1.tar", "test/b.tar")):
        for key in (0, 1):
            seed, name = 10 * number + key, f"{place}:{key}"
            clip = clips[name]
            assert (clip.text, clip.labels, clip.group) == (f"text {seed}", (f"{key}",), f"{seed}")
            assert clip.split == place.partition("/")[0]
            np.testing.assert_array_equal(samples(store, clips, name), noise(4000 + seed, seed))
    _, other = opened(webdataset, tmp_path / "cache", 11025)
    expected = at_rate(noise(4000, 0), RATE, 11025)
    np.testing.assert_array_equal(samples(other, clips, "train/a-0.tar:0"), expected)


def test_tars_come_from_a_server_that_fails(
    webdataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    faults = Faults("503", "cut")
    with served(webdataset, faults) as address:
        clips, store = opened(address, tmp_path / "cache")
        np.testing.assert_array_equal(samples(store, clips, "test/b.tar:1"), noise(4021, 21))
        asked = sum(faults.asked.values())
        opened(address, tmp_path / "cache")
        assert sum(faults.asked.values()) == asked  # the table is remembered


def test_nemo_tarred_manifest(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "a.flac", "duration": 0.5, "text": "whole", "shard_id": 0},
        {"audio_filepath": "b.flac", "offset": 0.25, "duration": 0.25, "text": "part", "shard_id": 1},
        {"audio_filepath": "b.flac", "offset": 7.0, "duration": 0.5, "text": "cut before", "shard_id": 1},
        {"audio_filepath": "b.flac", "duration": 0.125, "command": "yes", "shard_id": 1},
    ]
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "tarred_audio_manifest.json").write_text("\n".join(map(json.dumps, rows)))
    for number, name in enumerate("ab"):
        tar(tmp_path / "set" / f"audio_{number}.tar", {f"{name}.flac": flac(noise(8000, number))})
    clips, store = opened(tmp_path / "set", tmp_path / "cache")
    assert {name: clip.text for name, clip in clips.items()} == {
        "a": "whole",
        "b": None,
        "b-0.25": "part",
        "b-7": "cut before",
    }
    assert clips["b"].labels == ("yes",)
    b = noise(8000, 1)
    for name, expected in {"a": noise(8000, 0), "b": b[:2000], "b-0.25": b[4000:], "b-7": b}.items():
        np.testing.assert_array_equal(samples(store, clips, name), expected)


@pytest.mark.parametrize("place", ["", "train"])
def test_what_describes_many_tars_is_read_once(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NeMo's manifest is of all tars of its folder: to read it for each is to wait for their square."""
    read, listed = [], []

    class Counted(storage.Storage):
        def read(self, name: str) -> bytes:
            read.append(name)
            return super().read(name)

        def names(self, folder: str = "") -> list[str]:
            listed.append(folder)
            return super().names(folder)

    parse = tars._nemo
    parsed: list[bytes] = []

    def counted(content: bytes) -> Any:
        parsed.append(content)
        return parse(content)

    monkeypatch.setattr(tars, "_nemo", counted)
    folder = tmp_path / "set" / place
    rows = [{"audio_filepath": f"{n}.flac", "text": f"text {n}", "shard_id": n} for n in range(6)]
    for n in range(6):
        tar(folder / f"audio_{n}.tar", {f"{n}.flac": flac(noise(400 + n, n))})
    (folder / "tarred_audio_manifest.json").write_text("\n".join(map(json.dumps, rows)))
    found = tars.read_tars(Counted(str(tmp_path / "set")), tmp_path / "cache")
    assert found is not None
    assert found[1]["text"].to_pylist() == [f"text {n}" for n in range(6)]
    assert found[1]["length"].to_pylist() == [400 + n for n in range(6)]
    assert len(parsed) == 1
    assert read == [f"{place}/tarred_audio_manifest.json".lstrip("/")]
    assert sorted(listed) == sorted({"", place} if place else ["", ""])


def test_only_the_recordings_of_a_shar_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it lies in a folder of a split; its features and targets, as large as they, are not."""
    folder = tmp_path / "set" / "train"
    cut = {"id": "a", "supervisions": [{"text": "one"}]}
    for name in ("recording", "target_audio"):
        tar(folder / f"{name}.000000.tar", {"a.flac": flac(noise(400, 0))})
    (folder / "cuts.000000.jsonl.gz").write_bytes(gzip.compress(json.dumps(cut).encode()))
    opened_tars: list[str] = []
    rows = tars._rows

    def counted(*told: Any) -> Any:
        opened_tars.append(told[1])
        return rows(*told)

    monkeypatch.setattr(tars, "_rows", counted)
    clips, _ = opened(tmp_path / "set", tmp_path / "cache")
    assert {name: (clip.text, clip.split) for name, clip in clips.items()} == {"a": ("one", "train")}
    assert opened_tars == ["train/recording.000000.tar"]
    assert caplog.messages == []


def test_lhotse_shar(tmp_path: Path) -> None:
    for number in (0, 1):
        names = [f"cut-{number}-{n}" for n in (0, 1)]
        cuts = [
            {
                "id": name,
                "start": 0,
                "duration": 0.25,
                "supervisions": [{"text": "one", "speaker": name}, {"text": "two"}],
                "type": "MonoCut",
            }
            for name in names
        ]
        (tmp_path / "set").mkdir(exist_ok=True)
        content = gzip.compress("\n".join(map(json.dumps, cuts)).encode())
        (tmp_path / "set" / f"cuts.00000{number}.jsonl.gz").write_bytes(content)
        kinds = {"flac": flac(noise(4000, 5)), "json": b"{}"}
        members = {f"{name}.{kind}": kinds[kind] for name in names for kind in kinds}
        tar(tmp_path / "set" / f"recording.00000{number}.tar", members)
        tar(tmp_path / "set" / f"features.00000{number}.tar", {"x.lilcom": b"1"})
    clips, store = opened(tmp_path / "set", tmp_path / "cache")
    assert [*clips] == ["cut-0-0", "cut-0-1", "cut-1-0", "cut-1-1"]
    assert {clip.text for clip in clips.values()} == {"one two"}
    assert clips["cut-1-0"].group == "cut-1-0"
    np.testing.assert_array_equal(samples(store, clips, "cut-1-1"), noise(4000, 5))


def test_what_is_wrong_is_told(webdataset: Path, tmp_path: Path) -> None:
    damaged = webdataset / "test" / "b.tar"
    content, since = bytearray(damaged.read_bytes()), damaged.stat().st_mtime_ns
    opened(webdataset, tmp_path / "cache")
    content[900] ^= 1  # within the first file; the table knows its checksum
    damaged.write_bytes(content)
    os.utime(damaged, ns=(since, since))  # as a disk damages it: one that was written is read anew
    clips, store = opened(webdataset, tmp_path / "cache")
    with pytest.raises(UserError, match=r"test/b\.tar is damaged: clip test/b\.tar:0"):
        samples(store, clips, "test/b.tar:0")
    tar(webdataset / "test" / "b.tar", {"0.flac": b"noise", "0.txt": b"a", "1.flac": b"", "1.cls": b"b"})
    _, store = opened(webdataset, tmp_path / "cache")
    assert [row.id for row in store.quarantined] == ["test/b.tar:0", "test/b.tar:1"]
    (webdataset / "test" / "b.tar").write_bytes(b"x" * 700)
    with pytest.raises(UserError, match=r"b\.tar is damaged"):
        opened(webdataset, tmp_path / "cache")


def encoded(samples: np.ndarray, form: str) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format=form)
    return content.getvalue()


def test_files_are_as_long_as_they_are_and_damaged_ones_cost_the_others_nothing(tmp_path: Path) -> None:
    """A header tells neither of a second part nor of a missing end."""
    ogg, whole = encoded(noise(4000, 0) / 2**15, "OGG"), encoded(noise(4000, 1), "WAV")
    lying = bytearray(flac(noise(4000, 2)))
    lying[21] |= 15
    lying[22:26] = b"\xff" * 4  # FLAC's number of samples
    audio = {"two.ogg": ogg + ogg, "cut.wav": whole[:5000], "lying.flac": bytes(lying), "good.wav": whole}
    texts = {f"{name.partition('.')[0]}.txt": b"words" for name in audio}
    texts |= {"bad.txt": "w\xf6rter".encode("latin-1"), "worse.json": b"{"}
    audio |= {"bad.flac": flac(noise(400, 3)), "worse.flac": flac(noise(400, 3))}
    tar(tmp_path / "set" / "a.tar", audio | texts)
    clips, store = opened(tmp_path / "set", tmp_path / "cache")
    reasons = {row.id: row.reason for row in store.quarantined}
    assert reasons.keys() == {"bad", "cut", "worse"}
    assert "bytes of its end are missing" in reasons["cut"]
    assert reasons["bad"] == "the text beside it is not UTF-8"
    sound = [name for name in clips if name not in reasons]
    assert dict(zip(sound, store.lengths.tolist(), strict=True)) == {"good": 4000, "lying": 4000, "two": 8000}
    waveforms, lengths = store.gather([0, 1, 2])
    np.testing.assert_array_equal(waveforms[0, :4000], noise(4000, 1))
    np.testing.assert_array_equal(waveforms[1, :4000], noise(4000, 2))
    assert lengths.tolist() == [4000, 4000, 8000]


def test_a_tar_that_is_damaged_behind_its_beginning_is_no_shorter_tar(tmp_path: Path) -> None:
    audio = {f"{key}.flac": flac(noise(400, 0)) for key in range(3)}
    path = tmp_path / "set" / "a.tar"
    tar(path, audio | {f"{key}.cls": b"a" for key in range(3)})
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as whole:
        at = whole.getmember("1.flac").offset
    content[at + 150] ^= 1  # in its checksum
    for damaged in (content, content[:at]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.tar is damaged"):
            opened(tmp_path / "set", tmp_path / "cache")


def test_rows_that_say_nothing_or_too_much_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two files of one stem are not mixed up; spaces make no labels; times and splits are looked at."""
    folder = tmp_path / "set"
    names = ("a/1.flac", "b/1.flac", "2.flac", "3.flac")
    tar(folder / "audio_0.tar", {name: flac(noise(400, 0)) for name in names})

    def clips(*rows: dict[str, object]) -> dict[str, Clip]:
        (folder / "tarred_audio_manifest.json").write_text("\n".join(map(json.dumps, rows)))
        return opened(folder, tmp_path / f"cache{len(rows)}")[0]

    found = clips(
        {"audio_filepath": "x/a/1.flac", "label": "one"},
        {"audio_filepath": "x/b/1.flac", "label": "other"},
        {"audio_filepath": "2.flac", "label": "dog "},
        {"audio_filepath": "3.flac", "label": "dog", "set": "Train"},
        {"audio_filepath": "gone.flac", "label": "dog"},
    )
    assert {name: (clip.labels, clip.split) for name, clip in found.items()} == {
        "2": (("dog",), None),
        "3": (("dog",), "train"),
    }
    assert "2 recordings are described and in no tar, such as 1." in caplog.text
    assert "audio_0.tar: 2 recordings have no description, and are left out, such as a/1.flac." in caplog.text
    wrong: tuple[tuple[dict[str, object], str], ...] = (
        ({"offset": "soon"}, "line 1: offset 'soon' is no time"),
        ({"duration": -1}, "line 1: duration -1 is no time"),
        ({"label": True}, "line 1: the labels True are no names"),
        ({"label": "a", "split": "most"}, "line 1: split 'most' is none of train, val, test"),
    )
    for row, words in wrong:
        with pytest.raises(UserError, match=words):
            clips({"audio_filepath": "2.flac", **row})


def test_a_damaged_table_of_cuts_is_one_sentence(tmp_path: Path) -> None:
    tar(tmp_path / "set" / "recording.000000.tar", {"a.flac": flac(noise(400, 0))})
    content = gzip.compress(json.dumps({"supervisions": []}).encode())
    for damaged, words in (
        (content[:-12], r"cuts\.000000\.jsonl\.gz is damaged"),
        (content, r"cuts\.000000\.jsonl\.gz, line 1: the cut has no id"),
    ):
        (tmp_path / "set" / "cuts.000000.jsonl.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=words):
            opened(tmp_path / "set", tmp_path / "cache")


def test_clips_that_are_nowhere_but_in_tars_are_split_here(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for key in range(40):
        members |= {f"{key}.flac": flac(noise(400, key)), f"{key}.cls": f"{key % 2}".encode()}
    members |= {"bad.flac": b"noise", "bad.cls": b"0"}
    tar(tmp_path / "set" / "all.tar", members)
    options = ["data=sharded", f"loader.shards={tmp_path / 'set'}", f"paths.cache={tmp_path / 'cache'}"]
    options.append("loader.max_bad_fraction=0.1")
    data = build.prepared(compose_config([*options, "data.test_share=0.25"]))
    assert "1 of 41 clips are in quarantine" in data.describe_quarantined()
    assert f"all of them in {tmp_path / 'set'})" in data.describe_quarantined()
    assert data.labels == ("0", "1")
    assert len(data.splits["train"]) + len(data.splits["test"]) == 40
    assert 5 <= len(data.splits["test"]) <= 15
    folds = build.prepared(compose_config([*options, "data.num_folds=5", "data.validation_fold=next"]))
    assert folds.facts()["folds"] == [1, 2, 3, 4, 5]
    assert all(len(folds.splits[split]) >= 4 for split in ("val", "test"))
    asked: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_audio.cli.folds.launch", asked.extend)
        cross_validate([*options, "data.num_folds=4"])
        folds_cfg = compose_config([*options, "data.num_folds=4"])
        patch.setattr("lightning_audio.training.saved_config.saved_config", lambda *_: folds_cfg)
        learned = {clip.id for clip in _clips_of_run(tmp_path, ()) if clip.split == "train"}
    assert asked[-1] == "data.fold=1,2,3,4"
    read = build.prepared(folds_cfg).splits
    assert learned - {"bad"} == {clip.id for clip in read["train"].clips}
    with pytest.raises(UserError, match=r"takes its clips from loader\.shards"):
        build.prepared(compose_config(["data=sharded", f"paths.cache={tmp_path / 'cache'}"]))


def test_a_table_of_tars_is_made_anew_when_what_it_is_of_has_changed(tmp_path: Path) -> None:
    place = tmp_path / "set"
    tar(place / "audio_0.tar", {"a.flac": flac(noise(4000, 0))})
    for text in ("right", "wrong"):
        row = json.dumps({"audio_filepath": "a.flac", "text": text})
        (place / "tarred_audio_manifest.json").write_text(row)
        assert opened(place, tmp_path / "cache")[0]["a"].text == text
    for table in (tmp_path / "cache" / "tables").iterdir():
        table.write_bytes(table.read_bytes()[:-9])
    assert opened(place, tmp_path / "cache")[0]["a"].text == "wrong"


def test_tars_of_one_name_from_two_places_are_told_apart(tmp_path: Path) -> None:
    for seed, name in enumerate(("clean", "noisy")):
        wav = io.BytesIO()
        soundfile.write(wav, noise(4000, seed), RATE, format="WAV")
        tar(tmp_path / name / "a.tar", {"a.wav": wav.getvalue(), "a.cls": b"x"})
    with served(tmp_path, Faults()) as address:
        stores = [opened(f"{address}/{name}", tmp_path / "cache")[1] for name in ("clean", "noisy")]
        assert stores[0].hash != stores[1].hash
        for _ in range(2):  # what has been looked at once is trusted the second time
            for seed, store in enumerate(stores):
                np.testing.assert_array_equal(store.gather([0])[0][0].numpy(), noise(4000, seed))


def test_what_is_odd_about_files_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As of files that are decoded into a store: here channels that cancel each other."""
    half = noise(4000, 0)
    soundfile.write(tmp_path / "a.wav", np.stack([half, -half], 1), RATE)
    tar(tmp_path / "tars" / "a.tar", {"a.wav": (tmp_path / "a.wav").read_bytes(), "a.cls": b"x"})
    opened(tmp_path / "tars", tmp_path / "cache")
    write([Clip("a", str(tmp_path / "a.wav"), split="train")], tmp_path / "set", kind=FILES)
    told = [message for message in caplog.messages if "(cancelling)" in message]
    assert len(told) == 2
    assert told[0].startswith("a.tar: 1 clip (cancelling): a.wav: its 2 channels")


def test_a_release_is_read_from_tars_without_its_files(tmp_path: Path) -> None:
    members = {"a.flac": flac(noise(4000, 0)), "a.txt": b"ONE TWO"}
    for split in ("train", "val", "test"):
        tar(tmp_path / "set" / split / "0.tar", members)
    cfg = compose_config(["data=librispeech", f"loader.shards={tmp_path / 'set'}", f"paths.cache={tmp_path}"])
    clips = build.corpus_as_read(cfg).clips()
    assert [(clip.split, clip.text) for clip in clips] == [(s, "ONE TWO") for s in ("test", "train", "val")]
