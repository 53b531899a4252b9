"""SIGTERM, Ctrl-C and Slurm's SIGUSR1: training finishes its step and saves, everything else is left at once.

Lightning's own handlers are replaced: its handler of SIGTERM starts a collective call within a signal, its
Ctrl-C leaves without saving, and its requeueing on Slurm writes a checkpoint in the middle of a step.

A process that waits inside C code, for another rank or for a worker that has stopped, runs no handler of
Python's. A thread sees the signal all the same, and ends the process where it then makes no more progress.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from lightning_audio.errors import Interrupted, stop_signals

PATIENCE = 30.0  # seconds without progress after a signal; torchrun waits as long before it kills


class _State:
    """The signal that was received, and what training does about it."""

    signum: int | None = None
    deferred = False
    pid: int | None = None  # the process that handles signals; what it forks does not
    progress = 0.0  # when training last finished something, by time.monotonic()
    saving = False


@contextlib.contextmanager
def handling() -> Iterator[None]:
    """Within it a signal raises Interrupted: at once, or where `defer` was called, when `leave` is called."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread
        return
    before = {signum: signal.getsignal(signum) for signum in stop_signals()}
    _State.signum, _State.deferred, _State.pid = None, False, os.getpid()
    take_over()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_end,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)  # ends the thread
        _State.signum, _State.deferred, _State.pid = None, False, None
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _watch(read_end: int) -> None:
    """Ends the process PATIENCE seconds after its last progress once it has received a signal to stop."""
    asked: int | None = None
    with open(read_end, "rb", buffering=0) as wakeups:
        while True:
            ready, _, _ = select.select([wakeups], [], [], 1.0 if asked else None)
            if ready:
                if not (received := wakeups.read(1)):
                    return  # no longer handled
                if received[0] in stop_signals() and asked is None:
                    asked, _State.progress = received[0], time.monotonic()
            if asked and not _State.saving and time.monotonic() - _State.progress > PATIENCE:
                name = signal.Signals(asked).name
                os.write(2, f"\n{name}: no progress for {PATIENCE:g} s, left without saving\n".encode())
                os._exit(128 + asked)


def progressed() -> None:
    """Training has finished a batch: a process that was asked to stop is still on its way."""
    _State.progress = time.monotonic()


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it the process is not ended, however long a disk takes."""
    _State.saving = True
    try:
        yield
    finally:
        _State.saving = False
        progressed()


def _forget_in_child() -> None:
    """A process that was forked shares the pipe: a signal to a worker is none to the run."""
    if _State.pid is not None and _State.pid != os.getpid():
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def take_over() -> None:
    """Sets the handlers again where another has set its own: Lightning does, at the start of every stage."""
    if _State.pid == os.getpid():
        for signum in stop_signals():
            signal.signal(signum, _receive)


def defer(until_asked: bool) -> None:
    """Whether the caller asks `received` by itself from now on, so that a signal interrupts nothing."""
    _State.deferred = until_asked


def received() -> bool:
    """Whether the run has been asked to end."""
    return _State.signum is not None


def leave() -> NoReturn:
    """Raises Interrupted for the signal that was received, if another process received it for SIGTERM."""
    raise Interrupted(_State.signum or signal.SIGTERM)


def _receive(signum: int, frame: FrameType | None) -> Any:
    if os.getpid() != _State.pid:
        return _receive_in_child(signum, frame)
    if signum == signal.SIGINT == _State.signum:
        os._exit(128 + signum)  # who presses Ctrl-C twice will not wait
    _State.signum = signum
    if not _State.deferred:
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
