"""One line an epoch."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback


class EpochLines(Callback):
    """One line an epoch: readable in a terminal, in a log file and in a job's output alike."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        every = trainer.check_val_every_n_epoch
        fresh = ("train", "val") if every and (trainer.current_epoch + 1) % every == 0 else ("train",)
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        shown = "  ".join(f"{k} {v:.4f}" for k, v in sorted(scores.items()) if k.split("/")[0] in fresh)
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""  # else updates are limited
        if trainer.is_global_zero:  # all have made it: the mean over processes is a call of all, in its turn
            print(f"epoch {trainer.current_epoch + 1}{of}  {shown}", flush=True)
