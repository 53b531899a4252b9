"""Work done ahead in threads, its results in their order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

from lightning_audio.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def in_threads(
    work: Callable[[T], R],
    items: Iterable[T],
    threads: int | None = None,
    ahead: int = 2,
    patience: float | None = None,
) -> Iterator[R]:
    """`work` of every item, in their order, done up to `ahead` items for each thread before its turn.

    Threads serve where the work lets go of the interpreter, as decoding, copying and reading do. Nothing has
    to travel between processes then, and there is none that can be stopped, be killed or stay behind.

    Args:
        threads: how many; by default one for each processor.
        patience: seconds to wait for a result; None: without end.

    Raises:
        UserError: a result did not come in time. Its thread is left behind, and does not keep the process.
    """
    threads = threads or os.cpu_count() or 1
    todo: SimpleQueue[tuple[Future[R], T] | None] = SimpleQueue()
    waiting: deque[Future[R]] = deque()
    items = iter(items)

    def hand_out(count: int) -> None:
        for item in islice(items, count):
            waiting.append(Future())
            todo.put((waiting[-1], item))

    try:
        for _ in range(threads):
            threading.Thread(target=_work_off, args=(work, todo), daemon=True).start()
        hand_out(ahead * threads)
        while waiting:
            result = waiting.popleft()
            if not wait([result], patience).done:
                raise UserError(
                    f"No batch came for {patience:g} s: the disk does not answer, or is too slow; raise "
                    "loader.timeout where a batch may take so long."
                )
            hand_out(1)
            yield result.result()
    finally:
        for result in waiting:
            result.cancel()
        for _ in range(threads):
            todo.put(None)


def _work_off(work: Callable[[T], R], todo: SimpleQueue[tuple[Future[R], T] | None]) -> None:
    while (job := todo.get()) is not None:
        result, item = job
        if not result.set_running_or_notify_cancel():
            continue
        try:
            result.set_result(work(item))
        except BaseException as error:  # of any kind: it is raised where the result is asked for
            result.set_exception(error)
        del job, result, item  # which would keep a batch in memory until the next one comes
