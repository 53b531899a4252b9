"""Manifests by columns: rows of JSONL that are plain and sound are read many at a time.

Whatever is odd about a row, or wrong with it, is left to `ManifestRow`, which knows what to say, as are
rows of other tables.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from lightning_audio.data.clip import RULES, SPLIT_NAMES, Clip
from lightning_audio.data.clip_table import CHUNK, FIELDS
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

BLOCK = 4 * 2**20  # bytes that are read at a time
FEW = 8  # rows with the same names that are not worth columns
ODD = object()  # in the place of a value of which `ManifestRow` has to say what it means, or what is wrong
DEFAULTS = {"start": 0.0, "labels": ()}  # of what no column says
TEXT, NUMBER, NAME = (frozenset((*kinds, type(None))) for kinds in ((str,), (int, float), (str, int)))

Part = tuple[Sequence[int], dict[str, Sequence[Any]]]  # numbers of lines, and columns as `Clip` has them


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
        self.plans: dict[tuple[str, ...], dict[str, int] | None] = {}
        self.problems: dict[int, list[str]] = {}
        # The rows are pairs of a name and a value, since a dict would keep the last of two with one name.
        self.decode = json.JSONDecoder(object_pairs_hook=tuple).raw_decode

    def parts(self) -> Iterator[Part]:
        """All rows, in no order; of those with problems only the id is of use."""
        if not is_json(self.path):
            rows = rows_of(self.path)
            while some := [*islice(rows, CHUNK)]:
                yield self._by_row(some)
            return
        number, rest = 1, b""
        with self.path.open("rb") as file:
            while block := file.read(BLOCK):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                yield from self._json(whole + newline, number)
                number += whole.count(b"\n") + len(newline)
        yield from self._json(rest + b"\n" * bool(rest), number)

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
        return lines, {name: [*map(attrgetter(name), clips)] for name in FIELDS}

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
            lines, values, starts, stops = zip(*rows, strict=True)
            self.odd = False
            columns = self._columns(names, values, lines) if names else {}
            fit = [bool(columns)] * len(rows)
            if self.odd:
                fit = [not any(value is ODD for value in row) for row in zip(*columns.values(), strict=True)]
            if not all(fit):
                away = zip(fit, lines, starts, stops, strict=True)
                other += [(line, text[start:stop].encode()) for one, line, start, stop in away if not one]
                columns = {name: [*compress(column, fit)] for name, column in columns.items()}
            if any(fit):
                yield [*compress(lines, fit)], columns
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
        self, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]], lines: Sequence[int]
    ) -> dict[str, Sequence[Any]]:
        """The columns of rows with these names, ODD in the place of a value that is not for here; or none."""
        if names not in self.plans:
            self.plans[names] = self._plan(names)
        plan = self.plans[names]
        if plan is None or len(rows) < FEW:
            return {}
        given = [*zip(*rows, strict=True)]
        found: dict[str, Sequence[Any]] = {name: [DEFAULTS.get(name)] * len(rows) for name in FIELDS}
        found["split"] = [self.split] * len(rows)
        changes: dict[str, tuple[frozenset[type], Callable[[Any], Any]]] = {
            "path": (frozenset((str,)), self._path),
            "start": (NUMBER, lambda time: _sound("start", time or 0.0) or 0.0),
            "duration": (NUMBER, lambda time: _sound("duration", time)),
            "text": (TEXT, lambda text: text),
            "split": (TEXT, self._split),
            "fold": (frozenset((int, type(None))), lambda fold: fold),
            "group": (NAME, lambda name: None if name in (None, "") else str(name)),
        }
        for field in changes.keys() & plan.keys():
            found[field] = self._changed(given[plan[field]], *changes[field])
        found["id"] = self._ids(given[plan["id"]] if "id" in plan else [None] * len(rows), lines)
        labels: Sequence[Any] = [None] * len(rows)
        if column := plan.keys() & {"label", "labels"}:
            place = plan[column.pop()]
            labels = given[place]
            found["labels"] = self._labels(column_name(names[place]), labels)
        if None in labels and None in found["text"]:  # a row says neither
            self.odd = True
            both = zip(found["labels"], labels, found["text"], strict=True)
            found["labels"] = [ODD if one is text is None else those for those, one, text in both]
        return found

    def _ids(self, given: Sequence[Any], lines: Sequence[int]) -> Sequence[Any]:
        if {*map(type, given)} == {str} and all(given):
            return given
        given = self._changed(given, NAME, lambda name: "" if name is None else str(name))
        return [name or self._name(line) for name, line in zip(given, lines, strict=True)]

    def _path(self, audio: str) -> Any:
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

    def _labels(self, name: str, given: Sequence[Any]) -> Sequence[Any]:
        def change(value: Any) -> Any:
            if value is None:
                return ()
            row = ManifestRow({}, self.split, self.separator)
            labels = row.names(name, [*value] if type(value) is tuple else value)
            return ODD if row.problems or RULES["labels"](labels) else labels

        if not NAME.issuperset(map(type, given)):  # an object is a tuple here
            given = [ODD if type(value) is tuple else value for value in given]
            given = [_hashable(value) if type(value) is list else value for value in given]
        return self._changed(given, NAME | {tuple}, change)

    def _changed(
        self, values: Sequence[Any], kinds: frozenset[type], change: Callable[[Any], Any]
    ) -> Sequence[Any]:
        """What becomes of each value, every different one changed once; ODD for one of another kind."""
        if not kinds.issuperset(map(type, values)):
            values = [value if type(value) in kinds else ODD for value in values]
        known = {value: ODD if value is ODD else change(value) for value in dict.fromkeys(values)}
        self.odd = self.odd or any(value is ODD for value in known.values())
        return [*map(known.__getitem__, values)]


def _hashable(labels: list[Any]) -> Any:
    return tuple(labels) if {*map(type, labels)} <= {str} else ODD


def _sound(field: str, time: float | None) -> Any:
    """A time in seconds, where it is one."""
    try:
        time = None if time is None else float(time)
    except OverflowError:
        return ODD
    return ODD if RULES[field](time) else time
