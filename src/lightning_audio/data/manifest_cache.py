"""Tables of clips by their columns: what was read and checked once is read again many times faster."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.io import write_atomically

VERSION = 4  # of what a manifest means and how its columns are written: an older table is not read
NUMBER = "<u4"  # of a value of a column
WORTH_IT = 2**20  # bytes of manifests; smaller ones are read in a moment

_log = logging.getLogger(__name__)


def remembered(
    files: Sequence[Path], options: Sequence[Any], cache: Path, read: Callable[[], list[Clip]]
) -> list[Clip]:
    """What `read` gives for these files and options, remembered under `cache` while they stay the same.

    The files are compared by their content. Whether the audio is still there is not asked: a store does.
    """
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) < WORTH_IT:
        return read()
    table = Path(cache) / "tables" / f"{_key(files, options)}.json"
    clips = read_columns(table)
    if clips is None:
        clips = read()
        try:
            write_columns(clips, table)
        except OSError as error:  # there is no need for it
            _log.info("The table of clips cannot be kept in %s (%s)", table.parent, error.strerror)
    return clips


def write_columns(clips: Sequence[Clip], path: Path) -> None:
    """Each column as its different values and their numbers in the rows; whole, or not there.

    One without repeats has no numbers, its values are those of the rows; nor has one with a single value.
    """
    columns = {}
    for field in fields(Clip):
        column = [getattr(clip, field.name) for clip in clips]
        numbers = {value: number for number, value in enumerate(dict.fromkeys(column))}
        plain = len(numbers) in (1, len(column))
        columns[field.name] = [[*numbers], None if plain else _packed([numbers[value] for value in column])]
    write_atomically(path, json.dumps(columns))


def read_columns(path: Path) -> list[Clip] | None:
    """The clips, which share the values that they have in common; None where there is no such table."""
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
        columns["labels"][0] = [tuple(labels) for labels in columns["labels"][0]]
        return _clips(columns)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


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


@uncollected()
def _clips(columns: Mapping[str, Sequence[Any]]) -> list[Clip]:
    rows = len(columns["id"][0])
    return filled({name: _unpacked(values, packed, rows) for name, (values, packed) in columns.items()}, rows)


def filled(columns: Mapping[str, Sequence[Any]], rows: int) -> list[Clip]:
    """Clips, made column by column, for a million calls of Clip(...) take three times as long."""
    clips = list(map(object.__new__, repeat(Clip, rows)))
    for field in fields(Clip):
        column = columns[field.name]
        if len(column) != rows:
            raise ValueError(f"the column {field.name} has {len(column)} rows of {rows}")
        fill = vars(Clip)[field.name].__set__  # past the dataclass, which is frozen
        deque(map(fill, clips, column), maxlen=0)
    return clips


def _packed(numbers: Sequence[int]) -> str:
    """Numbers from 0 on as text that is read many times faster than a list in JSON."""
    return base64.b64encode(np.array(numbers, dtype=NUMBER).tobytes()).decode()


def _unpacked(values: Sequence[Any], packed: str | None, rows: int) -> Sequence[Any]:
    """The value of each row."""
    if packed is None:
        return [*values] * rows if len(values) == 1 else values
    numbers = np.frombuffer(base64.b64decode(packed), dtype=NUMBER).tolist()
    return [values[number] for number in numbers]


def _key(files: Sequence[Path], options: Sequence[Any]) -> str:
    names = [str(file) for file in files]
    digest = hashlib.sha256(f"{VERSION} {json.dumps([names, options])}\n".encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
