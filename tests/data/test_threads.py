"""Batches that threads gather ahead: the same, in the same order, and no wait without end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from processes import ended, program, start
from torch.utils.data import Dataset

from lightning_audio.data.clip_set import ClipSet
from lightning_audio.data.sampler import BatchLoader, BatchSampler
from lightning_audio.data.threads import in_threads
from lightning_audio.errors import UserError


def slower_at_first(number: int) -> int:
    time.sleep(0.02 if number < 3 else 0)
    return number * number


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 2), (5, 3)])
def test_results_come_in_order_and_only_so_many_ahead(threads: int, ahead: int) -> None:
    taken: list[int] = []

    def items(count: int) -> Iterator[int]:
        for number in range(count):
            taken.append(number)
            yield number

    for place, result in enumerate(in_threads(slower_at_first, items(40), threads, ahead)):
        assert result == place * place
        assert len(taken) <= place + 1 + threads * ahead
    assert taken == list(range(40))
    assert list(in_threads(slower_at_first, [], threads, ahead)) == []


def of_threads() -> int:
    return sum("_work_off" in thread.name for thread in threading.enumerate())


def test_threads_end_when_nobody_takes_more() -> None:
    results = in_threads(slower_at_first, iter(range(10**9)), threads=3)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    assert of_threads() >= 3
    results.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if of_threads() == 0:
            break
        time.sleep(0.02)
    assert of_threads() == 0


class Failing(Dataset):
    """Fails, or does not answer, at the position 6."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.answer = error, threading.Event()

    def __getitem__(self, positions: list[int]) -> torch.Tensor:
        if 6 in positions:
            if self.error is None:
                self.answer.wait(60)
            else:
                raise self.error
        return torch.tensor(positions)


@pytest.mark.parametrize(
    "error", [UserError("The store is gone."), KeyError("dog"), MemoryError(), TimeoutError("of the disk")]
)
def test_what_goes_wrong_in_a_thread_is_raised_in_its_turn(error: BaseException) -> None:
    batches = iter(BatchLoader(Failing(error), BatchSampler(40, 2), threads=2, patience=20))
    read = [next(batches).tolist() for _ in range(3)]
    with pytest.raises(type(error)) as raised:
        next(batches)
    assert raised.value is error
    assert read == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_that_does_not_come_ends_in_one_sentence() -> None:
    data, start = Failing(), time.monotonic()
    batches = iter(BatchLoader(data, BatchSampler(40, 2), threads=2, patience=0.5))
    read = [next(batches).tolist() for _ in range(3)]
    with pytest.raises(UserError, match=r"^No batch came for 0\.5 s: .* loader\.timeout where"):
        next(batches)
    assert time.monotonic() - start < 20
    assert read == [[0, 1], [2, 3], [4, 5]]
    data.answer.set()


def hanging_run(*overrides: str) -> None:
    """A run whose disk does not answer once it reads batches: it has to end all the same."""
    get, read = ClipSet.__getitem__, []

    def hanging(self: ClipSet, positions: list[int]) -> Any:
        read.append(positions)
        if len(read) > 3:
            time.sleep(600)
        return get(self, positions)

    ClipSet.__getitem__ = hanging  # type: ignore[method-assign]
    program("train", *overrides)


def workers_of(pid: int) -> list[int]:
    """The processes that a process has forked, or started with Python."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            same = (stat.parent / "exe").readlink() == Path(sys.executable).resolve()
        except OSError:
            continue
        if int(fields[1]) == pid and same:
            children.append(int(stat.parent.name))
    return children


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
def test_a_run_has_no_worker_process_that_could_be_stopped(tmp_path: Path) -> None:
    """Whatever process the run starts is stopped from outside, and the run gets to its end."""
    overrides = [*TINY, "loader.workers=2", "loader.timeout=8", f"paths.logs={tmp_path}", "test=false"]
    child = start(program, "train", *overrides, output=tmp_path / "out")
    assert child.pid is not None
    stopped: list[int] = []
    deadline = time.monotonic() + 240
    while child.exitcode is None and time.monotonic() < deadline:
        for pid in workers_of(child.pid):
            stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
    status = child.exitcode
    for pid in {child.pid, *stopped}:
        if status is None:
            os.kill(pid, signal.SIGKILL)
    assert status == 0, (tmp_path / "out.err").read_text()
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 1


def test_a_run_whose_disk_does_not_answer_ends(tmp_path: Path) -> None:
    overrides = [*TINY, "loader.workers=2", "loader.timeout=2", f"paths.logs={tmp_path}", "test=false"]
    assert ended(start(hanging_run, *overrides, output=tmp_path / "out"), 240) == 2
    said = (tmp_path / "out.err").read_text()
    assert "error: No batch came for 2 s" in said
    assert "Traceback" not in said
