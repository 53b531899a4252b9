"""WaveStore: every clip decoded once, as int16 samples in one file, from which a batch is a gather."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import DECODER, AudioError, decode_clips
from lightning_audio.data.quarantine import QUARANTINE, Unread, as_jsonl, read_quarantine, refuse_many
from lightning_audio.errors import UserError

T = TypeVar("T")

WHERE = ("disk", "memory", "device", "auto")
SHARE = 0.25  # of what is free: so much of a device, or of the memory, `auto` gives to a store
SAMPLES, INDEX = "samples.int16", "index.json"
BYTES_PER_SAMPLE = 2
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class WaveStore:
    """All clips of a corpus at one rate: one int16 file and an index beside it.

    A store is pickled as the folder it stands in, so a worker process maps the file again and copies nothing.

    Attributes:
        hash: a digest of the samples themselves, the same on every machine that decodes alike.
        ids: of the clips, in the order of the rows.
        unread: the clips that it lacks, since their audio can't be read; listed in its `quarantine.jsonl`.
        lengths: `(N,)` in samples.
        sample_rate: in Hz.

    Args:
        folder: a store that is whole; `open` finds or builds it.
        where: the samples are read from the "disk" (mapped), from "memory", or on the "device"; "auto" takes
            the last of these in which they fill less than a quarter of what is free.
        device: where they lie if `where` is "device".
    """

    def __init__(self, folder: Path, where: str = "disk", device: torch.device | str | None = None) -> None:
        index = _read_index(folder)
        if index is None:
            raise UserError(f"The store {folder} is not whole: remove it, and it will be built again.")
        if where == "auto":
            where = fitting(sum(index["lengths"]) * BYTES_PER_SAMPLE, _free_on(device), _free_memory())
        self.folder, self.where, self.device = folder, where, device
        self.hash: str = index["digest"]
        self.sample_rate: int = index["sample_rate"]
        self.ids: tuple[str, ...] = tuple(index["ids"])
        self.unread = read_quarantine(folder / QUARANTINE)
        self.lengths = torch.tensor(index["lengths"])
        self._offsets = self.lengths.cumsum(0) - self.lengths
        self._rows = {name: row for row, name in enumerate(self.ids)}
        self._samples = _read_samples(
            folder / SAMPLES, where, torch.device(device or "cpu"), int(self.lengths.max())
        )

    @classmethod
    def open(
        cls,
        clips: Sequence[Clip],
        sample_rate: int,
        cache: Path,
        where: str = "disk",
        device: torch.device | str | None = None,
        bad_files: float = 0.0,
    ) -> WaveStore:
        """The store of these clips under `cache`; built, by one process alone, where it is not there yet.

        Clips that cannot be decoded are left out and listed, up to a share of `bad_files` of all clips. The
        store is kept in any case, so that the next opening knows them, and holds them against its own share.

        Raises:
            UserError: files are missing, or more than `bad_files` cannot be decoded, all told at once; the
                cache cannot be written to or is full; `where` is none of WHERE.
        """
        if where not in WHERE:
            raise UserError(f"A store cannot be read from {where!r}: choose one of {', '.join(WHERE)}.")
        clips = sorted(clips, key=lambda clip: clip.id)
        folder = Path(cache) / "stores" / _key(clips, sample_rate)
        if _read_index(folder) is None:
            _build_once(clips, sample_rate, folder)
        unread = read_quarantine(folder / QUARANTINE)
        refuse_many(unread, len(clips), bad_files, folder / QUARANTINE)
        return cls(folder, where, device)

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return WaveStore, (self.folder, self.where, self.device)

    def row(self, clip_id: str) -> int:
        """The row of a clip."""
        return self._rows[clip_id]

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """The clips of `rows` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths `(B,)`.

        T is the longest of them. Both lie on the CPU, or on the store's device where it has one.
        """
        rows = torch.as_tensor(rows).cpu()
        offsets, lengths = self._offsets[rows], self.lengths[rows]
        if isinstance(self._samples, Tensor):
            return _gather_on_device(self._samples, offsets, lengths)
        return _gather_in_memory(self._samples, offsets, lengths)


def fitting(size: int, on_device: int, in_memory: int) -> str:
    """Where `size` bytes of samples go, given the free bytes of the device (0: there is none) and memory."""
    if size < SHARE * on_device:
        return "device"
    return "memory" if size < SHARE * in_memory else "disk"


def _free_on(device: torch.device | str | None) -> int:
    """Free bytes of an accelerator; 0 where there is none, or it does not tell."""
    if device is None or torch.device(device).type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0]


def _free_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def _gather_in_memory(samples: np.ndarray, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    waveforms = torch.empty(len(lengths), int(lengths.max()), dtype=torch.int16)
    spans = zip(offsets.tolist(), lengths.tolist(), strict=True)
    for waveform, (offset, length) in zip(waveforms.numpy(), spans, strict=True):
        waveform[:length] = samples[offset : offset + length]
        waveform[length:] = 0
    return waveforms, lengths


def _gather_on_device(samples: Tensor, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    longest = int(lengths.max())  # While the lengths are here: asking the device would be waiting for it.
    offsets, lengths = offsets.to(samples.device), lengths.to(samples.device)
    waveforms = samples.unfold(0, longest, 1)[offsets]
    behind = torch.arange(longest, device=samples.device) >= lengths[:, None]
    return waveforms.masked_fill_(behind, 0), lengths


def _read_samples(path: Path, where: str, device: torch.device, longest: int) -> np.ndarray | Tensor:
    if where == "disk":
        # A plain array over the map: np.memmap's own slicing costs more than the copy of a short clip.
        return np.asarray(np.memmap(path, dtype=np.int16, mode="r"))
    samples = np.fromfile(path, dtype=np.int16)
    if where == "memory" or device.type == "cpu":
        return samples
    # Zeros at the end, so that a window of any clip's length can begin at the last clip.
    return torch.cat([torch.from_numpy(samples), torch.zeros(longest, dtype=torch.int16)]).to(device)


def _key(clips: Sequence[Clip], sample_rate: int) -> str:
    """Names a store by its clips, the size and time of change of their files, the rate and the decoder.

    Splits, folds and labels are left out, so that all folds of a corpus share one store.
    """
    stats = _stats(clips)
    digest = hashlib.sha256(f"{DECODER}, {sample_rate} Hz\n".encode())
    for clip in clips:
        stat = stats[clip.path]
        row = [clip.id, str(Path(clip.path).absolute()), float(clip.start), clip.duration]
        digest.update(f"{json.dumps([*row, stat.st_size, stat.st_mtime_ns])}\n".encode())
    return digest.hexdigest()[:16]


def _stats(clips: Iterable[Clip]) -> dict[str, os.stat_result]:
    stats, missing = {}, []
    paths = dict.fromkeys(clip.path for clip in clips)
    for path in paths:
        try:
            stats[path] = Path(path).stat()
        except OSError:
            missing.append(path)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} audio files are missing, such as {', '.join(missing[:3])}: "
            "put them there or correct their paths."
        )
    return stats


def _read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a store that is whole, else None."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        size = (folder / SAMPLES).stat().st_size
        whole = size == sum(index["lengths"]) * BYTES_PER_SAMPLE and "digest" in index
        whole = whole and len(read_quarantine(folder / QUARANTINE)) == index["unread"]
    except (OSError, ValueError, KeyError):
        return None
    return index if whole else None


def _build_once(clips: Sequence[Clip], sample_rate: int, folder: Path) -> None:
    """Builds the store unless another process has done so by the time that the lock is ours."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if _read_index(folder) is None:
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
    unread: list[Unread] = []
    try:
        digest = _write(unfinished / SAMPLES, _decoded(clips, sample_rate, lengths, unread))
        if unread:
            _write(unfinished / QUARANTINE, [as_jsonl(unread).encode()])
        lacking = {row.id for row in unread}
        index = {"sample_rate": sample_rate, "decoder": DECODER, "digest": digest, "unread": len(unread)}
        index |= {"ids": [clip.id for clip in clips if clip.id not in lacking], "lengths": lengths}
        _write(unfinished / INDEX, [json.dumps(index).encode()])
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


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """Writes a file to the disk; returns the first 16 hexadecimal digits of its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()[:16]


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
