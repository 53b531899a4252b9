"""Storage: files of a folder or of an object store, read and written with patience."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from lightning_audio.errors import UserError, is_full, masked
from lightning_audio.io import write_atomically

T = TypeVar("T")

TRIES = 7  # with the waits between them: up to two minutes until a bucket counts as gone
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try, twice as long before each that follows
SILENCE = 60  # seconds without a byte after which a try has failed
# What tells a version of a file, as the protocols of fsspec call it.
TAGS = (
    "size",
    "ETag",
    "etag",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)

_log = logging.getLogger(__name__)


class NotThere(UserError):
    """The storage answers, and says that there is no such file."""


class Storage:
    """A place that files are read from by name: a folder, or what fsspec has a protocol for.

    Args:
        address: a path, or PROTOCOL://...; passwords in it are not told.

    Raises:
        UserError: fsspec, or its package for this protocol, is not installed, or it knows no such protocol.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.is_local = "://" not in address or address.startswith("file://")
        if self.is_local:
            self.root = str(Path(self.address.removeprefix("file://")).expanduser().absolute())
            return
        try:
            import fsspec  # here: folders need it not

            options: dict[str, Any] = {}
            if address.startswith("http"):
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
                options = {"client_kwargs": {"timeout": timeout}}
            self.fs, self.root = fsspec.core.url_to_fs(self.address, **options)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{masked(address)} cannot be opened ({error}): install lightning-audio[shards] and what "
                "fsspec asks for, as s3fs or gcsfs."
            ) from error

    def __str__(self) -> str:
        return masked(self.address)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """All of a file; raises NotThere, or UserError where it does not come."""
        if self.is_local:
            return patiently(lambda: Path(self.path(name)).read_bytes(), f"{self}/{name}")
        return patiently(lambda: self.fs.cat_file(self.path(name)), f"{self}/{name}")

    def fetch(self, name: str, to: Path, sha256: str) -> None:
        """Copies a file whose digest begins so; one that comes cut or damaged is asked for again.

        Raises:
            UserError: it is not there, or does not come whole.
        """

        def fetch() -> None:
            self.fs.get_file(self.path(name), str(to))
            with to.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 and not found.startswith(sha256):
                raise OSError(f"its {to.stat().st_size:,} bytes are not those that were written")

        patiently(fetch, f"{self}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """A whole file or none."""
        if self.is_local:
            write_atomically(Path(self.path(name)), content)
        else:
            patiently(lambda: self.fs.pipe_file(self.path(name), content), f"{self}/{name}")

    def remove(self, name: str) -> None:
        if self.is_local:
            Path(self.path(name)).unlink(missing_ok=True)
        elif self.fs.exists(self.path(name)):
            self.fs.rm_file(self.path(name))

    def version(self, name: str) -> str:
        """Changes whenever the file does, as far as the storage tells: size and time, or what buckets tag."""
        if self.is_local:
            status = Path(self.path(name)).stat()
            return f"{status.st_size} {status.st_mtime_ns}"
        about = patiently(lambda: self.fs.info(self.path(name)), f"{self}/{name}")
        return " ".join(str(about[key]) for key in TAGS if about.get(key) is not None)

    def size(self, name: str) -> int | None:
        """In bytes; None of a file that is not there."""
        if self.is_local:
            path = Path(self.path(name))
            return path.stat().st_size if path.is_file() else None
        try:
            return int(patiently(lambda: self.fs.info(self.path(name)), f"{self}/{name}")["size"] or 0)
        except NotThere:
            return None

    def names(self, folder: str = "") -> list[str]:
        """Of the files in a folder; none where there is no such folder."""
        try:
            if self.is_local:
                return sorted(path.name for path in Path(self.path(folder)).iterdir())
            listed = patiently(lambda: self.fs.ls(self.path(folder), detail=False), f"{self}/{folder}")
            return sorted(Path(path).name for path in listed)
        except (OSError, NotThere):
            return []


def patiently(work: Callable[[], T], what: str) -> T:
    """What `work` gives, tried again with longer and longer waits where the storage fails; each is told.

    Raises:
        NotThere: there is no such file.
        UserError: it has failed `TRIES` times.
    """
    wait = FIRST_WAIT
    for number in range(1, TRIES + 1):
        try:
            return work()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotThere(f"There is no {what}.") from None
        except (PermissionError, UserError):
            raise
        except Exception as error:  # of any kind: each protocol has its own
            if isinstance(error, OSError) and is_full(error):
                raise UserError(
                    f"The disk is full while {what} comes: make room, or lower loader.cache_gb."
                ) from error
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if number == TRIES:
                raise UserError(
                    f"{what} did not come in {TRIES} tries ({masked(reason)}): see to the storage, then "
                    "resume."
                ) from error
            # Not all nodes at once: a bucket that is asked too often is asked less so.
            pause = wait * random.uniform(0.75, 1.25)
            _log.warning("%s did not come (%s): try %d in %.1f s.", what, masked(reason), number + 1, pause)
            time.sleep(pause)
            wait = min(2 * wait, LONGEST_WAIT)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def as_file(content: bytes | np.ndarray) -> Iterator[str]:
    """The path of a file with this content, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("clip")
        with open(descriptor, "wb", closefd=True) as file:  # noqa: PTH123 - it has no path
            file.write(cast(bytes, content))
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(cast(bytes, content))
        file.flush()
        yield file.name
