"""Manifests by columns: rows of JSONL that are plain and sound are read many at a time.

Arrow, where it is installed, takes blocks of lines of which all are so. Of other blocks Python's json takes
what is; whatever is odd about a row, or wrong with it, is left to `ManifestRow`, which knows what to say, as
are rows of other tables.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import compress, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.arrow_columns import column_of, json_columns
from lightning_audio.data.clip import RULES, SPLIT_NAMES, Clip
from lightning_audio.data.clip_table import CHUNK, FIELDS, Column, Texts
from lightning_audio.data.manifest_rows import (
    COLUMNS,
    ManifestRow,
    Row,
    column_name,
    group_names,
    is_json,
    json_row,
    rows_of,
)
from lightning_audio.data.threads import in_threads

BLOCK = 8 * 2**20  # bytes that are read at a time
FEW = 8  # rows with the same names that are not worth columns
ODD = object()  # in the place of a value of which `ManifestRow` has to say what it means, or what is wrong
DEFAULTS = {"start": 0.0, "labels": ()}  # of what no column says
TEXT, NUMBER, NAME = (frozenset((*kinds, type(None))) for kinds in ((str,), (int, float), (str, int)))
# What each field may be: by Python's json, and, where that is one kind, by Arrow.
KINDS: dict[str, tuple[frozenset[type], str]] = {
    "id": (NAME, "string"),
    "path": (TEXT, "string"),
    "start": (NUMBER, "double"),
    "duration": (NUMBER, "double"),
    "label": (NAME | {tuple}, "string"),
    "labels": (NAME | {tuple}, ""),
    "text": (TEXT, "string"),
    "split": (TEXT, "string"),
    "fold": (frozenset((int, type(None))), "int64"),
    "group": (NAME, "string"),
}

Part = tuple[Sequence[int] | np.ndarray, Mapping[str, Column]]  # numbers of lines, and what `Clip` has


class ManifestReader:
    """Reads one manifest.

    Args:
        path: of the manifest.
        split, folder, group, separator: as `read_manifests` has them, of this one.

    Attributes:
        problems: what is wrong with lines, by their numbers.
    """

    def __init__(
        self, path: Path, split: str | None, folder: Path, group: Sequence[str], separator: str | None
    ) -> None:
        self.path, self.split, self.separator = path, split, separator
        self.folder, self.group, self.prefix = folder, group, str(folder / "a")[:-1]
        self.before_line = f"{split or path.stem}-"
        self.fields = {**COLUMNS, "group": group_names(group)}
        self.kinds = {name: kind for field, (_, kind) in KINDS.items() for name in self.fields[field] if kind}
        self.plans: dict[tuple[str, ...], dict[str, int] | None] = {}
        self.problems: dict[int, list[str]] = {}
        # The rows are pairs of a name and a value, since a dict would keep the last of two with one name.
        self.decode = json.JSONDecoder(object_pairs_hook=tuple).raw_decode
        self.changes: dict[str, Callable[[Any], Any]] = {
            "path": self._path,
            "start": lambda time: _sound("start", time or 0.0) or 0.0,
            "duration": lambda time: _sound("duration", time),
            "split": self._split,
            "group": lambda name: None if name in (None, "") else str(name),
        }

    def parts(self) -> Iterator[Part]:
        """All rows, in no order; of those with problems only the id is of use."""
        if not is_json(self.path):
            rows = rows_of(self.path)
            while some := [*islice(rows, CHUNK)]:
                yield self._by_row(some)
            return
        for number, block, given in in_threads(self._parsed, self._blocks(), threads=2, ahead=1):
            lines = np.arange(number, number + block.count(b"\n"))
            columns, odd = self._columns(given, lines) if given else ({}, np.ones(1, bool))
            if odd.any():
                yield from self._json(block, number)
            else:
                yield lines, columns

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Whole lines, and the number of the first."""
        number = 1
        with self.path.open("rb") as file:
            while block := file.read(BLOCK) + file.readline():
                yield number, block if block.endswith(b"\n") else block + b"\n"
                number += block.count(b"\n")

    def _parsed(self, numbered: tuple[int, bytes]) -> tuple[int, bytes, dict[str, Column]]:
        """The fields of lines by Arrow, where it takes all of them."""
        number, block = numbered
        table = json_columns(block, lambda name: self.kinds.get(column_name(name), ""))
        plan = self._plan(tuple(table.column_names)) if table else None
        found = {field: _of_arrow(field, table.column(n).chunk(0)) for field, n in (plan or {}).items()}
        given = {field: column for field, column in found.items() if column is not None}
        return number, block, given if len(given) == len(found) else {}

    def _by_row(self, rows: Iterable[Row]) -> Part:
        lines, clips = [], []
        for line, values in rows:
            row = ManifestRow(values, self.split, self.separator)
            clip = row.clip(self._name(line), self.folder, self.group)
            if row.problems:
                self.problems[line] = row.problems
                clip = Clip(clip.id, "")
            lines.append(line)
            clips.append(clip)
        return lines, {name: Column.of(map(attrgetter(name), clips)) for name in FIELDS}

    def _name(self, line: int) -> str:
        return f"{self.before_line}{line:06d}"

    def _json(self, block: bytes, number: int) -> Iterator[Part]:
        """The rows of whole lines, of which the first has this number."""
        other: list[tuple[int, bytes]] = []
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError:
            other, text = [*enumerate(block.split(b"\n")[:-1], number)], ""
        for names, rows in self._by_names(text, number).items():
            numbers, values, starts, stops = zip(*rows, strict=True)
            plan = self._plan(names) if len(rows) >= FEW else None
            lines, odd = np.array(numbers), np.ones(len(rows), bool)
            columns: dict[str, Column] = {}
            if plan:
                given = [*zip(*values, strict=True)]
                coded = {field: _of_json(field, given[place]) for field, place in plan.items()}
                columns, odd = self._columns(coded, lines)
            if odd.any():
                away = compress(zip(numbers, starts, stops, strict=True), odd)
                other += [(line, text[start:stop].encode()) for line, start, stop in away]
                columns = {name: Column.of(column.take(~odd)) for name, column in columns.items()}
            if not odd.all():
                yield lines[~odd], columns
        rest = [(line, json_row(content)) for line, content in sorted(other) if content.strip()]
        if rest:
            yield self._by_row(rest)

    def _by_names(self, text: str, number: int) -> Mapping[tuple[str, ...], list[tuple[Any, ...]]]:
        """Lines by the names in their objects: number, values, where each begins and ends. What is no object
        alone in its line has no names."""
        alike: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        decode, start = self.decode, 0
        for line in range(number, number + text.count("\n")):
            stop = text.index("\n", start)
            names: tuple[str, ...] = ()
            values: tuple[Any, ...] = ()
            try:
                pairs, end = decode(text, start)
                if type(pairs) is tuple and pairs and end <= stop and not text[end:stop].strip(" \t\r"):
                    names, values = zip(*pairs, strict=True)
            except (ValueError, RecursionError):  # no JSON; contextlib.suppress takes a tenth longer
                pass
            alike[names].append((line, values, start, stop))
            start = stop + 1
        return alike

    def _plan(self, names: tuple[str, ...]) -> dict[str, int] | None:
        """Where the fields stand among the names; None where several say one, or a rare one is there."""
        if names not in self.plans:
            self.plans[names] = self._planned(names)
        return self.plans[names]

    def _planned(self, names: tuple[str, ...]) -> dict[str, int] | None:
        columns = [column_name(name) for name in names]
        places = {
            field: [place for place, column in enumerate(columns) if column in known]
            for field, known in self.fields.items()
        }
        found = {field: those[0] for field, those in places.items() if those}
        several = len({*columns}) < len(columns) or any(len(those) > 1 for those in places.values())
        rare = "onset" in columns or found.keys() & {"end", "channel"} or {"label", "labels"} <= found.keys()
        answers = found.keys() & {"label", "labels", "text"}
        return None if several or rare or "path" not in found or not answers else found

    def _columns(
        self, given: Mapping[str, Column], lines: np.ndarray
    ) -> tuple[dict[str, Column], np.ndarray]:
        """The columns of rows of which these fields were given, and which of them are odd, `(N,)` bool."""
        found = {name: Column.constant(DEFAULTS.get(name), len(lines)) for name in FIELDS}
        found |= {"split": Column.constant(self.split, len(lines)), "id": self._ids(given.get("id"), lines)}
        for field in given.keys() & found.keys() - {"id"}:
            change = self.changes.get(field)
            found[field] = _changed(given[field], change) if change else given[field]
        answers = [field for field in ("label", "labels", "text") if field in given]
        odd = np.logical_and.reduce([given[field].lacks() for field in answers])  # a row that says none
        for field in given.keys() & {"label", "labels"}:
            found["labels"] = _changed(given[field], partial(self._labels, field))
        for column in found.values():
            odd = odd | _is_odd(column)
        return found, odd

    def _ids(self, given: Column | None, lines: np.ndarray) -> Column:
        if given is None:
            return Column(Texts.numbered(self.before_line, lines), np.arange(len(lines)))
        if isinstance(given.values, Texts) and not given.lacks().any() and np.diff(given.values.ends).all():
            return given
        names = _changed(given, lambda name: name if name is ODD else "" if name is None else str(name))
        if "" not in names.values:
            return names
        return Column.of(name or self._name(line) for name, line in zip(names, lines.tolist(), strict=True))

    def _path(self, audio: str | None) -> Any:
        if not audio:
            return ODD
        # As pathlib joins them, which takes longer.
        plain = (
            os.sep == "/"
            and audio[0] not in "./"
            and "//" not in audio
            and "/." not in audio
            and audio[-1] != "/"
        )
        path = self.prefix + audio if plain else str(self.folder / audio)
        return path if os.path.isfile(path) else ODD  # noqa: PTH113 - as in ManifestRow

    def _split(self, name: str | None) -> Any:
        if not name:
            return self.split
        known = SPLIT_NAMES.get(name.strip().lower(), ODD)
        return known if self.split in (None, known) else ODD

    def _labels(self, field: str, value: Any) -> Any:
        if value is None:
            return ()
        row = ManifestRow({}, self.split, self.separator)
        labels = row.names(field, [*value] if type(value) is tuple else value)
        return ODD if row.problems or RULES["labels"](labels) else labels


def _of_arrow(field: str, found: Any) -> Column | None:
    """A column as Arrow read it; None where its kind is another one than that of the field."""
    kind = str(found.type)
    if kind == "null":
        return Column.constant(None, len(found))
    if field == "labels" and kind.startswith("list"):
        fits = str(found.type.value_type) == "string" and not found.null_count and not found.values.null_count
    else:
        fits = kind == (KINDS[field][1] or "string")
    return column_of(found) if fits else None


def _of_json(field: str, values: Sequence[Any]) -> Column:
    """Values as Python's json reads them, where an object is a tuple, with ODD for those of another kind."""
    kinds = KINDS[field][0]
    if tuple in kinds and not NAME.issuperset(map(type, values)):
        values = [ODD if type(value) is tuple else value for value in values]
        values = [_hashable(value) if type(value) is list else value for value in values]
    if not kinds.issuperset(map(type, values)):
        values = [value if type(value) in kinds else ODD for value in values]
    return Column.of(values)


def _changed(column: Column, change: Callable[[Any], Any]) -> Column:
    """What becomes of each value, every different one changed once, and of None; ODD stays."""
    values = column.values
    known = values.part(0, len(values)) if isinstance(values, Texts) else values
    found = [ODD if value is ODD else change(value) for value in known]
    changed = Column.of(found + [change(None)] * bool(column.lacks().any()))  # the last is where NONE points
    return Column(changed.values, changed.codes[column.codes])


def _is_odd(column: Column) -> Any:
    """Which rows have ODD, `(N,)` bool; False where none has."""
    values = () if isinstance(column.values, Texts) else column.values
    place = next((place for place, value in enumerate(values) if value is ODD), None)
    return False if place is None else column.codes == place


def _hashable(labels: list[Any]) -> Any:
    return tuple(labels) if {*map(type, labels)} <= {str} else ODD


def _sound(field: str, time: float | None) -> Any:
    """A time in seconds, where it is one."""
    try:
        time = None if time is None else float(time)
    except OverflowError:
        return ODD
    return ODD if RULES[field](time) else time
