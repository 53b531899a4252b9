"""GrowingStore: the values of clips as they are computed, so that a process that is killed loses seconds."""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from lightning_audio.data.store import write_index
from lightning_audio.io import sha256_of

JOURNAL = "journal.jsonl"  # what is on the disk: a line for each time that values went there
SAVED_EVERY = 5.0  # seconds


class GrowingStore:
    """A folder that gets the values of one clip after another; where one was left, it continues.

    Values go to the disk before the line of the journal that says so; what stands behind the last whole line
    is cut off.

    Args:
        folder: made where it is not there.
        values: the name of the file of values.

    Attributes:
        lengths, checksums: of the clips that are there.
        shape: of one value.
    """

    def __init__(self, folder: Path, values: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.file = folder, folder / values
        self.lengths: list[int] = []
        self.checksums: list[int] = []
        self.shape: tuple[int, ...] = ()
        self._size = 0
        journaled = self._read()
        self._values, self._journal = (path.open("ab") for path in (self.file, folder / JOURNAL))
        self._values.truncate(self._size)
        self._journal.truncate(journaled)
        self._saved, self._told = time.monotonic(), len(self.lengths)

    def _read(self) -> int:
        """Takes what the journal says that is there; returns how many of its own bytes are whole."""
        whole = 0
        try:
            there = self.file.stat().st_size
            for line in (self.folder / JOURNAL).read_bytes().splitlines(keepends=True):
                told = json.loads(line)
                if told["bytes"] > there or not line.endswith(b"\n"):
                    break
                self._size, self.shape = told["bytes"], tuple(told["shape"])
                self.lengths += told["lengths"]
                self.checksums += told["checksums"]
                whole += len(line)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none yet, or its last line was cut short
        return whole

    def append(self, values: np.ndarray, length: int) -> None:
        """The next clip: `(length + tail, ...)`, contiguous."""
        self.shape = values.shape[1:]
        self.lengths.append(length)
        self.checksums.append(zlib.crc32(values.data))
        self._size += self._values.write(values.data)

    def save_now_and_then(self) -> bool:
        """To the disk, where the last time is a while ago; whether it is."""
        if due := time.monotonic() - self._saved > SAVED_EVERY:
            self.save()
        return due

    def save(self) -> None:
        _to_disk(self._values)
        new = {"lengths": self.lengths[self._told :], "checksums": self.checksums[self._told :]}
        self._journal.write(json.dumps({"bytes": self._size, "shape": self.shape, **new}).encode() + b"\n")
        _to_disk(self._journal)
        self._saved, self._told = time.monotonic(), len(self.lengths)

    def move_to(self, folder: Path, **facts: Any) -> None:
        """Puts the values and an index into a folder; nothing can be appended any more."""
        self.save()
        self._values.close()
        digest = sha256_of(self.file)[:16]
        moved = self.file.rename(folder / self.file.name)
        write_index(
            folder, moved.name, self.lengths, self.checksums, digest=digest, shape=self.shape, **facts
        )
        self._journal.close()
        (self.folder / JOURNAL).unlink()
        self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.close()
        self._journal.close()


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
