"""Archives of corpora: fetched with resumption and a checksum, unpacked safely, never half there."""

from __future__ import annotations

import http.client
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Self
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from rich import progress
from rich.console import Console

from lightning_audio.errors import UserError
from lightning_audio.io import sha256_of

CHUNK_BYTES = 1 << 16
ATTEMPTS = 5
# RuntimeError: an encrypted zip, or one packed by a method that Python does not know.
UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
# How much larger than its archive what comes out of it may be: of silence compressed by deflate 1,032 times.
MOST_TIMES, ALWAYS_BYTES = 100, 1 << 28


def fetch(
    url: str,
    sha256: str,
    folder: Path,
    name: str | None = None,
    size: int | None = None,
    timeout: float = 30.0,
) -> Path:
    """The file at `url`, in `folder`; one that is there already with the right SHA-256 is used as it is.

    A transfer that was cut resumes where it ended, in this call and in the next one, if the server knows
    HTTP ranges; otherwise it starts over. The file has its name only once its checksum is right.

    Args:
        url: address, http or https.
        sha256: checksum of the whole file, in hexadecimal.
        folder: where the file goes; made if it is not there.
        name: the file's name; the last part of the address if it is not given.
        size: bytes of the whole file, for servers that do not say it.
        timeout: seconds without a byte after which a connection counts as cut.

    Raises:
        UserError: another kind of address, no connection, an HTTP error, a wrong checksum, or no room on
            the disk.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(
            f"{url} is no address of a web server, and nothing else is fetched: give http or https."
        )
    target = folder / (name or PurePosixPath(urlsplit(url).path).name)
    part = target.with_name(f"{target.name}.part")
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_file() and sha256_of(target) == sha256:
                return target
            if not part.is_file() or sha256_of(part) != sha256:
                _download(url, part, size, timeout)
                _verify(part, sha256, url)
            part.replace(target)
    return target


def _verify(part: Path, sha256: str, url: str) -> None:
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise UserError(
            f"The file from {url} is not the one expected (SHA-256 {found}, expected {sha256}) and was "
            "removed: run the same command again, and if it stays so, put the data there by hand."
        )


def _download(url: str, part: Path, size: int | None, timeout: float) -> None:
    cut: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            return _transfer(url, part, size, timeout)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise UserError(f"{url} answered {error.code} {error.reason}: try again later.") from error
            part.unlink()  # It is longer than the file at the server, so it is of another one.
        except urllib.error.URLError as error:
            raise UserError(
                f"{url} cannot be reached ({error.reason}): run the same command again with a network, "
                "or fetch it on another machine and put the data there by hand."
            ) from error
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            cut = error
    raise UserError(
        f"The transfer of {url} was cut {ATTEMPTS} times ({cut!r}): run the same command again, "
        "it resumes where it ended."
    )


def _transfer(url: str, part: Path, size: int | None, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "lightning-audio"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=timeout) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # The server ignores the range and sends everything.
        length = response.headers["Content-Length"]
        total = have + int(length) if length else size
        _refuse_full_disk(part.parent, (total or 0) - have)
        with part.open("ab" if have else "wb") as file, _bar() as bar:
            task = bar.add_task(part.stem, total=total, completed=have)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.advance(task, len(chunk))
    received = part.stat().st_size
    if total is not None and received < total:  # http.client ends such a read without an error.
        raise ConnectionError(f"{received} of {total} bytes received")


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e6:.0f} MB free and {needed / 1e6:.0f} MB are needed: "
            "free some space, or set LIGHTNING_AUDIO_CACHE to a folder on another disk."
        )


def _bar() -> progress.Progress:
    sizes = (progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    name = progress.TextColumn("{task.description}")
    console = Console(stderr=True, force_jupyter=False)  # text: a notebook may have no widgets
    return progress.Progress(name, progress.BarColumn(), *sizes, console=console)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read or written ({error.strerror or error}): "
            "make room on the disk, or choose a folder that you may write to."
        ) from error


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    kind: str
    size: int  # bytes, as the archive declares them
    open: Callable[[], Any]  # a binary file
    archive_bytes: int  # how far into the archive this member ends, for the progress bar


def unpack(archive: Path, folder: Path, members: Sequence[str] | None = None, strip: int = 0) -> Path:
    """Unpacks a zip or a tar (also compressed) as `folder`, which has its name only once it is whole.

    Only plain files and folders are written. A folder that is there and not empty was unpacked before,
    by this process or by another one, and is left as it is.

    Args:
        archive: the archive's path.
        folder: what the archive becomes; its parent is made if it is not there.
        members: names of files and folders to take, after stripping; None takes everything.
        strip: how many leading folders to cut off the members' names.

    Raises:
        UserError: the archive is damaged, holds none of the members, or far more than its own size, or one of
            them is a link, a device, a second one of its name (also where only the case differs), or has a
            path that is absolute or leads out; or the disk is full.
    """
    unpacking = folder.with_name(f"{folder.name}.unpacking")
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{archive}.lock"):
            if folder.is_dir() and any(folder.iterdir()):
                return folder
            shutil.rmtree(unpacking, ignore_errors=True)  # what a killed process left
            unpacking.mkdir()
            try:
                _unpack_members(archive, unpacking, members, strip)
                unpacking.replace(folder)
            finally:
                shutil.rmtree(unpacking, ignore_errors=True)
    return folder


def _unpack_members(archive: Path, folder: Path, members: Sequence[str] | None, strip: int) -> None:
    try:
        opened = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        with _bar() as bar:
            task = bar.add_task(f"unpacking {archive.name}", total=archive.stat().st_size)
            left = MOST_TIMES * archive.stat().st_size + ALWAYS_BYTES
            written: set[str] = set()
            for member in opened:
                name = _stripped(member, archive, strip)
                left -= member.size
                if left < 0:
                    raise _unsafe(archive, member, f"makes more than {MOST_TIMES} times of what was packed")
                if name.parts and (members is None or any(map(name.is_relative_to, members))):
                    _refuse_second(member, name, archive, written)
                    _write(member, folder / name)
                bar.update(task, completed=member.archive_bytes)
            bar.update(task, completed=archive.stat().st_size)  # the table at the end of a zip
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; a wrong checksum of gzip or bzip2 has no number
        why = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{archive} is damaged ({why}): remove it and fetch it again.") from error
    if not any(folder.iterdir()):
        raise UserError(f"{archive} holds none of what was to be unpacked: it is not the archive expected.")


def _zip_members(path: Path) -> Iterator[_Member]:
    # A zip made on Windows holds no Unix mode, and its mode is 0.
    kinds = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    done = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            done += info.compress_size
            mode = stat.S_IFDIR if info.is_dir() else stat.S_IFMT(info.external_attr >> 16)
            yield _Member(
                info.filename, kinds.get(mode, "device"), info.file_size, partial(archive.open, info), done
            )


class _Header(tarfile.TarInfo):
    """Of a member of a tar: a damaged one, or none behind the last member, is not taken for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


@contextmanager
def whole_tar(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """A tar, also a compressed one, of which all members are to be walked through.

    Raises:
        tarfile.TarError, or what its compression raises: it is damaged or cut, also where `tarfile` would
        take that for its end.
    """
    with tarfile.open(fileobj=file, tarinfo=_Header) as archive:
        yield archive
        # A tar ends before its file does: zeros follow, and what checksum there is stands behind them.
        while archive.fileobj and (chunk := archive.fileobj.read(CHUNK_BYTES)):
            if chunk.strip(b"\0"):
                raise tarfile.ReadError("something follows its end")


def _tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file, whole_tar(file) as archive:
        for info in archive:
            link = "link" if info.issym() or info.islnk() else "device"
            kind = "file" if info.isfile() else "folder" if info.isdir() else link
            yield _Member(info.name, kind, info.size, partial(archive.extractfile, info), file.tell())


def _stripped(member: _Member, archive: Path, strip: int) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if any(unicodedata.category(character) == "Cc" for character in member.name):
        problem = "has control characters in its name"
    elif path.is_absolute() or PureWindowsPath(member.name).drive:
        problem = "has an absolute path"
    elif ".." in path.parts or "\\" in member.name:
        problem = "leads out of its folder"
    elif member.kind in ("link", "device"):
        problem = f"is a {member.kind}"
    else:
        return PurePosixPath(*path.parts[strip:])
    raise _unsafe(archive, member, problem)


def _unsafe(archive: Path, member: _Member, problem: str) -> UserError:
    return UserError(f"{archive} is not safe to unpack, its member {member.name!r} {problem}: remove it.")


def _refuse_second(member: _Member, name: PurePosixPath, archive: Path, written: set[str]) -> None:
    """Raises UserError where a file would be written over one that came before, on whatever file system."""
    key = unicodedata.normalize("NFC", str(name)).casefold()
    if member.kind == "file" and key in written:
        raise _unsafe(archive, member, "has the name of another one, or differs from it by case alone")
    written.update({key} if member.kind == "file" else ())


def _write(member: _Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("xb") as target:
        while chunk := source.read(min(CHUNK_BYTES, member.size - target.tell() + 1)):
            target.write(chunk)
            if target.tell() > member.size:
                raise zipfile.BadZipFile(f"{member.name!r} is longer than it says")


@dataclass(frozen=True)
class Release:
    """The archive that a corpus is released as, and where it goes.

    Attributes:
        url, sha256, size: where it is fetched, and how it is known; its size in bytes.
        folder: the name that it has in the cache, where the data folder cannot be written to.
        sign: a file or folder of it that shows that it is there.
        archive: name of the archive in the cache; the last part of the address if it is not given.
        members, strip: what of it is unpacked, as `unpack` takes them.
    """

    url: str
    sha256: str
    size: int
    folder: str
    sign: str
    archive: str | None = None
    members: tuple[str, ...] | None = None
    strip: int = 0

    def find(self, root: Path, cache: Path) -> Path:
        """`root`, or what was fetched into the cache where only that is there."""
        fetched = cache / self.folder
        return fetched if (fetched / self.sign).exists() and not (root / self.sign).exists() else root

    def fetch(self, root: Path, cache: Path) -> None:
        """Fetches and unpacks what is not there yet, as `root`, or into the cache where that cannot be.

        Raises:
            UserError: `root` holds something else, or `fetch` or `unpack` fails.
        """
        if (self.find(root, cache) / self.sign).exists():
            return
        if root.is_dir() and any(root.iterdir()):
            raise UserError(
                f"{root} is there without its {self.sign}: move it away and run again to fetch it."
            )
        archive = fetch(self.url, self.sha256, cache, self.archive, self.size)
        unpack(archive, root if _can_hold(root) else cache / self.folder, self.members, self.strip)


def _can_hold(folder: Path) -> bool:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder.parent, os.W_OK)
