"""Files: written whole or not at all, made by one process while others wait, and read within bounds."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from lightning_audio.errors import UnwritableError, UserError, is_control, is_full, unusable

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
Content = str | bytes | Callable[[IO[bytes]], object]

FLUSHED_AT_ONCE = 32 * 2**20  # bytes
DEEPEST = 20  # values within values
MOST_VALUES = 300_000  # large vocabularies have tens of thousands
MOST_OPTIONS = 5_000  # in a configuration; one for each class may be among them
ANY_NUMBER = 1_000_000  # such as a sample rate: up to this, whatever the size of the file


def write_atomically(path: Path, content: Content, to_disk: bool = True) -> None:
    """Writes a whole file or none: to a temporary name beside it, to the disk, then renamed over `path`.

    What is large need not be in memory: `content` may be what writes it to an open file.
    Without `to_disk` it does not wait for the disk: after a power cut the old one may be there.
    """
    write_together({path: content}, to_disk)


def write_together(contents: Mapping[Path, Content], to_disk: bool = True) -> None:
    """Writes files that belong together, each as `write_atomically`: none gets its name before all are
    there, so that a full disk leaves what was there before."""
    for path in contents:
        refuse_device(path)
    written: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            with written[path].open("wb") as file:
                if callable(content):
                    content(file)
                else:
                    # A file name need not be UTF-8: what is not is spelled as JSON does, which gives it back.
                    file.write(
                        content.encode(errors="backslashreplace") if isinstance(content, str) else content
                    )
                if to_disk:
                    file.flush()
                    os.fsync(file.fileno())
        for path, temporary in written.items():
            temporary.replace(path)
    except OSError as error:
        if error.errno:
            error.filename = str(path)  # not a name that the user never gave, or none
            if unusable(error) is None:  # as in /proc, where there can be no file of that name
                raise UnwritableError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        for temporary in written.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def expanded(name: str | Path) -> Path:
    """A path in whose beginning `~` is the user's home; `~b.wav`, of which there is no user, is a file."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - that of Path ends on it


def refuse_device(path: Path) -> None:
    """Raises UserError for what is no file: renaming over /dev/null or a pipe would take it away."""
    place = path.absolute()
    link = place.is_symlink() and place.parts[1] in ("dev", "proc")  # as /dev/stdout is
    if link or (place.exists() and not place.is_dir() and not place.is_file()):
        raise UserError(
            f"{path} is no file but a device or a pipe: name a file, or leave --output out and redirect what "
            "is printed."
        )


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON object more at the end of a file of them, one a line."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{to_json(row)}\n")
        file.flush()
        os.fsync(file.fileno())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON with letters as they are; scores, paths and the numbers of numpy and torch are understood.

    Raises:
        UserError: there is NaN or an infinite number in it, which JSON does not have.
    """
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=_plain, allow_nan=False)
    except ValueError as error:
        raise UserError(
            "A result is NaN or infinite, and nothing is written: check the weights and the audio that it is "
            f"of ({str(value)[:200]})."
        ) from error


def from_json(text: str | bytes) -> Any:
    """What JSON says; raises ValueError for what is none, too many brackets within brackets among it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("too many brackets") from None


def read_json(file: Path, kind: type[T], mend: str) -> T:
    """What a JSON file of the project holds, an object of this kind; raises UserError where it is damaged."""
    try:
        found = from_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): {mend}.") from None
    if not isinstance(found, kind):
        raise UserError(f"{file} is damaged (it holds no {kind.__name__}): {mend}.")
    return found


def read_lines(file: Path, mend: str) -> list[str]:
    """The lines of a text file.

    Raises:
        UserError: it is not there, which `mend` says how to mend, or can't be read as UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"There is no {file}: {mend}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}): give it in UTF-8.") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Iterable[str], header: bool = True) -> str:
    """These columns of the rows as CSV, behind a header unless a file has it already."""
    content = io.StringIO()
    writer = csv.DictWriter(content, [*columns], extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def terminal(**options: Any) -> Console:
    """rich's console for text that stays as it is: no markup or `:dog:` in a file name is taken for a sign.

    It draws boxes of plain characters where standard output can't encode others. That counts for a text, too,
    that is drawn first and printed later.
    """
    from rich.console import Console  # here, since programs that print no table need not wait for it

    class Terminal(Console):
        @property
        def encoding(self) -> str:
            own = getattr(self.file, "encoding", None) or getattr(sys.stdout, "encoding", None)
            return (own or "utf-8").lower()

    return Terminal(markup=False, highlight=False, emoji=False, **options)


def build_once(
    folder: Path,
    is_whole: Callable[[], bool],
    write: Callable[[Path], None],
    what: str,
    needed: Callable[[], float] | None = None,
) -> None:
    """Makes the folder unless another process has done so by the time that the lock is ours.

    Args:
        folder: what is to be there.
        is_whole: whether it is.
        write: puts all that belongs into it into a folder of another name, which then gets its own.
        what: is written, in the words of an error.
        needed: its size in bytes, where it is known, asked for when the disk is full.

    Raises:
        UserError: the folder cannot be written to, or its disk is full.
    """
    from filelock import FileLock  # here, since what only reads needs no locks

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_whole():
                _build(folder, write)
    except OSError as error:
        if is_full(error):
            size = f"the {what} needs about {needed() / 1e9:.2g} GB, so make room" if needed else ""
            raise UserError(
                f"The disk of {folder.parent} is full: {size or f'make room for the {what},'} or set "
                "paths.cache to another disk."
            ) from error
        raise UserError(
            f"The {what} cannot be written to {folder.parent} ({error.strerror}): "
            "set paths.cache to a folder that can be written to."
        ) from error


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    for left_over in folder.parent.glob(f".{folder.name}.partial-*"):
        shutil.rmtree(left_over)  # Of a build that was killed: a living one would hold the lock.
    if folder.is_dir():
        print(f"{folder} is damaged or out of date: it is built again.", flush=True)
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


def plain(value: Any, what: str, largest: int, most: int = MOST_VALUES) -> Any:
    """A copy in dicts, lists, text, numbers and None; names what is no such thing by `what`.

    Args:
        largest: that a whole number may be; what counts something is no larger than the file that has it.
        most: values in all.

    Raises:
        UserError: other kinds of values, too many or too deep ones, text that a terminal would obey.
    """
    left = most

    def copied(node: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise UserError(f"{what} is larger or deeper than any that `train` writes: it is damaged.")
        if isinstance(node, dict):
            return {copied(key, depth): copied(child, depth + 1) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return [copied(child, depth + 1) for child in node]
        if isinstance(node, str) and not node.isprintable() and any(map(is_control, node)):
            raise UserError(f"{what} holds control characters ({node[:40]!r}), which no terminal should get.")
        if type(node) is int and abs(node) > max(largest, ANY_NUMBER):
            raise UserError(
                f"{what} holds the number {node:.3g}, far too large for its weights: it is damaged."
            )
        if node is not None and type(node) not in (str, bool, int, float):
            raise UserError(f"{what} holds a {type(node).__name__}, which is no plain value: it is damaged.")
        return node

    return copied(value, 0)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


def sync(folder: Path) -> None:
    """Writes the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
