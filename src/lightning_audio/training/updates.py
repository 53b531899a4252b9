"""Updates outside a run: what `find-lr` and `doctor` train for, a hundred steps from a state of a run."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from lightning_audio import build
from lightning_audio.checkpoint import read
from lightning_audio.data.batch import Batch
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import seed_draws
from lightning_audio.training.fit import check_resumable
from lightning_audio.training.initial import initialise
from lightning_audio.training.teacher import distil
from lightning_audio.training.trainer import build_trainer


@dataclass
class Learner:
    """A task with its optimizer in the state in which a run begins, or was saved, on the run's device.

    `scales` are the rates of the optimizer's groups over that of the configuration; `epoch` is the one to
    come, whose frozen layers and input size count however many updates are made.
    """

    task: AudioTask
    data: AudioDataModule
    trainer: pl.Trainer
    optimizer: Optimizer
    scales: list[float]
    epoch: int = 0
    made: int = field(default=0, init=False)

    def batches(self) -> Iterator[Batch]:
        """Training batches without end, in the order of the epochs from `epoch` on."""
        loader = self.data.train_dataloader()
        for epoch in itertools.count(self.epoch):
            loader.sampler.set_epoch(epoch)
            yield from loader

    def update(self, batches: list[Batch], rate: float) -> float:
        """One update on the mean gradient of the batches, at this rate; returns their mean loss before it."""
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale
        self.optimizer.zero_grad()
        losses = []
        for batch in batches:
            seed_draws(zlib.crc32(f"{self.task.seed} {self.epoch} {self.made} 0".encode()), self.task.device)
            self.made += 1
            with self.trainer.precision_plugin.forward_context():
                loss = self.task.loss(*self.task.training_logits(batch.to(self.task.device)))
            (loss / len(batches)).backward()
            losses.append(loss.detach())
        if self.trainer.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.trainer.gradient_clip_val)
        self.optimizer.step()
        return float(torch.stack(losses).mean())


def learner(
    cfg: DictConfig, folder: Path, checkpoint: Path | None = None, stage: str | None = None
) -> Learner:
    """What a run would begin with, or resume with from this checkpoint; nothing is written to `folder`.

    Of a `stage` of the network nothing else learns, whatever its epoch, and its rate is the update's own.

    Raises:
        UserError: as training would before its first step.
    """
    cfg.callbacks, cfg.logger = {}, {}
    if stage:
        OmegaConf.update(cfg, "finetune.unfreeze", {stage: 0}, merge=False, force_add=True)
    data, task = build.data_and_task(cfg)
    trainer = build_trainer(cfg, folder, data, task)
    recipe, epoch, saved = task.recipe, 0, dict[str, Any]()
    assert recipe is not None
    if checkpoint is None:
        initialise(cfg, task, data)
        task.fit_network(data)
    else:
        check_resumable(checkpoint, trainer, task, data, force=True)
        saved = read(checkpoint)
        # Beside averaged weights those that are trained are kept, too.
        task.load_state_dict(saved.get("current_model_state", saved["state_dict"]))
        epoch = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    distil(task, data, trainer.strategy.root_device)
    task.to(trainer.strategy.root_device).train()
    task.start_epoch(epoch, max(cfg.trainer.max_epochs or 0, epoch, 1))
    lr = recipe.lr or 1.0
    optimizer = recipe.optimizer(task.finetuning.groups(lr, recipe.weight_decay))
    scales = [1.0 if stage else group["lr"] / lr for group in optimizer.param_groups]
    if saved:
        optimizer.load_state_dict(saved["optimizer_states"][0])
    return Learner(task, data, trainer, optimizer, scales, epoch)
