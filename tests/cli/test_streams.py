"""Programs whose terminal, output or time is taken away: one line, the right status, nothing lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, sine, write_wav
from processes import ended, start
from processes import program as whole_program

from lightning_audio.errors import Interrupted, UserError, cli_errors
from lightning_audio.io import write_atomically


def test_training_goes_on_without_its_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pipe to `head -1`."""
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path / "logs"))
    os.mkfifo(tmp_path / "out")
    training = start(whole_program, "train", *TINY, "data.seed=5", output=tmp_path / "out")
    with (tmp_path / "out").open() as pipe:
        assert pipe.readline().endswith("\n")
    assert (ended(training), (tmp_path / "out.err").read_text()) == (0, "")
    (run,) = (tmp_path / "logs" / "demo").iterdir()
    assert (run / "metrics.json").is_file()


def without_output(*arguments: str) -> None:
    """The program as Python starts it behind `>&-`."""
    os.close(1)
    sys.stdout = sys.__stdout__ = None  # type: ignore[misc]
    whole_program(*arguments)


def test_predict_without_an_output_says_nothing(tiny_run: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(440, 0.5, 16000), 16000)
    arguments = ["predict", str(tiny_run), str(tmp_path / "a.wav")]
    predicting = start(without_output, *arguments, output=tmp_path / "out")
    assert (ended(predicting), (tmp_path / "out.err").read_text()) == (0, "")
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", ["train", "predict", "evaluate"])
def test_a_signal_in_the_first_seconds_is_one_line(
    program: str, signum: signal.Signals, status: int, tiny_run: Path, tmp_path: Path
) -> None:
    arguments = {"train": [*TINY], "predict": [str(tiny_run), "nowhere.wav"], "evaluate": [str(tiny_run)]}
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_audio", program, *arguments[program]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LIGHTNING_AUDIO_LOGS": str(tmp_path)},
        start_new_session=True,
    )
    # Python takes signals once the program's own module has been imported; torch is loaded by then or later.
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (status, "")
    assert err == f"stopped by {signum.name}\n"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_program_works(
    signum: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signum)

    @cli_errors
    def program() -> None:
        try:
            os.kill(os.getpid(), signum)
            time.sleep(5)
        except Exception:  # as libraries do
            raise AssertionError("a signal is no Exception") from None

    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == status
    assert capsys.readouterr().err == f"stopped by {signum.name}\n"
    assert signal.getsignal(signum) is before
    assert issubclass(Interrupted, BaseException)


def test_a_signal_after_the_answer_is_no_traceback(tiny_run: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(440, 0.5, 16000), 16000)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "lightning_audio", "predict", str(tiny_run), str(tmp_path / "a.wav")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "a.wav" not in process.stdout.readline():
        pass
    time.sleep(0.03)  # it unloads torch
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    # Python's last steps take its handlers away; a shell counts that as 130, too.
    assert (process.returncode, err) in ((130, "stopped by SIGINT\n"), (-signal.SIGINT, ""), (0, ""))


def test_a_child_process_ends_on_its_signal() -> None:
    @cli_errors
    def program() -> int:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, b"!")  # Python forgets signals that come while it forks
            time.sleep(20)
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert program() == -signal.SIGTERM


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_result_that_has_no_room_is_one_sentence_with_its_own_name(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SystemExit) as ended:
        cli_errors(write_atomically)(tmp_path / "found.json", "{}")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert str(tmp_path / "found.json") in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_file_that_may_not_be_written_is_one_sentence(
    code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @cli_errors
    def program() -> None:
        raise OSError(code, os.strerror(code), "/run/metrics.json")

    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: /run/metrics.json can't be used (")


def test_other_errors_stay_what_they_are() -> None:
    @cli_errors
    def program(error: Exception) -> None:
        raise error

    with pytest.raises(FileNotFoundError):
        program(FileNotFoundError(errno.ENOENT, "none", "x"))
    with pytest.raises(SystemExit):
        program(UserError("a sentence"))
