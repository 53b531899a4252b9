"""Store: the values of every clip in one file, from which a batch is a gather, and an index beside it.

A small store is held against its checksums when it is opened, of a large one each clip when it is first read:
what is damaged is built again before anything is learned from it or scored.
"""

from __future__ import annotations

import io
import json
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lightning_audio.data.placement import read_array, residence
from lightning_audio.errors import UserError
from lightning_audio.io import write_file

CHECKED_AT_ONCE = 2**28  # bytes: a quarter of a second
INDEX, LENGTHS, CHECKSUMS = "index.json", "lengths.npy", "checksums.npy"


class Damaged(UserError):
    """The values of a store are not those that were written, and nothing is known to build them from."""


@dataclass(frozen=True)
class Index:
    """What stands beside the values of a store that is whole.

    Attributes:
        lengths: `(N,)` int64, of the clips.
        checksums: `(N,)` uint32, CRC-32 of the bytes of each clip.
        facts: what else the store has to know of itself, among it the `digest` of all values.
        size: of the values, in bytes.
    """

    lengths: np.ndarray
    checksums: np.ndarray
    facts: Mapping[str, Any]
    size: int


def read_index(folder: Path, values: str) -> Index | None:
    """The index of a store that is whole, else None.

    Whole is a store whose file of `values` has the size, and whose small files have the bytes, that its
    `index.json` says: a look at a few files, not at every clip.
    """
    try:
        told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if told.pop("crc32") != _crc_of(told) or (folder / values).stat().st_size != told["size"]:
            return None
        content = {name: (folder / name).read_bytes() for name in told["files"]}
        if any(zlib.crc32(content[name]) != crc for name, crc in told["files"].items()):
            return None
        lengths, checksums = (np.load(io.BytesIO(content[name])) for name in (LENGTHS, CHECKSUMS))
        return Index(lengths, checksums, told["facts"], told["size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def write_index(
    folder: Path,
    values: str,
    lengths: Sequence[int],
    checksums: Sequence[int],
    files: Iterable[str] = (),
    **facts: Any,
) -> None:
    """Puts an index beside the values, and other `files`, that lie in the folder already.

    `index.json` comes last. Arrays, not an object a clip: those of a million clips are read in no time.
    """
    for name, numbers, dtype in ((LENGTHS, lengths, np.int64), (CHECKSUMS, checksums, np.uint32)):
        array = io.BytesIO()
        np.save(array, np.asarray(numbers, dtype=dtype))
        write_file(folder / name, [array.getbuffer()])
    sums = {name: zlib.crc32((folder / name).read_bytes()) for name in (LENGTHS, CHECKSUMS, *files)}
    told = {"facts": facts, "size": (folder / values).stat().st_size, "files": sums}
    told = json.loads(json.dumps(told))
    write_file(folder / INDEX, [json.dumps(told | {"crc32": _crc_of(told)}, indent=1).encode()])


def _crc_of(told: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(told, sort_keys=True).encode())


class Store(ABC):
    """Values of all clips, in the order of their rows.

    A subclass names the `file` that holds them, their `dtype`, and how many values, the `tail`, stand behind
    those of each clip for what its padding is. It is pickled as the folder it stands in, and copies nothing.

    Attributes:
        lengths: `(N,)` of the clips.
        shape: of one value.

    Args:
        folder: a store that is whole; `open` finds or builds it.
        where: values are read from the "disk" (mapped), from "memory", or on the "device"; "auto" takes the
            last of these in which they fill less than a quarter of what is free.
        device: where they lie if `where` is "device"; `move` changes it.
        rebuild: builds the folder again where the index is gone from it.

    Raises:
        UserError: the folder is not whole.
    """

    file: ClassVar[str]
    dtype: ClassVar[type[np.generic]]
    tail: ClassVar[int] = 0

    def __init__(
        self,
        folder: Path,
        where: str = "disk",
        device: torch.device | str | None = None,
        rebuild: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.device, self.rebuild = folder, torch.device(device or "cpu"), rebuild
        self._mending = threading.Lock()
        self._take_index()
        self.where = residence(where, self._index.size, device)
        if self.where == "memory":
            self._values  # noqa: B018 - now: a run should not find later that memory is short

    def _take_index(self) -> None:
        index = read_index(self.folder, self.file)
        if index is None:
            raise UserError(f"The store {self.folder} is not whole: remove it, and it will be built again.")
        self._index = index
        self.shape: tuple[int, ...] = tuple(index.facts.get("shape", ()))
        self.lengths = torch.from_numpy(index.lengths)
        self._offsets = (self.lengths + self.tail).cumsum(0) - (self.lengths + self.tail)
        self._unchecked = np.ones(len(index.lengths), dtype=bool)

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.where, self.device)

    @cached_property
    def _mapped(self) -> np.ndarray:
        """All values on the disk, `(S,)`, or `(S, W)` where one value is an array."""
        values = read_array(self.folder / self.file, self.dtype, "disk", self.device)
        assert isinstance(values, np.ndarray)
        self._inode = (self.folder / self.file).stat().st_ino
        return values.reshape(-1, int(np.prod(self.shape))) if self.shape else values

    # Read when the first batch is: a store may be opened and no more, or moved to another device first.
    @cached_property
    def _values(self) -> np.ndarray | Tensor:
        """All values where batches are gathered from; on a device with zeros behind them.

        A window of any clip's length can then begin at the last clip.
        """
        if self.where == "disk":
            return self._mapped
        self._check(np.arange(len(self)))
        spare = 0 if self.shape else int(self.lengths.max())
        values = read_array(self.folder / self.file, self.dtype, self.where, self.device, spare)
        return values.reshape(-1, int(np.prod(self.shape))) if self.shape else values

    @cached_property
    def _spans_on_device(self) -> tuple[Tensor, Tensor]:
        return self._offsets.to(self.device), self.lengths.to(self.device)

    def move(self, device: torch.device) -> None:
        """Values that live on a device go to this one; others stay where they are."""
        if self.where == "device" and device != self.device:
            self.device = device
            self._forget("_values", "_spans_on_device")

    def _forget(self, *names: str) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def _is_sound(self, row: int) -> bool:
        start = int(self._offsets[row])
        clip = self._mapped[start : start + int(self.lengths[row]) + self.tail]
        return zlib.crc32(clip.data) == self._index.checksums[row]

    def _check(self, rows: np.ndarray) -> None:
        """Holds clips that are used for the first time against their checksums; builds a damaged store again.

        Raises:
            UserError: it can't be built again, or gives other values than it did.
        """
        for row in rows[self._unchecked[rows]].tolist():
            if not self._is_sound(row):
                self._mend(row)
            self._unchecked[row] = False

    def checked_if_small(self) -> Self:
        """Itself; all of its clips have been held against their checksums where that takes no time."""
        if self._index.size <= CHECKED_AT_ONCE:
            self._check(np.arange(len(self)))
        return self

    def _mend(self, row: int) -> None:
        with self._mending:
            if self._is_sound(row):  # since another thread has mended it meanwhile
                return
            if self.rebuild is None:
                raise Damaged(f"The store {self.folder} is damaged: remove it, and it will be built again.")
            self._discard()
            self.rebuild()
            before = self._index
            self._take_index()
            self._forget("_mapped", "_values", "_spans_on_device")
            if self._index.facts["digest"] != before.facts["digest"]:
                raise UserError(
                    f"The store {self.folder} was damaged and is built again, but not as it was: start the "
                    "command again."
                )

    def _discard(self) -> None:
        """Takes the index away, unless another process has built the store again meanwhile."""
        try:
            with FileLock(f"{self.folder}.lock"):
                if (self.folder / self.file).stat().st_ino == self._inode:
                    (self.folder / INDEX).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"The store {self.folder} is damaged, and nothing can be written there ({error.strerror}): "
                "remove it, or set paths.cache to another folder."
            ) from error

    def _gather(self, rows: Sequence[int] | Tensor, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """The values of the clips of `rows`, `(B, T, ...)`, and their lengths `(B,)`; `longest` may be T.

        Behind the shorter ones stand their tails, or else zeros. Both lie on the CPU, or on the store's
        device where it has one; `rows` are on the CPU.
        """
        rows = torch.as_tensor(rows)
        if self.where == "disk":
            self._check(rows.numpy())
        lengths = self.lengths[rows]
        values = self._values
        if isinstance(values, Tensor):
            return self._gather_on_device(values, rows, lengths, longest)
        spans = zip(self._offsets[rows].tolist(), lengths.tolist(), strict=True)
        gathered = np.empty((len(rows), longest or int(lengths.max()), *values.shape[1:]), self.dtype)
        for clip, (offset, length) in zip(gathered, spans, strict=True):
            clip[:length] = values[offset : offset + length]
            clip[length:] = values[offset + length] if self.tail else 0
        return torch.from_numpy(gathered), lengths

    @abstractmethod
    def _gather_on_device(
        self, values: Tensor, rows: Tensor, lengths: Tensor, longest: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same of values on a device; `rows` and their `lengths` are on the CPU."""
