"""The insides of a run in TensorBoard: weights, gradients, graph, PR curves, options beside scores."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only
from torch import nn
from torch.optim import Optimizer

from lightning_audio.data.batch import samples_to_float
from lightning_audio.errors import UserError
from lightning_audio.reports.results import read_overrides
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.training_examples import tensorboards


class Inspection(Callback):
    """Writes what one wants to see of a run that does not learn; see conf/debug/inspect.yaml.

    It draws nothing at random and changes nothing. A run that has no TensorBoardLogger gets nothing.

    Args:
        every_n_steps: between histograms `weights/NAME` and `gradients/NAME` and values of `gradient_norm`.
        graph: trace the path from waveforms to logits once.
        pr_curves: labels, the first of all, whose curves `pr/LABEL` each validation draws.
    """

    def __init__(self, every_n_steps: int = 100, graph: bool = True, pr_curves: int = 20) -> None:
        if every_n_steps < 1 or pr_curves < 0:
            raise UserError("callbacks.inspection counts steps from 1 and PR curves from 0 on.")
        self.every_n_steps, self.graph, self.pr_curves = every_n_steps, graph, pr_curves

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.graph or trainer.global_step:  # a run that is resumed has drawn it
            return
        task, train = cast(AudioTask, pl_module), trainer.datamodule.splits["train"]  # type: ignore[attr-defined]
        waveforms, lengths = train.store.gather(train.rows[:1])
        clip = samples_to_float(waveforms.cpu()), lengths.cpu()
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
                warnings.simplefilter("ignore")  # tracing fixes the length of this clip, which is meant here
                # A copy: TensorBoard traces in a mode of its own, in which batch norm may count the clip.
                path = copy.deepcopy(_Path(task)).cpu().eval()
                for logger in tensorboards(trainer):
                    logger.experiment.add_graph(path, clip)
        except Exception as error:  # of any kind: a picture never costs a run
            print(f"warning: no graph in TensorBoard, the network can't be traced ({type(error).__name__}).")

    @rank_zero_only
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if (trainer.global_step + 1) % self.every_n_steps:
            return
        weights = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        gradients = [(name, p.grad.detach().float()) for name, p in weights if p.grad is not None]
        norm = torch.stack([gradient.square().sum() for _, gradient in gradients]).sum().sqrt()
        for logger in tensorboards(trainer):
            logger.experiment.add_scalar("gradient_norm", norm, trainer.global_step)
            for kind, tensors in (("weights", weights), ("gradients", gradients)):
                for name, tensor in tensors:
                    if torch.isfinite(tensor).all():
                        logger.experiment.add_histogram(
                            f"{kind}/{name}", tensor.detach().float(), trainer.global_step
                        )

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task: Any = pl_module
        if trainer.sanity_checking or not hasattr(task, "probabilities"):
            return
        targets = np.asarray(task.targets)
        for number, label in enumerate(task.labels[: self.pr_curves]):
            there = targets == number if targets.ndim == 1 else targets[:, number] > 0.5
            for logger in tensorboards(trainer):
                logger.experiment.add_pr_curve(
                    f"pr/{label}", there, task.probabilities[:, number], trainer.global_step
                )

    @rank_zero_only
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What the command line set and what it came to, but for the test: a row of TensorBoard's HPARAMS."""
        options = read_overrides(Path(trainer.default_root_dir))
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        scores = {name: value for name, value in found.items() if name.startswith(("val/", "train/"))}
        for logger in tensorboards(trainer):
            logger.log_hyperparams(options, scores)


class _Path(nn.Module):
    """The path from a waveform to logits alone: a LightningModule holds much that can't be traced."""

    def __init__(self, task: AudioTask) -> None:
        super().__init__()
        self.frontend, self.normalize, self.network = task.frontend, task.normalize, task.network

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.network(*self.normalize(*self.frontend(waveforms, lengths)))[0]
