"""Where the milliseconds of a training step go: recipes as `train` runs them, taken apart.

Each trains for some steps through Trainer, as it is configured; the clock is stopped at the edges of the
parts, and what a part calls of another one counts there alone. What is left is Trainer: loader, callbacks,
average.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from timing import arguments, report
from waiting import EXPERIMENTS

from lightning_audio import build, config
from lightning_audio.errors import UserError
from lightning_audio.training.callbacks.throughput import Throughput
from lightning_audio.training.run import keep_freed_memory, quiet
from lightning_audio.training.trainer import build_trainer

STEPS, QUICK_STEPS = 20, 4
RECIPES = {**EXPERIMENTS, "fsdd_m5": ["data=demo", "data.seconds=1", "augment=digit"]}
WHOLE, REST = "a step", "Trainer: loader, callbacks, average"


class Clock:
    """Seconds of each part in each step: a part that is called by another one stops that one's clock."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._open: list[str] = []
        self._last = time.perf_counter()
        self._now: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Has a method of an object count as a part."""
        work: Callable[..., Any] = getattr(owner, method)

        @functools.wraps(work)
        def timed(*args: Any, **options: Any) -> Any:
            self._switch()
            self._open.append(part)
            try:
                return work(*args, **options)
            finally:
                self._switch()
                self._open.pop()

        object.__setattr__(owner, method, timed)

    def _switch(self) -> None:
        now = time.perf_counter()
        self._now[self._open[-1] if self._open else REST] += now - self._last
        self._last = now

    def end_step(self) -> None:
        self._switch()
        self.steps.append(dict(self._now))
        self._now.clear()


class Watched(Callback):
    """Puts the clock at the edges of all parts once training begins."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        parts = [
            (pl_module.augment, "waveforms", "augmentation of waveforms"),
            (pl_module.frontend, "forward", "front end"),
            (pl_module.augment, "features", "augmentation of features"),
            (pl_module.normalize, "forward", "normalisation"),
            (pl_module, "apply_network", "forward"),
            (pl_module, "loss", "loss"),
            (pl_module, "backward", "backward"),
            (trainer.optimizers[0], "step", "optimizer"),  # which calls all of these
            (pl_module, "training_step", REST),
        ]
        for part in parts:
            self.clock.watch(*part)

    def on_train_batch_end(self, *ignored: Any) -> None:
        self.clock.end_step()


def measure(title: str, overrides: list[str], steps: int) -> None:
    """Raises UserError where there is no such corpus."""
    limits = [f"trainer.limit_train_batches={steps + 2}", "trainer.limit_val_batches=0"]
    limits += ["trainer.max_epochs=1"]
    cfg = config.compose_config([*overrides, *limits])
    data = build.prepared(cfg)
    task = build.task(cfg, data)
    task.check(data)
    task.fit_normalizer(data.loader("train"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        cfg.run_folder = folder
        trainer = build_trainer(cfg, Path(folder), data, task)
        trainer.callbacks.append(Watched(clock))  # type: ignore[attr-defined]
        trainer.fit(task, data)
    steady = clock.steps[2:]
    names = dict.fromkeys(name for step in steady for name in step)
    seconds = {WHOLE: [sum(step.values()) for step in steady]}
    seconds |= {name: [step.get(name, 0.0) for step in steady] for name in names}
    seconds[REST] = seconds.pop(REST)
    throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    clips = round(throughput.clips / (steps + 2))
    report(f"A step of {title}", seconds, clips)


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    quiet()
    keep_freed_memory()
    for name, substitute in RECIPES.items():
        steps = QUICK_STEPS if options.quick else STEPS
        try:
            measure(name, [f"experiment={name}"], steps)
        except UserError:  # the corpus is not there
            measure(f"{name}, demo corpus", [f"experiment={name}", *substitute], steps)


if __name__ == "__main__":
    main()
