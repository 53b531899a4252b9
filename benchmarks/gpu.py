"""What one GPU gives, within 6 minutes: epochs, half precision, compiling, waits, and a killed run.

Speech Commands' size in noise, 85,000 clips of a second, with BC-ResNet tau 1; CTC on the telephone keys.
Elsewhere, or with --quick, the same on less; a CPU compiles nothing here, and has no waits to count.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from residency import CUDA, NETWORKS, PROFILED_BATCHES, KernelShare, Opened, SynchronisedClock, Words, Work
from timing import arguments, report
from waiting import EPOCH, WAITING, Epochs

from lightning_audio import build, config
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.training.callbacks.throughput import Throughput
from lightning_audio.training.run import quiet

NETWORK = "BC-ResNet tau 1"
DEVICE, HALF = "store on the device", "store on the device, bf16"
SPEED = 50_000  # clips a second that are wanted of a GPU in bf16
KEYS = ["experiment=demo_dtmf_bilstm", "normalize=none"]
RUN = [
    f"trainer={'gpu' if CUDA else 'cpu'}",
    *("experiment=demo", "logger=none", "report=null", "callbacks.training_examples=null", "test=false"),
]
SMALL = ["network=cnn2d", "network.widths=[4,8]", "data.clips_per_class=2", "data.seconds=0.5"]
WHOLE, KILLED = "in one go", "killed and resumed"


def epoch(work: Work, precision: str) -> tuple[float, float, float]:
    """Seconds of the second epoch with all that the device has to do, of its steps, and of their waiting."""
    clock, throughput = SynchronisedClock(), Throughput()
    watched = Epochs(throughput)
    work.fit([throughput, watched, clock], max_epochs=2, precision=precision)
    return clock.seconds[-1], watched.seconds[EPOCH][-1], watched.seconds[WAITING][-1]


def compare_epochs(clips: int, repeats: int) -> None:
    workers, overrides = min(16, os.cpu_count() or 1), NETWORKS[NETWORK]
    with tempfile.TemporaryDirectory() as root:
        Words(root, clips).prepare()
        corpus = Opened(root, clips)
        on_device = Work(overrides, corpus, AudioDataModule, store="device")
        works = {
            DEVICE: (on_device, "32-true"),
            f"store on disk, {workers} workers": (
                Work(overrides, corpus, AudioDataModule, workers=workers),
                "32-true",
            ),
            HALF: (on_device, "bf16-mixed"),
        }
        if CUDA:
            compiled = Work([*overrides, "compile=true"], corpus, AudioDataModule, store="device")
            works[f"{HALF}, compiled"] = (compiled, "bf16-mixed")
        seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, given in works.items():
                seen[name].append(epoch(*given))
    seconds = {name: [whole for whole, _, _ in rounds] for name, rounds in seen.items()}
    speeds = {name: [clips / whole for whole in values] for name, values in seconds.items()}
    target = {HALF: f"<= {clips / SPEED:g} s"} if CUDA else {}
    report(f"{NETWORK}, an epoch", seconds, clips, target, {"clips a second": speeds})
    waits = {EPOCH: [steps for _, steps, _ in seen[HALF]], WAITING: [wait for _, _, wait in seen[HALF]]}
    report(f"{NETWORK}, waiting for data, {HALF}", waits, clips, {WAITING: "<= 0.01"} if CUDA else {})


class Keys(Work):
    """Telephone keys by CTC, with the waits for the device in a step."""

    def __init__(self, utterances: int) -> None:
        self.cfg = config.compose_config([*KEYS, f"data.train_utterances={utterances}"])
        self.data = build.prepared(self.cfg)


def count_waits(utterances: int) -> None:
    work = Keys(utterances)
    columns: dict[str, dict[str, list[float]]] = {}
    clock = KernelShare() if CUDA else SynchronisedClock()
    work.fit([clock], max_epochs=2, limit_train_batches=PROFILED_BATCHES)
    if isinstance(clock, KernelShare):
        steps = min(PROFILED_BATCHES, len(work.data.train_dataloader()))
        waits = clock.waits * PROFILED_BATCHES / steps
        columns = {
            "waits for the device a step": {"bilstm": [waits]},
            "in kernels": {"bilstm": [clock.share]},
        }
    report("CTC, an epoch", {"bilstm": clock.seconds[-1:]}, utterances, columns=columns)


def trained(options: list[str], logs: Path, kill_after: str | None = None) -> Path:
    """Trains, and kills the process once it says `kill_after`; returns the run folder."""
    command = [sys.executable, "-m", "lightning_audio", "train", *options]
    environment = {**os.environ, "LIGHTNING_AUDIO_LOGS": str(logs)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if kill_after and line.startswith(kill_after):
                process.kill()
    expected = -signal.SIGKILL if kill_after else 0
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}, not with {expected}.")
    (run,) = (logs / "demo").iterdir()
    return run


def kill_and_resume(quick: bool) -> None:
    """Raises SystemExit where the weights of a run that was killed are not those of one that was not."""
    options = [*RUN, *(SMALL if quick else []), f"trainer.max_epochs={6 if quick else 12}"]
    seconds: dict[str, list[float]] = {WHOLE: [], KILLED: []}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        states = [_weights(trained(options, Path(folder) / "whole"))]
        seconds[WHOLE].append(time.perf_counter() - start)
        start = time.perf_counter()
        run = trained(options, Path(folder) / "killed", kill_after="epoch 2/")
        states.append(_weights(trained([f"resume={run}"], Path(folder) / "killed")))
        seconds[KILLED].append(time.perf_counter() - start)
    one, other = states
    if unlike := [name for name in one if not torch.equal(one[name], other[name])]:
        raise SystemExit(f"A run that was killed and resumed ends with other weights: {', '.join(unlike)}.")
    report("A run, its weights the same", seconds, 1)


def _weights(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def main() -> None:
    options = arguments(__doc__ or "", repeats=3)
    quiet()
    small = options.quick or not CUDA
    compare_epochs(200 if small else 85_000, options.repeats)
    count_waits(32 if small else 3200)
    kill_and_resume(small)


if __name__ == "__main__":
    main()
