"""Tables of clips by their columns: what was read and checked once is read again many times faster."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import FIELDS, ClipTable, Column, Texts
from lightning_audio.io import write_atomically

VERSION = 6  # of what a manifest means and how its columns are written: an older table is not read
MANY = 1000  # texts that take much room as Python strings
WORTH_IT = 2**20  # bytes of manifests; smaller ones are read in a moment

_log = logging.getLogger(__name__)


def remembered(
    files: Sequence[Path], options: Sequence[Any], cache: Path, read: Callable[[], Sequence[Clip]]
) -> ClipTable:
    """What `read` gives for these files and options, remembered under `cache` while they stay the same.

    The files are compared by their content. Whether the audio is still there is not asked: a store does.
    """
    if not all(file.is_file() for file in files) or sum(file.stat().st_size for file in files) < WORTH_IT:
        return ClipTable.of(read())
    table = Path(cache) / "tables" / f"{_key(files, options)}.npz"
    clips = read_columns(table)
    if clips is None:
        clips = ClipTable.of(read())
        try:
            write_columns(clips, table)
        except OSError as error:  # there is no need for it
            _log.info("The table of clips cannot be kept in %s (%s)", table.parent, error.strerror)
    return clips


def write_columns(clips: ClipTable, path: Path) -> None:
    """Each column as its values and their numbers in the rows; whole, or not there."""
    arrays: dict[str, np.ndarray] = {}
    for name, column in clips.columns.items():
        values = column.values
        if len(values) > MANY and not isinstance(values, Texts) and isinstance(values[0], str):
            values = Texts.of(values)
        if isinstance(values, Texts):
            arrays[f"{name}.content"] = np.frombuffer(values.content, np.uint8)
            arrays[f"{name}.ends"] = values.ends
        else:
            arrays[f"{name}.values"] = np.frombuffer(json.dumps([*values]).encode(), np.uint8)
        arrays[f"{name}.codes"] = column.codes
    write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def read_columns(path: Path) -> ClipTable | None:
    """The clips; None where there is no such table."""
    try:
        with np.load(path) as arrays:
            table = ClipTable({name: _column(arrays, name) for name in FIELDS})
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    labels = table.column("labels")
    return table.replaced("labels", Column([*map(tuple, labels.values)], labels.codes))


def _column(arrays: Mapping[str, np.ndarray], name: str) -> Column:
    codes = arrays[f"{name}.codes"]
    if f"{name}.ends" in arrays:
        return Column(Texts(arrays[f"{name}.content"].data, arrays[f"{name}.ends"]), codes)
    return Column(json.loads(arrays[f"{name}.values"].tobytes()), codes)


def _key(files: Sequence[Path], options: Sequence[Any]) -> str:
    names = [str(file) for file in files]
    digest = hashlib.sha256(f"{VERSION} {json.dumps([names, options])}\n".encode())
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
