"""Starting: help, imports, and from the command to the end of the first training step of the demo.

Each start is a fresh process, its files in the page cache and the demo corpus decoded, against the import
that no program on torch and Lightning can do without. CPU time is user and system together: where the
machine has other work to do, read that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from timing import arguments, interleaved, report

FIRST_STEP = "+callbacks.first_step={_target_: startup.EndWithTheFirstStep}"
PROGRAM = ["-m", "lightning_audio"]
COMMANDS = {
    "import torch, pytorch_lightning": ["-c", "import torch, pytorch_lightning"],
    "import lightning_audio": ["-c", "import lightning_audio"],
    "lightning-audio --help": [*PROGRAM, "--help"],
    "lightning-audio train --help": [*PROGRAM, "train", "--help"],
    "lightning-audio predict --help": [*PROGRAM, "predict", "--help"],
    "the first step of the demo": [
        *PROGRAM,
        "train",
        "experiment=demo",
        FIRST_STEP,
    ],
}
TARGETS = {
    "lightning-audio --help": "<= 0.5 s",
    "lightning-audio train --help": "<= 0.5 s",
    "the first step of the demo": "<= 8 s",
}


class EndWithTheFirstStep(pl.Callback):
    """Ends the process where the first training step has ended, before anything is saved or scored."""

    def on_train_batch_end(self, *_: Any) -> None:
        os._exit(0)


def cpu_seconds(command: list[str], logs: str) -> float:
    """User and system seconds of a process from its start to its end."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LIGHTNING_AUDIO_LOGS": logs},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    options = arguments(__doc__ or "", repeats=7)
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as logs:
        contenders = {
            name: lambda name=name, command=command: cpu[name].append(cpu_seconds(command, logs))
            for name, command in COMMANDS.items()
        }
        wall = interleaved(contenders, options.repeats)
    report("Start of a process, wall time (a clip is a start)", wall, 1, TARGETS)
    print()
    warm = {name: values[1:] for name, values in cpu.items()}  # as `interleaved` leaves out its first round
    report("Start of a process, CPU time (a clip is a start)", warm, 1)


if __name__ == "__main__":
    main()
