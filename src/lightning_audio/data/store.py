"""WaveStore: every clip decoded once, as int16 samples in one file, from which a batch is a gather."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_audio.data.batch import sent
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import DECODER, AudioError, decode_clips
from lightning_audio.data.index import BYTES_PER_SAMPLE, SAMPLES, read_index, write_index, write_through
from lightning_audio.data.residency import (
    WHERE,
    fitting,
    free_memory,
    free_on,
    gather_in_memory,
    gather_on_device,
    samples_on,
)
from lightning_audio.errors import UserError

T = TypeVar("T")

STORE_VERSION = 2  # of what lies in a folder and of its key: an older store is not misread
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class WaveStore:
    """All clips of a corpus at one rate: one int16 file and an index beside it.

    A store is pickled as the folder it stands in, so a worker process maps the file again and copies nothing.

    Attributes:
        hash: a digest of the samples themselves, the same on every machine that decodes alike.
        lengths: `(N,)` in samples.
        sample_rate: in Hz.

    Args:
        folder: a store that is whole; `open` finds or builds it.
        where: the samples are read from the "disk" (mapped), from "memory", or on the "device"; "auto" takes
            the last of these in which they fill less than a quarter of what is free.
        device: where they lie if `where` is "device"; `move` changes it.
    """

    def __init__(self, folder: Path, where: str = "disk", device: torch.device | str | None = None) -> None:
        index = read_index(folder)
        if index is None:
            raise UserError(f"The store {folder} is not whole: remove it, and it will be built again.")
        if where == "auto":
            where = fitting(int(index.lengths.sum()) * BYTES_PER_SAMPLE, free_on(device), free_memory())
        self.folder, self.where, self.device = folder, where, torch.device(device or "cpu")
        self.hash, self.sample_rate = index.digest, index.sample_rate
        self.lengths = torch.from_numpy(index.lengths)
        self._index, self._offsets = index, self.lengths.cumsum(0) - self.lengths
        if where == "memory":
            self._samples  # noqa: B018 - now, so that worker processes that are forked share it

    @classmethod
    def open(
        cls,
        clips: Sequence[Clip],
        sample_rate: int,
        cache: Path,
        where: str = "disk",
        device: torch.device | str | None = None,
    ) -> WaveStore:
        """The store of these clips under `cache`; built, by one process alone, where it is not there yet.

        Raises:
            UserError: files are missing or cannot be decoded, all of them told at once; the cache cannot be
                written to or is full; `where` is none of WHERE.
        """
        if where not in WHERE:
            raise UserError(f"A store cannot be read from {where!r}: choose one of {', '.join(WHERE)}.")
        clips = sorted(clips, key=lambda clip: clip.id)
        folder = folder_of(clips, sample_rate, cache)
        if read_index(folder) is None:
            _build_once(clips, sample_rate, folder)
        return cls(folder, where, device)

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return WaveStore, (self.folder, self.where, self.device)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Those of the clips, in the order of the rows."""
        return self._index.ids()

    @cached_property
    def _rows(self) -> dict[str, int]:
        return dict(zip(self.ids, range(len(self)), strict=True))

    # Read when the first batch is: a store may be opened and no more, or moved to another device first.
    @cached_property
    def _samples(self) -> np.ndarray | Tensor:
        path = self.folder / SAMPLES
        if self.where == "device":
            return samples_on(self.device, path, int(self.lengths.max()))
        if self.where == "memory":
            return np.fromfile(path, dtype=np.int16)
        # A plain array over the map: np.memmap's own slicing costs more than the copy of a short clip.
        return np.asarray(np.memmap(path, dtype=np.int16, mode="r"))

    @cached_property
    def _index_on_device(self) -> tuple[Tensor, Tensor]:
        return self._offsets.to(self.device), self.lengths.to(self.device)

    def row(self, clip_id: str) -> int:
        """The row of a clip."""
        return self._rows[clip_id]

    def rows(self, clips: Iterable[Clip]) -> Tensor:
        """The rows of many clips, `(N,)` int64."""
        rows = self._rows
        return torch.tensor([rows[clip.id] for clip in clips], dtype=torch.int64)

    def move(self, device: torch.device) -> None:
        """Samples that live on a device go to this one; others stay where they are."""
        if self.where == "device" and device != self.device:
            self.device = device
            for on_device in ("_samples", "_index_on_device"):
                self.__dict__.pop(on_device, None)

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """The clips of `rows` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths `(B,)`.

        T is the longest of them. Both lie on the CPU, or on the store's device where it has one. `rows` are
        on the CPU.
        """
        rows = torch.as_tensor(rows)
        lengths = self.lengths[rows]
        if isinstance(self._samples, Tensor):
            shortest, longest = (int(length) for length in lengths.aminmax())
            there = sent(rows, self.device)
            offsets, lengths = (values[there] for values in self._index_on_device)
            return gather_on_device(self._samples, offsets, lengths, longest, ragged=shortest < longest)
        return gather_in_memory(self._samples, self._offsets[rows], lengths)


def folder_of(clips: Sequence[Clip], sample_rate: int, cache: Path) -> Path:
    """Where the store of these clips, in the order of their ids, lies once it is built."""
    return Path(cache) / "stores" / _key(clips, sample_rate)


def _key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Names a store by its clips, the size and time of change of their files, the rate and the decoder.

    Splits, folds and labels are left out, so that all folds of a corpus share one store.
    """
    stats = _stats(clips)
    here = f"{Path.cwd()}{os.sep}"
    # By columns: a line for each clip took ten times as long.
    paths = [clip.path if clip.path.startswith(os.sep) else here + clip.path for clip in clips]
    times = ([clip.start for clip in clips], [clip.duration for clip in clips])
    files = chain.from_iterable(stats[clip.path] for clip in clips)
    digest = hashlib.sha256(f"store {STORE_VERSION}, {DECODER}, {sample_rate} Hz\n".encode())
    digest.update(json.dumps([[clip.id for clip in clips], paths]).encode())
    for column in times:
        digest.update(np.array(column, dtype="<f8"))  # None becomes NaN
    digest.update(np.fromiter(files, dtype="<i8", count=2 * len(clips)))
    return digest.hexdigest()[:16]


def _stats(clips: Iterable[Clip]) -> dict[str, tuple[int, int]]:
    """The size in bytes and the time of change in ns of every file, asked once each."""
    stats, missing = {}, []
    paths = dict.fromkeys(clip.path for clip in clips)
    for path in paths:
        try:
            stat = os.stat(path)  # noqa: PTH116 - a Path for each of a million files takes longer than the files
            stats[path] = stat.st_size, stat.st_mtime_ns
        except (OSError, ValueError):
            missing.append(path)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} audio files are missing, such as {', '.join(missing[:3])}: "
            "put them there or correct their paths."
        )
    return stats


def _build_once(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    """Builds the store unless another process has done so by the time that the lock is ours."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if read_index(folder) is None:
                _build(clips, sample_rate, folder)
    except OSError as error:
        raise UserError(
            f"The decoded audio cannot be written to {folder.parent} ({error.strerror}): "
            "set paths.cache to a folder that can be written to."
        ) from error


def _build(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    """Writes the store to a folder of another name, which gets its own name once all of it is on the disk."""
    for left_over in folder.parent.glob(f".{folder.name}.partial-*"):
        shutil.rmtree(left_over)  # Of a build that was killed: a living one would hold the lock.
    unfinished = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    unfinished.mkdir()
    _log.info("Decoding %d clips at %d Hz to %s", len(clips), sample_rate, folder)
    lengths: list[int] = []
    try:
        digest = write_through(unfinished / SAMPLES, _decoded(clips, sample_rate, lengths))
        ids = [clip.id for clip in clips]
        write_index(unfinished, digest, sample_rate, ids, lengths, decoder=DECODER)
        shutil.rmtree(folder, ignore_errors=True)  # One that is there all the same has lost its tail.
        unfinished.rename(folder)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        needed = sum(lengths) / max(len(lengths), 1) * len(clips) * BYTES_PER_SAMPLE
        raise UserError(
            f"The disk of {folder.parent} is full: the decoded audio needs about {needed / 1e9:.2g} GB, "
            "so make room or set paths.cache to another disk."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The items, with a bar for somebody who watches on a terminal."""
    console = Console(stderr=True, force_jupyter=False)  # text: a notebook may have no widgets
    hidden = not console.is_terminal
    return track(items, what, total, console=console, transient=True, disable=hidden)


def _decoded(clips: Sequence[Clip], sample_rate: int, lengths: list[int]) -> Iterator[memoryview]:
    """The samples of the clips in their order, each one's length appended to `lengths`.

    Goes on past files that cannot be read, so that one error at the end names all of them.
    """
    bad: dict[str, str] = {}
    results = decode_clips(clips, sample_rate)
    for result in progress(results, "Decoding", len(clips)):
        if isinstance(result, AudioError):
            bad[str(result.path)] = result.reason
        else:
            lengths.append(len(result))
            yield result.data
    if bad:
        shown = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(f"{len(bad)} audio files cannot be read, mend them or leave them out: {shown}{more}.")
