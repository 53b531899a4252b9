"""What DDP costs: the CPU seconds of a step of esc10_cnn2d in two processes of one run, and of two runs.

On the CPU by gloo, one thread each, 16 clips in every batch of each process. Two processes run at
the same time in both cases, so that they disturb each other alike; CPU seconds do not count what they wait.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from timing import arguments, report

from lightning_audio.build import corpus, data_and_task
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.training.trainer import build_trainer

OPTIONS = [
    "experiment=esc10_cnn2d",
    "trainer=cpu",
    "logger=none",
    "normalize=per_clip",  # no pass over the corpus first
    "report=null",
    "callbacks.training_examples=null",
]
WARM = 3  # steps that do not count
BATCH = 16
RUNS, RANKS = "two runs", "two processes of one run"


class Clock(pl.Callback):
    """CPU seconds of each step, from one end of a step to the next."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.process_time())

    def steps(self) -> list[float]:
        return [b - a for a, b in zip(self.times[WARM:], self.times[WARM + 1 :], strict=False)]


def work(rank: int, together: bool, port: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    options = [*OPTIONS, f"trainer.max_steps={steps}", "trainer.max_epochs=-1", f"loader.batch_size={BATCH}"]
    if together:
        os.environ |= {
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"},
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"},
            **{"TORCHELASTIC_RUN_ID": "none"},
        }
        options += ["trainer.strategy=ddp", "trainer.devices=auto"]
    cfg = compose_config(options)
    cfg.run_folder = f"{folder}/{0 if together else rank}"
    data, task = data_and_task(cfg)
    trainer = build_trainer(cfg, Path(cfg.run_folder), data, task)
    task.fit_network(data)
    clock = Clock()
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(task, data)
    (Path(folder) / f"step_{rank}").write_text(str(statistics.median(clock.steps())))


def main() -> None:
    options = arguments(__doc__ or "", repeats=3)
    try:
        corpus(compose_config(OPTIONS)).clips()
    except UserError as error:
        print(f"Left out: {error}")
        return
    steps = 10 if options.quick else 30
    seconds: dict[str, list[float]] = {RUNS: [], RANKS: []}
    for number in range(options.repeats):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                given = (name == RANKS, 29700 + number, steps, folder)
                torch.multiprocessing.start_processes(work, given, nprocs=2, start_method="fork")
                found.append(statistics.mean(float(file.read_text()) for file in Path(folder).glob("step_?")))
    report("CPU of a step of esc10_cnn2d in each of two processes", seconds, BATCH, {RANKS: "<= 1.1"})


if __name__ == "__main__":
    main()
