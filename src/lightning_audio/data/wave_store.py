"""WaveStore: every clip decoded once, as int16 samples in one file, from which a batch is a gather."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_audio.data.batch import sent
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable, in_order
from lightning_audio.data.decode import DECODER, AudioError, decode_clips
from lightning_audio.data.later import Later
from lightning_audio.data.placement import gather_on_device, residence
from lightning_audio.data.quarantine import QUARANTINE, Quarantined, as_jsonl, read_quarantine, refuse_many
from lightning_audio.data.store import INDEX, Store, read_index, write_index
from lightning_audio.errors import UserError, listed
from lightning_audio.io import build_once, write_atomically, write_file

T = TypeVar("T")

SAMPLES, IDS = "samples.int16", "ids.json"
MANY = 20_000  # clips: to ask for the state of a file for each takes a tenth of a second or more
STORE_VERSION = 5  # of what lies in a folder and of its key: an older store is not misread

_log = logging.getLogger(__name__)


class WaveStore(Store):
    """All clips of a corpus at one rate: one int16 file and an index beside it; see `Store`.

    Attributes:
        hash: a digest of the samples themselves, the same on every machine that decodes alike.
        quarantined: clips that it lacks, since their audio can't be read; `quarantine.jsonl` lists them.
        remarks: what is odd about clips that were read, a sentence for each kind; told at each opening.
        lengths: `(N,)` in samples.
        sample_rate: in Hz.
    """

    file, dtype = SAMPLES, np.int16
    later: Later | None = None

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

        Where many clips have a store, whether their files are still those that it was built from is asked
        beside the first epoch: `confirm_files` waits for the answer.

        Raises:
            UserError: files are missing, or more than `max_bad_fraction` cannot be decoded, all told at
                once; the cache cannot be written to or is full; `where` is none of WHERE.
        """
        residence(where, 0)
        clips = in_order(clips)
        note = _note_of(clips, sample_rate, cache) if len(clips) >= MANY else None
        folder = _noted(note)
        later = Later(partial(_refuse_changed, clips, sample_rate, folder, note)) if folder and note else None
        folder = folder or folder_of(clips, sample_rate, cache)
        build = partial(_build, clips, sample_rate, folder)
        if read_index(folder, SAMPLES) is None:
            build()
        refuse_many(read_quarantine(folder / QUARANTINE), len(clips), max_bad_fraction, folder / QUARANTINE)
        store = cls(folder, where, device, build).checked_if_small()
        store.later = later
        if note and not later:
            write_atomically(note, json.dumps(folder.name), to_disk=False)
        for remark in store.remarks:
            _log.warning("%s", remark)
        return store

    def _take_index(self) -> None:
        super()._take_index()
        self.hash, self.sample_rate = self._index.facts["digest"], self._index.facts["sample_rate"]
        self.quarantined = read_quarantine(self.folder / QUARANTINE)
        self.remarks: list[str] = self._index.facts["remarks"]

    @property
    def ids(self) -> tuple[str, ...]:
        """Those of the clips, in the order of the rows; read at each call, for most readers never ask."""
        return tuple(json.loads((self.folder / IDS).read_text(encoding="utf-8")))

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """The clips of `rows` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths `(B,)`.

        T is the longest of them. Both lie on the CPU, or on the store's device where it has one. `rows` are
        on the CPU.
        """
        if self.later is not None:
            self.later.tell()
        return self._gather(rows)

    def placed(self, where: str, device: torch.device | str | None) -> WaveStore:
        """The same store, read from somewhere else."""
        store = type(self)(self.folder, where, device, self.rebuild)
        store.later = self.later
        return store

    def confirm_files(self) -> None:
        """Raises UserError where audio files are not those that the store was built from."""
        if self.later is not None:
            self.later.confirm()

    def _gather_on_device(
        self, values: Tensor, rows: Tensor, lengths: Tensor, longest: int | None = None
    ) -> tuple[Tensor, Tensor]:
        shortest, longest = (int(length) for length in lengths.aminmax())
        there = sent(rows, self.device)
        offsets, lengths = (spans[there] for spans in self._spans_on_device)
        return gather_on_device(values, offsets, lengths, longest, ragged=shortest < longest)


def folder_of(clips: Sequence[Clip], sample_rate: int, cache: Path) -> Path:
    """Where the store of these clips, in the order of their ids, lies once it is built."""
    return Path(cache) / "stores" / _key(clips, sample_rate)


def _note_of(clips: Sequence[Clip], sample_rate: int, cache: Path) -> Path:
    """Where the store of these clips is noted, whatever has become of their files."""
    # By the columns as they are, for the texts of a million names took a second.
    digest = hashlib.sha256(f"note {STORE_VERSION}, {DECODER}, {sample_rate} Hz, {Path.cwd()}\n".encode())
    for name in ("id", "path", "start", "duration", "channel"):
        digest.update(ClipTable.of(clips).column(name).digest())
    return Path(cache) / "stores" / f"{digest.hexdigest()[:16]}.json"


def _noted(note: Path | None) -> Path | None:
    """The store that a note names, where both are there and whole."""
    if note is None or not note.is_file():
        return None
    try:
        folder = note.parent / str(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return folder if read_index(folder, SAMPLES) else None


def _refuse_changed(clips: Sequence[Clip], sample_rate: int, folder: Path, note: Path) -> None:
    """Raises UserError where files are not those of a store; the next start then looks at them first."""
    try:
        if _key(clips, sample_rate) == folder.name:
            return
        built = (folder / INDEX).stat().st_mtime_ns
        files = dict.fromkeys(clip.path for clip in clips)
        changed = [path for path in files if os.stat(path).st_ctime_ns > built][:3]  # noqa: PTH116 - quick
        named = f", such as {', '.join(changed)}" if changed else ""
        why = f"Audio files have changed since they were decoded{named}"
    except UserError as error:
        why = str(error).rstrip(".")
    note.unlink(missing_ok=True)
    raise UserError(f"{why}: nothing is scored by what they were, so start again, which decodes them anew.")


def _key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Names a store by its clips, the sizes and times of change of their files, the rate and the decoder.

    Splits, folds and labels are left out, so that all folds of a corpus share one store.
    """
    # By columns, for a line for each clip took ten times as long; clips in a row that share a file are one
    # run, and a file is asked about once a run.
    table = ClipTable.of(clips)
    first = np.concatenate([[0], np.flatnonzero(np.diff(table.keys("path"))) + 1])[: len(table)]
    files = table.column("path").at(first)
    here = f"{Path.cwd()}{os.sep}"
    absolute = [path if path.startswith(os.sep) else here + path for path in files]
    digest = hashlib.sha256(f"store {STORE_VERSION}, {DECODER}, {sample_rate} Hz\n".encode())
    for texts, count in ((table.column("id"), len(table)), (absolute, len(absolute))):
        # With the lengths of the texts, for what stands between them may stand in them.
        digest.update(np.fromiter(map(len, texts), dtype="<i8", count=count).data)
        digest.update("\n".join(texts).encode(errors="surrogatepass"))
    for times in ("start", "duration"):
        seconds = table.column(times).mapped(lambda time: math.nan if time is None else time, "<f8")
        digest.update(seconds.data)
    digest.update(first.astype("<i8").data)
    digest.update(_stats(files).data)
    channels = ["" if channel in (None, "mean") else str(channel) for channel in table.column("channel")]
    if any(channels):  # without, as stores of before channels could be chosen
        digest.update("\n".join(channels).encode())
    return digest.hexdigest()[:16]


def _stats(paths: Sequence[str]) -> np.ndarray:
    """Size in bytes, and times of change of content and of state in ns, of every file, `(3N,)`.

    A program may set the first of these times back, as copying programs do, but not the second one.

    Raises:
        UserError: files are missing; the first ones are named.
    """
    try:
        # Not by `Path`, which takes longer than the files.
        told = (
            value
            for stat in map(os.stat, paths)
            for value in (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        )
        return np.fromiter(told, dtype="<i8", count=3 * len(paths))
    except (OSError, ValueError):
        wanted = dict.fromkeys(paths)
        missing = [path for path in wanted if not os.path.exists(path)]  # noqa: PTH110 - no error for odd names
        raise UserError(
            f"{len(missing)} of {len(wanted)} audio files are missing, such as {', '.join(missing[:3])}: "
            "put them there or correct their paths."
        ) from None


def _build(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    lengths: list[int] = []
    checksums: list[int] = []
    quarantined: list[Quarantined] = []
    remarks: list[str] = []

    def samples() -> Iterator[memoryview]:
        for clip in _decoded(clips, sample_rate, quarantined, remarks):
            lengths.append(len(clip))
            checksums.append(zlib.crc32(clip.data))
            yield clip.data

    def write(unfinished: Path) -> None:
        _log.info("Decoding %d clips at %d Hz to %s", len(clips), sample_rate, folder)
        digest = write_file(unfinished / SAMPLES, samples())
        lacking = {row.id for row in quarantined}
        ids = [clip.id for clip in clips if clip.id not in lacking]
        files = {IDS: json.dumps(ids)} | ({QUARANTINE: as_jsonl(quarantined)} if quarantined else {})
        for name, content in files.items():
            write_file(unfinished / name, [content.encode()])
        facts = {"digest": digest, "sample_rate": sample_rate, "decoder": DECODER, "remarks": remarks}
        write_index(unfinished, SAMPLES, lengths, checksums, files, **facts)

    def needed() -> float:
        return sum(lengths) / max(len(lengths), 1) * len(clips) * np.int16().itemsize

    build_once(folder, lambda: read_index(folder, SAMPLES) is not None, write, "decoded audio", needed)


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The items, with a bar for somebody who watches on a terminal."""
    console = Console(stderr=True, force_jupyter=False)  # text: a notebook may have no widgets
    hidden = not console.is_terminal
    return track(items, what, total, console=console, transient=True, disable=hidden)


def _decoded(
    clips: Sequence[Clip], sample_rate: int, quarantined: list[Quarantined], remarks: list[str]
) -> Iterator[np.ndarray]:
    """The samples of the clips in their order, but of those that cannot be read, which go to `quarantined`.

    Raises:
        UserError: at the end, where the system did not let files be read: that may be other the next time.
    """
    refused: dict[str, str] = {}
    results = decode_clips(clips, sample_rate, remarks)
    for clip, result in zip(clips, progress(results, "Decoding", len(clips)), strict=True):
        if not isinstance(result, AudioError):
            yield result
        elif result.lasting:
            quarantined.append(Quarantined(clip.id, clip.path, result.reason))
        else:
            refused[clip.path] = result.reason
    if refused:
        shown = listed([f"{path}: {reason}" for path, reason in refused.items()])
        raise UserError(f"{len(refused)} audio files cannot be opened, see to it that they can: {shown}.")
