"""ClipTask: what all tasks share that give labels to a clip as a whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_audio.augment.waveform import roll
from lightning_audio.data.batch import Batch, pad_clips, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mean_over_time
from lightning_audio.inference.labels import LabelRule
from lightning_audio.inference.prediction import Prediction, Recordings, labelled
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.results import PREDICTIONS, write_predictions
from lightning_audio.tasks.base import AudioTask


class ClipTask(AudioTask):
    """Observes probabilities of all clips, writes what is said of each, and joins windows to one answer.

    A subclass says with `label_scores` what logits mean, and with its `rule` which labels follow from that.
    What was summarised last are `ids`, and in the same order `probabilities` `(N, C)` and `targets`.

    Args:
        label_smoothing: share of each target that says nothing of the clip.
        shifts: circular shifts of a clip, evenly spread, whose probabilities are averaged in tests and
            predictions.
        shared: what `AudioTask` takes.
    """

    pools_time: ClassVar[bool] = True  # one answer for a clip, also of a network that has one for each frame

    def __init__(self, label_smoothing: float = 0.0, shifts: int = 1, **shared: Any) -> None:
        super().__init__(**shared)
        if not 0 <= label_smoothing < 1:
            raise UserError(
                f"task.label_smoothing={label_smoothing} is no share: set it to 0 or a number below 1."
            )
        if shifts < 1:
            raise UserError(f"task.shifts={shifts} leaves nothing to average: set it to 1 or more.")
        self.label_smoothing, self.shifts = label_smoothing, shifts
        self.observed: list[tuple[str, np.ndarray, Any]] = []

    @abstractmethod
    def as_logits(self, probabilities: Tensor) -> Tensor:
        """Logits `(..., C)` of which `label_scores` makes these probabilities."""

    @property
    @abstractmethod
    def rule(self) -> LabelRule:
        """Which labels follow from probabilities."""

    @abstractmethod
    def reference_labels(self, target: np.ndarray) -> list[str]:
        """The labels that the target of a clip stands for."""

    @abstractmethod
    def write_tables(self, folder: Path) -> None:
        """Writes tables and pictures of what was summarised last."""

    def apply_network(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, C)`: those of a network that answers for every frame are averaged over the clip."""
        logits, lengths = super().apply_network(features, lengths)
        if logits.dim() == 2 or not self.pools_time:
            return logits, lengths
        return mean_over_time(logits.float().mT, lengths), torch.ones_like(lengths)

    def forward_tta(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the probabilities averaged over the shifts."""
        waveforms, mean = samples_to_float(waveforms), torch.zeros(())
        for number in range(self.shifts):
            view = roll(waveforms, lengths, lengths * number // self.shifts) if number else waveforms
            logits, output_lengths = self(view, lengths)
            # In half precision probabilities near 1 are all alike.
            mean = mean.to(logits.device) + self.label_scores(logits.float()) / self.shifts
        return self.as_logits(mean), output_lengths

    def predicted_labels(self, probabilities: np.ndarray) -> list[str]:
        """The labels that follow from the probabilities `(C,)` of a clip."""
        return [self.labels[column] for column in self.rule.chosen(probabilities)]

    @torch.inference_mode()
    def clip_scores(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities `(B, C)` of clips `(T,)`, int16 at the task's rate, in eval mode."""
        return self.answer(*pad_clips(clips, self.device))[0].cpu().numpy()

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        probabilities = self.label_scores(logits.float()).cpu().numpy()
        self.observed += zip(batch.ids, probabilities, batch.targets.tolist(), strict=True)

    def take_observed(self, stage: str) -> None:
        unique = {row[0]: row for row in self.gather(self.observed)}
        self.observed, self.ids = [], sorted(unique)
        self.probabilities = np.stack([unique[i][1] for i in self.ids])
        self.targets = np.array([unique[i][2] for i in self.ids])

    def groups(self, clips: Sequence[Clip] | None) -> list[str | None]:
        """The group of each clip that was taken last."""
        known = {clip.id: clip.group for clip in clips or ()}
        return [known.get(i) for i in self.ids]

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes predictions.jsonl and what `write_tables` does."""
        scores = self.scores(clips)  # first, since it refuses what is no number
        write_predictions(folder / PREDICTIONS, self.rows_of(clips))
        self.write_tables(folder)
        return scores

    def rows_of(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        known = {clip.id: clip for clip in clips}
        answers = zip(self.ids, self.probabilities, self.targets, strict=True)
        return [self.row(known[i], *answer) for i, *answer in answers]

    def row(self, clip: Clip, probabilities: np.ndarray, target: np.ndarray) -> dict[str, Any]:
        """A clip in predictions.jsonl; its score is that of the surest label."""
        return {
            "id": clip.id,
            "reference": ", ".join(self.reference_labels(target)),
            "hypothesis": ", ".join(self.predicted_labels(probabilities)),
            "score": float(probabilities.max()),
            "group": clip.group,
            "fold": clip.fold,
            "scores": dict(zip(self.labels, probabilities.round(6).tolist(), strict=True)),
        }

    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterator[Prediction]:
        return labelled(self, recordings, window, hop, batch_size)


def weights_of_classes(kind: str | Sequence[float] | None, balanced: Tensor) -> Tensor:
    """One weight for each class `(C,)`: 1 for null, or `balanced`, or those named.

    Raises:
        UserError: `kind` is neither null nor `balanced` nor a number for each class.
    """
    if kind is None:
        return torch.ones_like(balanced)
    if kind == "balanced":
        return balanced
    if isinstance(kind, str) or len(kind) != len(balanced):
        raise UserError(
            f"task.class_weights={kind} does not fit: give `balanced` or {len(balanced)} numbers, "
            "one a class."
        )
    return torch.tensor([float(weight) for weight in kind])
