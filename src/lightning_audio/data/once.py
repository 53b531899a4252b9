"""A folder that is there as a whole or not at all, made by one process while the others wait for it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from lightning_audio.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
FLUSHED_AT_ONCE = 32 * 2**20  # bytes


def build_once(
    folder: Path,
    is_whole: Callable[[], bool],
    write: Callable[[Path], None],
    what: str,
    needed: Callable[[], float],
) -> None:
    """Makes the folder unless another process has done so by the time that the lock is ours.

    Args:
        folder: what is to be there.
        is_whole: whether it is.
        write: puts all that belongs into it into a folder of another name, which then gets its own.
        what: is written, in the words of an error.
        needed: its size in bytes, asked for when the disk is full.

    Raises:
        UserError: the folder cannot be written to, or its disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_whole():
                _build(folder, write)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(
                f"The disk of {folder.parent} is full: the {what} needs about {needed() / 1e9:.2g} GB, "
                "so make room or set paths.cache to another disk."
            ) from error
        raise UserError(
            f"The {what} cannot be written to {folder.parent} ({error.strerror}): "
            "set paths.cache to a folder that can be written to."
        ) from error


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    for left_over in folder.parent.glob(f".{folder.name}.partial-*"):
        shutil.rmtree(left_over)  # Of a build that was killed: a living one would hold the lock.
    unfinished = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    unfinished.mkdir()
    try:
        write(unfinished)
        shutil.rmtree(folder, ignore_errors=True)  # One that is there all the same is not whole.
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """Writes a file to the disk; returns the first 16 hexadecimal digits of its SHA-256.

    It goes there while the next chunks are made, so that the disk is not waited for at the end.
    """
    digest, unflushed = hashlib.sha256(), 0
    flush: Future[None] | None = None
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        for chunk in chunks:
            unflushed += file.write(chunk)
            digest.update(chunk)
            if unflushed > FLUSHED_AT_ONCE:
                if flush:
                    flush.result()  # raises what went wrong with it: the system tells only once
                flush, unflushed = beside.submit(os.fsync, file.fileno()), 0
        if flush:
            flush.result()
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()[:16]
