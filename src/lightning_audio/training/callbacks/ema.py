"""Weight averaging in every step: validation, tests and checkpoints are of the average."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lightning_audio.tasks.base import AudioTask


class _StepAverage(WeightAveraging):
    """An average of weights and buffers that keeps a share of itself in every step."""

    def __init__(self) -> None:
        def average(averages: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
            assert self._average_model is not None
            made = int(self._average_model.n_averaged)  # that of the host: `steps` is on the device
            varying = [at for at, one in enumerate(averages) if one.data_ptr() not in self._constant]
            if varying:
                average_of = get_ema_multi_avg_fn(self.kept(made))
                average_of([averages[at] for at in varying], [current[at] for at in varying], steps)

        super().__init__(multi_avg_fn=average)
        self._constant: set[int] = set()

    @abstractmethod
    def kept(self, made: int) -> float:
        """The share that the average of so many steps keeps in the next one."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The weights are still on the host, and an average there would have them sent to it in every step.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            self._average_model = None  # or it would be scored in place of the weights that were chosen
        elif self._average_model is not None:
            self._average_model.n_averaged = torch.tensor(0)  # on the host, since it is read in every step
            # A mask of infinities, say: the mean of two of them would be NaN.
            floats = [buffer for buffer in self._average_model.buffers() if buffer.is_floating_point()]
            self._constant = {buffer.data_ptr() for buffer in floats if not buffer.isfinite().all()}


class EMA(_StepAverage):
    """Exponential moving average.

    Its memory grows with the steps made, up to `decay`, so that the random weights of the start are forgotten
    in short runs as well.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay

    def kept(self, made: int) -> float:
        return min(self.decay, (1 + made) / (10 + made))


class SWA(_StepAverage):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): the mean of the weights of all
    steps from a share `start` of them on; before, it is the weights themselves."""

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        self.start, self.first = start, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first = round(self.start * cast(AudioTask, pl_module).total_steps)

    def kept(self, made: int) -> float:
        averaged = max(made - self.first, 0)
        return averaged / (averaged + 1)
