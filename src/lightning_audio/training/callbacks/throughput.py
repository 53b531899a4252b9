"""Clips per second, and the share of the time spent waiting for data."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_audio.data.batch import Batch


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
