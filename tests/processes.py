"""Processes that tests start: forks of one that has imported torch and Lightning, which takes seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "lightning_audio.cli.train", "lightning_audio.cli.predict"])


def start(work: Callable[..., Any], *arguments: Any, output: str | Path = os.devnull) -> BaseProcess:
    """Starts `work(*arguments)`, a function at the top of a module, in a process of its own.

    What it prints goes to the file `output`, its errors to a second one beside it, `output` with .err.
    """
    here = (dict(os.environ), Path.cwd(), str(output))
    process = FORKS.Process(target=_work, args=(here, work, arguments), daemon=True)  # it ends with the tests
    process.start()
    return process


def _work(
    here: tuple[dict[str, str], Path, str], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    environment, folder, output = here
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    errors = output if output == os.devnull else f"{output}.err"
    for number, stream, name in ((1, "stdout", output), (2, "stderr", errors)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
        setattr(sys, stream, os.fdopen(number, "w", 1, closefd=False))  # not the file of the server
        setattr(sys, f"__{stream}__", getattr(sys, stream))
    work(*arguments)


def program(*arguments: str) -> None:
    """`lightning-audio ARGUMENTS`, in the process that calls it."""
    from lightning_audio.__main__ import main

    sys.argv = ["lightning-audio", *arguments]
    main()


def ended(process: BaseProcess, timeout: float = 300) -> int:
    """The exit status of a process, below 0 for the signal that ended it; one that does not end is killed."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"a process of {process} did not end within {timeout:g} s")
    return process.exitcode
