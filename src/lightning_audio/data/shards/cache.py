"""ShardCache: the shards that are read now and soon, on the disk of this machine, within a bound."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import stat
import threading
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from lightning_audio.data.shards.storage import Storage
from lightning_audio.errors import UserError

FETCHERS = 4  # shards that come at the same time ahead of their turn
LOCKS = 64  # files that keep several processes from fetching one shard
MOST_OPEN = 64  # maps of shards that nobody reads at the moment
POLL = 0.01  # seconds between looks whether a lock is free
PATIENCE = 120.0  # seconds until another process has let go of what fills the cache

_log = logging.getLogger(__name__)


class _NoRoom(Exception):
    """What is fetched ahead has to wait for its turn."""


@dataclass
class _Open:
    """A shard that is mapped; its descriptor holds a shared lock, so that no process takes the file away."""

    descriptor: int
    data: np.ndarray
    readers: int = 0


class ShardCache:
    """Shards of a storage as arrays of bytes: those of a folder in place, all others by way of the disk.

    Processes of one machine share the folder of the cache, and its bound. A file in it is whole: it gets its
    name when its digest has been looked at. What nobody needs any more goes first, then what was used longest
    ago; what a process has open stays.

    Args:
        storage: that the shards are in.
        names, sizes: of the shards; sizes in bytes.
        digests: of the shards, SHA-256 or the beginning of it; "" where none is known.
        folder: on this machine.
        limit: of all files in it, in bytes.
    """

    def __init__(
        self,
        storage: Storage,
        names: Sequence[str],
        sizes: np.ndarray,
        digests: Sequence[str],
        folder: Path,
        limit: float,
    ) -> None:
        self.storage, self.names, self.sizes, self.digests = storage, names, sizes, digests
        self.folder, self.limit = folder, limit
        self._lock = threading.Condition()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._left: Counter[int] = Counter()  # reads of each shard that are to come in what is planned
        self._ahead: list[int] = []  # shards in the order of their turns, the next one last
        self._kept: set[int] = set()  # shards that have come, or are on their way, for reads that are to come
        self._fetchers = 0

    @contextlib.contextmanager
    def reading(self, shard: int, times: int = 1) -> Iterator[np.ndarray]:
        """The bytes of a shard, which stay there meanwhile; `times` are as many as were planned of them.

        Raises:
            UserError: it does not come, is not what was written, or there is no room for it.
        """
        opened = self._acquire(shard)
        try:
            yield opened.data
        finally:
            with self._lock:
                opened.readers -= 1
                if self._open.get(shard) is not opened and not opened.readers:
                    os.close(opened.descriptor)  # it has been discarded
                self._left[shard] -= min(times, self._left[shard])
                if not self._left[shard] and not self.storage.is_local:
                    self._kept.discard(shard)
                    self._close(shard)
                while len(self._open) > MOST_OPEN and self._close_one():
                    pass
                self._lock.notify_all()

    def plan(self, shards: np.ndarray) -> None:
        """What will be read from now on, `(N,)`, a number for each clip: it is fetched ahead as far as there
        is room, and kept until then."""
        if self.storage.is_local:
            return
        different, first, times = np.unique(shards, return_index=True, return_counts=True)
        with self._lock:
            self._left = Counter(dict(zip(different.tolist(), times.tolist(), strict=True)))
            self._ahead, self._kept = different[np.argsort(-first)].tolist(), set()
            while self._fetchers < FETCHERS:
                threading.Thread(target=self._fetch_ahead, daemon=True).start()
                self._fetchers += 1
            self._lock.notify_all()

    def discard(self, shard: int) -> bool:
        """Takes a shard that is damaged off the disk, to be fetched again; False: it is the storage's own."""
        if self.storage.is_local:
            return False
        with self._lock:
            opened = self._open.pop(shard, None)  # other threads may go on reading it, and find the same
            if opened and not opened.readers:
                os.close(opened.descriptor)
        self._path(shard).unlink(missing_ok=True)
        return True

    def _path(self, shard: int) -> Path:
        if self.storage.is_local:
            return Path(self.storage.path(self.names[shard]))
        name = self.names[shard].replace("/", "-")
        if not self.digests[shard]:  # other sets have files of this name, with other clips in the same places
            name = f"{hashlib.sha256(self.storage.address.encode()).hexdigest()[:16]}-{name}"
        return self.folder / name

    def _acquire(self, shard: int) -> _Open:
        while True:
            with self._lock:
                if opened := self._open.get(shard):
                    opened.readers += 1
                    self._open.move_to_end(shard)
                    return opened
                if opened := self._mapped(shard):
                    opened.readers += 1
                    self._open[shard] = opened
                    return opened
            if self.storage.is_local:
                raise UserError(f"{self.storage}/{self.names[shard]} is missing or cut: put it back.")
            self._fetch(shard, urgent=True)

    def _mapped(self, shard: int) -> _Open | None:
        """The file of a shard, locked; None where it is not there, or not as long as it should be."""
        path = self._path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):  # a file system without locks, or of others
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        if not status.st_nlink or status.st_size < self.sizes[shard]:  # taken away before it was locked; cut
            os.close(descriptor)
            return None
        if not self.storage.is_local:
            with contextlib.suppress(PermissionError):  # a cache that users share
                os.utime(descriptor)  # it has been used
        return _Open(descriptor, np.asarray(np.memmap(path, np.uint8, "r")))

    def _close(self, shard: int) -> None:
        opened = self._open.get(shard)
        if opened and not opened.readers:
            del self._open[shard]
            os.close(opened.descriptor)

    def _close_one(self) -> bool:
        """Closes the shard that was opened longest ago, of those that nobody reads; False: there is none."""
        for shard, opened in self._open.items():
            if not opened.readers:
                self._close(shard)
                return True
        return False

    # What follows is of shards that come from afar.

    def _fetch_ahead(self) -> None:
        while True:
            with self._lock:
                while not self._ahead or not self._has_room(self._ahead[-1]):
                    self._lock.wait()
                shard = self._ahead.pop()
                if not self._left[shard]:
                    continue
                self._kept.add(shard)
            try:
                self._fetch(shard, urgent=False)
            except _NoRoom:
                with self._lock:  # later, unless whoever reads it is first
                    self._kept.discard(shard)
                    self._ahead.append(shard)
                    self._lock.wait(0.05)
            except Exception as error:  # of any kind: it is raised where the shard is asked for
                _log.info("%s was not fetched ahead (%s)", self.names[shard], error)

    def _has_room(self, shard: int) -> bool:
        """Whether a shard fits beside all that has come for reads that are to come."""
        return sum(self.sizes[other] for other in self._kept) + self.sizes[shard] <= self.limit

    def _fetch(self, shard: int, urgent: bool) -> None:
        path = self._path(shard)
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = locks / f"{zlib.crc32(self.names[shard].encode()) % LOCKS}.lock"
        with FileLock(lock, poll_interval=POLL):
            if path.is_file() and path.stat().st_size >= self.sizes[shard]:
                return  # another process, or thread, was first
            path.unlink(missing_ok=True)
            with self._reserved(shard, urgent) as temporary:
                self.storage.fetch(self.names[shard], temporary, self.digests[shard])

    @contextlib.contextmanager
    def _reserved(self, shard: int, urgent: bool) -> Iterator[Path]:
        """A name to fetch to, and a sparse file that counts in its place until it is there; then it gets its
        own name."""
        path = self._path(shard)
        room, temporary = (path.with_name(f".{path.name}.{kind}") for kind in ("room", "partial"))
        deadline = time.monotonic() + PATIENCE
        while True:
            with FileLock(self.folder / "locks" / "room.lock", poll_interval=POLL):
                if self._make_room(int(self.sizes[shard]), urgent):
                    descriptor = os.open(room, os.O_RDWR | os.O_CREAT, 0o644)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    os.ftruncate(descriptor, int(self.sizes[shard]))
                    break
            if not urgent:
                raise _NoRoom
            if time.monotonic() > deadline:
                raise UserError(
                    f"The cache of shards in {self.folder} has no room for {self.sizes[shard] / 1e9:.2g} GB "
                    "more: raise loader.cache_gb, or see what other process is reading there."
                )
            time.sleep(0.1)
        try:
            yield temporary
            # At once for who looks for room: between the two names a shard would count in none of them.
            with FileLock(self.folder / "locks" / "room.lock", poll_interval=POLL):
                temporary.replace(path)
                room.unlink()
        finally:
            room.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            os.close(descriptor)

    def _make_room(self, size: int, urgent: bool) -> bool:
        """Takes files away until `size` bytes fit; False where too many of them are needed."""
        files = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has come, and got its name, meanwhile
                if stat.S_ISREG((status := path.stat()).st_mode):
                    files.append((status, path))
        total = 0
        for status, path in files:
            if path.suffix == ".room" and _taken_away(path):  # of a process that was killed
                path.with_suffix(".partial").unlink(missing_ok=True)
            elif path.suffix != ".partial":
                total += status.st_size
        with self._lock:
            needed = {self._path(shard) for shard, left in self._left.items() if left}
            own = {self._path(shard): shard for shard in self._open}
        oldest = sorted(files, key=lambda file: (file[1] in needed, file[0].st_mtime_ns))
        for status, path in oldest:
            if total + size <= self.limit:
                break
            if path.suffix in (".room", ".partial") or (path in needed and not urgent):
                continue
            if path in own:
                with self._lock:
                    self._close(own[path])
            if _taken_away(path):
                total -= status.st_size
        return total + size <= self.limit


def _taken_away(path: Path) -> bool:
    """Removes a file that no process has locked; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
