"""WaveStore: every clip decoded once, as int16 samples in one file, from which a batch is a gather."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_audio.data.batch import sent
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import DECODER, AudioError, decode_clips
from lightning_audio.data.placement import gather_in_memory, gather_on_device, read_array, residence
from lightning_audio.data.quarantine import QUARANTINE, Unread, as_jsonl, read_quarantine, refuse_many
from lightning_audio.data.store_index import BYTES_PER_SAMPLE, SAMPLES, read_index, write_index
from lightning_audio.errors import UserError
from lightning_audio.io import build_once, write_file

T = TypeVar("T")

STORE_VERSION = 3  # of what lies in a folder and of its key: an older store is not misread

_log = logging.getLogger(__name__)


class WaveStore:
    """All clips of a corpus at one rate: one int16 file and an index beside it.

    A store is pickled as the folder it stands in, so a worker process maps the file again and copies nothing.

    Attributes:
        hash: a digest of the samples themselves, the same on every machine that decodes alike.
        unread: the clips that it lacks, since their audio can't be read; listed in its `quarantine.jsonl`.
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
        where = residence(where, int(index.lengths.sum()) * BYTES_PER_SAMPLE, device)
        self.folder, self.where, self.device = folder, where, torch.device(device or "cpu")
        self.hash, self.sample_rate = index.digest, index.sample_rate
        self.lengths = torch.from_numpy(index.lengths)
        self._index, self._offsets = index, self.lengths.cumsum(0) - self.lengths
        self.unread = read_quarantine(folder / QUARANTINE)
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
        max_bad_fraction: float = 0.0,
    ) -> WaveStore:
        """The store of these clips under `cache`; built, by one process alone, where it is not there yet.

        Clips that cannot be decoded are left out and listed, up to a share of `max_bad_fraction` of all
        clips. The store is kept in any case, so that the next opening knows them, and holds them against its
        own share.

        Raises:
            UserError: files are missing, or more than `max_bad_fraction` cannot be decoded, all told at
                once; the cache cannot be written to or is full; `where` is none of WHERE.
        """
        residence(where, 0)
        clips = sorted(clips, key=attrgetter("id"))
        folder = folder_of(clips, sample_rate, cache)
        if read_index(folder) is None:
            _build_once(clips, sample_rate, folder)
        unread = read_quarantine(folder / QUARANTINE)
        refuse_many(unread, len(clips), max_bad_fraction, folder / QUARANTINE)
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
        # On a device with zeros at the end: a window of any clip's length can begin at the last clip.
        longest = int(self.lengths.max())
        return read_array(self.folder / SAMPLES, np.int16, self.where, self.device, spare=longest)

    @cached_property
    def _index_on_device(self) -> tuple[Tensor, Tensor]:
        return self._offsets.to(self.device), self.lengths.to(self.device)

    def row(self, clip_id: str) -> int:
        """The row of a clip."""
        return self._rows[clip_id]

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
    # By columns, for a line for each clip took ten times as long; clips in a row that share a file are one
    # run, and a file is asked about once a run.
    ids, paths = (list(map(attrgetter(field), clips)) for field in ("id", "path"))
    first = [0, *(row for row, (path, next_) in enumerate(pairwise(paths), start=1) if path != next_)]
    files = [paths[row] for row in first]
    stats = _stats(files)
    here = f"{Path.cwd()}{os.sep}"
    absolute = [path if path.startswith(os.sep) else here + path for path in files]
    digest = hashlib.sha256(f"store {STORE_VERSION}, {DECODER}, {sample_rate} Hz\n".encode())
    for texts in (ids, absolute):
        # With the lengths of the texts, for what stands between them may stand in them.
        digest.update(np.fromiter(map(len, texts), dtype="<i8", count=len(texts)).data)
        digest.update("\n".join(texts).encode(errors="surrogatepass"))
    for times in ("start", "duration"):
        digest.update(np.array(list(map(attrgetter(times), clips)), dtype="<f8").data)  # None becomes NaN
    digest.update(np.array(first, dtype="<i8").data)
    digest.update(stats.data)
    return digest.hexdigest()[:16]


def _stats(paths: Sequence[str]) -> np.ndarray:
    """The size in bytes and the time of change in ns of every file, `(2N,)`.

    Raises:
        UserError: files are missing; the first ones are named.
    """
    try:
        # Not by `Path`, which takes longer than the files.
        told = (value for stat in map(os.stat, paths) for value in (stat.st_size, stat.st_mtime_ns))
        return np.fromiter(told, dtype="<i8", count=2 * len(paths))
    except (OSError, ValueError):
        wanted = dict.fromkeys(paths)
        missing = [path for path in wanted if not os.path.exists(path)]  # noqa: PTH110 - no error for odd names
        raise UserError(
            f"{len(missing)} of {len(wanted)} audio files are missing, such as {', '.join(missing[:3])}: "
            "put them there or correct their paths."
        ) from None


def _build_once(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    lengths: list[int] = []
    unread: list[Unread] = []

    def write(unfinished: Path) -> None:
        _log.info("Decoding %d clips at %d Hz to %s", len(clips), sample_rate, folder)
        digest = write_file(unfinished / SAMPLES, _decoded(clips, sample_rate, lengths, unread))
        if unread:
            write_file(unfinished / QUARANTINE, [as_jsonl(unread).encode()])
        lacking = {row.id for row in unread}
        ids = [clip.id for clip in clips if clip.id not in lacking]
        write_index(unfinished, digest, sample_rate, ids, lengths, decoder=DECODER)

    def needed() -> float:
        return sum(lengths) / max(len(lengths), 1) * len(clips) * BYTES_PER_SAMPLE

    build_once(folder, lambda: read_index(folder) is not None, write, "decoded audio", needed)


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The items, with a bar for somebody who watches on a terminal."""
    console = Console(stderr=True, force_jupyter=False)  # text: a notebook may have no widgets
    hidden = not console.is_terminal
    return track(items, what, total, console=console, transient=True, disable=hidden)


def _decoded(
    clips: Sequence[Clip], sample_rate: int, lengths: list[int], unread: list[Unread]
) -> Iterator[memoryview]:
    """The samples of the clips in their order; each one's length is appended to `lengths`.

    Goes on past clips that cannot be read, which are appended to `unread`.

    Raises:
        UserError: at the end, where the system did not let files be read: that may be other the next time.
    """
    refused: dict[str, str] = {}
    results = decode_clips(clips, sample_rate)
    for clip, result in zip(clips, progress(results, "Decoding", len(clips)), strict=True):
        if not isinstance(result, AudioError):
            lengths.append(len(result))
            yield result.data
        elif result.lasting:
            unread.append(Unread(clip.id, clip.path, result.reason))
        else:
            refused[clip.path] = result.reason
    if refused:
        shown = "; ".join(f"{path}: {reason}" for path, reason in [*refused.items()][:5])
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise UserError(
            f"{len(refused)} audio files cannot be opened, see to it that they can: {shown}{more}."
        )
