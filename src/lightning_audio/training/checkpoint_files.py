"""Checkpoints as files: written whole or not at all, with their SHA-256 beside them, the one before kept.

    checkpoints/last.ckpt      the newest; previous.ckpt is the one before
    checkpoints/best.ckpt      by the validation score
    checkpoints/*.ckpt.sha256  what `sha256sum -c` reads

While a file is replaced its `.sha256` names both the old and the new content, so that it is right whichever
of them a kill leaves there.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lightning_audio.checkpoint import BEST, LAST, PREVIOUS, recorded, sidecar, verify
from lightning_audio.errors import UserError
from lightning_audio.io import free_bytes, sha256_of, sync, write_atomically

DAMAGED = ".damaged"  # behind the name of a file that is kept, but not read


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves a checkpoint beside its place, to the disk, then renames it; `last.ckpt` becomes `previous.ckpt`.

    Lightning's own passes through TMPDIR and a move, which on another file system is a copy that can be cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file, ThreadPoolExecutor(1) as beside:
                torch.save(checkpoint, file)
                file.flush()
                on_disk = beside.submit(os.fsync, file.fileno())
                digest = sha256_of(partial)  # meanwhile
                on_disk.result()
            if path.name == LAST and path.is_file():
                _replace(path, path.with_name(PREVIOUS), keep=True)
            _replace(partial, path, digest)
        except RuntimeError as error:  # torch's own words for what writing to the file raised
            if isinstance(error.__cause__ or error.__context__, OSError):
                raise (error.__cause__ or error.__context__) from None  # type: ignore[misc]
            raise
        finally:
            partial.unlink(missing_ok=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint and nothing else: its path may come out of a file that somebody sent."""
        path = Path(path)
        if path.suffix == ".ckpt" and ".." not in path.parts:
            path.unlink(missing_ok=True)
            sidecar(path).unlink(missing_ok=True)


def _record(path: Path, digests: list[str], to_disk: bool = True) -> None:
    lines = "".join(f"{one}  {path.name}\n" for one in dict.fromkeys(digests))
    write_atomically(sidecar(path), lines, to_disk)


def _replace(source: Path, target: Path, digest: str | None = None, keep: bool = False) -> None:
    """Puts a file, of this digest, in the place of another one; with `keep` it stays in its own as well.

    At no moment is there a target that its record does not fit.
    """
    known = [digest] if digest else recorded(source)
    new = known if len(known) == 1 else [sha256_of(source)]
    _record(target, [*new, *recorded(target)])
    if keep:
        link = target.with_name(f".{target.name}.partial")
        link.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a file system without links: then it leaves its place
            link.hardlink_to(source)
            source = link
    source.replace(target)
    sync(target.parent)
    _record(target, new, to_disk=False)  # what may be lost is only that the old content is out of date


def to_resume(folder: Path) -> Path | None:
    """The checkpoint to resume from: the last one, or the one before where that is damaged; None without any.

    A damaged one is set aside under another name, so that it never takes the place of a sound one.

    Raises:
        UserError: all that are there are damaged.
    """
    damaged: list[Path] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        if not _is_whole(path):
            damaged.append(path)
            continue
        for other in damaged:
            _set_aside(other, f"the run resumes from {path.name}, one checkpoint earlier")
        if (folder / BEST).is_file() and not _is_whole(folder / BEST):
            _set_aside(folder / BEST, "the weights of the last epoch count unless better ones come")
        return path
    if damaged:
        names = " and ".join(path.name for path in damaged)
        raise UserError(
            f"{names} in {folder} {'is' if len(damaged) == 1 else 'are both'} corrupt (SHA-256 or CRC-32 "
            "mismatch): put back a copy, or start a new run."
        )
    return None


def _set_aside(path: Path, instead: str) -> None:
    print(
        f"{path} is corrupt (SHA-256 or CRC-32 mismatch): it is kept as {path.name}{DAMAGED}, and {instead}.",
        flush=True,
    )
    with contextlib.suppress(FileNotFoundError):  # another process of the run was faster
        path.rename(path.with_name(path.name + DAMAGED))
        sidecar(path).unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
        if recorded(path):
            return True
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return False
    return True


def refuse_too_little_space(folder: Path, size: int, best: bool, beside: int = 0) -> None:
    """Raises UserError where the checkpoints of a run, `size` bytes each, do not fit on the disk.

    `last`, `previous` and, with `best`, that one stay; each new one is written beside the one it replaces.
    `beside` are bytes of other files to come.
    """
    names = [LAST, PREVIOUS, *([BEST] if best else [])]
    needed = size * (1 + sum(not (folder / name).is_file() for name in names)) + beside
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"There are {free / 1e6:,.0f} MB free at {folder}, and the checkpoints of this run take "
            f"{needed / 1e6:,.0f} MB: free some space, or set paths.logs to another disk."
        )
