"""Tables of clips by column: whoever reads one can't tell it from a list."""

from __future__ import annotations

import pickle
import random
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from lightning_audio.data.clip import Clip, clips_digest
from lightning_audio.data.clip_table import ClipTable, Column, Texts, validated
from lightning_audio.errors import UserError

rng = random.Random(0)
CLIPS = [
    Clip(
        f"{number:03d}",
        rng.choice(["a.wav", "b\ud800.wav", "\u00e4.wav"]),
        rng.choice([0.0, 0.5, 1.5]),
        rng.choice([None, 1.0]),
        rng.choice([(), ("dog",), ("dog", "cat"), ("cat",)]),
        rng.choice([None, "", "na\u00efve"]),
        rng.choice([None, "train", "val", "test"]),
        rng.choice([None, 1, 2]),
        rng.choice([None, "", "g1", "g2"]),
        rng.choice([None, 0, "mean"]),
    )
    for number in range(200)
]


def test_rows_slices_and_choices_are_those_of_the_list() -> None:
    table = ClipTable.of(CLIPS)
    assert table == CLIPS
    assert len(table) == 200
    assert ClipTable.of(table) is table
    assert [table[3], table[-1]] == [CLIPS[3], CLIPS[-1]]
    assert [hash(clip) for clip in table] == [hash(clip) for clip in CLIPS]
    assert table[10:50:7] == CLIPS[10:50:7]
    assert table.take(np.array([7, 3, 7])) == [CLIPS[7], CLIPS[3], CLIPS[7]]
    assert table.take(table.column("split").equals("val")) == [c for c in CLIPS if c.split == "val"]
    assert table.take(table.column("fold").lacks()) == [c for c in CLIPS if c.fold is None]
    assert pickle.loads(pickle.dumps(table)) == CLIPS
    assert clips_digest(table) == clips_digest(CLIPS)
    with pytest.raises(FrozenInstanceError):
        table[0].id = "b"  # type: ignore[misc]
    with pytest.raises(IndexError):
        table[200]


def test_columns_are_those_of_the_list() -> None:
    table = ClipTable.of(CLIPS)
    assert set(table.column("text").different()) == {clip.text for clip in CLIPS}
    expected = {(clip.path, clip.split, clip.labels) for clip in CLIPS}
    found = table.combinations("path", "split", "labels")
    assert len(found) == len(expected)
    assert set(found) == expected
    lengths = table.column("labels").mapped(len, np.int64)
    assert lengths.tolist() == [len(clip.labels) for clip in CLIPS]
    put = table.column("split").put([0, 5], "later")
    assert put.at([0, 5, 6]) == ["later", "later", CLIPS[6].split]
    assert [*Column.constant(None, 3)] == [None] * 3
    assert [*Column.constant("x", 3)] == ["x"] * 3


def test_many_values_take_more_bytes_and_stay_apart() -> None:
    rows = [f"{number}" for number in range(300)]
    assert [*Column.of(rows)] == rows
    assert Column.of(rows).codes.dtype == np.int16
    assert Column.of(rows[:128]).codes.dtype == np.int8


def test_texts_are_bytes_and_read_side_by_side_or_one_by_one() -> None:
    for texts in (["a", "", "bc"], ["a", "\u00e4\ud800", "", "\U0001f600", "z"]):
        found = Texts.of(texts)
        assert [*found] == texts
        assert found.part(1, 3) == texts[1:3]
        column = Column(found, np.arange(len(texts)))
        assert [*column] == texts
        assert [*column.take(slice(None, None, -1))] == texts[::-1]


def test_rows_out_of_order_and_ids_that_stand_twice() -> None:
    shuffled = random.Random(1).sample(CLIPS, len(CLIPS))
    assert validated(ClipTable.of(shuffled), "made up") == CLIPS
    with pytest.raises(UserError, match=r"2 bad rows to mend: '003': stands 2 times; '007': stands 3 times"):
        validated([*CLIPS, CLIPS[3], CLIPS[7], CLIPS[7]], "made up")
    with pytest.raises(UserError, match="its id is empty"):
        validated([*CLIPS, Clip("", "a.wav")], "made up")
