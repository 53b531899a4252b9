"""Worker processes of a loader: one that dies, hangs or fails is named in one sentence; none stays behind."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from lightning_audio.errors import UserError

# What torch says of a worker that is gone, of one that hangs, and of an exception in one.
DEAD = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is|was)? ?(.*?)(?:\. |\.?$)", re.DOTALL)
HUNG = "DataLoader timed out"
FAILED = re.compile(r"Caught \w+ in DataLoader worker process (\d+)\.")
CURES = {
    "SIGKILL": "as a rule by the machine, since memory ran out: give it more, or set loader.workers=0",
    "SIGBUS": "shared memory (/dev/shm) is full or a file was cut while it was read: set loader.workers=0",
}
STOPPED = ("T", "t")  # states of a process, as Linux names them

# So long a worker outlives a SIGTERM: one to the whole job must not cost the step that is finished.
WORKER_SECONDS = 15

_ending = threading.Event()  # set while workers are ended on purpose
_handlers: list[Callable[[int, FrameType | None], Any]] = []  # torch's handler of SIGCHLD


def supervised_batches(loader: DataLoader, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The batches of a loader with worker processes, `start` makes its iterator.

    Raises:
        UserError: a worker died, gave nothing for the loader's `timeout`, or raised an exception.
    """
    iterator: Any = None
    given = 0
    try:
        iterator = start()
        _name_the_dead()
        for batch in iterator:
            yield batch
            given += 1
    except Exception as error:
        if isinstance(error.__cause__, UserError):  # the news of a death came while it waited for a batch
            raise error.__cause__ from error
        processes = getattr(iterator or loader._iterator, "_workers", [])
        sentence: str | None
        if str(error).startswith(HUNG):
            sentence = _of_the_hung(processes, given % loader.num_workers, loader.timeout)
            _end(processes)  # one that is stopped would not end by being asked, and be waited for without end
        else:
            sentence = _of_the_dead(str(error)) or _of_the_failed(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _of_the_dead(text: str) -> str | None:
    found = DEAD.match(text)
    if not found:
        return None
    pid, fate = found[1], found[2].strip()
    names = {signal.strsignal(number): number.name for number in signal.Signals}
    how = fate.removeprefix("killed by signal: ")
    fate = f"was killed by {names.get(how, how)}" if how != fate else fate
    cure = CURES.get(names.get(how, ""), "set loader.workers=0, which shows where")
    return f"A loader worker (process {pid}) {fate}; {cure}."


def _of_the_failed(error: Exception) -> str | None:
    found = FAILED.match(str(error).strip("'"))
    if not found:
        return None
    reason = str(error).strip().splitlines()[-1]
    if isinstance(error, UserError):
        return reason.partition("UserError: ")[2]
    if isinstance(error, MemoryError):
        return (
            f"Loader worker {found[1]} ran out of memory: set loader.workers=0 or fewer, or make "
            "loader.batch_size smaller."
        )
    return f"Loader worker {found[1]} failed ({reason.rstrip('.')}): set loader.workers=0, which shows where."


def _of_the_hung(processes: Sequence[BaseProcess], expected: int, seconds: float) -> str:
    stopped = [number for number, process in enumerate(processes) if _is_stopped(process)]
    named = " and ".join(f"{number} (process {processes[number].pid})" for number in stopped or [expected])
    why = "was stopped" if stopped else "hangs"
    return (
        f"Loader worker {named} {why} and gave no batch for {seconds:g} s: set loader.workers=0, or raise "
        "loader.timeout where a batch may take so long."
    )


def _is_stopped(process: BaseProcess) -> bool:
    """Whether a process is stopped, such as by SIGSTOP; False where the system does not tell."""
    try:
        # The name of the program stands in brackets, and may hold anything.
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state in STOPPED


def _end(processes: Sequence[BaseProcess]) -> None:
    _ending.set()
    try:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    finally:
        _ending.clear()


def _name_the_dead() -> None:
    """Lets the death of a worker, of which the system tells at any time, raise a UserError.

    torch raises a RuntimeError then. Called for every iterator, since Lightning puts the handler back that
    was there before its training.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if handler is _on_death:
        return
    if callable(handler):
        _handlers[:] = [handler]
    signal.signal(signal.SIGCHLD, _on_death)


def _on_death(number: int, frame: FrameType | None) -> None:
    if _ending.is_set():
        return
    try:
        for handler in _handlers:
            handler(number, frame)
    except RuntimeError as error:
        if sentence := _of_the_dead(str(error)):
            raise UserError(sentence) from error
        raise


def in_loader_worker(_: int) -> None:
    """For DataLoader's `worker_init_fn`: a signal to the whole group of processes is for the trainer.

    It ends its workers when it has saved; a worker that would end by itself would fail the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_SECONDS))
