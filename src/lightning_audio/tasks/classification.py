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

from lightning_audio.augment.waveform import roll
from lightning_audio.data.batch import Batch, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import ClassIndex, Targets
from lightning_audio.errors import UserError
from lightning_audio.metrics import Score, classification_scores, confusion_matrix, macro_f1
from lightning_audio.plots import confusion_figure, plot_confusion
from lightning_audio.results import PREDICTIONS, write_predictions
from lightning_audio.tables import write_per_class
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.prediction import Prediction, Window


class Classification(AudioTask):
    """Cross-entropy on soft labels; accuracy, top-5 and macro F1.

    Args:
        label_smoothing: share of each target that is spread evenly over the classes.
        class_weights: `balanced` (inverse to how often a class stands in training, 1 on average), a list of
            one weight for each class, or null.
        class_counts: `(C,)` training clips of each class, for `balanced`.
        shifts: circular shifts of a clip, evenly spread, whose probabilities are averaged in tests and
            predictions.
        shared: what `AudioTask` takes.
    """

    encoding: ClassVar[type[Targets]] = ClassIndex
    monitor: ClassVar[tuple[str, str]] = ("val/accuracy", "max")
    class_weights: Tensor

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: str | Sequence[float] | None = None,
        class_counts: Tensor | None = None,
        shifts: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"task.label_smoothing={label_smoothing} is no share: set it to 0 or a number below 1."
            )
        if shifts < 1:
            raise UserError(f"task.shifts={shifts} leaves nothing to average: set it to 1 or more.")
        self.label_smoothing, self.shifts = label_smoothing, shifts
        self.register_buffer(
            "class_weights", weights_of_classes(class_weights, class_counts, len(self.labels))
        )
        self.observed: list[tuple[str, np.ndarray, int]] = []

    def targets_for_training(self, targets: Tensor) -> Tensor:
        return functional.one_hot(targets, len(self.labels)).float()

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits `(B, C)` against soft labels `(B, C)`."""
        return functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing
        )

    def answer(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities, averaged as probabilities over the shifts."""
        waveforms, mean = samples_to_float(waveforms), torch.zeros(())
        for number in range(self.shifts):
            view = roll(waveforms, lengths, lengths * number // self.shifts) if number else waveforms
            logits, output_lengths = self(view, lengths)
            mean = mean.to(logits.device) + logits.softmax(-1) / self.shifts
        return mean.clamp(min=1e-12).log(), output_lengths

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        probabilities = logits.float().softmax(-1).cpu().numpy()
        self.observed += zip(batch.ids, probabilities, batch.targets.tolist(), strict=True)

    def summarise(self, stage: str) -> dict[str, float]:
        self.ids, self.probabilities, self.targets = self._take_observed()
        predictions = self.probabilities.argmax(1)
        scores = {
            "accuracy": float((predictions == self.targets).mean()),
            "macro_f1": float(macro_f1(self._confusion())),
        }
        if len(self.labels) > 5:
            top5 = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :5] == self.targets[:, None]
            scores["top5_accuracy"] = float(top5.any(1).mean())
        return scores

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes predictions.jsonl, confusion.png and per_class.csv."""
        scores = self.scores(clips)  # first, since it refuses what is no number
        known = {clip.id: clip for clip in clips}
        rows = []
        for i, probabilities, target in zip(self.ids, self.probabilities, self.targets, strict=True):
            best = int(probabilities.argmax())
            rows.append(
                {
                    "id": i,
                    "reference": self.labels[target],
                    "hypothesis": self.labels[best],
                    "score": float(probabilities[best]),
                    "group": known[i].group,
                    "fold": known[i].fold,
                    "scores": dict(zip(self.labels, probabilities.round(6).tolist(), strict=True)),
                }
            )
        write_predictions(folder / PREDICTIONS, rows)
        plot_confusion(self._confusion(), self.labels, folder / "confusion.png")
        write_per_class(folder / "per_class.csv", self._confusion(), self.labels)
        return scores

    def figures(self) -> dict[str, Figure]:
        return {"confusion": confusion_figure(self._confusion(), self.labels)}

    def scores(self, clips: Sequence[Clip]) -> dict[str, Score]:
        groups = {clip.id: clip.group for clip in clips}
        return classification_scores(self.probabilities, self.targets, [groups[i] for i in self.ids])

    def conclude(self, name: str, windows: Sequence[Window]) -> Prediction:
        """The label of the highest probability, averaged over the windows."""
        probabilities = torch.stack([window.outputs for window in windows]).softmax(-1)
        mean = probabilities.mean(0)
        timeline = [
            (window.start, window.end, self.labels[int(row.argmax())], float(row.max()))
            for window, row in zip(windows, probabilities, strict=True)
        ]
        scores = dict(zip(self.labels, mean.tolist(), strict=True))
        best = self.labels[int(mean.argmax())]
        seconds = windows[-1].end
        return Prediction(name, best, scores[best], scores, seconds, timeline if len(windows) > 1 else [])

    def _confusion(self) -> np.ndarray:
        return confusion_matrix(self.targets, self.probabilities.argmax(1), len(self.labels))

    def _take_observed(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """What all ranks observed, in the order of the ids, each clip once."""
        unique = {row[0]: row for row in self.gather(self.observed)}
        self.observed = []
        ids = sorted(unique)
        return ids, np.stack([unique[i][1] for i in ids]), np.array([unique[i][2] for i in ids])


def weights_of_classes(kind: str | Sequence[float] | None, counts: Tensor | None, num: int) -> Tensor:
    """One weight for each class, `(C,)`."""
    if kind is None:
        return torch.ones(num)
    if kind == "balanced":
        counts = torch.ones(num) if counts is None else counts.clamp(min=1)
        return counts.sum() / (num * counts.float())
    if isinstance(kind, str) or len(kind) != num:
        raise UserError(
            f"task.class_weights={kind} does not fit: give `balanced` or {num} numbers, one a class."
        )
    return torch.tensor([float(weight) for weight in kind])
