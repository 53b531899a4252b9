"""The table of a set of shards: one row a clip, as Parquet columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.manifest_cache import filled, uncollected
from lightning_audio.errors import UserError, encodable

# Beside the fields of Clip, where its samples are; `reason` says why a clip has none.
SAMPLE = 1000  # rows by which it is seen whether a column repeats its values
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


def from_parquet(parts: Iterable[bytes], source: str, sort: bool = True) -> Any:
    """One Arrow table of all parts, in the order of the ids unless that is not wanted.

    Raises:
        UserError: a part is no such table.
    """
    pa = pyarrow()
    try:
        tables = [
            pa.parquet.read_table(io.BytesIO(part), page_checksum_verification=True).cast(schema())
            for part in parts
        ]
        whole = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        return whole.sort_by("id") if sort else whole
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"A table of {source} is damaged ({error}): shard again, into another place."
        ) from error


def numbers(table: Any, column: str) -> np.ndarray:
    """A column of numbers `(N,)`; 0 where there is none."""
    return table[column].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)


def coded(table: Any, column: str) -> tuple[list[str], np.ndarray]:
    """A column of repeated texts: the different ones, and which of them each row has."""
    pa = pyarrow()
    array = table[column].combine_chunks()
    array = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    return array.dictionary.to_pylist(), array.indices.fill_null(-1).to_numpy(zero_copy_only=False)


@uncollected()
def clips(table: Any) -> list[Clip]:
    """The clips of all rows, in their order; they share the values that they have in common."""
    columns = {field.name: _values(table[field.name].combine_chunks()) for field in fields(Clip)}
    columns["channel"] = [int(c) if c and c.isdecimal() else c for c in columns["channel"]]
    return filled(columns, len(table))


def _values(array: Any) -> list[Any]:
    """Those of a column, each different one once in memory; lists as tuples."""
    types = pyarrow().types
    if array.null_count == len(array):
        return [None] * len(array)
    if types.is_list(array.type):
        ends, parts = array.offsets.to_numpy().tolist(), _values(array.values)
        known: dict[Any, Any] = {}
        found = (tuple(parts[start:end]) for start, end in pairwise(ends))
        return [known.setdefault(one, one) for one in found]
    if not types.is_dictionary(array.type):
        first = array[:SAMPLE]
        if len(first.unique()) > len(first) / 2:
            return array.to_pylist()  # as ids, which have nothing in common
        array = array.dictionary_encode()
    different = [*array.dictionary.to_pylist(), None]
    return [different[code] for code in array.indices.fill_null(len(different) - 1).to_numpy().tolist()]


def rows(table: Any) -> list[Row]:
    """The rows, in their order."""
    places = zip(*(table[name].to_pylist() for name in PLACE), strict=True)
    found = zip(clips(table), places, strict=True)
    return [Row(clip, shard or "", *numbers_) for clip, (shard, *numbers_) in found]
