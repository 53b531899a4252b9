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

from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import ClassIndex, Targets
from lightning_audio.metrics.classification import ClassPredictions, confusion_matrix, per_class
from lightning_audio.reports.plots import confusion_figure, plot_confusion
from lightning_audio.reports.tables import write_csv
from lightning_audio.tasks.clip_task import ClipTask, weights_of_classes

SMALLEST_WEIGHT = 1e-12  # of a batch: where all its classes weigh 0, its loss is 0


class Classification(ClipTask):
    """Cross-entropy on soft labels; accuracy, top-5 and macro F1.

    Args:
        class_weights: `balanced` (inverse to how often an epoch draws a class, 1 on average), a list of one
            weight for each class, or null.
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
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        counts = torch.tensor(self.info.class_counts or [1] * len(self.labels)).clamp(min=1)
        balanced = counts.sum() / (len(counts) * counts.float())
        self.register_buffer("class_weights", weights_of_classes(class_weights, balanced))

    def targets_for_training(self, targets: Tensor) -> Tensor:
        return functional.one_hot(targets, len(self.labels)).float()

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits `(B, C)` against soft labels `(B, C)`, weighted by `class_weights`.

        It is divided by the sum of the weights, as torch does for class indices; for soft labels torch
        divides by the number of clips, so that weights would scale the learning rate.
        """
        total = functional.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total / (targets @ self.class_weights).sum().clamp(min=SMALLEST_WEIGHT)

    def as_logits(self, probabilities: Tensor) -> Tensor:
        return probabilities.clamp(min=1e-12).log()

    def predicted_labels(self, probabilities: np.ndarray) -> list[str]:
        return [self.labels[int(probabilities.argmax())]]

    def reference_labels(self, target: np.ndarray) -> list[str]:
        return [self.labels[int(target)]]

    def over_windows(self, probabilities: Tensor) -> Tensor:
        """The mean, as of several views of one thing: a recording is of one class throughout."""
        return probabilities.mean(0)

    def predictions(self, clips: Sequence[Clip] | None = None) -> ClassPredictions:
        return ClassPredictions.from_scores(self.probabilities, self.targets, self.groups(clips))

    def write_tables(self, folder: Path) -> None:
        """Writes confusion.png and per_class.csv."""
        plot_confusion(self._confusion(), self.labels, folder / "confusion.png")
        write_csv(folder / "per_class.csv", per_class(self._confusion(), self.labels))

    def figures(self) -> dict[str, Figure]:
        return {"confusion": confusion_figure(self._confusion(), self.labels)}

    def _confusion(self) -> np.ndarray:
        return confusion_matrix(self.targets, self.probabilities.argmax(1), len(self.labels))
