"""An epoch through Trainer, as `train` builds it, against a bare PyTorch loop.

The same batches, augmentation, front end, network, loss, optimizer, schedule and, where the recipe has one,
moving average of the weights. Trainer's epoch is all that passes from the start of one to the start of the
next, with callbacks, loggers and the checkpoint at its end; validation, which the bare loop lacks, is left
out.
"""

from __future__ import annotations

import copy
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from timing import arguments, report
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_audio import build, config
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.ema import EMA
from lightning_audio.training.run import keep_freed_memory, quiet
from lightning_audio.training.trainer import build_trainer

TRAINER, BARE = "Trainer, as `train` builds it", "a bare loop"
# Overrides, those without the corpus, and the ratio that is asked for.
RECIPES = {
    "esc10_cnn2d, batches of 16": (["experiment=esc10_cnn2d"], ["data=demo", "~data.subset"], "<= 1.03"),
    "BC-ResNet tau 1, batches of 64": (
        ["experiment=speech_commands_bc_resnet", "network.tau=1"],
        ["data=demo", "data.seconds=1", "data.clips_per_class=240", "augment=digit"],
        "<= 1.15",
    ),
}
WITHOUT_VALIDATION = ["trainer.limit_val_batches=0", "trainer.num_sanity_val_steps=0"]
QUICK_STEPS = 4


class Bare:
    """What one writes without Trainer: the parts of a task, in a loop."""

    def __init__(
        self, task: AudioTask, data: AudioDataModule, steps: int, epochs: int, averaged: bool
    ) -> None:
        assert task.recipe is not None
        self.task, self.data, self.steps, self.epochs = task, data, steps, epochs
        self.loader = data.train_dataloader()
        groups = task.finetuning.groups(task.recipe.lr, task.recipe.weight_decay)
        self.optimizer, self.schedule = task.recipe.bind(groups, steps * epochs)
        self.average: nn.Module | None = None
        if averaged:
            self.average = AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)

    def epoch(self, number: int, seed: Callable[[int], object] = lambda step: None) -> None:
        """Trains one epoch; `seed` is called before each step."""
        task = self.task.train()
        self.loader.sampler.set_epoch(number)
        task.start_epoch(number, self.epochs)
        for step, batch in zip(range(self.steps), self.loader, strict=False):
            seed(step)
            task.augment.progress = (number + step / self.steps) / self.epochs
            loss = task.loss(*task.training_logits(batch))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            if isinstance(self.average, AveragedModel):
                self.average.update_parameters(task)


class Alternating(Callback):
    """An epoch of the bare loop before each epoch of Trainer; the first of both warms up, and checks that
    they do the same."""

    def __init__(self, bare: Bare) -> None:
        self.bare = bare
        self.seconds: dict[str, list[float]] = {BARE: [], TRAINER: []}
        self._started: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trainer_was_done(pl_module)
        start, number = time.perf_counter(), trainer.current_epoch
        if number == 0:
            self.bare.epoch(number, lambda step: _seed(pl_module, number, step))
        else:
            self._without_deterministic(number)
        self._started = time.perf_counter()
        self.seconds[BARE].append(self._started - start)

    def _without_deterministic(self, number: int) -> None:
        """An epoch of the bare loop; trainer.deterministic, which it would not ask for, is of the process."""
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        self.bare.epoch(number)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trainer_was_done(pl_module)

    def _trainer_was_done(self, pl_module: pl.LightningModule) -> None:
        if self._started is None:
            return
        self.seconds[TRAINER].append(time.perf_counter() - self._started)
        if len(self.seconds[TRAINER]) == 1:
            for one, other in zip(pl_module.parameters(), self.bare.task.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def _seed(task: pl.LightningModule, epoch: int, step: int) -> None:
    torch.manual_seed(zlib.crc32(f"{task.seed} {epoch} {step} 0".encode()))  # as AudioTask.training_step


def compare(title: str, overrides: Sequence[str], target: str, epochs: int, quick: bool) -> None:
    """Raises UserError where there is no such corpus."""
    limits = [f"trainer.limit_train_batches={QUICK_STEPS}"] if quick else []
    options = [*overrides, *WITHOUT_VALIDATION, *limits, f"trainer.max_epochs={epochs}"]
    cfg = config.compose_config(options)
    data = build.prepared(cfg)
    task = build.task(cfg, data)
    task.fit_normalizer(data.loader("train"))
    steps = min(len(data.train_dataloader()), QUICK_STEPS if quick else 10**9)
    with tempfile.TemporaryDirectory() as folder:
        cfg.run_folder = folder
        trainer = build_trainer(cfg, Path(folder), data, task)
        averaged = any(isinstance(c, EMA) for c in trainer.callbacks)  # type: ignore[attr-defined]
        bare = Bare(copy.deepcopy(task), copy.copy(data), steps, epochs, averaged)
        turns = Alternating(bare)
        trainer.callbacks.insert(0, turns)  # type: ignore[attr-defined]
        trainer.fit(task, data)
    seconds = {name: values[1:] for name, values in turns.seconds.items()}
    clips = steps * data.batch_size
    report(f"One epoch, {title}", seconds, clips, {TRAINER: target})


def main() -> None:
    options = arguments(__doc__ or "", repeats=20)
    quiet()
    keep_freed_memory()
    for title, (overrides, substitute, target) in RECIPES.items():
        try:
            compare(title, overrides, target, options.repeats + 1, options.quick)
        except UserError:  # the corpus is not there
            compare(
                f"{title}, demo corpus", [*overrides, *substitute], target, options.repeats + 1, options.quick
            )


if __name__ == "__main__":
    main()
