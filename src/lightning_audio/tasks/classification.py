"""Classification: one label of N for every clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from lightning_audio.data.batch import Batch, sent
from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import ClassIndex, Targets
from lightning_audio.errors import UserError
from lightning_audio.inference.labels import BestLabel, LabelRule
from lightning_audio.metrics.classification import ClassPredictions, confusion_matrix, per_class
from lightning_audio.reports.plots import confusion_figure, write_png
from lightning_audio.reports.tables import write_csv
from lightning_audio.tasks.clip_task import ClipTask, weights_of_classes

SMALLEST_WEIGHT = 1e-12  # of a batch: where all its classes weigh 0, its loss is 0


class Classification(ClipTask):
    """Cross-entropy on soft labels; accuracy, top-5 and macro F1.

    Args:
        class_weights: `balanced` (inverse to how often an epoch draws a class, 1 on average), a list of one
            weight for each class, or null.
        teacher: a run whose probabilities are learned as well (Hinton et al. 2015, arXiv:1503.02531), which
            training sets with `learn_from`.
        temperature: by which the logits of both are divided for that.
        teacher_weight: the share of the loss that this makes, times the temperature squared.
        shared: what `ClipTask` takes; `label_smoothing` is the share of a target that is spread evenly over
            the classes.
    """

    encoding: ClassVar[type[Targets]] = ClassIndex
    monitor: tuple[str, str] = ("val/accuracy", "max")
    scored = ClassPredictions
    usual_metrics = ("accuracy", "top5_accuracy", "macro_f1")
    class_weights: Tensor

    def __init__(
        self,
        class_weights: str | Sequence[float] | None = None,
        teacher: str | None = None,
        temperature: float = 2.0,
        teacher_weight: float = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if temperature <= 0 or not 0 <= teacher_weight <= 1:
            raise UserError(
                f"task.temperature={temperature} and task.teacher_weight={teacher_weight} do not fit: set "
                "the first above 0, the second from 0 to 1."
            )
        self.teacher, self.temperature, self.teacher_weight = teacher, temperature, teacher_weight
        self._taught, self._row_of = torch.zeros(0), dict[str, int]()
        counts = torch.tensor(self.info.class_counts or [1] * len(self.labels)).clamp(min=1)
        balanced = counts.sum() / (len(counts) * counts.float())
        self.register_buffer("class_weights", weights_of_classes(class_weights, balanced))

    def targets_for_training(self, targets: Tensor) -> Tensor:
        return functional.one_hot(targets, len(self.labels)).float()

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits `(B, C)` against soft labels `(B, C)`, weighted by `class_weights`; of
        targets `(B, 2C)`, the second half a teacher's probabilities, with the divergence from these.

        It is divided by the sum of the weights, as torch does for class indices; for soft labels torch
        divides by the number of clips, so that weights would scale the learning rate.
        """
        targets, taught = targets.tensor_split([logits.shape[-1]], dim=-1)
        total = functional.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        loss = total / (targets @ self.class_weights).sum().clamp(min=SMALLEST_WEIGHT)
        if taught.shape[-1] == 0:
            return loss
        softened = (logits.float() / self.temperature).log_softmax(-1)
        divergence = functional.kl_div(softened, taught, reduction="batchmean") * self.temperature**2
        return (1 - self.teacher_weight) * loss + self.teacher_weight * divergence

    def learn_from(self, logits: Tensor, ids: Sequence[str]) -> None:
        """Has training learn also what a teacher says of its clips: logits `(N, C)`."""
        self._taught = (logits.float() / self.temperature).softmax(-1)
        self._row_of = {name: row for row, name in enumerate(ids)}

    def targets_of(self, batch: Batch) -> Tensor:
        targets = super().targets_of(batch)
        if not self._row_of:
            return targets
        self._taught = self._taught.to(targets.device)
        rows = sent(torch.tensor([self._row_of[name] for name in batch.ids]), targets.device)
        return torch.cat([targets, self._taught[rows]], 1)

    def as_logits(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=1e-12).log()

    @property
    def rule(self) -> LabelRule:
        return BestLabel()

    def reference_labels(self, target: np.ndarray) -> list[str]:
        return [self.labels[int(target)]]

    def predictions(self, clips: Sequence[Clip] | None = None) -> ClassPredictions:
        return ClassPredictions.from_scores(self.probabilities, self.targets, self.groups(clips))

    def write_tables(self, folder: Path) -> None:
        """Writes confusion.png and per_class.csv."""
        write_png(confusion_figure(self._confusion(), self.labels), folder / "confusion.png")
        write_csv(folder / "per_class.csv", per_class(self._confusion(), self.labels))

    def figures(self) -> dict[str, Figure]:
        return {"confusion": confusion_figure(self._confusion(), self.labels)}

    def _confusion(self) -> np.ndarray:
        return confusion_matrix(self.targets, self.probabilities.argmax(1), len(self.labels))
