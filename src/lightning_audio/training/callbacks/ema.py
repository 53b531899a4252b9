"""Weight averaging."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
