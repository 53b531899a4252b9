"""What is watched and kept while a run trains."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_audio.data.batch import Batch


class EMA(WeightAveraging):
    """Exponential moving average of weights and buffers: validation, tests, checkpoints are of the average.

    Its memory grows with the steps made, up to `decay`, so that the random weights of the start are forgotten
    in short runs as well.
    """

    def __init__(self, decay: float = 0.99) -> None:
        def average(averages: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
            assert self._average_model is not None
            made = int(self._average_model.n_averaged)  # that of the host: `steps` is on the device
            share = min(decay, (1 + made) / (10 + made))
            get_ema_multi_avg_fn(share)(averages, current, steps)

        super().__init__(multi_avg_fn=average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The weights are still on the host, and an average there would have them sent to it in every step.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            self._average_model = None  # or it would be scored in place of the weights that were chosen
        elif self._average_model is not None:
            self._average_model.n_averaged = torch.tensor(0)  # on the host, since it is read in every step


class Throughput(Callback):
    """Clips per second of training, and the share of its time spent waiting for the next batch.

    Its time is that of the steps: from the moment when the loader is asked for a batch until the callbacks
    before this one have seen the step. Waiting ends when the batch is on the device and the step can begin;
    a GPU may still be busy with the step before, so this is the most that it can have waited. Logging,
    validation and saving are left out of both. Seconds are kept in checkpoints, so that those of a resumed
    run count from its first start.
    """

    def __init__(self) -> None:
        self.clips, self.seconds, self.waited = 0, 0.0, 0.0
        self.earlier = 0.0  # seconds of the run before it was resumed
        self._started = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()
        waited = self._started - getattr(trainer.train_dataloader, "asked", self._started)
        self.waited += waited
        self.seconds += waited

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.seconds += time.perf_counter() - self._started
        self.clips += len(batch) * trainer.world_size

    def measured(self) -> dict[str, float]:
        """What metrics.json says of the training loop."""
        seconds = max(self.seconds, 1e-9)
        return {
            "clips_per_second": round(self.clips / seconds, 1),
            "loader_wait": round(self.waited / seconds, 4),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"clips": self.clips, "seconds": self.seconds, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clips, self.seconds, self.waited = (state_dict[key] for key in ("clips", "seconds", "waited"))
        self.earlier = self.seconds


class EpochLines(Callback):
    """One line an epoch: readable in a terminal, in a log file and in a job's output alike."""

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        every = trainer.check_val_every_n_epoch
        fresh = ("train", "val") if every and (trainer.current_epoch + 1) % every == 0 else ("train",)
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(f"{k} {v:.4f}" for k, v in sorted(scores.items()) if k.split("/")[0] in fresh)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {shown}", flush=True)
