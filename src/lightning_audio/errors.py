"""The one exception that a user's mistake raises, and how a program ends on it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

# Verbs of sentences on several things as they are of one.
SINGULAR = {"are": "is", "have": "has", "go": "goes", "end": "ends", "lie": "lies", "stand": "stands"}
# What is raised where a disk, or the server of one, fails.
FAILING = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN)

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """A mistake of the user's: one sentence that says what is wrong, where, and how to mend it.

    The programs print it alone, without a traceback, and end with exit status 2.
    """


class UnwritableError(OSError):
    """A file that can't be written where it was to be, for a reason that no permission or room would mend."""


class Interrupted(BaseException):
    """A signal asked the run to end, and it did; no Exception, which others would handle as an error."""

    def __init__(self, signum: int, words: str = "") -> None:
        super().__init__(words)
        self.signum = signum


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean 'OPTION'?)` where an option is close to the word, otherwise nothing."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def counted(number: int, words: str) -> str:
    """`2 labels have no clip`, `1 label has no clip`: the number with a plural noun and, maybe, its verb."""
    if number != 1:
        return f"{number} {words}"
    noun, space, rest = words.partition(" ")
    verb, *more = rest.split(" ", 1)
    return " ".join([f"1 {noun.removesuffix('s')}{space}{SINGULAR.get(verb, verb)}", *more])


def listed(texts: Sequence[str], most: int = 5, between: str = "; ") -> str:
    """The first of many texts, and how many there are besides: `a; b; and 3 more`."""
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return between.join([*texts[:most], *more])


def is_control(character: str) -> bool:
    """Whether a terminal might obey a character instead of showing it; tabs and ends of lines aside."""
    return unicodedata.category(character) == "Cc" and character not in "\t\n"


def printable(text: str) -> str:
    """Text as a terminal may be given it: control characters are spelled out, and what is no UTF-8."""
    return "".join(ascii(c)[1:-1] if is_control(c) or "\ud800" <= c <= "\udfff" else c for c in text)


def encodable(text: str) -> str:
    """Text in which what is no UTF-8, as a file name may be, is spelled as JSON does."""
    return text.encode(errors="backslashreplace").decode()


def masked(text: str) -> str:
    """Text in which passwords of addresses, as in http://user:password@host, are left out."""
    return re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)


def refuse_address(place: object) -> None:
    """Raises UserError for the address of something in a network: files are read from disks alone."""
    if "://" in str(place):
        raise UserError(
            f"{place} is an address, and nothing is fetched from it: fetch it yourself, name the file."
        )


def is_full(error: OSError) -> bool:
    """Whether the disk, or the share of it that one may use, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unusable(error: BaseException) -> UserError | None:
    """The sentence for a file that may not be used, or a disk that is full; None for other errors."""
    if not isinstance(error, OSError):
        return None
    place = "name another place by paths.logs, paths.cache or --output"
    if is_full(error):
        return UserError(f"The disk of {error.filename or 'a result'} is full: free some space, or {place}.")
    if error.errno == errno.ENAMETOOLONG and error.filename:
        return UserError(f"{error.filename} is too long a name for this disk: choose a shorter one.")
    why = f"{error.filename} can't be used ({error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        return UserError(f"{why}: change its permissions, or {place}.")
    if error.errno in FAILING and error.filename:
        return UserError(f"{why}: look after its disk, or {place}.")
    return UserError(f"{why}: {place}.") if isinstance(error, UnwritableError) else None


def end_on(error: UserError) -> NoReturn:
    """Prints the sentence and ends with exit status 2; LIGHTNING_AUDIO_TRACEBACK=1 shows its origin."""
    if os.environ.get("LIGHTNING_AUDIO_TRACEBACK"):
        raise error
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a run in order; on Slurm, SIGUSR1 announces the end of a job's time."""
    slurm = (signal.SIGUSR1,) if os.environ.get("SLURM_JOB_ID") and hasattr(signal, "SIGUSR1") else ()
    return (signal.SIGTERM, signal.SIGINT, *slurm)


def handle_signals(act: Callable[[int], object]) -> dict[int, Any]:
    """From now on `stop_signals` act so in this process; returns what handled them before.

    A process that this one forks ends on them at once.
    """
    process = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            act(signum)
        else:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    return {signum: signal.signal(signum, handle) for signum in stop_signals()}


@contextlib.contextmanager
def on_signals(act: Callable[[int], object]) -> Iterator[None]:
    """Within it signals act as `handle_signals` says."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = handle_signals(act)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def interrupt(signum: int) -> NoReturn:
    """Lets what is running end in order. KeyboardInterrupt would not do: Lightning exits with 1 on that."""
    raise Interrupted(signum)


def leave_at_once(signum: int) -> NoReturn:
    """Ends a process before or after its work, where what is imported may pass over exceptions."""
    os.write(2, f"stopped by {signal.Signals(signum).name}\n".encode())
    os._exit(128 + signum)


class _Outliving(io.FileIO):
    """Standard output that is thrown away once nobody reads it any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # a pipe, a terminal that was closed
                raise
            _to_nowhere(self.fileno())
            return len(data)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def outlive_terminal() -> None:
    """Lets a program go on whose output nobody reads any more, as in `train | head`."""
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        text, raw = sys.stdout, _Outliving(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), text.encoding, text.errors, line_buffering=text.line_buffering
        )


def cli_errors(program: Callable[P, R]) -> Callable[P, R]:
    """Lets a program end in one line: on a UserError with status 2, on a file that it may not use as well.

    On a signal it ends with 128 + its number, as a shell counts: 130 on Ctrl-C, 143 on SIGTERM; where nobody
    reads its output any more, with 141.
    """

    @functools.wraps(program)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in ("stdin", "stdout", "stderr"):  # closed, as by `>&-`: the next file would take its place
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal can't show is spelled out
                stream.reconfigure(errors="backslashreplace")
        try:
            with on_signals(interrupt):
                done = program(*args, **kwargs)
                sys.stdout.flush()
                return done
        except UserError as error:
            end_on(error)
        except KeyboardInterrupt as interrupt_:
            print(": ".join(["interrupted", *map(str, interrupt_.args)]), file=sys.stderr)
            sys.exit(130)
        except Interrupted as interruption:
            print(f"stopped by {signal.Signals(interruption.signum).name}{interruption}", file=sys.stderr)
            sys.exit(128 + interruption.signum)
        except BrokenPipeError:
            _to_nowhere(1)
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if not (sentence := unusable(error)):
                raise
            end_on(sentence)

    return wrapped
