"""The share of an epoch that training spends waiting for data: experiments as `train` runs them.

Each trains for a few epochs, of at most STEPS steps, on this machine's CPU. An epoch's first batch, for which
its order is drawn, counts as the others do, and weighs the more the shorter an epoch is.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from timing import arguments, report

from lightning_audio import build, config
from lightning_audio.errors import UserError
from lightning_audio.training.callbacks.throughput import Throughput
from lightning_audio.training.run import keep_freed_memory, quiet
from lightning_audio.training.trainer import build_trainer

STEPS, QUICK_STEPS = 12, 3
TARGET = "<= 0.02"
EPOCH, WAITING = "an epoch", "of that, waiting for data"
# What stands in for a corpus that is not there.
EXPERIMENTS = {
    "esc10_cnn2d": ["data=demo", "~data.subset"],
    "speech_commands_bc_resnet": ["data=demo", "data.seconds=1", "augment=digit"],
    "digits_bilstm": ["data=demo_dtmf"],
}


class Epochs(Callback):
    """The seconds of each epoch, and those of waiting, as Throughput counts them."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self.seconds: dict[str, list[float]] = {EPOCH: [], WAITING: []}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        counted = {EPOCH: self.throughput.seconds, WAITING: self.throughput.waited}
        for name, seconds in counted.items():
            self.seconds[name].append(seconds - sum(self.seconds[name]))


def measure(title: str, overrides: list[str], epochs: int, steps: int) -> None:
    """Raises UserError where there is no such corpus."""
    limits = [f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=0"]
    cfg = config.compose_config([*overrides, *limits, f"trainer.max_epochs={epochs}"])
    data = build.prepared(cfg)
    task = build.task(cfg, data)
    task.check(data)
    task.fit_normalizer(data.loader("train"))
    with tempfile.TemporaryDirectory() as folder:
        cfg.run_folder = folder
        trainer = build_trainer(cfg, Path(folder), data, task)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        watched = Epochs(next(c for c in callbacks if isinstance(c, Throughput)))
        callbacks.insert(0, watched)
        trainer.fit(task, data)
    seconds = {name: values[1:] for name, values in watched.seconds.items()}
    clips = round(watched.throughput.clips / epochs)
    report(f"Waiting for data, {title}", seconds, clips, {WAITING: TARGET})


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    quiet()
    keep_freed_memory()
    epochs, steps = options.repeats + 1, QUICK_STEPS if options.quick else STEPS
    for name, substitute in EXPERIMENTS.items():
        try:
            measure(name, [f"experiment={name}"], epochs, steps)
        except UserError:  # the corpus is not there
            measure(f"{name}, demo corpus", [f"experiment={name}", *substitute], epochs, steps)


if __name__ == "__main__":
    main()
