"""Columns of clips that grow while rows are read, in about the memory that they take in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_audio.data.clip_table import CHUNK, FIELDS, NONE, ClipTable, Column, Texts, narrow

REMEMBERED = 2**17  # texts of which it is known, at a time, that they are there
TEXTS = ("id", "path", "text")  # columns of many values
FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
INVERSE = pow(FACTOR, -1, 2**64)


class GrowingValues:
    """A column of few different values."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {None: NONE}
        self.codes: list[np.ndarray] = []

    def add(self, rows: Column) -> None:
        """Takes more rows, each value of which is one of a row."""
        numbers = [self.numbers.setdefault(value, len(self.numbers) - 1) for value in (*rows.values, None)]
        self.codes.append(narrow(np.array(numbers)[rows.codes], len(self.numbers)))

    def column(self) -> Column:
        return Column([*self.numbers][1:], narrow(np.concatenate(self.codes), len(self.numbers) - 1))


class GrowingTexts:
    """A column of many different texts, kept as bytes."""

    def __init__(self) -> None:
        self.content, self.lengths = bytearray(), [np.zeros(1, np.int32)]
        self.codes: list[np.ndarray] = []
        self.known: dict[str | None, int] = {None: NONE}
        self.count, self.forgot = 0, False

    def add(self, rows: Column) -> None:
        """Takes more rows, each text of which is one of a row."""
        if isinstance(rows.values, Texts) and len(rows.values) == len(rows):  # they are not made strings of
            self.forgot, numbers = True, np.arange(self.count, self.count + len(rows))
            self._keep(rows.values)
        else:
            if len(self.known) > REMEMBERED:
                self.forgot, self.known = True, {None: NONE}
            new = [text for text in rows.values if text not in self.known]
            self.known.update(zip(new, range(self.count, self.count + len(new)), strict=True))
            self._keep(Texts.of(new))
            numbers = np.array([*map(self.known.__getitem__, (*rows.values, None))])
        self.codes.append(numbers.astype(np.int32)[rows.codes])

    def _keep(self, texts: Texts) -> None:
        self.content += texts.content[texts.ends[0] : texts.ends[-1]]
        self.lengths.append(np.diff(texts.ends).astype(np.int32))
        self.count += len(texts)

    def column(self) -> Column:
        self.known = {}
        texts = Texts(self.content, np.cumsum(np.concatenate(self.lengths), dtype=np.int64))
        found = Column(texts, np.concatenate(self.codes))
        if not self.forgot or found.is_rising:  # then none is there twice
            return found
        first, codes = _first(texts), found.codes
        return Column(texts, codes if first is None else np.where(codes == NONE, NONE, first[codes]))


def _first(texts: Texts) -> np.ndarray | None:
    """Where each text stands for the first time, `(N,)`; None where all of them are different."""
    numbers = fingerprints(texts)
    order = np.argsort(numbers, kind="stable")
    alike = np.flatnonzero(numbers[order[1:]] == numbers[order[:-1]])
    first = np.arange(len(numbers), dtype=np.int32)
    for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
        if texts[one] == texts[other]:
            first[other] = first[one]
    return first if len(alike) else None


def fingerprints(texts: Texts) -> np.ndarray:
    """A number for each, `(N,)` uint64, which another one hardly has: its bytes, times rising powers of an
    odd number, added up modulo 2^64."""
    ends, found = texts.ends, [np.zeros(0, np.uint64)]
    most = int(np.diff(ends[[*range(0, len(texts), CHUNK), len(texts)]]).max(initial=0))
    rising, falling = (np.cumprod(np.full(most + 1, f, np.uint64)) for f in (FACTOR, INVERSE))
    for start in range(0, len(texts), CHUNK):
        part = ends[start : start + CHUNK + 1]
        letters, part = np.frombuffer(texts.content[part[0] : part[-1]], np.uint8), part - part[0]
        sums = np.zeros(len(letters) + 1, np.uint64)
        np.cumsum((letters + np.uint64(1)) * rising[: len(letters)], out=sums[1:])
        found.append((sums[part[1:]] - sums[part[:-1]]) * falling[part[:-1]])
    return np.concatenate(found)


class GrowingTable:
    """Rows of clips that come in parts.

    Attributes:
        places: numbers of the rows of each part, which name them and rise in the order in which they count.
    """

    def __init__(self) -> None:
        self.growing = {name: GrowingTexts() if name in TEXTS else GrowingValues() for name in FIELDS}
        self.places: list[np.ndarray] = []

    def add(self, places: Sequence[int] | np.ndarray, columns: Mapping[str, Column]) -> None:
        """Takes rows, of which each column has as many as there are places, and no value of none."""
        self.places.append(np.asarray(places, np.int64))
        for name, column in self.growing.items():
            column.add(columns[name])

    def table(self) -> tuple[np.ndarray, ClipTable]:
        """The places, rising, and the rows in their order."""
        if not self.places:
            return np.zeros(0, np.int64), ClipTable.of([])
        places, columns = np.concatenate(self.places), {}
        for name in FIELDS:
            columns[name] = self.growing.pop(name).column()  # what it was made of is given back
        table = ClipTable(columns)
        if (places[1:] < places[:-1]).any():
            order = np.argsort(places, kind="stable")
            places, table = places[order], table.take(order)
        return places, table
