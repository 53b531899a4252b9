"""Tables of clips by column: whoever reads one can't tell it from a list."""

from __future__ import annotations

import pickle
import random
import tracemalloc
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from lightning_audio.data.clip import Clip, clips_digest
from lightning_audio.data.clip_table import CHUNK, ClipTable, Column, Texts, distinct, validated
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


@pytest.mark.parametrize("prefix", ["train-", "", "\u00e4\ud800"])
@pytest.mark.parametrize("numbers", [[], [0], [7, 999_999, 1_000_000, 12_345_678, 3], [10**15, 1]])
def test_numbered_texts_are_those_of_a_format(prefix: str, numbers: list[int]) -> None:
    found = Texts.numbered(prefix, np.array(numbers, int))
    assert [*found] == [f"{prefix}{number:06d}" for number in numbers]


def test_a_digest_is_of_what_stands_in_the_rows() -> None:
    texts = [f"{number % 7}" for number in range(20)]
    column = Column.of(texts)
    assert column.digest() == Column(Texts.of(column.values), column.codes.astype(np.int64)).digest()
    assert Column.of([*texts[:-1], "x"]).digest() != column.digest()
    assert Column.of(["12", "3"]).digest() != Column.of(["1", "23"]).digest()
    assert Column.of([None, "a"]).digest() != Column.of(["a", None]).digest()
    assert Column.of([0.5, 1.5]).digest() != Column.of([0.5, 1.25]).digest()


def test_different_keys_are_found_without_an_array_of_as_many_numbers() -> None:
    keys = np.arange(0, 3_000_000, 30, dtype=np.int32)[::-1]
    tracemalloc.start()
    found = distinct(keys)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == sorted(keys.tolist())
    assert most < 6_000_000
    assert distinct(np.array([5, 10**12, 5])).tolist() == [5, 10**12]


def test_names_are_looked_at_once_for_their_order() -> None:
    table = validated(CLIPS, "made up")
    ids = table.column("id")
    assert ids.is_rising
    ids.at = None  # type: ignore[method-assign,assignment]
    assert validated(table.replaced("text", Column.constant(None, 200)), "made up").column("id") is ids
    assert not Column.of(["a", "a"]).is_rising
    assert not Column.of([*map(str, range(20_000))]).is_rising


@pytest.mark.parametrize("width", [6, 0])
def test_texts_rise_as_their_strings_do(width: int) -> None:
    """Of one length, compared at once, as of several; with a zero inside, and at the edge of a chunk."""
    rows = CHUNK + 5
    names = sorted(f"\u00e9{n:0{width}d}" for n in range(rows))
    for swapped in (None, 0, 7, CHUNK - 1, CHUNK, rows - 2):
        texts = [*names]
        if swapped is not None:
            texts[swapped : swapped + 2] = texts[swapped + 1], texts[swapped]
        column = Column(Texts.of(texts), np.arange(rows))
        assert column.is_rising == (texts == names)
        assert Column(Texts.of(texts[::-1]), np.arange(rows)[::-1]).is_rising == column.is_rising
    assert Column(Texts.of(["a", "b", "b\0", "b\0\0"]), np.arange(4)).is_rising
    assert not Column(Texts.of(["b\0", "b\0"]), np.arange(2)).is_rising
    assert not Column(Texts.of(["a", "b", "b"]), np.arange(3)).is_rising


def test_texts_are_taken_in_another_order() -> None:
    names = ["", "b\0", "\u00e9t\u00e9", "\ud800", *map(str, range(2 * CHUNK))]
    for numbers in (random.Random(2).sample(range(len(names)), len(names)), [5, 5, 0], []):
        taken = Texts.of(names).take(np.array(numbers, np.int32))
        assert [*taken] == [names[number] for number in numbers]


def test_a_sorted_table_has_its_texts_in_their_order_where_each_row_has_its_own() -> None:
    """Ten million ids that rise were compared one by one, since they stood in the order of their manifest."""
    rows = 2 * CHUNK + 1
    ids = Texts.of(f"train-{number}" for number in range(rows))
    paths = Column(Texts.of(["a.wav", "b.wav"]), np.arange(rows) % 2)
    table = ClipTable(
        {name: column.take(np.zeros(rows, int)) for name, column in ClipTable.of(CLIPS).columns.items()}
    )
    table = table.replaced("id", Column(ids, np.arange(rows))).replaced("path", paths)
    found = validated(table, "made up")
    assert [*found.column("id")] == sorted(ids)
    assert found.column("id").codes.tolist() == [*range(rows)]
    assert found.column("path").values is paths.values
    assert [clip.path for clip in found] == [f"{'ab'[int(clip.id[6:]) % 2]}.wav" for clip in found]


def test_rows_out_of_order_and_ids_that_stand_twice() -> None:
    shuffled = random.Random(1).sample(CLIPS, len(CLIPS))
    assert validated(ClipTable.of(shuffled), "made up") == CLIPS
    with pytest.raises(UserError, match=r"2 bad rows to mend: '003': stands 2 times; '007': stands 3 times"):
        validated([*CLIPS, CLIPS[3], CLIPS[7], CLIPS[7]], "made up")
    with pytest.raises(UserError, match="its id is empty"):
        validated([*CLIPS, Clip("", "a.wav")], "made up")
