"""Columns of clips that grow while rows are read, in about the memory that they take in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_audio.data.clip_table import FIELDS, NONE, ClipTable, Column, Texts, narrow

REMEMBERED = 2**17  # texts of which it is known, at a time, that they are there
TEXTS = ("id", "path", "text")  # columns of many values


class GrowingValues:
    """A column of few different values."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {None: NONE}
        self.codes: list[np.ndarray] = []

    def add(self, values: Sequence[Any]) -> None:
        for value in dict.fromkeys(values):
            self.numbers.setdefault(value, len(self.numbers) - 1)
        codes = np.fromiter(map(self.numbers.__getitem__, values), np.int64, len(values))
        self.codes.append(narrow(codes, len(self.numbers)))

    def column(self) -> Column:
        return Column([*self.numbers][1:], narrow(np.concatenate(self.codes), len(self.numbers) - 1))


class GrowingTexts:
    """A column of many different texts, kept as bytes."""

    def __init__(self) -> None:
        self.content, self.lengths = bytearray(), [np.zeros(1, np.int32)]
        self.hashes: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []
        self.known: dict[str | None, int] = {None: NONE}
        self.count = 0

    def add(self, texts: Sequence[str | None]) -> None:
        """Takes the texts of more rows, None where a row has none."""
        if len(self.known) > REMEMBERED:
            self.known = {None: NONE}
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known.update(zip(new, range(self.count, self.count + len(new)), strict=True))
        self.count += len(new)
        encoded = [text.encode("utf-8", "surrogatepass") for text in new]  # type: ignore[union-attr]
        self.content += b"".join(encoded)
        self.lengths.append(np.fromiter(map(len, encoded), np.int32, len(new)))
        self.hashes.append(np.fromiter(map(hash, new), np.int64, len(new)))
        self.codes.append(np.fromiter(map(self.known.__getitem__, texts), np.int32, len(texts)))

    def column(self) -> Column:
        self.known = {}
        texts = Texts(self.content, np.cumsum(np.concatenate(self.lengths), dtype=np.int64))
        codes = np.concatenate(self.codes)
        if self.count > REMEMBERED:  # or it has forgotten none
            first = self._first(texts)
            codes = codes if first is None else np.where(codes == NONE, NONE, first[codes])
        return Column(texts, codes)

    def _first(self, texts: Texts) -> np.ndarray | None:
        """Where each text stands for the first time, `(N,)`; None where all of them are different."""
        hashes = np.concatenate(self.hashes)
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        first = np.arange(len(hashes), dtype=np.int32)
        for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
            if texts[one] == texts[other]:
                first[other] = first[one]
        return first if len(alike) else None


class GrowingTable:
    """Rows of clips that come in parts.

    Attributes:
        places: numbers of the rows of each part, which name them and rise in the order in which they count.
    """

    def __init__(self) -> None:
        self.growing = {name: GrowingTexts() if name in TEXTS else GrowingValues() for name in FIELDS}
        self.places: list[np.ndarray] = []

    def add(self, places: Sequence[int], columns: Mapping[str, Sequence[Any]]) -> None:
        """Takes rows, of which each column has as many values as there are places."""
        self.places.append(np.array(places, np.int64))
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
        if (np.diff(places) < 0).any():
            order = np.argsort(places, kind="stable")
            places, table = places[order], table.take(order)
        return places, table
