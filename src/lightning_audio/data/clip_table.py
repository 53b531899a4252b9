"""ClipTable: clips by their columns, of which `Clip` rows are made when they are asked for.

Ten million rows as objects take 4 GB and minutes. In columns each different value is there once, and a row is
a number of a few bytes in each of them; what concerns all rows is asked of the values and these numbers.
"""

from __future__ import annotations

import gc
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cached_property
from itertools import pairwise, repeat
from operator import attrgetter, lt
from typing import Any, overload

import numpy as np

from lightning_audio.data.clip import RULES, Clip, problems
from lightning_audio.errors import UserError, listed

FIELDS = tuple(field.name for field in fields(Clip))
CHUNK = 10_000  # rows that are made at a time
NONE = -1  # the code of None


class Texts(Sequence[str]):
    """Many texts as bytes, one after another: as Python strings they would take five times the memory.

    Args:
        content: UTF-8, in which lone surrogates may stand.
        ends: `(N + 1,)`, where each begins and the last one ends.
    """

    def __init__(self, content: Any, ends: np.ndarray) -> None:
        self.content = memoryview(content)
        self.ends = ends.astype(np.int32 if ends[-1] < 2**31 else np.int64, copy=False)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        return cls(b"".join(encoded), np.cumsum([0, *map(len, encoded)]))

    @classmethod
    def numbered(cls, prefix: str, numbers: np.ndarray) -> Texts:
        """A prefix and a number from 0 on, of six digits or more: four times faster than one by one."""
        before = np.frombuffer(prefix.encode("utf-8", "surrogatepass"), np.uint8)
        size = len(before) + max(6, len(str(numbers.max(initial=0))))
        rows = np.empty((len(numbers), size), np.uint8)
        kept, rest = np.ones(rows.shape, bool), numbers
        rows[:, : len(before)] = before
        for place in range(size - 1, len(before) - 1, -1):
            kept[:, place] = (rest > 0) | (place >= size - 6)
            rest, digits = rest // 10, rest
            rows[:, place] = digits - 10 * rest + ord("0")
        return cls(rows[kept].tobytes(), np.concatenate([[0], np.cumsum(kept.sum(1))]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (bytes(self.content), self.ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: Any) -> Any:
        start, end = self.ends[number], self.ends[number + 1]
        return str(self.content[start:end], "utf-8", "surrogatepass")

    def part(self, start: int, stop: int) -> list[str]:
        """Some that stand side by side, many times faster than one by one."""
        ends = self.ends[start : stop + 1]
        content = bytes(self.content[ends[0] : ends[-1]])
        spans = pairwise((ends - ends[0]).tolist())
        if content.isascii():
            text = content.decode()
            return [text[a:b] for a, b in spans]
        return [content[a:b].decode("utf-8", "surrogatepass") for a, b in spans]

    def rise(self, start: int, stop: int) -> bool:
        """Whether of some that stand side by side each comes behind the one before it."""
        ends = self.ends[start : stop + 1]
        content = np.frombuffer(self.content[ends[0] : ends[-1]], np.uint8)
        sizes = np.diff(ends)
        longest = int(sizes.max())
        if not content.all() or not 0 < longest * len(sizes) <= 4 * len(content):
            return _rising(self.part(start, stop))
        # UTF-8 is in the order of its characters; numpy leaves zeros behind a text out.
        filled = np.zeros((len(sizes), longest), np.uint8)
        filled[np.arange(longest) < sizes[:, None]] = content
        texts = filled.view(f"S{longest}")[:, 0]
        return bool((texts[:-1] < texts[1:]).all())

    def take(self, numbers: np.ndarray) -> Texts:
        """Some of them, in this order."""
        sizes = np.diff(self.ends)[numbers]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        shift, content = self.ends[:-1][numbers] - ends[:-1], np.frombuffer(self.content, np.uint8)
        taken = np.empty(ends[-1], np.uint8)
        # In parts, for an index of all bytes would take eight times their memory.
        for start in range(0, len(numbers), CHUNK):
            part = slice(start, start + CHUNK)
            first, last = ends[start], ends[min(start + CHUNK, len(numbers))]
            taken[first:last] = content[np.arange(first, last) + np.repeat(shift[part], sizes[part])]
        return Texts(taken, ends)


class Column:
    """One field of all rows.

    Args:
        values: the different ones; some may be of no row.
        codes: `(N,)`, the place in `values` of each row's, or NONE.
    """

    def __init__(self, values: Sequence[Any], codes: np.ndarray) -> None:
        self.values, self.codes = values, codes

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Column:
        numbers: dict[Any, int] = {None: NONE}
        codes = [numbers.setdefault(value, len(numbers) - 1) for value in rows]
        return cls([*numbers][1:], narrow(np.array(codes, dtype=np.int64), len(numbers) - 1))

    @classmethod
    def constant(cls, value: Any, rows: int) -> Column:
        code, values = (NONE, []) if value is None else (0, [value])
        return cls(values, np.broadcast_to(np.int8(code), rows))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> Any:
        code = self.codes[row]
        return None if code == NONE else self.values[code]

    def at(self, rows: Any) -> list[Any]:
        """The values of some rows."""
        codes, values = self.codes[rows], self.values
        if isinstance(values, Texts) and _side_by_side(codes):
            return values.part(int(codes[0]), int(codes[-1]) + 1)
        return [None if code == NONE else values[code] for code in codes.tolist()]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), CHUNK):
            yield from self.at(slice(start, start + CHUNK))

    def take(self, rows: Any) -> Column:
        return Column(self.values, self.codes[rows])

    def in_row(self) -> Column:
        """The same rows; where each has a text of its own, these stand in the order of the rows.

        So they are read and compared many times faster.
        """
        if not isinstance(self.values, Texts) or len(self.used()) < len(self):
            return self
        return Column(self.values.take(self.codes), np.arange(len(self), dtype=self.codes.dtype))

    def used(self) -> np.ndarray:
        """The codes that rows have, rising; NONE is none of them."""
        found = np.zeros(len(self.values) + 1, bool)  # the last one is that of NONE
        for start in range(0, len(self), CHUNK):  # all at once are made wide numbers of by numpy
            found[self.codes[start : start + CHUNK]] = True
        return np.flatnonzero(found[:NONE])

    def different(self) -> list[Any]:
        """The values that rows have, None at the end."""
        found = [*Column(self.values, self.used())]
        return [*found, None] if self.lacks().any() else found

    def lacks(self) -> np.ndarray:
        """Which rows have None, `(N,)` bool."""
        return self.codes == NONE

    def equals(self, value: Any) -> np.ndarray:
        """Which rows have this value, `(N,)` bool."""
        return self.mapped(lambda other: other == value, bool)

    def mapped(self, change: Callable[[Any], Any], dtype: Any) -> np.ndarray:
        """What each row's value becomes, `(N,)`; every different value is changed once."""
        changed = np.zeros(len(self.values) + 1, dtype)  # the last one is that of None
        used = self.used()
        changed[used] = np.fromiter(map(change, Column(self.values, used)), dtype, len(used))
        if self.lacks().any():
            changed[NONE] = change(None)
        return changed[self.codes]

    def digest(self) -> bytes:
        """Of values and codes as they are: equal rows that are coded otherwise may have another one."""
        texts = self.values if isinstance(self.values, Texts) else Texts.of(map(str, self.values))
        found = hashlib.sha256(texts.content)
        for numbers, kind in ((texts.ends, "<i8"), (self.codes, "<i4")):
            found.update(np.ascontiguousarray(numbers, kind).data)
        return found.digest()

    @cached_property
    def is_rising(self) -> bool:
        """Whether each text comes behind the one before it, and so none is there twice."""
        starts = range(0, len(self), CHUNK)
        return all(self._rise(slice(max(start - 1, 0), start + CHUNK)) for start in starts)

    def _rise(self, rows: slice) -> bool:
        codes, values = self.codes[rows], self.values
        if isinstance(values, Texts) and _side_by_side(codes):
            return values.rise(int(codes[0]), int(codes[-1]) + 1)
        return _rising(self.at(rows))

    def put(self, rows: Any, value: Any) -> Column:
        """The column with another value in some rows."""
        values = [*self.values] if value in self.values else [*self.values, value]
        codes = narrow(self.codes, len(values))
        codes[rows] = values.index(value)
        return Column(values, codes)


def _side_by_side(codes: np.ndarray) -> bool:
    """Whether several values stand in the order of their codes, with none between."""
    return len(codes) > 1 and codes[0] >= 0 and bool((np.diff(codes) == 1).all())


def _rising(texts: Sequence[str]) -> bool:
    return all(map(lt, texts, texts[1:]))


def narrow(codes: np.ndarray, values: int) -> np.ndarray:
    """Codes of so many values in as few bytes as hold them."""
    return codes.astype(np.min_scalar_type(-max(values, 1)))


def distinct(keys: np.ndarray) -> np.ndarray:
    """The different ones of numbers from 0 on, rising; where they are not far apart, without sorting them."""
    if (most := keys.max(initial=0)) < 32 * len(keys):
        found = np.zeros(most + 1, bool)
        found[keys] = True
        return np.flatnonzero(found)
    return np.unique(keys)


class ClipTable(Sequence[Clip]):
    """Rows of clips, as a list of them to whoever reads it."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = {name: columns[name] for name in FIELDS}
        if len({*map(len, self.columns.values())}) != 1:
            raise ValueError("the columns of a table of clips differ in length")

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> ClipTable:
        """The clips, which may be a table already; raises TypeError where a value can't be hashed."""
        if isinstance(clips, ClipTable):
            return clips
        rows = [*clips]
        return cls({name: Column.of(map(attrgetter(name), rows)) for name in FIELDS})

    def column(self, name: str) -> Column:
        return self.columns[name]

    def replaced(self, name: str, column: Column) -> ClipTable:
        """The same rows with another column."""
        return ClipTable({**self.columns, name: column})

    def take(self, rows: Any) -> ClipTable:
        """Some rows, by their numbers, a slice or a mask; all of them are the table itself."""
        if isinstance(rows, np.ndarray) and rows.dtype == bool and rows.all():
            return self
        return ClipTable({name: column.take(rows) for name, column in self.columns.items()})

    def sorted(self, order: np.ndarray) -> ClipTable:
        """Some rows in an order in which they stay."""
        return ClipTable({name: column.take(order).in_row() for name, column in self.columns.items()})

    def combinations(self, *names: str) -> list[tuple[Any, ...]]:
        """The different values that rows have in these columns."""
        keys, found = distinct(self.keys(*names)), []
        for column in (self.columns[name] for name in names[::-1]):
            keys, codes = np.divmod(keys, len(column.values) + 1)
            found.append(Column(column.values, codes - 1).at(slice(None)))
        return [*zip(*found[::-1], strict=True)]

    def keys(self, *names: str) -> np.ndarray:
        """Numbers `(N,)` that are equal where rows have the same values in these columns."""
        keys = np.zeros(len(self), np.int64)
        for name in names:
            column = self.columns[name]
            keys = keys * (len(column.values) + 1) + column.codes + 1
        return keys

    def __len__(self) -> int:
        return len(self.columns["id"])

    @overload
    def __getitem__(self, row: int) -> Clip: ...
    @overload
    def __getitem__(self, row: slice) -> ClipTable: ...
    def __getitem__(self, row: int | slice) -> Clip | ClipTable:
        if isinstance(row, slice):
            return self.take(row)
        return Clip(**{name: column[row] for name, column in self.columns.items()})

    def __iter__(self) -> Iterator[Clip]:
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            yield from _filled({name: column.at(part) for name, column in self.columns.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClipTable of {len(self)} clips"


def _filled(columns: Mapping[str, Sequence[Any]]) -> list[Clip]:
    """Clips, made column by column, for as many calls of Clip(...) take three times as long."""
    clips = list(map(object.__new__, repeat(Clip, len(columns["id"]))))
    for name in FIELDS:
        fill = vars(Clip)[name].__set__  # past the dataclass, which is frozen
        deque(map(fill, clips, columns[name]), maxlen=0)
    return clips


def validated(clips: Sequence[Clip], source: str) -> ClipTable:
    """The rows in the order of their ids; every bad row is named in one error.

    Raises:
        UserError: a row is bad, two rows share an id, or there is none.
    """
    if not len(clips):
        raise UserError(f"{source} holds no clips: check that it is the folder or file that you meant.")
    try:
        table = ClipTable.of(clips)
    except TypeError:
        raise UserError(f"{source} has clips whose labels are a list: make them tuples.") from None
    repeated: list[str] = []
    if not table.column("id").is_rising:
        times = Counter(table.column("id"))
        repeated = [f"{name!r}: stands {n} times" for name, n in times.items() if n > 1]
        table = in_order(table)
    bad = np.zeros(len(table), bool)
    bad[0] = not table.column("id")[0]  # an empty name comes first
    for name, rule in RULES.items():
        bad |= table.column(name).mapped(rule, bool)
    found = [f"{clip.id!r}: {problem}" for clip in table.take(bad) for problem in problems(clip)] + repeated
    if found:
        raise UserError(f"{source} has {len(found)} bad rows to mend: {listed(found, 10)}.")
    return table


def in_order(clips: Sequence[Clip]) -> ClipTable:
    """The rows in the order of their ids."""
    table = ClipTable.of(clips)
    if table.column("id").is_rising:
        return table
    return table.sorted(order_of(table.column("id")))


def order_of(texts: Column) -> np.ndarray:
    """The rows in the order of their texts, `(N,)`; those of equal ones in their own."""
    values, codes = texts.values, texts.codes
    if texts.is_rising:
        return np.arange(len(codes))
    content = np.frombuffer(values.content if isinstance(values, Texts) else b"", np.uint8)
    if not isinstance(values, Texts) or not len(content) or not content.all():
        names = [*texts]
        return np.array(sorted(range(len(names)), key=names.__getitem__))
    # UTF-8 is in the order of its characters: eight bytes at a time, the last ones first, 0 behind the end.
    order, word = np.arange(len(codes)), np.empty(len(codes), np.uint64)
    for first in range(8 * ((int(np.diff(values.ends)[codes].max()) - 1) // 8), -1, -8):
        for row in range(0, len(codes), CHUNK):
            part = codes[row : row + CHUNK]
            places = values.ends[:-1][part][:, None] + np.arange(first, first + 8)
            some = content[np.minimum(places, len(content) - 1)] * (places < values.ends[1:][part][:, None])
            word[row : row + CHUNK] = some.view(">u8")[:, 0]
        if (word != word[0]).any():
            order = order[np.argsort(word[order], kind="stable")]
    return order


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: of many rows that are all kept, a growing list is looked through
    again and again in vain."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
