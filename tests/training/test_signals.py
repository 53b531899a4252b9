"""SIGTERM, Ctrl-C and Slurm's signals, sent to this process while it trains, tests, or runs one of many."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import TINY
from processes import ended, start

from lightning_audio.cli import sweep
from lightning_audio.cli import train as program
from lightning_audio.errors import Interrupted, UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training import signals, slurm

Send = Callable[[str, signal.Signals, int], None]


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Send:
    """`send(hook, signum, call)` sends the signal in the so many-eth call of a hook of the task."""

    def sending(hook: str, signum: signal.Signals, call: int) -> None:
        calls, run = [0], getattr(AudioTask, hook)

        def signalled(self: AudioTask, *args: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signum)
            return run(self, *args)

        monkeypatch.setattr(AudioTask, hook, signalled)

    return sending


def end_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of the program."""
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    try:
        program.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def step_of(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_training_finishes_its_step_and_saves(
    signum: signal.Signals,
    status: int,
    send: Send,
    logs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signum)
    send("training_step", signum, 7)  # of 5 an epoch
    assert end_of([*TINY], monkeypatch) == status
    (run,) = (logs / "demo").iterdir()
    assert step_of(run) == 7
    assert not (run / "metrics.json").exists()
    assert capfd.readouterr().err.endswith(f"stopped by {signum.name}: resume with resume={run}\n")
    assert signal.getsignal(signum) is before
    assert end_of(["experiment=demo", "resume=latest"], monkeypatch) == 0
    assert step_of(run) == 10


def test_a_signal_in_the_last_step_of_all_leaves_the_test_to_the_next_start(
    send: Send, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send("training_step", signal.SIGTERM, 10)
    assert end_of([*TINY], monkeypatch) == 143
    (run,) = (logs / "demo").iterdir()
    assert step_of(run) == 10
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize("hook", ["test_step", "validation_step"])
def test_outside_of_training_it_leaves_at_once(
    hook: str, send: Send, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(hook, signal.SIGTERM, 1)  # a validation step: that of the sanity check
    assert end_of([*TINY, "loader.val_fraction=0.25", "trainer.max_epochs=1"], monkeypatch) == 143
    (run,) = (logs / "demo").iterdir()
    assert not (run / "metrics.json").exists()
    assert (run / "checkpoints" / "last.ckpt").exists() == (hook == "test_step")


def test_a_multirun_ends_as_a_whole_and_goes_on(
    send: Send, logs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    many = ["-m", *TINY, "trainer.max_epochs=1", "seed=0,1"]
    send("training_step", signal.SIGTERM, 3)
    assert end_of(many, monkeypatch) == 143
    (folder,) = (logs / "demo").iterdir()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["0"]
    assert f"resume with the same command and resume={folder}\n" in capfd.readouterr().err
    assert end_of([*many, f"resume={folder}"], monkeypatch) == 0
    assert [(folder / number / "metrics.json").is_file() for number in "01"] == [True, True]


def test_who_presses_ctrl_c_twice_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with signals.handling():
        signals.defer(True)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received()
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]


def test_a_signal_that_nobody_waits_for_interrupts() -> None:
    with pytest.raises(Interrupted) as interrupted, signals.handling():
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupted.value.signum == signal.SIGTERM
    assert not signals.received(), "what comes next in this process was not asked to end"
    assert not isinstance(interrupted.value, Exception)


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a `scontrol` of this test was called with; the process is job 77."""
    script, calls = tmp_path / "bin" / "scontrol", tmp_path / "calls"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return calls


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_job_whose_time_is_up_is_requeued_and_goes_on_in_its_folder(
    many: bool, queue: Path, send: Send, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TINY, "trainer.max_epochs=1", "seed=1"]
    if many:
        command = ["-m", *command[:-1], "seed=1,2"]
    before = signal.getsignal(signal.SIGUSR1)
    send("training_step", signal.SIGUSR1, 3)
    assert end_of(command, monkeypatch) == 128 + signal.SIGUSR1
    assert queue.read_text() == "requeue 77\n"
    assert signal.getsignal(signal.SIGUSR1) is before
    (folder,) = (logs / "demo").iterdir()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert end_of(command, monkeypatch) == 0
    assert list((logs / "demo").iterdir()) == [folder]
    assert len(list(folder.glob("**/metrics.json"))) == 1 + many


def test_a_job_whose_time_is_up_between_two_trials_is_requeued_once(
    queue: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="the extra sweep is not installed")
    for words in ("", ": saved"):

        def ends(*arguments: Any, words: str = words, **options: Any) -> None:
            if words:
                raise Interrupted(signal.SIGUSR1, words)
            os.kill(os.getpid(), signal.SIGUSR1)

        monkeypatch.setattr(sweep, "run_one", ends)
        monkeypatch.setattr("sys.argv", ["sweep", *TINY, "sweep=random", "search.trials=1"])
        with pytest.raises(SystemExit) as end:
            sweep.main()
        assert end.value.code == 128 + signal.SIGUSR1
    assert queue.read_text() == "requeue 77\n"


def test_what_keeps_a_job_from_its_queue_is_said(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm.requeue(signal.SIGINT) == "", "who presses Ctrl-C is there"
    assert slurm.requeue(signal.SIGTERM) == "; job 77 is requeued"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert slurm.requeue(signal.SIGUSR1) == "; job 70_4 is requeued"
    assert queue.read_text() == "requeue 77\nrequeue 70_4\n"
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho disabled >&2\nexit 1\n")
    assert slurm.requeue(signal.SIGTERM) == "; job 70_4 could not be requeued (disabled)"


def test_a_file_of_another_job_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, job in (("2026-01-01", "5"), ("2026-01-02", "5"), ("2026-01-03", "6")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv("SLURM_JOB_ID", job)
        slurm.remember_command(tmp_path / name, ["seed=1"])
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "2026-01-04").mkdir()
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    slurm.remember_command(tmp_path / "2026-01-04", ["seed=1"])  # it was killed before it could be resumed
    monkeypatch.delenv("SLURM_JOB_ID")
    assert slurm.restarted_folder(tmp_path, ["seed=1"], "config.yaml") is None
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert slurm.restarted_folder(tmp_path, ["seed=1"], "config.yaml") == tmp_path / "2026-01-02"
    assert slurm.restarted_folder(tmp_path, ["seed=2"], "config.yaml") is None


def test_force_is_true_or_false(logs: Path) -> None:
    with pytest.raises(UserError, match=r"resume\.force=maybe does not fit: set it to true or false"):
        program.launch(["experiment=demo", "resume=latest", "resume.force=maybe"])


def waiting(rank: int, folder: Path) -> None:
    signals.PATIENCE = 1.0
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with signals.handling():
        signals.defer(True)
        (folder / f"ready{rank}").touch()
        if rank == 0:
            dist.barrier()
        time.sleep(120)


def test_a_process_that_waits_for_another_ends(tmp_path: Path) -> None:
    """Within a barrier that the other one never comes to, where no handler of Python's runs."""
    ranks = [start(waiting, rank, tmp_path, output=tmp_path / str(rank)) for rank in range(2)]
    try:
        while len(list(tmp_path.glob("ready*"))) < 2:
            assert [rank.exitcode for rank in ranks] == [None, None]
            time.sleep(0.02)
        time.sleep(0.2)  # it comes to the barrier
        os.kill(ranks[0].pid or 0, signal.SIGTERM)
        assert ended(ranks[0], 60) == 128 + signal.SIGTERM
        assert "SIGTERM: no progress for 1 s, left without saving" in (tmp_path / "0.err").read_text()
        assert ranks[1].exitcode is None
    finally:
        for rank in ranks:
            rank.kill()


def working() -> None:
    signals.PATIENCE = 0.5
    with signals.handling():
        signals.defer(True)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10):
            time.sleep(0.1)
            signals.progressed()
        with signals.saving():
            time.sleep(1.5)
        if os.fork() == 0:  # as a worker, which is told to end
            signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
            os.kill(os.getpid(), signal.SIGTERM)
        os.wait()
        assert signals.received()
    print("done")


def test_a_process_that_works_or_saves_is_left_to_it(tmp_path: Path) -> None:
    assert ended(start(working, output=tmp_path / "out"), 60) == 0
    assert (tmp_path / "out").read_text() == "done\n"
