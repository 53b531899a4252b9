"""Trigger words: keywords detected in a stream, learned from clips that hold one word or none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_audio.data.batch import Batch
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import AudioError, decode_clips
from lightning_audio.data.long_audio import SpokenWord, long_audio
from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.inference.detections import Detector, detector_by
from lightning_audio.inference.labels import BestKeyword, LabelRule
from lightning_audio.inference.stream import Stream, WindowStream
from lightning_audio.metrics.detection import (
    OperatingPoint,
    det_curve,
    fewest_errors,
    fewest_misses,
    operating_point,
    per_hour,
)
from lightning_audio.metrics.intervals import Score, proportion
from lightning_audio.reports.plots import det_figure, write_png
from lightning_audio.reports.tables import write_csv
from lightning_audio.tasks.classification import SMALLEST_WEIGHT, Classification
from lightning_audio.tasks.max_pooling import clip_probabilities, max_pooling_loss, moving_mean

RELEASE = 0.6  # share of the threshold below which a score has to fall before its keyword can come again
WITHOUT_VALIDATION = 0.5  # the threshold where there is nothing to tune it on
# From 0.02 to 0.9999, close together at both ends.
THRESHOLDS = (1 / (1 + np.exp(-np.linspace(-4.0, 9.0, 53)))).tolist()


class Trigger(Classification):
    """Max-pooling loss on logits of every frame; scores of clips, and of detections in long audio.

    Long audio is made of the clips of a split, all words in their background noise, by `long_audio`; the
    network hears it as one stream, the same in every run. A threshold that is tuned makes the fewest misses
    and false alarms together in the long audio of the validation clips, or the fewest misses at no more than
    so many false alarms, after every validation (whose own scores are flattered by that); the test never
    changes it.

    Args:
        background: the labels that are no keywords.
        noise: the one of them whose clips are noise without any word: long audio lies on these; where there
            are none, on white noise.
        clips_per_sequence: training clips that stand one behind the other as one sequence, so that the
            network learns to forget a word before the next one.
        margin: seconds; see `max_pooling_loss`.
        smoothing: seconds up to a frame whose mean score is its score.
        threshold: a keyword is detected when its smoothed score reaches it. None tunes it on validation.
        max_false_alarms_per_hour: that a tuned threshold may raise there. None weighs one as much as a miss.
        refractory: seconds after a detection in which the same keyword gives no other.
        shared: what `Classification` takes.

    Raises:
        UserError: front end or network do not run on a stream, the network gives no logits for every frame,
            clips are mixed, or a label or a number does not fit.
    """

    fitted = ("threshold",)
    pools_time = False
    threshold: Tensor

    def __init__(
        self,
        background: Iterable[str],
        noise: str | None = None,
        clips_per_sequence: int = 1,
        margin: float | None = 0.4,
        smoothing: float = 0.1,
        threshold: float | None = None,
        max_false_alarms_per_hour: float | None = None,
        refractory: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.background, self.noise = tuple(background), noise
        self.clips_per_sequence, self.refractory = clips_per_sequence, refractory
        self.max_false_alarms_per_hour = max_false_alarms_per_hour
        self._refuse_misfits(smoothing, threshold, margin)
        self.tuned = threshold is None
        self.register_buffer("threshold", torch.tensor(WITHOUT_VALIDATION if self.tuned else threshold))
        self.columns = [self.labels.index(label) for label in self.background]
        self.frame_seconds = self.stream().frame_seconds  # refuses what does not run on a stream
        self._refuse_other_networks()
        self.train()
        self.smooth = max(round(smoothing / self.frame_seconds), 1)
        self.margin = None if margin is None else round(margin / self.frame_seconds)

    def _refuse_misfits(self, smoothing: float, threshold: float | None, margin: float | None) -> None:
        for label in (*self.background, *([self.noise] if self.noise else [])):
            if label not in self.labels:
                raise UserError(
                    f"task.background or task.noise names {label!r}, which is no label of the corpus"
                    f"{did_you_mean(label, self.labels)}: mend it."
                )
        if not 0 < len(set(self.background)) < len(self.labels):
            raise UserError(
                f"task.background={list(self.background)} leaves no keywords, or nothing else: name "
                "the labels that are no keywords."
            )
        if threshold is not None and not 0 < threshold <= 1:
            raise UserError(
                f"task.threshold={threshold} is no threshold: set it above 0 and up to 1, or null."
            )
        if min(smoothing, self.refractory, margin or 0) < 0 or self.clips_per_sequence < 1:
            raise UserError(
                "task.smoothing, task.refractory and task.margin are lengths and task.clips_per_sequence "
                "a count: set them to 0 or more, and the last to 1 or more."
            )
        most = self.max_false_alarms_per_hour
        if most is not None and (most < 0 or threshold is not None):
            raise UserError(
                f"task.max_false_alarms_per_hour={most:g} tunes the threshold: set it to 0 or more, and "
                "task.threshold=null."
            )
        if self.label_smoothing:
            raise UserError(
                "The loss of task=trigger takes labels as they are: leave out task.label_smoothing."
            )
        if self.augment.mix is not None:
            raise UserError("A trigger word is one or none, not a mixture: set augment.mix=null.")

    @torch.no_grad()
    def _refuse_other_networks(self) -> None:
        second = torch.zeros(1, self.sample_rate)
        if self(second, torch.tensor([self.sample_rate]))[0].dim() != 3:
            raise UserError(
                f"The network {type(self.network).__name__} gives one answer for a whole clip, and "
                "task=trigger wants one for every frame: set network=gru network.per_frame=true."
            )

    # Training.

    def concatenated(
        self, waveforms: Tensor, lengths: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clips one behind the other: waveforms `(R, k * T)`, lengths `(R,)`, targets `(R, k, C)`."""
        count = math.gcd(len(waveforms), self.clips_per_sequence)  # a last, smaller batch makes shorter rows
        if count == 1:
            return waveforms, lengths, targets
        rows = waveforms.reshape(len(waveforms) // count, -1)
        # The padding of a shorter clip is silence before the next one.
        return rows, lengths.new_full([len(rows)], rows.shape[1]), targets.unflatten(0, (len(rows), count))

    @property
    def concatenates(self) -> bool:
        return self.clips_per_sequence > 1

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean `max_pooling_loss` of logits `(B, T, C)` and one-hot labels `(B, C)`, or `(B, k, C)`
        where there are k clips of equal length in a row; weighted by `class_weights`."""
        if targets.dim() == 3:
            logits, lengths, targets = _apart(logits, targets)
        classes = targets.argmax(-1)
        each = max_pooling_loss(logits.float(), lengths, classes, self.columns, self.margin, self.smooth)
        weights = self.class_weights[classes]
        return (weights * each).sum() / weights.sum().clamp(min=SMALLEST_WEIGHT)

    # Scores of clips.

    def forward_tta(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities `(B, C)` of whole clips, by `clip_probabilities`."""
        logits, lengths = super().forward_tta(waveforms, lengths)
        return self._whole(logits, lengths), torch.ones_like(lengths)

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        super().observe(stage, self._whole(logits, lengths) if logits.dim() == 3 else logits, lengths, batch)

    def _whole(self, logits: Tensor, lengths: Tensor) -> Tensor:
        scores = self.label_scores(logits.float())
        return self.as_logits(clip_probabilities(scores, lengths, self.columns, self.smooth))

    @property
    def rule(self) -> LabelRule:
        return BestKeyword(self.columns)

    # Scores of long audio.

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        # Not at the epoch's end: there, averaged weights have made way again for those that are trained.
        if self.tuned and self.is_fitting and batch_idx + 1 == self.trainer.num_val_batches[0]:
            heard = self.score_long_audio(self.trainer.datamodule.splits["val"].clips)  # type: ignore[attr-defined]
            self.best_threshold = self._best_of(heard).threshold

    def _best_of(self, heard: LongAudioScores) -> OperatingPoint:
        points, most = heard.points(THRESHOLDS), self.max_false_alarms_per_hour
        return fewest_errors(points) if most is None else fewest_misses(points, most * heard.hours)

    def take_observed(self, stage: str) -> None:
        super().take_observed(stage)
        if stage == "val" and self.tuned and self.is_fitting:
            self.threshold.fill_(self.best_threshold)

    def scores(self, clips: Sequence[Clip]) -> dict[str, Score]:
        """Of the clips, and `miss_rate` and `false_alarms_per_hour` of the long audio made of them."""
        scores = super().scores(clips)
        self.heard = self.score_long_audio(clips)
        self.point = self.heard.points([float(self.threshold)])[0]
        groups = [clips[word.clip].group for word in self.heard.words]
        return scores | {
            "miss_rate": proportion(~self.point.hits, groups),
            "false_alarms_per_hour": per_hour(self.point.false_alarms, self.heard.hours),
        }

    def write_tables(self, folder: Path) -> None:
        """Writes the DET curve as det.csv and det.png, too."""
        super().write_tables(folder)
        hours, chosen = self.heard.hours, (self.point.miss_rate, self.point.false_alarms / self.heard.hours)
        points = [(p.threshold, p.miss_rate, p.false_alarms / hours) for p in self.heard.curve()]
        columns = ("threshold", "miss_rate", "false_alarms_per_hour")
        write_csv(
            folder / "det.csv", [{c: f"{v:.6g}" for c, v in zip(columns, p, strict=True)} for p in points]
        )
        figure = det_figure([point[1:] for point in points], chosen, len(self.heard.words), hours)
        write_png(figure, folder / "det.png")

    def score_long_audio(self, clips: Sequence[Clip]) -> LongAudioScores:
        """Lets the task listen to the long audio made of these clips, as one stream.

        Raises:
            UserError: a file can't be read, or there is no keyword among the clips.
        """
        if not any(clip.labels[0] not in self.background for clip in clips):
            raise UserError("There is no keyword among the clips to detect: check task.background.")
        sounds, noises, positions = [], [], []
        for position, (clip, samples) in enumerate(
            zip(clips, decode_clips(clips, self.sample_rate), strict=True)
        ):
            if isinstance(samples, AudioError):
                raise samples
            if clip.labels[0] == self.noise:
                noises.append(samples)
            elif samples.any():
                sounds.append((clip.labels[0], samples))
                positions.append(position)
        samples, words = long_audio(sounds, noises, self.sample_rate)
        scores = self.listen(samples)
        keywords = [
            SpokenWord(word.start, word.end, word.label, positions[word.clip])
            for word in words
            if word.label not in self.background
        ]
        return LongAudioScores(
            self, moving_mean(scores[None], self.smooth)[0], keywords, len(samples) / self.sample_rate
        )

    def stream(self) -> Stream | WindowStream:
        """What hears a stream."""
        return Stream(self)

    def listen(self, samples: np.ndarray) -> Tensor:
        """Scores `(T, C)` of int16 `(n,)` as one stream."""
        training, stream = self.training, self.stream()
        scores = torch.cat([stream.push(samples), stream.finish()])
        self.train(training)
        return scores

    @property
    def detection(self) -> dict[str, Any]:
        """Its rules for `detector_by`, as plain values."""
        own = {"on": float(self.threshold), "release": RELEASE, "min_gap": self.refractory}
        return {**own, "smooth": self.smooth, "ignore": list(self.background)}

    def detector(self, **rules: Any) -> Detector:
        """What finds the keywords in the scores of a `Stream`: by the task's rules but for those given."""
        return detector_by(self.detection, self.labels, self.frame_seconds, **rules)


class LongAudioScores:
    """What a task heard in long audio: smoothed scores `(T, C)`, and the keywords that were there."""

    def __init__(self, task: Trigger, scores: Tensor, words: list[SpokenWord], seconds: float) -> None:
        self.task, self.scores, self.words, self.hours = task, scores, words, seconds / 3600

    def points(self, thresholds: Iterable[float]) -> list[OperatingPoint]:
        """What each of the thresholds gives."""
        found = {on: self.task.detector(on=on, smooth=1).push(self.scores.numpy()) for on in thresholds}
        times = {on: [(detection.time, detection.label) for detection in each] for on, each in found.items()}
        return [operating_point(on, self.words, detections) for on, detections in times.items()]

    def curve(self) -> list[OperatingPoint]:
        """The detection error tradeoff."""
        return det_curve(self.points(THRESHOLDS))


def _apart(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clips that stood in a row `(R, k * T, C)`, `(R, k, C)`, each for itself again."""
    count = targets.shape[1]
    size = logits.shape[1] // count
    logits = logits[:, : count * size].unflatten(1, (count, size)).flatten(0, 1)
    return logits, torch.full([len(logits)], size, device=logits.device), targets.flatten(0, 1)
