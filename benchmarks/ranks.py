"""What DDP costs: the CPU seconds of a step of esc10_cnn2d in two processes of one run, and of two runs.

python benchmarks/ranks.py [--steps 30] [--rounds 3]

On the CPU by gloo, one thread each, 16 clips in every batch of each process. Two processes run at
the same time in both cases, so that they disturb each other alike; CPU seconds do not count what they wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_audio.build import data_and_task
from lightning_audio.config import compose_config
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
    options = [*OPTIONS, f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "loader.batch_size=16"]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds):
        for together in rows:
            with tempfile.TemporaryDirectory() as folder:
                arguments = (together, 29700 + number, options.steps, folder)
                torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")
                rows[together] += [float(file.read_text()) for file in Path(folder).glob("step_?")]
    alone, shared = (statistics.median(rows[together]) for together in (False, True))
    print(f"two runs: {1000 * alone:.1f} ms of CPU a step each; two processes: {1000 * shared:.1f} ms")
    print(f"overhead: {100 * (shared / alone - 1):.1f} %, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
