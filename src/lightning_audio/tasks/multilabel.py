"""Multi-label: any number of labels for every clip, also none."""

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
from lightning_audio.data.targets import MultiHot, Targets
from lightning_audio.errors import UserError
from lightning_audio.inference.labels import LabelRule, LabelsAbove
from lightning_audio.metrics.multilabel import (
    DEFAULT_THRESHOLD,
    LabelPredictions,
    best_thresholds,
    per_label,
)
from lightning_audio.reports.plots import label_figure, write_png
from lightning_audio.reports.tables import write_csv
from lightning_audio.tasks.clip_task import ClipTask, weights_of_classes

LOSSES = ("bce", "focal")


class MultiLabel(ClipTask):
    """A sigmoid for each label; mAP, ROC-AUC, F1 and the accuracy of decisions.

    Targets are multi-hot, and soft where clips were mixed at r : 1 - r: a label of one of the two counts r or
    1 - r, a label of both counts 1.

    A label is said where its probability reaches its threshold. Tuned thresholds have the highest F1 on the
    validation split: each validation while training sets them for the weights that it scored, and a
    checkpoint of these weights keeps them. So F1 on validation data is of thresholds fitted to it.

    Args:
        loss: `bce`, or `focal`: see `focal_loss`.
        gamma: of the focal loss.
        alpha: of the focal loss; null weighs present and absent labels alike.
        class_weights: what a present label weighs in the loss, an absent one weighing 1: `balanced` (clips
            without it over clips with it, in what an epoch draws), a list of one weight for each label, or
            null: 1.
        thresholds: `tuned`, a number for all labels, a list of one for each, or null: 0.5.
        shared: what `ClipTask` takes; `label_smoothing` takes half of it from 1 and gives half to 0.
    """

    encoding: ClassVar[type[Targets]] = MultiHot
    monitor: tuple[str, str] = ("val/mAP", "max")
    fitted = ("thresholds",)
    scored = LabelPredictions
    usual_metrics = ("mAP", "roc_auc", "micro_f1", "macro_f1", "label_accuracy", "exact_match")
    class_weights: Tensor
    thresholds: Tensor

    def __init__(
        self,
        loss: str = "bce",
        gamma: float = 2.0,
        alpha: float | None = None,
        class_weights: str | Sequence[float] | None = None,
        thresholds: str | float | Sequence[float] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if loss not in LOSSES:
            raise UserError(f"task.loss={loss} is not known: choose one of {', '.join(LOSSES)}.")
        if gamma < 0 or not (alpha is None or 0 < alpha < 1):
            raise UserError(
                f"task.gamma={gamma} and task.alpha={alpha} make no focal loss: give a gamma from 0 on, and "
                "an alpha between 0 and 1 or null."
            )
        self.tuned = thresholds == "tuned"
        info = self.info
        if self.tuned and info.clip_counts and not info.clip_counts["val"]:
            raise UserError(
                "task.thresholds=tuned wants a validation split, and this run has none: set "
                "loader.val_fraction=0.1, or task.thresholds=0.5."
            )
        self.gamma, self.alpha = (gamma, alpha) if loss == "focal" else (0.0, None)
        balanced = torch.ones(len(self.labels))
        if info.class_counts and info.clip_counts:
            counts = torch.tensor(info.class_counts)
            balanced = (info.clip_counts["train"] - counts).clamp(min=1) / counts.clamp(min=1)
        self.register_buffer("class_weights", weights_of_classes(class_weights, balanced))
        self.register_buffer("thresholds", thresholds_of_labels(thresholds, len(self.labels)))

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean over clips and labels of logits `(B, C)` against soft labels `(B, C)`."""
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.gamma == 0 and self.alpha is None:
            return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.class_weights)
        return focal_loss(logits, targets, self.gamma, self.alpha, self.class_weights)

    def label_scores(self, outputs: Tensor) -> Tensor:
        """A probability for each label by itself: sigmoid."""
        return outputs.sigmoid()

    def as_logits(self, probabilities: Tensor) -> Tensor:
        # 1 - 2 ** -24 is the last float32 below 1.
        return probabilities.clamp(1e-12, 1 - 2**-24).logit()

    @property
    def rule(self) -> LabelRule:
        return LabelsAbove(self.thresholds.tolist())

    def reference_labels(self, target: np.ndarray) -> list[str]:
        return [label for label, there in zip(self.labels, target > 0, strict=True) if there]

    def take_observed(self, stage: str) -> None:
        super().take_observed(stage)
        if stage == "val" and self.tuned and self.is_fitting:
            self.thresholds.copy_(torch.from_numpy(best_thresholds(self.probabilities, self.targets)))

    def predictions(self, clips: Sequence[Clip] | None = None) -> LabelPredictions:
        return LabelPredictions(self.probabilities, self.targets, self._decisions(), self.groups(clips))

    def row(self, clip: Clip, probabilities: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        """With the labels one by one as well, since a label may hold a comma."""
        lists = {
            "reference_labels": self.reference_labels(target),
            "hypothesis_labels": self.predicted_labels(probabilities),
        }
        return super().row(clip, probabilities, target) | lists

    def write_tables(self, folder: Path) -> None:
        """Writes per_class.csv and per_class.png."""
        write_csv(folder / "per_class.csv", self._per_label())
        write_png(label_figure(self._per_label()), folder / "per_class.png")

    def figures(self) -> dict[str, Figure]:
        return {"per_class": label_figure(self._per_label())}

    def _decisions(self) -> np.ndarray:
        return self.probabilities >= self.thresholds.cpu().numpy()

    def _per_label(self) -> list[dict[str, Any]]:
        rows = per_label(self.probabilities, self.targets, self._decisions(), self.labels)
        return [row | {"threshold": t} for row, t in zip(rows, self.thresholds.tolist(), strict=True)]


def focal_loss(
    logits: Tensor, targets: Tensor, gamma: float, alpha: float | None, class_weights: Tensor
) -> Tensor:
    """Focal loss of logits `(B, C)`, the mean over clips and labels: easy decisions weigh less.

    -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, https://arxiv.org/abs/1708.02002), p_t the probability
    of what is true; alpha_t is alpha where the label is there, and 1 - alpha where it is not. A soft target
    weighs both cases by its share. With gamma 0 and no alpha it is the binary cross-entropy.
    """
    yes, no = functional.logsigmoid(logits.float()), functional.logsigmoid(-logits.float())
    # Powers as exponentials of logarithms: a root has no finite slope where a decision is sure.
    present, absent = -yes * (gamma * no).exp() * class_weights, -no * (gamma * yes).exp()
    if alpha is not None:
        present, absent = alpha * present, (1 - alpha) * absent
    return (targets * present + (1 - targets) * absent).mean()


def thresholds_of_labels(given: str | float | Sequence[float] | None, num_labels: int) -> Tensor:
    """A threshold for each label `(C,)`; 0.5 where they are still to be tuned.

    Raises:
        UserError: `given` is no number between 0 and 1, nor as many as there are labels.
    """
    if given is None or given == "tuned":
        given = DEFAULT_THRESHOLD
    values = [given] * num_labels if isinstance(given, int | float | str) else list(given)
    if len(values) != num_labels or not all(isinstance(v, int | float) and 0 < v < 1 for v in values):
        raise UserError(
            f"task.thresholds={given} does not fit: give `tuned`, or one number between 0 and 1, or "
            f"{num_labels} of them, one a label."
        )
    return torch.tensor(values, dtype=torch.float32)
