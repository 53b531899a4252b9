"""UrbanSound8K, FSD50K, AudioSet and GTZAN, each on a release made up here in its official layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import sine, write_wav
from test_speech_corpora import touch, write

from lightning_audio import build
from lightning_audio.cli import check
from lightning_audio.config import compose_config
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.audioset import AudioSet
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.corpora.fsd50k import FSD50K
from lightning_audio.data.corpora.gtzan import GTZAN, LISTS
from lightning_audio.data.corpora.urbansound8k import UrbanSound8K
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError
from lightning_audio.training.run import train

RATE = 8000


def urbansound8k_release(root: Path) -> Path:
    """In each of ten folds a slice of two classes, of a recording of its own."""
    rows = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in range(1, 11):
        for number, label in ((3, "dog_bark"), (0, "air_conditioner")):
            name = f"{100 * fold + number}-{number}-0-0.wav"
            rows.append(f"{name},{100 * fold + number},0.0,0.3,1,{fold},{number},{label}")
            touch(root / "audio" / f"fold{fold}" / name)
    write(root / "metadata" / "UrbanSound8K.csv", rows)
    return root


def fsd50k_release(root: Path) -> Path:
    tables = root / "FSD50K.ground_truth"
    write(tables / "vocabulary.csv", ["0,Bark,/m/05tny_", "1,Dog,/m/0bt9lr", "2,Rain,/m/06mb1"])
    dev = [
        (64760, "Bark,Dog", "train"),
        (64761, "Rain", "train"),
        (64762, "Dog", "val"),
        (64763, "Rain", "val"),
    ]
    write(
        tables / "dev.csv",
        ["fname,labels,mids,split", *(f'{name},"{labels}","/m/0",{split}' for name, labels, split in dev)],
    )
    write(tables / "eval.csv", ["fname,labels,mids", '37199,"Dog,Rain",/m/0', "37200,Bark,/m/0"])
    for name, *_ in dev:
        touch(root / "FSD50K.dev_audio" / f"{name}.wav")
    for name in (37199, 37200):
        touch(root / "FSD50K.eval_audio" / f"{name}.wav")
    return root


def audioset_release(root: Path) -> Path:
    """Files under each of the names that are usual; the audio of one segment of either split is not there."""
    write(
        root / "class_labels_indices.csv",
        ["index,mid,display_name", '0,/m/09x0r,"Speech, man"', "1,/m/06mb1,Rain"],
    )
    head = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=3", "# YTID, start_seconds, ..."]
    both, rain = '"/m/09x0r,/m/06mb1"', '"/m/06mb1"'
    write(
        root / "balanced_train_segments.csv",
        [
            *head,
            f"-0aaaaaaaaa, 30.000, 40.000, {both}",
            f"Ybbbbbbbbbb, 0.000, 10.000, {rain}",
            f"gone0000000, 5.000, 15.000, {rain}",
        ],
    )
    write(
        root / "eval_segments.csv",
        [
            *head,
            f"cccccccccc_, 20.000, 30.000, {rain}",
            f"dddddddddd1, 90.000, 100.000, {both}",
            f"gone0000001, 1.000, 11.000, {rain}",
        ],
    )
    for name in (
        "train/Y-0aaaaaaaaa.wav",
        "train/Ybbbbbbbbbb_0_10.wav",
        "cccccccccc__20000.wav",
        "dddddddddd1_90.000.wav",
    ):
        touch(root / "audio" / name)
    return root


def gtzan_release(root: Path) -> Path:
    for names in LISTS.values():
        for name in names:
            touch(root / "genres" / name.partition(".")[0] / f"{name}.au")
    touch(root / "genres" / "blues" / "blues.00099.au")
    return root


RELEASES: dict[type[Corpus], Callable[[Path], Path]] = {
    UrbanSound8K: urbansound8k_release,
    FSD50K: fsd50k_release,
    AudioSet: audioset_release,
    GTZAN: gtzan_release,
}
FOLDERS = {UrbanSound8K: "UrbanSound8K", FSD50K: "FSD50K", AudioSet: "audioset", GTZAN: "GTZAN"}
kinds = pytest.mark.parametrize("kind", RELEASES, ids=lambda kind: kind.__name__)


def corpus(kind: type[Corpus], root: Path, **options: Any) -> Any:
    return kind(str(root), str(root.parent / "cache"), **options)


def options(kind: type[Corpus], folder: Path) -> list[str]:
    """A run of two steps on the release in a folder."""
    task = [] if kind in (UrbanSound8K, GTZAN) else ["task=multilabel"]
    tiny = (
        "network.widths=[4,8]",
        "loader.batch_size=4",
        "trainer.limit_train_batches=2",
        "trainer.max_epochs=1",
    )
    paths = (
        f"paths.data={folder}",
        f"paths.cache={folder / 'cache'}",
        "data.sample_rate=8000",
        "logger=none",
    )
    return [
        f"data={kind.__module__.rpartition('.')[2]}",
        *task,
        "network=cnn2d",
        *tiny,
        *paths,
        "trainer=cpu",
    ]


@kinds
def test_a_release_has_unique_rows_of_known_labels_and_splits_that_share_no_group(
    kind: type[Corpus], tmp_path: Path
) -> None:
    found = corpus(kind, RELEASES[kind](tmp_path / "release"))
    clips = validated(found.clips(), kind.__name__)
    refuse_leaks(clips)
    assert {"train", "test"} <= {clip.split for clip in clips}
    assert all(Path(clip.path).is_file() and {*clip.labels} <= {*found.labels} for clip in clips)


@kinds
def test_a_missing_release_is_one_sentence(kind: type[Corpus], tmp_path: Path) -> None:
    missing = rf"There is no {re.escape(str(tmp_path / 'nothing'))}/\S+: put the release of {kind.title} into"
    with pytest.raises(UserError, match=missing):
        corpus(kind, tmp_path / "nothing").clips()


@kinds
def test_half_a_release_is_one_sentence(kind: type[Corpus], tmp_path: Path) -> None:
    root = RELEASES[kind](tmp_path / "release")
    clips = corpus(kind, root).clips()
    for clip in clips[::2]:
        Path(clip.path).unlink()
    if kind is AudioSet:  # whose audio nobody has whole
        assert len(corpus(kind, root).clips()) == len(clips) // 2
        return
    lacking = (
        rf"{len(clips) // 2} of {len(clips)} audio files that .* lists are not there, such as .*: the rel"
    )
    with pytest.raises(UserError, match=lacking):
        corpus(kind, root).clips()


@pytest.mark.parametrize("kind", [UrbanSound8K, FSD50K, AudioSet], ids=lambda kind: kind.__name__)
def test_two_steps_are_trained_and_checked_from_the_command_line(kind: type[Corpus], tmp_path: Path) -> None:
    root = RELEASES[kind](tmp_path / FOLDERS[kind])
    for number, path in enumerate(sorted(root.rglob("*.wav"))):
        write_wav(path, sine(200 + 20 * number, 0.3 + number / 100, RATE), RATE)
    cfg = compose_config(options(kind, tmp_path))
    results = train(cfg, tmp_path / "run")
    counts = {UrbanSound8K: (18, 0, 2), FSD50K: (2, 2, 2), AudioSet: (2, 0, 2)}[kind]
    assert results["data"]["clips"] == dict(zip(("train", "val", "test"), counts, strict=True))
    assert ("test/accuracy" if kind is UrbanSound8K else "test/mAP") in results["scores"]
    report = check.check(cfg)
    assert not {finding["kind"] for finding in report["findings"] if finding["grave"]} & {
        "misfit",
        "unreadable",
    }
    if kind is AudioSet:
        assert "2 of 6 segments have no audio here." in {
            finding["sentence"] for finding in report["findings"]
        }


def test_urbansound8k_is_tested_by_its_folds(tmp_path: Path) -> None:
    root = urbansound8k_release(tmp_path / "UrbanSound8K")
    for fold in (1, 10):
        found = corpus(UrbanSound8K, root, fold=fold)
        clips = found.clips()
        assert Counter((clip.split, clip.fold == fold) for clip in clips) == {
            ("train", False): 18,
            ("test", True): 2,
        }
    assert found.labels == ("air_conditioner", "dog_bark")
    one = next(clip for clip in clips if clip.id == "203-3-0-0")
    assert (one.labels, one.fold, one.group) == (("dog_bark",), 2, "203")
    with pytest.raises(UserError, match=r"no fold 11 of UrbanSound8K: set data.fold to one of 1 to 10"):
        corpus(UrbanSound8K, root, fold=11)
    table = root / "metadata" / "UrbanSound8K.csv"
    table.write_text(
        table.read_text().replace(",203,", ",100,")
    )  # a slice of fold 2 of a recording of fold 1
    assert Counter(clip.split for clip in corpus(UrbanSound8K, root, fold=1).clips()) == {
        "test": 2,
        "train": 17,
        None: 1,
    }
    write(table, ["slice_file_name,fsID", "a.wav,1"])
    with pytest.raises(UserError, match="has no column fold, classID, class: put the release's own table"):
        corpus(UrbanSound8K, root).clips()


def test_fsd50k_keeps_the_parts_of_its_tables(tmp_path: Path) -> None:
    root = fsd50k_release(tmp_path / "FSD50K")
    found = corpus(FSD50K, root)
    assert found.labels == ("Bark", "Dog", "Rain")
    assert {clip.id: (clip.split, clip.labels) for clip in found.clips()} == {
        "64760": ("train", ("Bark", "Dog")),
        "64761": ("train", ("Rain",)),
        "64762": ("val", ("Dog",)),
        "64763": ("val", ("Rain",)),
        "37199": ("test", ("Dog", "Rain")),
        "37200": ("test", ("Bark",)),
    }
    write(root / "FSD50K.ground_truth" / "vocabulary.csv", ["0,Bark,/m/05tny_", "1,Dog,/m/0bt9lr"])
    with pytest.raises(UserError, match=r"has the label 'Rain' of 64761, which is not in vocabulary\.csv"):
        corpus(FSD50K, root).clips()


def test_audioset_finds_segments_and_whole_videos(tmp_path: Path) -> None:
    root = audioset_release(tmp_path / "audioset")
    found = corpus(AudioSet, root)
    assert found.labels == ("Speech, man", "Rain")
    clips = {clip.id: clip for clip in found.clips()}
    told = {name: (Path(c.path).name, c.start, c.duration, c.labels, c.split) for name, c in clips.items()}
    assert told == {
        "-0aaaaaaaaa_30000": ("Y-0aaaaaaaaa.wav", 0.0, None, ("Rain", "Speech, man"), "train"),
        "Ybbbbbbbbbb_0": ("Ybbbbbbbbbb_0_10.wav", 0.0, None, ("Rain",), "train"),
        "cccccccccc__20000": ("cccccccccc__20000.wav", 0.0, None, ("Rain",), "test"),
        "dddddddddd1_90000": ("dddddddddd1_90.000.wav", 0.0, None, ("Rain", "Speech, man"), "test"),
    }
    assert found.remarks() == ["2 of 6 segments have no audio here."]
    whole = {clip.id: clip for clip in corpus(AudioSet, root, whole_videos=True).clips()}
    assert (whole["-0aaaaaaaaa_30000"].start, whole["-0aaaaaaaaa_30000"].duration) == (30.0, 10.0)
    assert whole["Ybbbbbbbbbb_0"].start == 0.0
    with pytest.raises(
        UserError, match=r"no table 'balanced' of AudioSet.*: set data\.train to some of balanced_tr"
    ):
        corpus(AudioSet, root, train=["balanced"])
    write(root / "eval_segments.csv", ["cccccccccc_, 20.000, 30.000, /m/none"])
    with pytest.raises(
        UserError, match=r"eval_segments\.csv is damaged at line 1, or names a label that is not in"
    ):
        corpus(AudioSet, root).clips()


def test_strong_labels_stand_where_they_sound(tmp_path: Path) -> None:
    """By hand: rain from 1.2 to 3.6 s fills more than half of three seconds; of a bark from 3.9 to 4.2 s two
    thirds are in the next one."""
    root = audioset_release(tmp_path / "audioset")
    write(root / "mid_to_display_name.tsv", ["/m/06mb1\tRain", "/m/05tny_\tBark", "/m/other\tOther"])
    head = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"
    rows = ["-0aaaaaaaaa_30000\t1.2\t3.6\t/m/06mb1", "-0aaaaaaaaa_30000\t3.9\t4.2\t/m/05tny_"]
    rows.append("-0aaaaaaaaa_30000\t0.0\t9.0\t/m/other")  # which is not in the other table
    tested = ["dddddddddd1_90000\t0.0\t10.0\t/m/06mb1", "dddddddddd1_90000\t2.0\t2.5\t/m/05tny_"]
    write(root / "audioset_train_strong.tsv", [head, *rows])
    write(root / "audioset_eval_strong.tsv", [head, *tested])
    found = corpus(AudioSet, root, strong=True)
    assert found.labels == ("Bark", "Rain")
    clips = found.clips()
    refuse_leaks(clips)
    heard = {clip.start: clip.labels for clip in clips if clip.split == "train"}
    rain, bark = ("Rain",), ("Bark",)
    assert heard == {0.0: (), 1.0: rain, 2.0: rain, 3.0: rain, 4.0: bark} | dict.fromkeys(
        (5.0, 6.0, 7.0, 8.0, 9.0), ()
    )
    heard = {clip.start: clip.labels for clip in clips if clip.split == "test"}
    assert heard == {float(second): rain for second in range(10)} | {2.0: ("Bark", "Rain")}
    assert {clip.duration for clip in clips} == {1.0}
    longer = corpus(AudioSet, root, strong=True, seconds=5.0, whole_videos=True).clips()
    assert [(clip.start, clip.labels) for clip in longer if clip.split == "train"] == [
        (30.0, ("Bark", "Rain")),
        (35.0, ()),
    ]


def test_gtzan_has_the_fault_filtered_split(tmp_path: Path) -> None:
    root = gtzan_release(tmp_path / "GTZAN")
    clips = corpus(GTZAN, root).clips()
    assert Counter(clip.split for clip in clips) == {"train": 443, "val": 197, "test": 290}
    assert len({clip.labels for clip in clips}) == 10
    assert all(clip.id.startswith(f"{clip.labels[0]}.") for clip in clips)
    assert "blues.00099" in {clip.id for clip in clips}  # the list names it
    with pytest.raises(UserError, match="There is no"):
        build.corpus(compose_config(["data=gtzan", f"paths.data={tmp_path / 'other'}"])).clips()
