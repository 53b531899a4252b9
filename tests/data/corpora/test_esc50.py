"""ESC-50 against tables made up here, and against the real release where it is."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora import esc50
from lightning_audio.data.corpora.esc50 import ESC50
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError

HEADER = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]


def made_up_rows(categories: int = 50, suffix: str = "wav") -> list[dict[str, Any]]:
    """Two folds; in each, every category has two takes of one recording. Every fifth is of ESC-10."""
    return [
        {
            "filename": f"{fold}-{100 * fold + target}-{take}-{target}.{suffix}",
            "fold": fold,
            "target": target,
            "category": f"sound_{(7 * target) % 50:02d}",  # so that the order of names is not that of targets
            "esc10": target % 5 == 0,
            "src_file": 100 * fold + target,
            "take": take,
        }
        for target in range(categories)
        for fold in (1, 2)
        for take in "AB"
    ]


def write_release(root: Path, rows: list[dict[str, Any]]) -> Path:
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    for row in rows:
        (root / "audio" / row["filename"]).touch()
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(rows)
    return root


def corpus(root: Path, **options: Any) -> ESC50:
    return ESC50(str(root), str(root.parent / "cache"), **options)


def test_one_fold_is_the_test_split_and_the_others_train(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", made_up_rows())
    for fold in (1, 2):
        clips = validated(corpus(root, fold=fold).clips(), "ESC-50")
        refuse_leaks(clips)
        assert Counter(clip.split for clip in clips) == {"test": 100, "train": 100}
        assert {clip.fold for clip in clips if clip.split == "test"} == {fold}


def test_a_clip_has_its_stem_its_category_and_its_recording(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", made_up_rows())
    clip = next(clip for clip in corpus(root).clips() if clip.id == "2-203-B-3")
    assert clip.path == str(root / "audio" / "2-203-B-3.wav")
    assert (clip.labels, clip.group, clip.fold, clip.split) == (("sound_21",), "203", 2, "train")


def test_labels_stand_in_the_order_of_their_targets(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", made_up_rows()[::-1])
    assert corpus(root).labels == tuple(f"sound_{(7 * target) % 50:02d}" for target in range(50))
    ten = corpus(root, subset="esc10")
    assert ten.labels == tuple(f"sound_{(7 * target) % 50:02d}" for target in range(0, 50, 5))
    assert Counter(clip.labels[0] for clip in ten.clips()) == dict.fromkeys(ten.labels, 4)


def test_the_suffix_is_that_of_the_table(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", made_up_rows(suffix="flac"))
    clips = corpus(root).clips()
    assert {Path(clip.path).suffix for clip in clips} == {".flac"}
    assert all(Path(clip.path).is_file() for clip in clips)


def test_takes_of_a_tested_recording_do_not_train(tmp_path: Path) -> None:
    rows = made_up_rows()
    rows[0]["src_file"] = rows[2]["src_file"]  # a take of fold 1 is of a recording of fold 2
    root = write_release(tmp_path / "ESC-50", rows)
    for fold, left_out in ((1, 2), (2, 1)):
        clips = corpus(root, fold=fold).clips()
        refuse_leaks(clips)
        splits = Counter(clip.split for clip in clips)
        assert splits == {"test": 100, "train": 100 - left_out, None: left_out}


def test_a_table_of_esc10_alone_asks_for_the_subset(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", [row for row in made_up_rows() if row["esc10"]])
    with pytest.raises(UserError, match=r"only ESC-10: set data\.subset=esc10"):
        corpus(root).clips()
    assert len(corpus(root, subset="esc10").clips()) == 40


def test_a_mirror_may_have_another_format(tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", made_up_rows())
    for path in (root / "audio").iterdir():
        path.rename(path.with_suffix(".ogg"))
    assert {Path(clip.path).name for clip in corpus(root).clips()} == {
        f"{Path(row['filename']).stem}.ogg" for row in made_up_rows()
    }


def test_missing_files_are_counted_in_one_sentence(tmp_path: Path) -> None:
    rows = made_up_rows()
    root = write_release(tmp_path / "ESC-50", rows)
    for row in rows[:5]:
        (root / "audio" / row["filename"]).unlink()
    with pytest.raises(UserError, match="5 of 200 audio files") as error:
        corpus(root).clips()
    assert [row["filename"] in str(error.value) for row in rows[:5]] == [True, True, False, False, True]


def test_a_missing_release_says_what_to_put_where(tmp_path: Path) -> None:
    missing = corpus(tmp_path / "ESC-50")
    missing.prepare()
    with pytest.raises(UserError) as error:
        missing.clips()
    for hint in (str(tmp_path / "ESC-50"), "data.download=true", "LIGHTNING_AUDIO_DATA"):
        assert hint in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("filename,fold,target\na.wav,1,0\n", "no column category, esc10, src_file"),
        ("filename,fold,target,category,esc10,src_file\na.wav,one,0,dog,True,7\n", "damaged at line 2"),
        ("filename,fold,target,category,esc10,src_file\na.wav,1,0\n", "damaged at line 2"),
        (
            "filename,fold,target,category,esc10,src_file\na.wav,1,0,dog,True,7\n",
            "has 1 of the 50 categories",
        ),
    ],
)
def test_a_wrong_table_is_one_sentence(table: str, message: str, tmp_path: Path) -> None:
    root = write_release(tmp_path / "ESC-50", [])
    (root / "meta" / "esc50.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        corpus(root).clips()


@pytest.mark.parametrize(
    ("options", "key"), [({"subset": "esc20"}, "data.subset"), ({"fold": 6}, "data.fold")]
)
def test_a_wrong_option_names_its_key(options: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=key):
        corpus(tmp_path, **options)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of a made-up release lies in the cache as if it had been fetched."""
    made = write_release(tmp_path / "made", made_up_rows())
    (made / "esc50.gif").touch()
    path = tmp_path / "cache" / f"ESC-50-{esc50.COMMIT[:7]}.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as target:
        for file in made.rglob("*"):
            target.write(file, f"ESC-50-{esc50.COMMIT}/{file.relative_to(made)}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(esc50, "RELEASE", replace(esc50.RELEASE, sha256=digest))
    return path


@pytest.mark.parametrize("writable", [True, False])
def test_download_unpacks_to_the_root_or_to_the_cache(
    archive: Path, writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writable:
        monkeypatch.setattr("lightning_audio.data.download.os.access", lambda *_: False)
    root = tmp_path / "data" / "ESC-50"
    fetched = ESC50(str(root), str(archive.parent), download=True)
    fetched.prepare()
    folder = root if writable else archive.parent / "ESC-50"
    assert fetched.folder == folder
    assert root.exists() == writable
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "meta"]
    assert all(Path(clip.path).parent == folder / "audio" for clip in fetched.clips())
    assert ESC50(str(root), str(archive.parent)).labels == fetched.labels


def test_download_leaves_a_folder_with_something_else(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "ESC-50").mkdir()
    (tmp_path / "ESC-50" / "notes.txt").touch()
    with pytest.raises(UserError, match="move it away"):
        corpus(tmp_path / "ESC-50", download=True).prepare()


def test_the_real_esc10_has_its_official_folds(real_data: Callable[[str], Path]) -> None:
    ten = corpus(real_data("ESC-50") / "ESC-50", subset="esc10", fold=3)
    clips = validated(ten.clips(), "ESC-10")
    assert len(clips) == 400
    assert set(Counter(clip.labels for clip in clips).values()) == {40}
    assert Counter(clip.fold for clip in clips) == dict.fromkeys(range(1, 6), 80)
    assert Counter(clip.split for clip in clips) == {"train": 320, "test": 80}
    assert (len(ten.labels), ten.labels[0], ten.labels[-1]) == (10, "dog", "chainsaw")
    folds = defaultdict(set)
    for clip in clips:
        folds[clip.group].add(clip.fold)
    assert {len(found) for found in folds.values()} == {1}
    refuse_leaks(clips)
