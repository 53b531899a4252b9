"""Arrow tables as columns of clips."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightning_audio.data.clip_table import NONE, Column, Texts, distinct, narrow

LONGEST = 4096  # bytes of a line: Arrow's stack overflows where some 10,000 brackets are open
MANY = 1000  # texts that take much room as Python strings


def json_columns(block: bytes, kind_of: Callable[[str], str]) -> Any:
    """An Arrow table of whole lines of JSON, or None where Arrow might not say what Python's json does.

    So it is without Arrow, where a line is not one object alone, or is long, or where values of a name differ
    in kind. `kind_of` names the kind of a column, "" where it is to be guessed.
    """
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    alone = block.startswith(b"{") and block.count(b"}\n{") == len(ends) - 1 and block.endswith(b"}\n")
    if not alone or np.diff(ends, prepend=0).max() > LONGEST:
        return None
    try:
        import pyarrow
        from pyarrow.json import ParseOptions, ReadOptions, read_json
    except ImportError:
        return None
    try:
        block.decode()
        kinds = {name: kind for name in json.loads(block[: ends[0]]) if (kind := kind_of(name))}
        schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in kinds.items()])
        how = ReadOptions(use_threads=False, block_size=len(block))
        table = read_json(io.BytesIO(block), how, ParseOptions(explicit_schema=schema))
    except (ValueError, RecursionError, pyarrow.ArrowException):
        return None
    return table if len(table) == len(ends) else None


def numbers_of(found: Any, none: int) -> np.ndarray:
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


def column_of(found: Any) -> Column:
    """An Arrow array with each different value once."""
    from pyarrow import types

    if found.null_count == len(found):
        return Column.constant(None, len(found))
    if types.is_list(found.type):
        return _lists(found)
    found = found if types.is_dictionary(found.type) else found.dictionary_encode()
    values, codes = found.dictionary, numbers_of(found.indices, NONE)
    if types.is_string(values.type) and len(values) > MANY:
        different: Sequence[Any] = texts_of(values)
    elif types.is_floating(values.type):
        different = array("d", numbers_of(values, 0).tobytes())
    else:
        different = values.to_pylist()
    return Column(different, narrow(codes, len(different)))


def texts_of(found: Any) -> Texts:
    """Arrow strings without nulls, whose bytes are not copied."""
    _, ends, content = found.buffers()
    ends = np.frombuffer(ends, np.int32, len(found) + 1, 4 * found.offset)
    return Texts(content or b"", ends)


def _lists(found: Any) -> Column:
    """Arrow lists as tuples: what stands first in a row, then with what stands second, and so on."""
    starts, parts = numbers_of(found.offsets, 0), column_of(found.values)
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
