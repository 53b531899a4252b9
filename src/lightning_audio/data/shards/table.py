"""The table of a set of shards: one row a clip, as Parquet columns."""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import FIELDS, NONE, ClipTable, Column, Texts, distinct, narrow
from lightning_audio.errors import UserError, encodable

# Beside the fields of Clip, where its samples are; `reason` says why a clip has none.
SHARED = ("path", "text", "group")  # texts that may be those of many rows
MANY = 1000  # texts that take much room as Python strings
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
    found = _numbers(table[column], 0) if len(table) else np.zeros(0)
    small = np.int32 if max(found.max(initial=0), -found.min(initial=0)) < 2**30 else np.int64
    return once(found.astype(found.dtype if found.dtype == np.uint32 else small))


def once(values: np.ndarray) -> np.ndarray:
    """The same values `(N,)`; one that all rows share is there once."""
    alike = (values == values[:1]).all()
    return np.broadcast_to(values[:1].copy(), values.shape) if alike else values


def _numbers(found: Any, none: int) -> np.ndarray:
    """An Arrow array of numbers; not by what Arrow has for it, which takes a second to import pandas."""
    kind = np.dtype(found.type.to_pandas_dtype())
    numbers = np.frombuffer(found.buffers()[1], kind, len(found), kind.itemsize * found.offset)
    return np.where(is_null(found), none, numbers) if found.null_count else numbers


def is_null(found: Any) -> np.ndarray:
    """Which of an Arrow array are, `(N,)` bool."""
    if found.null_count in (0, len(found)):
        return np.full(len(found), found.null_count > 0)
    bits = np.unpackbits(np.frombuffer(found.buffers()[0], np.uint8), bitorder="little")
    return bits[found.offset : found.offset + len(found)] == 0


def coded(table: Table, column: str) -> tuple[list[str], np.ndarray]:
    """A column of repeated texts: the different ones, and which of them each row has."""
    found = _column(table[column])
    return [*found.values], found.codes


def clips(table: Table) -> ClipTable:
    """The clips of all rows, in their order."""
    columns = {name: _column(table[name]) for name in FIELDS if name != "id"}
    channels = columns["channel"]
    columns["channel"] = Column([int(c) if c.isdecimal() else c for c in channels.values], channels.codes)
    ids = _texts(table["id"])  # each its own
    return ClipTable({**columns, "id": Column(ids, np.arange(len(ids), dtype=np.int32))})


def _column(found: Any) -> Column:
    """An Arrow array with each different value once."""
    types = pyarrow().types
    if found.null_count == len(found):
        return Column.constant(None, len(found))
    if types.is_list(found.type):
        return _lists(found)
    found = found if types.is_dictionary(found.type) else found.dictionary_encode()
    values, codes = found.dictionary, _numbers(found.indices, NONE)
    if types.is_string(values.type) and len(values) > MANY:
        different: Sequence[Any] = _texts(values)
    elif types.is_floating(values.type):
        different = array("d", _numbers(values, 0).tobytes())
    else:
        different = values.to_pylist()
    return Column(different, narrow(codes, len(different)))


def _texts(found: Any) -> Texts:
    """Arrow strings without nulls, whose bytes are not copied."""
    _, ends, content = found.buffers()
    ends = np.frombuffer(ends, np.int32, len(found) + 1, 4 * found.offset)
    return Texts(content or b"", ends)


def _lists(found: Any) -> Column:
    """Arrow lists as tuples: what stands first in a row, then with what stands second, and so on."""
    starts, parts = _numbers(found.offsets, 0), _column(found.values)
    lengths, codes, different = np.diff(starts), np.zeros(len(found), np.int64), 1
    for place in range(lengths.max(initial=0)):
        has = lengths > place
        codes *= len(parts.values) + 1
        codes[has] += parts.codes[starts[:-1][has] + place].astype(np.int64) + 1
        keys = distinct(codes)
        codes, different = np.searchsorted(keys, codes), len(keys)
    row = np.zeros(different, np.int64)
    row[codes] = np.arange(len(codes))  # any of those that have the value
    values = [tuple(parts.at(slice(starts[one], starts[one + 1]))) for one in row.tolist()]
    return Column(values, narrow(codes, different))


def rows(table: Table) -> list[Row]:
    """The rows, in their order."""
    places = zip(*(table[name].to_pylist() for name in PLACE), strict=True)
    found = zip(clips(table), places, strict=True)
    return [Row(clip, shard or "", *numbers_) for clip, (shard, *numbers_) in found]
