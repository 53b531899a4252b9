"""What a run sounds and looks like, in TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from lightning_audio.data.batch import Batch, samples_to_float
from lightning_audio.errors import UserError, encodable
from lightning_audio.frontend.base import shape_of
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.reports.plots import features_figure
from lightning_audio.tasks.base import AudioTask


@dataclass(frozen=True)
class View:
    """A clip as training gets it: waveform `(T,)`, raw features `(F, T)` or `(C, F, T)`, labels in words."""

    waveform: Tensor
    features: Tensor
    labels: str


class TrainingExamples(Callback):
    """Training clips to hear and to see as augmentation leaves them, and the figures of the test.

    The same `clips`, spread over the training split, are shown at the start and after every `every_n_epochs`,
    each time with another draw. Training draws what it would draw without, and its seconds are counted
    elsewhere. A run that has no TensorBoardLogger gets nothing.
    """

    def __init__(self, clips: int = 4, every_n_epochs: int = 10) -> None:
        if clips < 1 or every_n_epochs < 1:
            raise UserError("callbacks.training_examples counts clips and epochs: set both to 1 or more.")
        self.clips, self.every_n_epochs = clips, every_n_epochs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:  # a run that is resumed has shown them
            self.show_clips(trainer, cast(AudioTask, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.show_clips(trainer, cast(AudioTask, pl_module))

    @rank_zero_only
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in tensorboards(trainer):
            for name, figure in cast(AudioTask, pl_module).figures().items():
                logger.experiment.add_figure(f"test/{name}", figure, trainer.global_step)

    @rank_zero_only
    def show_clips(self, trainer: pl.Trainer, task: AudioTask) -> None:
        """Writes `audio/ID` and, where a frame has several features, `features/ID` of every clip."""
        for logger in tensorboards(trainer):
            train, step = trainer.datamodule.splits["train"], trainer.global_step  # type: ignore[attr-defined]
            positions = torch.linspace(0, len(train) - 1, min(self.clips, len(train))).long().tolist()
            batch = train[positions]
            for name, view in zip(batch.ids, augmented_views(task, batch, seed=step), strict=True):
                name, heard = encodable(name), view.waveform.clamp(-1, 1)
                logger.experiment.add_audio(f"audio/{name}", heard, step, task.sample_rate)
                if shape_of(task.frontend)[1] > 1:
                    scale = ("mel band", "dB") if isinstance(task.frontend, LogMel) else ("feature", "")
                    seconds = len(heard) / task.sample_rate
                    figure = features_figure(view.features, seconds, view.labels, *scale)
                    logger.experiment.add_figure(f"features/{name}", figure, step)


@torch.no_grad()
def augmented_views(task: AudioTask, batch: Batch, seed: int) -> list[View]:
    """What training makes of the clips of a batch with this seed; the random state stays as it was."""
    with torch.random.fork_rng([task.device] if task.device.type == "cuda" else []):
        torch.manual_seed(seed)
        batch, targets = batch.to(task.device), task.targets_for_training(batch.targets.to(task.device))
        waveforms = samples_to_float(batch.waveforms)
        waveforms, lengths, targets = task.augment.waveforms(waveforms, batch.lengths, targets)
        features, frames = task.augment.features(*task.frontend(waveforms, lengths))
    waveforms, features = waveforms.cpu(), features.float().cpu()
    names = [task.name_target(target) for target in targets]
    rows = zip(lengths.tolist(), frames.tolist(), names, strict=True)
    return [
        View(waveforms[i, :size], features[i, ..., :end], name) for i, (size, end, name) in enumerate(rows)
    ]


def tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    """The loggers of a run that write for TensorBoard."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
