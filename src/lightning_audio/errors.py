"""The one exception that a user's mistake raises, and how a program ends on it."""

from __future__ import annotations

import difflib
import functools
import io
import os
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class UserError(Exception):
    """A mistake of the user's: one sentence that says what is wrong, where, and how to mend it.

    The programs print it alone, without a traceback, and end with exit status 2.
    """


class Interrupted(BaseException):
    """A signal asked the run to end, and it did; no Exception, which others would handle as an error."""

    def __init__(self, signum: int, words: str = "") -> None:
        super().__init__(words)
        self.signum = signum


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean 'OPTION'?)` where an option is close to the word, otherwise nothing."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def is_control(character: str) -> bool:
    """Whether a terminal might obey a character instead of showing it; tabs and ends of lines aside."""
    return unicodedata.category(character) == "Cc" and character not in "\t\n"


def printable(text: str) -> str:
    """Text as a terminal may be given it: control characters are spelled out, and what is no UTF-8."""
    return "".join(ascii(c)[1:-1] if is_control(c) or "\ud800" <= c <= "\udfff" else c for c in text)


def refuse_address(place: object) -> None:
    """Raises UserError for the address of something in a network: files are read from disks alone."""
    if "://" in str(place):
        raise UserError(
            f"{place} is an address, and nothing is fetched from it: fetch it yourself, name the file."
        )


def end_on(error: UserError) -> NoReturn:
    """Prints the sentence and ends with exit status 2; LIGHTNING_AUDIO_TRACEBACK=1 shows its origin."""
    if os.environ.get("LIGHTNING_AUDIO_TRACEBACK"):
        raise error
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)


def cli_errors(program: Callable[P, R]) -> Callable[P, R]:
    """Lets a program end on a UserError with its sentence and exit status 2.

    On a signal it ends with 128 + its number, as a shell counts: 130 on Ctrl-C, 143 on SIGTERM.
    """

    @functools.wraps(program)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal can't show is spelled out
                stream.reconfigure(errors="backslashreplace")
        try:
            return program(*args, **kwargs)
        except UserError as error:
            end_on(error)
        except KeyboardInterrupt as interrupt:
            print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
            sys.exit(130)
        except Interrupted as interruption:
            print(f"stopped by {signal.Signals(interruption.signum).name}{interruption}", file=sys.stderr)
            sys.exit(128 + interruption.signum)

    return wrapped
