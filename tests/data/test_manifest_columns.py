"""Manifests by columns: whatever is in them, the clips and the errors are those of reading row by row."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_audio.data import growing_columns, manifest_columns
from lightning_audio.data.arrow_columns import json_columns
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import Column, Texts, order_of
from lightning_audio.data.growing_columns import GrowingTable, GrowingTexts, fingerprints
from lightning_audio.data.manifests import read_manifests
from lightning_audio.errors import UserError

PLAIN: dict[str, list[Any]] = {
    "id": ["x1", "x2", "é", 7, None, ""],
    "audio_filepath": ["a.wav", "b.wav", "./a.wav", "sub//c.wav", "sub/../a.wav"],
    "offset": [0, 1.5, 0.0, None, ""],
    "duration": [1, 2.25, None, ""],
    "label": ["dog", " cat ", "", 3, ["dog", "cat"], None],
    "labels": ["dog;cat", "dog|cat|dog", "", [], ["a", "b"], '["x"]', None],
    "text": ["naïve “text”\n", "", "a", None],
    "split": ["train", "Validation", "dev", None, ""],
    "Speaker": ["s1", "s2", 3, None, ""],
    "fold": [1, 2, 0, None, ""],
    "notes": [1, {"a": 1}, [[]], None],
}
ODD: dict[str, list[Any]] = {
    "id": ["x1", 1.5, True, ["x"]],
    "audio_filepath": ["none.wav", "", 3, None, "a\u0000.wav", "\ud800.wav", {"a": 1}],
    "offset": [-1, "1.5", "x", True, float("nan"), float("inf"), [1], 10**400],
    "duration": [0, "2", "x", True, float("nan"), -0.0, 10**400],
    "label": [True, 1.5, {"dog": 1}, ["", "a"], [["dog"]], "a\u202eb", [3, "b"]],
    "labels": [3, [None], ["a", {"b": 1}], "[1", "a,b"],
    "text": [3, ["a"], {"a": "b"}, False],
    "split": ["tset", 3, "test", ["train"]],
    "Speaker": [1.5, True, ["a"], {"a": 1}],
    "fold": [1.5, "2", True, 2**60, [1]],
    "start": [0.5],
    "end": [3, 0],
    "group": ["g", None],
    "channel": [0, "each", -1],
    "onset": [1],
}


def line(rng: random.Random) -> str:
    """An object of plain fields, or of some that are odd."""
    row = {name: rng.choice(values) for name, values in PLAIN.items() if rng.random() < 0.6}
    row |= {"audio_filepath": rng.choice(PLAIN["audio_filepath"])}
    if rng.random() < 0.3:
        for name in rng.sample([*ODD], rng.randint(1, 2)):
            row[name] = rng.choice(ODD[name])
    text = json.dumps(row, ensure_ascii=rng.random() < 0.5)
    text = text.encode(errors="backslashreplace").decode()
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(
            ["", "  ", "[1]", "3", "nonsense", "{}", text[:-1], text * 2, f"{text},{text}", text[:9]]
        )
    if kind < 0.1:
        return rng.choice(
            [f"{text}  ", f" {text}", f"\ufeff{text}", f"{text}\r", text.replace(", ", ",\n", 1)]
        )
    if kind < 0.12:
        return text[:-1] + ', "text": "twice", "TEXT": "twice"}'
    return text


def three(
    files: list[tuple[Path, str | None]],
    monkeypatch: pytest.MonkeyPatch,
    arrow: Any = json_columns,
    **options: Any,
) -> list[Any]:
    """What is read by columns, with Arrow and without, and row by row, each with what is wrong."""
    found = []
    for few, columns in ((1, arrow), (1, lambda *_: None), (10**9, lambda *_: None)):
        monkeypatch.setattr(manifest_columns, "FEW", few)
        monkeypatch.setattr(manifest_columns, "json_columns", columns)
        bad: list[str] = []
        try:
            clips = read_manifests(files, bad=bad, **options)
            found.append(([*map(repr, clips)], bad))
        except UserError as error:
            found.append(([str(error)], bad))
    return found


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with the files that rows name."""
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "b.wav", "sub/c.wav"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("seed", range(12))
def test_clips_and_errors_are_those_of_each_row(
    seed: int, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(manifest_columns, "BLOCK", 2000)
    files: list[tuple[Path, str | None]] = []
    for name, split in (("one.jsonl", None), ("two.json", "val")):
        content = "\n".join(line(rng) for _ in range(600)) + "\n" * (seed % 2)
        written = content.encode()
        if seed % 3 == 0:
            written = written.replace(b"dog", b"d\xe9g", 1)
        (recordings / name).write_bytes(written)
        files.append((recordings / name, split))
    group = [("group", "speaker"), (), ("speaker",)][seed % 3]
    arrow, columns, rows = three(files, monkeypatch, group=group, separator=[None, ","][seed % 2])
    assert arrow == columns == rows
    assert len(columns[0]) > 100
    assert len(columns[1]) > 100


SAME: dict[str, list[Any]] = {  # of which each row has all, so that Arrow takes most blocks
    "id": ["x1", "é", "", None],
    "audio_filepath": ["a.wav", "b.wav", "./a.wav", "sub//c.wav"],
    "offset": [0, 1.5, None],
    "duration": [1, 2.25, 1e-3, None],
    "text": ["naïve “text”\n", "", "2020-01-01", "a\u0000", None],
    "split": ["train", "Validation", "", None],
    "Speaker": ["s1", "s2", "", None],
    "fold": [1, 2, None],
    "notes": [{"a": [1]}, None],
    "heard": ["2020-01-01", "yesterday"],
}
LABELS: list[dict[str, list[Any]]] = [
    {"labels": [[], ["a", "b"], ["b", "a", "b"]]},
    {"labels": ["a;b", "", '["x"]', None]},
    {"label": ["dog", " cat ", "2020-01-01", None]},
    {},
]
BROKEN = [
    *r"""
{"offset": NaN}
{"offset": "1"}
{"offset": -1}
{"fold": 1.0}
{"fold": 99999999999999999999}
{"text": "a", "text": "b"}
{"TEXT": "a"}
{"text": "\ud800"}
{"text": 3}
{"labels": [null]}
{"labels": null}
{"labels": [3]}
{"label": "a"}
{"Speaker": 3}
{"id": 3}
{"split": "x"}
{"notes": 1}
{"onset": 1}
{}{}
{"text": [
["a"]
""".splitlines(),
    "{} ",
    f'{{"offset": {"1" * 400}}}',
    '{"notes": ' + '[{"a":' * 20_000 + "1" + "}]" * 20_000 + "}",
]


@pytest.mark.parametrize("seed", range(8))
def test_what_arrow_takes_is_what_each_row_says(
    seed: int, recordings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(manifest_columns, "BLOCK", 4000)
    fields, lines = SAME | LABELS[seed % 4], list[str]()
    for number in range(1500):
        row = {name: rng.choice(values) for name, values in fields.items()} | {"id": f"{seed}-{number:04d}"}
        broken = rng.choice(BROKEN) if rng.random() < 0.02 else ""
        if broken.startswith('{"') and rng.random() < 0.7:  # a row with more in it
            broken = json.dumps(row)[:-1] + ", " + broken[1:]
        lines.append(broken or json.dumps(row, ensure_ascii=rng.random() < 0.5))
    (recordings / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    taken = 0

    def counted(block: bytes, kind_of: Any) -> Any:
        nonlocal taken
        taken += (found := json_columns(block, kind_of)) is not None
        return found

    group = [("speaker",), ()][seed % 2]
    arrow, columns, rows = three([(recordings / "m.jsonl", None)], monkeypatch, counted, group=group)
    assert arrow == columns == rows
    assert len(columns[1]) > 5
    assert taken > 20


def test_names_are_those_of_lines_where_rows_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").touch()
    rows = [{"path": "a.wav", "text": f"{n}"} | ({"id": f"i{n}"} if n % 3 else {}) for n in range(40)]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    arrow, columns, each = three([(tmp_path / "m.jsonl", "test")], monkeypatch)
    assert arrow == columns == each
    assert "test-000004" in " ".join(arrow[0])


def test_fingerprints_are_those_of_what_they_say() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("a\x00é", k=rng.randrange(9))) for _ in range(3000)]
    numbers = fingerprints(Texts.of(texts)).tolist()
    assert len({*zip(texts, numbers, strict=True)}) == len({*texts}) == len({*numbers})
    assert fingerprints(Texts.of([])).tolist() == []


def test_plain_rows_are_read_by_columns_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").touch()
    rows = [{"audio_filepath": "a.wav", "offset": n, "duration": 1, "label": f"{n % 3}"} for n in range(99)]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr(manifest_columns, "json_row", None)
    clips = read_manifests([(tmp_path / "m.jsonl", "train")])
    assert clips[7] == Clip("train-000008", str(tmp_path / "a.wav"), 7.0, 1.0, ("1",), split="train")
    assert len(clips) == 99


def test_ids_in_any_order_come_in_order_and_those_that_are_there_twice_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    names = [f"{n}" for n in range(3000)]
    random.Random(0).shuffle(names)
    names += [names[5], names[7], names[5]]
    rows = [json.dumps({"path": "a.wav", "text": "", "id": name}) for name in names]
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    bad: list[str] = []
    clips = read_manifests([(tmp_path / "m.jsonl", None)], bad=bad)
    assert [clip.id for clip in clips] == sorted(names[:3000])
    places = {3001: 5, 3002: 7, 3003: 5}
    assert bad == [
        f"m.jsonl, line {line}: its id {names[first]!r} stands in m.jsonl, line {first + 1} too"
        for line, first in places.items()
    ]


@pytest.mark.parametrize("letters", ["ab", "aé\u4e2d\U0001f600\ud800", "a\x00"])
def test_the_order_of_texts_is_that_of_their_characters(letters: str) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices(letters, k=rng.randrange(30))) for _ in range(2000)] + ["", ""]
    values = [*dict.fromkeys(texts)]
    column = Column(Texts.of(values), np.array([values.index(text) for text in texts]))
    assert order_of(column).tolist() == sorted(range(len(texts)), key=texts.__getitem__)
    assert order_of(Column.of(texts)).tolist() == order_of(column).tolist()
    assert order_of(Column(Texts.of([""]), np.zeros(2, int))).tolist() == [0, 1]


def test_texts_that_were_forgotten_are_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_columns, "REMEMBERED", 10)
    rng, growing, texts = random.Random(0), GrowingTexts(), list[str | None]()
    for _ in range(50):
        part = rng.choices([None, "", *map(str, range(40)), "\ud800"], k=20)
        growing.add(Column.of(part))
        texts += part
    column = growing.column()
    assert [*column] == texts
    assert growing.count > 100
    assert len({*column.codes.tolist()}) == len({*texts})


def test_a_table_of_no_rows_and_of_parts_out_of_order() -> None:
    assert [len(part) for part in GrowingTable().table()] == [0, 0]
    growing, clips = GrowingTable(), [Clip(f"{n}", "a.wav", float(n)) for n in range(6)]
    for places in ([4, 5], [0, 2], [3, 1]):
        values = {name: Column.of(getattr(clips[n], name) for n in places) for name in Clip.__slots__}
        growing.add(places, values)
    order, table = growing.table()
    assert order.tolist() == [0, 1, 2, 3, 4, 5]
    assert table == clips
