"""A loader worker that dies, hangs or fails ends the run in one sentence, and leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch.utils.data import Dataset

from lightning_audio.data.sampler import BatchLoader, BatchSampler
from lightning_audio.errors import UserError

SENTENCES = {
    "killed": r"^A loader worker \(process PID\) was killed by SIGKILL; .* loader\.workers=0\.$",
    "exits": r"^A loader worker \(process PID\) exited unexpectedly with exit code 3; set loader\.workers=0",
    "stopped": r"^Loader worker 1 \(process PID\) was stopped and gave no batch for 1 s: .* loader\.timeout",
    "hangs": r"^Loader worker 1 \(process PID\) hangs and gave no batch for 1 s: .* loader\.timeout",
    "memory": r"^Loader worker 1 ran out of memory: set loader\.workers=0",
    "file": r"^Loader worker 1 failed \(FileNotFoundError: .*'nowhere'\): set loader\.workers=0, which shows",
    "key": r"^Loader worker 1 failed \(KeyError: 'dog'\): set loader\.workers=0, which shows where\.$",
    "user": r"^The store is gone: build it again\.$",
}


class Failing(Dataset):
    """The second worker of two fails at its second batch; each batch says who read it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __getitem__(self, positions: list[int]) -> torch.Tensor:
        if 6 in positions:
            self.fail()
        return torch.tensor([*positions, os.getpid()])

    def fail(self) -> None:
        if self.kind == "memory":
            raise MemoryError
        if self.kind == "file":
            raise FileNotFoundError(2, "No such file or directory", "nowhere")
        if self.kind == "key":
            raise KeyError("dog")
        if self.kind == "user":
            raise UserError("The store is gone: build it again.")
        if self.kind == "exits":
            os._exit(3)
        if self.kind == "hangs":
            time.sleep(600)
        os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[self.kind])


def read(loader: BatchLoader, pids: list[int]) -> None:
    for batch in loader:
        pids.append(int(batch[-1]))


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_worker_that_fails_is_named(kind: str) -> None:
    # Batches 0, 2, 4 ... are of the first worker, 1, 3, 5 ... of the second.
    loader = BatchLoader(
        Failing(kind), BatchSampler(40, 2), num_workers=2, persistent_workers=True, timeout=1
    )
    pids: list[int] = []
    with pytest.raises(UserError) as named:
        read(loader, pids)
    if len(pids) > 1:  # the news of a death may come before the first batches
        assert re.search(SENTENCES[kind].replace("PID", str(pids[1])), str(named.value))
    assert re.search(SENTENCES[kind].replace("PID", "[0-9]+"), str(named.value))
    if kind in ("stopped", "hangs"):
        assert [Path(f"/proc/{pid}").exists() for pid in pids] == [False] * len(pids)


def test_an_error_of_the_process_itself_stays_as_it_is() -> None:
    class Wrong(BatchSampler):
        def batches(self) -> Any:
            raise IndexError("of the sampler")

    loader = BatchLoader(Failing("key"), Wrong(8, 2), num_workers=1, persistent_workers=True)
    with pytest.raises(IndexError, match="of the sampler"):
        list(loader)


# Starts a run whose worker kills or stops itself, or whose main process is killed.
CHILD = """
import os, signal, sys
import torch
from torch.utils.data import get_worker_info
from lightning_audio.cli import train
from lightning_audio.data.clip_set import ClipSet
from lightning_audio.tasks.base import AudioTask

torch.set_num_threads(1)
kind, *sys.argv[1:] = sys.argv[1:]
get, step = ClipSet.__getitem__, AudioTask.training_step
read = []

def failing(self, positions):
    worker = get_worker_info()
    read.append(positions)
    if worker is not None and worker.id == 1 and len(read) == 3 and kind != "main":
        os.kill(os.getpid(), getattr(signal, kind))
    return get(self, positions)

def killed(self, batch, batch_idx):
    if kind == "main" and (self.current_epoch, batch_idx) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

ClipSet.__getitem__, AudioTask.training_step = failing, killed
train.main()
"""


def left_of(session: int) -> list[int]:
    """The processes of a session, apart from those that have ended and wait to be asked how."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            left.append(int(stat.parent.name))
    return left


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("kind", ["SIGKILL", "main", pytest.param("SIGSTOP", marks=pytest.mark.slow)])
def test_a_run_ends_and_leaves_no_process_behind(kind: str, tmp_path: Path) -> None:
    overrides = [*TINY, "loader.workers=2", "loader.timeout=3", f"paths.logs={tmp_path}", "test=false"]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stderr is not None
    error = child.stderr.read() if kind != "main" else ""
    status = child.wait(timeout=120)
    if kind == "main":
        assert status == -signal.SIGKILL
        for _ in range(300):  # workers look every 5 s whether their process is there
            if not left_of(child.pid):
                break
            time.sleep(0.1)
    else:
        assert status == 2
        how = "was killed by SIGKILL" if kind == "SIGKILL" else "was stopped and gave no batch for 3 s"
        assert re.search(rf"^error: .* \(process [0-9]+\) {how}[;: ]", error, re.MULTILINE), error
        assert "Traceback" not in error
    assert left_of(child.pid) == []
