"""The table of a set of shards: one row a clip, as Parquet columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lightning_audio.data.arrow_columns import column_of, numbers_of, texts_of
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import FIELDS, ClipTable, Column
from lightning_audio.errors import UserError, encodable

# Beside the fields of Clip, where its samples are; `reason` says why a clip has none.
SHARED = ("path", "text", "group")  # texts that may be those of many rows
PLACE = ("shard", "offset", "bytes", "rate", "length", "crc32", "reason")


@dataclass(frozen=True, slots=True)
class Row:
    """A clip and where its samples, or its encoded file, are.

    Attributes:
        shard: the name of a file of the set.
        offset, bytes: the stretch of it.
        rate: in Hz, of what is there.
        length: in samples at this rate.
        crc32: of these bytes; None where nobody has computed it.
        reason: why the clip can't be read; its other numbers are 0 then.
    """

    clip: Clip
    shard: str = ""
    offset: int = 0
    bytes: int = 0
    rate: int = 0
    length: int = 0
    crc32: int | None = None
    reason: str | None = None


def pyarrow() -> Any:
    """The package; raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Tables of shards are Parquet: install pyarrow, or lightning-audio[shards]."
        ) from None
    return pyarrow


def schema() -> Any:
    """The columns of a table of clips: what a `Clip` has, where its bytes are, and why it has none."""
    pa = pyarrow()
    shared = pa.dictionary(pa.int32(), pa.string())
    kinds = {
        "id": pa.string(),
        "path": pa.string(),
        "start": pa.float64(),
        "duration": pa.float64(),
        "labels": pa.list_(shared),
        "text": pa.string(),
        "split": shared,
        "fold": pa.int32(),
        "group": pa.string(),
        "channel": pa.string(),
        "shard": shared,
        "offset": pa.int64(),
        "bytes": pa.int64(),
        "rate": pa.int32(),
        "length": pa.int64(),
        "crc32": pa.uint32(),
        "reason": pa.string(),
    }
    return pa.schema(list(kinds.items()))


def storable(clip: Clip) -> Clip:
    """The clip as a table gives it back, but for its path: what is no UTF-8 is spelled."""
    labels = tuple(map(encodable, clip.labels))
    group, text = (value and encodable(value) for value in (clip.group, clip.text))
    return replace(clip, id=encodable(clip.id), labels=labels, group=group, text=text)


def to_parquet(rows: Sequence[Row]) -> bytes:
    """The rows as the content of a file."""
    pa = pyarrow()
    columns: dict[str, list[Any]] = {
        field.name: [getattr(row.clip, field.name) for row in rows] for field in fields(Clip)
    }
    columns["labels"] = [[*map(encodable, labels)] for labels in columns["labels"]]
    columns["channel"] = [None if channel is None else str(channel) for channel in columns["channel"]]
    columns |= {name: [getattr(row, name) for row in rows] for name in PLACE}
    for name in ("id", "path", "text", "group", "reason"):
        columns[name] = [None if value is None else encodable(value) for value in columns[name]]
    content = io.BytesIO()
    table = pa.Table.from_pydict(columns, schema=schema())
    pa.parquet.write_table(table, content, compression="zstd", write_page_checksum=True)
    return content.getvalue()


class Table:
    """The columns of all parts; each is read when it is asked for, and kept by nobody here.

    Raises:
        UserError: a part is no such table.
    """

    def __init__(self, parts: Iterable[bytes], source: str, sort: bool = True) -> None:
        pa = pyarrow()
        self.source = source
        self._order: Any = None  # numbers of the rows, where they stand in another order
        with self._damage_told():
            self._files = [
                pa.parquet.ParquetFile(
                    io.BytesIO(part), read_dictionary=[*SHARED], page_checksum_verification=True
                )
                for part in parts
            ]
        ids = self["id"]
        if sort and len(ids) and not pa.compute.all(pa.compute.less_equal(ids[:-1], ids[1:])).as_py():
            self._order = pa.compute.sort_indices(ids)

    def checked(self) -> Table:
        """Itself, after a look at every column."""
        for name in schema().names:
            _ = self[name]
        return self

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self._files)

    def __getitem__(self, name: str) -> Any:
        """An Arrow array of the rows, in the order of the ids if that is wanted."""
        pa = pyarrow()
        kind = schema().field(name).type
        kind = pa.dictionary(pa.int32(), pa.string()) if name in SHARED else kind
        with self._damage_told():
            # Group by group: Arrow reads no lists of dictionaries across them.
            groups = [(file, number) for file in self._files for number in range(file.num_row_groups)]
            parts = [file.read_row_group(number, [name])[name].cast(kind) for file, number in groups]
            chunks = pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind)
            if len(chunks) != len(self):
                raise ValueError(f"the column {name} has {len(chunks)} rows of {len(self)}")
            chunks.validate(full=True)
            whole = chunks.unify_dictionaries().combine_chunks()
            return whole if self._order is None else whole.take(self._order)

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except (pyarrow().ArrowException, OSError, KeyError, ValueError) as error:
            raise UserError(
                f"A table of {self.source} is damaged ({error}): shard again, into another place."
            ) from error


def numbers(table: Table, column: str) -> np.ndarray:
    """A column of whole numbers `(N,)`, in as few bytes as they may be added in; 0 where there is none.

    One number that all rows share, such as their rate, is there once (and can't be written to).
    """
    found = numbers_of(table[column], 0) if len(table) else np.zeros(0)
    small = np.int32 if max(found.max(initial=0), -found.min(initial=0)) < 2**30 else np.int64
    return once(found.astype(found.dtype if found.dtype == np.uint32 else small))


def once(values: np.ndarray) -> np.ndarray:
    """The same values `(N,)`; one that all rows share is there once."""
    alike = (values == values[:1]).all()
    return np.broadcast_to(values[:1].copy(), values.shape) if alike else values


def coded(table: Table, column: str) -> tuple[list[str], np.ndarray]:
    """A column of repeated texts: the different ones, and which of them each row has."""
    found = column_of(table[column])
    return [*found.values], found.codes


def clips(table: Table) -> ClipTable:
    """The clips of all rows, in their order."""
    columns = {name: column_of(table[name]) for name in FIELDS if name != "id"}
    channels = columns["channel"]
    columns["channel"] = Column([int(c) if c.isdecimal() else c for c in channels.values], channels.codes)
    ids = texts_of(table["id"])  # each its own
    return ClipTable({**columns, "id": Column(ids, np.arange(len(ids), dtype=np.int32))})


def rows(table: Table) -> list[Row]:
    """The rows, in their order."""
    places = zip(*(table[name].to_pylist() for name in PLACE), strict=True)
    found = zip(clips(table), places, strict=True)
    return [Row(clip, shard or "", *numbers_) for clip, (shard, *numbers_) in found]
