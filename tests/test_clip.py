"""Clips: manifests there and back, bad rows named by their line, splits that hold groups together."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_audio.data.clip import (
    Clip,
    hold_out,
    read_manifest,
    refuse_leaks,
    split_by_fold,
    validated,
    write_manifest,
)
from lightning_audio.errors import UserError

LABELS = ("bell", "dog", "rain")


def manifest(folder: Path, *rows: Any) -> Path:
    """One row a line; strings as they are, everything else as JSON."""
    path = folder / "clips.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def corpus(groups: int = 30, takes: int = 3) -> list[Clip]:
    """`groups` recordings of one label each, `takes` clips of each."""
    return [
        Clip(
            f"{group:02d}-{take}", "a.wav", labels=(LABELS[group % 3],), split="train", group=f"g{group:02d}"
        )
        for group in range(groups)
        for take in range(takes)
    ]


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    clips = [
        Clip("a", "/audio/a.wav"),
        Clip(
            "b", "/audio/b.wav", 1.25, 0.1, ("dog", "bell"), "naïve \u2028 \u0085 “text”\n", "val", 3, "r 1"
        ),
        Clip("c", "/audio/c.wav", labels=("rain",), split="train", fold=0, group="7"),
    ]
    write_manifest(clips[::-1], tmp_path / "clips.jsonl")
    assert read_manifest(tmp_path / "clips.jsonl") == clips


def test_a_manifest_of_nemo_is_read(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        {"audio_filepath": "wavs/1.wav", "offset": 0.5, "duration": 2, "text": "yes", "speaker": 17},
        {"audio_filepath": "/other/2.wav", "duration": 1.5, "text": "", "label": "no"},
    )
    assert read_manifest(path) == [
        Clip("clips-000001", str(tmp_path / "wavs/1.wav"), 0.5, 2.0, (), "yes", group="17"),
        Clip("clips-000002", "/other/2.wav", 0.0, 1.5, ("no",), ""),
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_row(separator: str, tmp_path: Path) -> None:
    text = f"one{separator}two"
    path = manifest(tmp_path, {"path": "a.wav", "text": text}, {"path": "b.wav", "text": "three"})
    assert separator.encode() in path.read_bytes()
    assert [clip.text for clip in read_manifest(path)] == [text, "three"]


def test_line_ends_of_windows_empty_lines_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"path": "a.wav"}\r\n\r\n  \n{"path": "b.wav"}')
    assert [clip.id for clip in read_manifest(path)] == ["clips-000001", "clips-000004"]


def test_a_label_may_stand_alone(tmp_path: Path) -> None:
    rows: list[dict] = [
        {"id": "a", "labels": "dog"},
        {"id": "b", "label": "dog"},
        {"id": "c", "labels": ["dog", 3]},
    ]
    clips = read_manifest(manifest(tmp_path, *({"path": "x.wav"} | row for row in rows)))
    assert [clip.labels for clip in clips] == [("dog",), ("dog",), ("dog", "3")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"path": "a.wav"', "line 2: "),
        ("[1, 2]", "line 2: not a JSON object"),
        ("a.wav", "line 2: "),
        ({"text": "yes"}, "line 2: neither `path` nor `audio_filepath` is there"),
        ({"path": ""}, "line 2: neither"),
        ({"path": 7}, "line 2: "),
        ({"path": "a.wav", "duration": "long"}, "line 2: could not convert string to float: 'long'"),
        ({"path": "a.wav", "start": [1]}, "line 2: "),
        ({"path": "a.wav", "start": -0.5}, "line 2: start -0.5 is not a time"),
        ({"path": "a.wav", "duration": 0}, "line 2: duration 0.0 is not a time above 0"),
        ('{"path": "a.wav", "duration": NaN}', "line 2: duration nan is not a time"),
        ('{"path": "a.wav", "start": Infinity}', "line 2: start inf is not a time"),
        ({"path": "a.wav", "split": "dev"}, "line 2: split 'dev' is none of train, val, test"),
        ({"path": "a.wav", "fold": "one"}, "line 2: "),
        ({"path": "a.wav", "id": ""}, "line 2: its id is empty"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row: Any, problem: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"path": "good.wav"}, row, {"path": "good too.wav"})
    with pytest.raises(UserError) as error:
        read_manifest(path)
    assert str(path) in str(error.value)
    assert "1 unreadable rows" in str(error.value)
    assert problem in str(error.value)


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    path = manifest(tmp_path, "nonsense", {"path": "good.wav"}, {"path": "a.wav", "start": -1}, {})
    with pytest.raises(UserError, match=r"3 unreadable rows.*line 1: .*line 3: .*line 4: "):
        read_manifest(path)


def test_what_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_bytes(b'{"path": "a.wav"}\n{"path": "b.wav", "text": "\xe9t\xe9 ..."}\n')
    with pytest.raises(UserError, match=r"line 2: 'utf-8' codec can't decode"):
        read_manifest(path)


def test_a_manifest_without_clips_or_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no clips"):
        read_manifest(manifest(tmp_path))
    with pytest.raises(UserError, match=r"There is no manifest .*none\.jsonl"):
        read_manifest(tmp_path / "none.jsonl")


def test_an_id_stands_once(tmp_path: Path) -> None:
    row = {"id": "same", "path": "a.wav"}
    with pytest.raises(UserError, match=r"'same': stands 2 times"):
        read_manifest(manifest(tmp_path, row, row))


def test_validated_rows_stand_in_the_order_of_their_ids_and_bad_ones_are_counted() -> None:
    clips = corpus()
    shuffled = random.Random(0).sample(clips, len(clips))
    assert validated(shuffled, "made up") == clips
    bad = [replace(clip, start=-1.0) for clip in clips[:12]]
    with pytest.raises(UserError, match=r"made up has 12 bad rows .* and 2 more\."):
        validated([*bad, *clips[12:]], "made up")


@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5])
def test_hold_out_takes_whole_groups_and_their_share_of_every_label(share: float) -> None:
    clips = corpus()
    for seed in range(5):
        split = hold_out(clips, share, seed)
        refuse_leaks(split)
        assert [replace(clip, split="train") for clip in split] == clips
        taken = Counter(clip.labels[0] for clip in split if clip.split == "val")
        # 10 groups of 3 clips of each label: as many whole groups as go into the share of 30 clips.
        assert taken == dict.fromkeys(LABELS, round(share * 30) // 3 * 3)


def test_hold_out_is_named_by_its_seed_whatever_the_order_of_the_clips() -> None:
    clips = corpus()
    chosen = {
        seed: frozenset(clip.id for clip in hold_out(clips, 0.2, seed) if clip.split == "val")
        for seed in range(8)
    }
    assert len(set(chosen.values())) == 8
    for seed, ids in chosen.items():
        shuffled = random.Random(seed).sample(clips, len(clips))
        assert {clip.id for clip in hold_out(shuffled, 0.2, seed) if clip.split == "val"} == ids


def test_hold_out_leaves_other_splits_alone() -> None:
    clips = corpus()
    mixed = [
        replace(clip, split=(None, "test", "train")[number // 3 % 3]) for number, clip in enumerate(clips)
    ]
    split = hold_out(mixed, 0.3, 0)
    assert [c.split for c in split if c.split not in ("train", "val")] == [
        c.split for c in mixed if c.split != "train"
    ]
    assert all(old.split == "train" for old, new in zip(mixed, split, strict=True) if new.split == "val")


def test_hold_out_of_clips_without_groups_or_labels_takes_its_share_of_them() -> None:
    clips = [Clip(f"{number:03d}", "a.wav", text="yes", split="train") for number in range(50)]
    assert Counter(clip.split for clip in hold_out(clips, 0.1, 0)) == {"train": 45, "val": 5}


def test_hold_out_of_nothing_changes_nothing() -> None:
    assert hold_out(corpus(), 0.0, 0) == corpus()


def test_one_fold_is_tested_on() -> None:
    clips = [Clip(str(number), "a.wav", fold=number % 3 + 1) for number in range(9)]
    for fold in (1, 2, 3):
        split = split_by_fold(clips, fold)
        assert [clip.split == "test" for clip in split] == [clip.fold == fold for clip in clips]
        assert Counter(clip.split for clip in split) == {"test": 3, "train": 6}
    with pytest.raises(UserError, match=r"There is no fold 4: set data\.fold to one of \[1, 2, 3\]"):
        split_by_fold(clips, 4)


def test_a_leak_is_named_with_its_splits() -> None:
    clips = corpus()
    clips[0] = replace(clips[0], split="test")
    with pytest.raises(
        UserError, match=r"1 groups stand in more than one split, such as g00 \(test and train\)"
    ):
        refuse_leaks(clips)
    clips[0] = replace(clips[0], split=None)  # a clip in no split leaks nowhere
    refuse_leaks(clips)
    refuse_leaks([replace(clip, group=None) for clip in clips])
