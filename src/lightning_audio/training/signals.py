"""SIGTERM, Ctrl-C and Slurm's SIGUSR1: training finishes its step and saves, everything else is left at once.

Lightning's own handlers are replaced: its handler of SIGTERM starts a collective call within a signal, its
Ctrl-C leaves without saving, and its requeueing on Slurm writes a checkpoint in the middle of a step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from lightning_audio.errors import Interrupted


class _Heard:
    """What was received, and whether something looks at it: training, after each of its steps."""

    signum: int | None = None
    deferred = False
    listener: int | None = None  # the process that listens; what it forks does not


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a run in order; on Slurm, SIGUSR1 announces the end of a job's time."""
    slurm = (signal.SIGUSR1,) if os.environ.get("SLURM_JOB_ID") and hasattr(signal, "SIGUSR1") else ()
    return (signal.SIGTERM, signal.SIGINT, *slurm)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within it a signal raises Interrupted: at once, or where `defer` was called, when `leave` is called."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = {signum: signal.getsignal(signum) for signum in stop_signals()}
    _Heard.signum, _Heard.deferred, _Heard.listener = None, False, os.getpid()
    take_over()
    try:
        yield
    finally:
        _Heard.signum, _Heard.deferred, _Heard.listener = None, False, None
        for signum, handler in before.items():
            signal.signal(signum, handler)


def take_over() -> None:
    """Sets the handlers again where another has set its own: Lightning does, at the start of every stage."""
    if _Heard.listener == os.getpid():
        for signum in stop_signals():
            signal.signal(signum, _receive)


def defer(until_asked: bool) -> None:
    """Whether the caller asks `received` by itself from now on, so that a signal interrupts nothing."""
    _Heard.deferred = until_asked


def received() -> bool:
    """Whether the run has been asked to end."""
    return _Heard.signum is not None


def leave() -> NoReturn:
    """Raises Interrupted for the signal that was received, if another process received it for SIGTERM."""
    raise Interrupted(_Heard.signum or signal.SIGTERM)


def _receive(signum: int, frame: FrameType | None) -> Any:
    if os.getpid() != _Heard.listener:
        return _receive_in_child(signum, frame)
    if signum == signal.SIGINT == _Heard.signum:
        os._exit(128 + signum)  # who presses Ctrl-C twice will not wait
    _Heard.signum = signum
    if not _Heard.deferred:
        leave()
    # Not print: what was interrupted may be one.
    os.write(2, f"\n{signal.Signals(signum).name}: finishing the step and saving\n".encode())
    return None


def _receive_in_child(signum: int, frame: FrameType | None) -> Any:
    """A process that was forked does what it would have done without these handlers."""
    if signum == signal.SIGINT:
        return signal.default_int_handler(signum, frame)
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    return None
