"""AudioTask: what training, validation, testing and prediction share, whatever is predicted."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_audio.augment import Augment
from lightning_audio.data.batch import Batch, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.info import DataInfo
from lightning_audio.data.targets import ClassIndex, Targets
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.inference.prediction import Audio, Prediction, Recordings, read_recordings
from lightning_audio.metrics.base import Metric, Predictions, named_metrics, scores, values
from lightning_audio.metrics.intervals import Score, direction
from lightning_audio.networks.base import Network
from lightning_audio.tasks.finetuning import FineTuning
from lightning_audio.tasks.recipe import Recipe, in_training, seed_draws

SMALLEST_SHARE = 0.005  # of a soft label that is named


class AudioTask(pl.LightningModule):
    """Waveforms in, answers out: front end, normalisation and network in one module.

    A subclass sets `encoding`, `monitor` (the validation score that picks a checkpoint, and whether `max` or
    `min` of it is better) and `scored` (the predictions that metrics are functions of), and says `loss`,
    `observe`, `take_observed`, `predictions`, `report` and `predict_recordings`. Buffers that validation
    sets, such as thresholds, are named in `fitted`.

    Args:
        frontend, normalize, network: the path of a waveform at any time.
        augment: what training adds to it.
        info: what the data know that it learns or learned from.
        recipe: needed for training only.
        seed: names what augmentation and dropout draw.
        monitor: another validation score to pick the checkpoint by, such as `val/cer`.
        metrics: what validation and test are scored by: names of those beside `scored`, or metrics as
            `_target_` makes them; by default those of the class.
    """

    encoding: ClassVar[type[Targets]] = ClassIndex
    monitor: tuple[str, str] = ("val/loss", "min")
    fitted: ClassVar[tuple[str, ...]] = ()
    tuned = refits = False  # whether validation sets these; and behind training, of averaged weights, too
    scored: ClassVar[type[Predictions]]
    watched: ClassVar[tuple[str, ...]] = ()  # what validation logs beside the metrics
    usual_metrics: ClassVar[tuple[str, ...]] = ()
    transcribes: ClassVar[bool] = False  # whether it gives text, and not labels
    answers: ClassVar[tuple[str, ...]] = ("scores",)  # the names of what `answer` gives
    copies: int = 1  # of a batch's features in training, each augmented by itself: logits come copy by copy
    patience: ClassVar[int] = 1  # times as many updates as usual, in which a few clips are learned by heart

    def __init__(
        self,
        frontend: nn.Module,
        normalize: Normalize,
        network: Network,
        augment: Augment,
        info: DataInfo,
        recipe: Recipe | None = None,
        seed: int = 0,
        monitor: str | None = None,
        metrics: Sequence[str | Metric] | None = None,
    ) -> None:
        super().__init__()
        self.frontend, self.normalize, self.network, self.augment = frontend, normalize, network, augment
        self.info = info
        self.labels, self.sample_rate, self.clip_seconds = info.labels, info.sample_rate, info.clip_seconds
        self.recipe, self.seed = recipe, seed
        self.metrics = named_metrics(self.scored, self.usual_metrics if metrics is None else metrics)
        if monitor is not None:
            own = (m.better for m in self.metrics if m.better and monitor == f"val/{m.name}")
            self.monitor = monitor, next(own, direction(monitor))
        self.description: dict[str, Any] = {}  # what a checkpoint says of itself; build.py sets it
        self.settings: list[dict[str, Any]] = []  # of the optimizer's groups at the start: rate, decay, betas

    # What a task says.

    @abstractmethod
    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """A scalar; `targets` as `targets_for_training` made them."""

    @abstractmethod
    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        """Takes in the logits of one validation or test batch."""

    @abstractmethod
    def take_observed(self, stage: str) -> None:
        """Sets what all ranks observed, in the order of the ids, each clip once; forgets it."""

    @abstractmethod
    def predictions(self, clips: Sequence[Clip] | None = None) -> Predictions:
        """What was taken last; `clips` are those of its split, which know the groups."""

    @abstractmethod
    def rows_of(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        """What was taken last as rows of predictions.jsonl; `clips` are those of its split."""

    @abstractmethod
    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """The scores of the test clips; writes predictions and plots into the folder as well."""

    @classmethod
    def outputs_for(cls, labels: Sequence[str], options: Mapping[str, Any]) -> int:
        """How many outputs a task with these options asks of the network: as many as targets have."""
        return cls.encoding.outputs_for(labels)

    def check(self, data: AudioDataModule) -> None:
        """Raises UserError where data that has been set up can't be learned from; called before training."""

    def figures(self) -> dict[str, Figure]:
        """Pictures of what was summarised last, by name."""
        return {}

    def targets_for_training(self, targets: Tensor) -> Tensor:
        """Targets in the form that mixing and the loss take."""
        return targets

    def targets_of(self, batch: Batch) -> Tensor:
        """Those of the clips of a training batch."""
        return self.targets_for_training(batch.targets)

    def name_target(self, target: Tensor) -> str:
        """Soft labels `(C,)` in words: `dog`, or `dog 0.70 + rain 0.30` where two clips were mixed."""
        order = target.argsort(descending=True, stable=True).tolist()
        shares = [(self.labels[i], float(target[i])) for i in order if target[i] >= SMALLEST_SHARE]
        if len(shares) == 1:
            return shares[0][0]
        return " + ".join(f"{label} {share:.2f}" for label, share in shares)

    @property
    def concatenates(self) -> bool:
        """Whether training joins the waveforms of several clips."""
        return False

    def concatenated(
        self, waveforms: Tensor, lengths: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What training takes of augmented clips: each by itself, unless a task joins them."""
        return waveforms, lengths, targets

    def forward_tta(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as they are scored in a test; a task may average several views of a clip here."""
        return self(waveforms, lengths)

    def label_scores(self, outputs: Tensor) -> Tensor:
        """Logits, or what `answer` gives, `(..., C)` -> a score `(..., C)` in [0, 1] of each label: softmax.

        A task whose labels do not exclude one another says otherwise.
        """
        return outputs.softmax(-1)

    def stream_scores(self, logits: Tensor) -> Tensor:
        """What is made of the logits `(..., C)` of a stream as it comes."""
        return self.label_scores(logits)

    def answer(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """What is said of clips `(B, T)`, as an exported graph says it: scores `(B, C)` of the labels."""
        return (self.label_scores(self.forward_tta(waveforms, lengths)[0].float()),)

    @abstractmethod
    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterable[Prediction]:
        """`predict` of recordings that have been read, in eval mode."""

    # What all tasks do.

    @property
    def score_names(self) -> list[str]:
        """What a validation may give a value of."""
        return [*(metric.name for metric in self.metrics), *self.watched]

    def summarise(self, stage: str) -> dict[str, float]:
        """The values of all that was observed, by name; forgets it.

        What is not defined is left out, but for what picks a checkpoint, which is then NaN.
        """
        self.take_observed(stage)
        found = values(self.metrics, self.predictions())
        return {n: v for n, v in found.items() if not math.isnan(v) or f"val/{n}" == self.monitor[0]}

    def scores(self, clips: Sequence[Clip]) -> dict[str, Score]:
        """The scores, with their intervals, of what was summarised last; `clips` are those of its split.

        Raises:
            UserError: the network answered what is no number.
        """
        return scores(self.metrics, self.predictions(clips))

    def predict(
        self,
        audio: Sequence[Audio] | Audio,
        sample_rate: int | None = None,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = 16,
        channel: int | str = "mean",
    ) -> list[Prediction]:
        """Answers for recordings of any length, format, rate and number of channels.

        Args:
            audio: paths, or arrays `(T,)` or `(T, channels)`: float in [-1, 1] or int16; one or many.
            sample_rate: of the arrays, in Hz.
            window: seconds of one look at a longer recording; by default as long as the training clips.
            hop: seconds from one window to the next; by default half a window.
            batch_size: windows that run together.
            channel: what is taken of several: `mean`, a number from 0 on, or `each` for an answer of its own.

        Raises:
            UserError: a file can't be read or has no such channel, or an array comes without its rate.
        """
        many = [audio] if isinstance(audio, str | Path | np.ndarray) else audio
        training, recordings = self.training, read_recordings(many, self.sample_rate, sample_rate, channel)
        self.eval()
        predictions = list(self.predict_recordings(recordings, window, hop, batch_size))
        self.train(training)
        return predictions

    def raw_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the front end gives for a batch, computed now or beforehand, and lengths in frames."""
        if batch.features is None or batch.frames is None:
            return self.frontend(samples_to_float(batch.waveforms), batch.lengths)
        return batch.features, batch.frames

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms `(B, T)`, float or int16, with lengths in samples -> logits and their lengths."""
        features, lengths = self.frontend(samples_to_float(waveforms), lengths)
        return self.apply_network(*self.normalize(features, lengths))

    def apply_network(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and their lengths from features with lengths in frames; a task may pool them here."""
        return self.network(features, lengths)

    def training_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, their lengths and targets of a batch as training takes it: all that augmentation does."""
        targets = self.targets_of(batch)
        if batch.features is None:
            waveforms = samples_to_float(batch.waveforms)
            waveforms, lengths, targets = self.augment.waveforms(waveforms, batch.lengths, targets)
            waveforms, lengths, targets = self.concatenated(waveforms, lengths, targets)
            features, frames = self.frontend(waveforms, lengths)
        else:  # computed beforehand: nothing changes their waveforms
            features, frames = self.raw_features(batch)
        if self.training and self.copies > 1:
            features, frames = torch.cat([features] * self.copies), frames.repeat(self.copies)
        features, frames = self.augment.features(features, frames)
        features, frames = self.normalize(features, frames)
        logits, lengths = self.apply_network(features, frames)
        return logits, lengths, targets

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch; `training_logits` is the path from the waveforms to it."""
        # A pure function of (seed, epoch, step, rank): a run that is resumed draws what it would have drawn.
        name = f"{self.seed} {self.current_epoch} {batch_idx} {self.global_rank}"
        seed_draws(zlib.crc32(name.encode()), self.device)
        self.augment.progress = self.share_done(batch_idx)
        loss = self.loss(*self.training_logits(batch))
        # Lightning divides by the batches of a whole group, and the last group of an epoch may have fewer.
        group = self.trainer.accumulate_grad_batches
        self._share = group / min(group, self._batches - batch_idx // group * group)
        if weights := self.trainer.train_dataloader.sampler.weights:  # type: ignore[union-attr]
            self._share *= weights[batch_idx]  # where ranks have unequal shares of a step
        shared: dict[str, Any] = {"batch_size": len(batch), "sync_dist": True}
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, **shared)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0:  # when loggers write
            self.log("lr", self.trainer.optimizers[0].param_groups[-1]["lr"], on_step=True)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss if self._share == 1 else loss * self._share, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, lengths = self.apply_network(*self.normalize(*self.raw_features(batch)))
        self.observe("val", logits, lengths, batch)
        loss = self.loss(logits, lengths, self.targets_for_training(batch.targets))
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits, lengths = self.forward_tta(batch.waveforms, batch.lengths)
        self.observe("test", logits, lengths, batch)

    def on_validation_epoch_end(self) -> None:
        scores = self.summarise("val")
        # A sanity check scores a few batches before training: not a score of the run.
        if not self.trainer.sanity_checking:
            self.log_dict({f"val/{name}": value for name, value in scores.items()}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.summarise("test").items()})

    def fit_normalizer(self, batches: Iterable[Batch]) -> None:
        """Sets the mean and deviation of the corpus from its training clips, without augmentation."""
        self.normalize.fit(self.raw_features(batch.to(self.device)) for batch in batches)

    @torch.no_grad()
    def fit_network(self, data: AudioDataModule) -> None:
        """Shows the network its training clips, where it remembers them; without augmentation."""
        if type(self.network).remember is Network.remember:
            return
        for batch in data.loader("train", features=True, drawn=True):
            batch = batch.to(self.device)
            features, frames = self.normalize(*self.raw_features(batch))
            self.network.remember(features, frames, batch.targets)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lightning_audio"] = self.description
        for name in self.fitted:  # where averaged weights are saved, an average of these would fit none
            checkpoint["state_dict"][name] = getattr(self, name).clone()

    @property
    def is_fitting(self) -> bool:
        """Whether a validation sets what is fitted: no sanity check of a few clips, none behind training."""
        return in_training(self.trainer) or self.refits

    def on_train_start(self) -> None:
        # A run that is resumed in the middle of an epoch does not start that epoch again.
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        self.start_epoch(self.current_epoch, math.ceil(self.total_steps / self._steps))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for parameter in self.finetuning.dropped:
            parameter.grad = None

    @cached_property
    def finetuning(self) -> FineTuning:
        """What learns from when on; build.py sets what the configuration says of it."""
        return FineTuning(*self.learned())

    def learned(self) -> tuple[list[nn.Module], dict[str, list[nn.Module]]]:
        """The network and what a task has of its own behind it; their stages in order of depth."""
        before = (self.frontend, self.normalize, self.augment, self.network)
        own = {name: child for name, child in self.named_children() if child not in before}
        behind = {name: [child] for name, child in own.items() if any(True for _ in child.parameters())}
        return [self.network, *own.values()], {**self.network.named_stages(), **behind}

    def start_epoch(self, epoch: int, max_epochs: int) -> None:
        """Sets what an epoch has of its own, such as what learns in it."""
        self.network.start_epoch(epoch, max_epochs)
        self.finetuning.start_epoch(epoch, self._trainer is not None and self.trainer.world_size > 1)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self.finetuning.still if "finetuning" in self.__dict__ else ():
            norm.eval()
        return self

    def gather(self, rows: list[Any]) -> list[Any]:
        """Rows of all ranks, on each of them."""
        if self._trainer is None or self.trainer.world_size == 1:
            return rows
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def configure_optimizers(self) -> Any:
        assert self.recipe is not None, "a task without a recipe cannot be trained"
        groups = self.finetuning.groups(self.recipe.lr, self.recipe.weight_decay)
        optimizer, schedule = self.recipe.bind(groups, self.total_steps)
        self.settings = [
            {k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def share_done(self, batch_idx: int) -> float:
        """Of the whole training what comes before a batch of this epoch, 0 to 1."""
        return (self.current_epoch + batch_idx / self._batches) / (self.total_steps / self._steps)

    @property
    def total_steps(self) -> int:
        """Updates of the whole training."""
        # Not trainer.estimated_stepping_batches: reading it drops the place of the loader in a resumed run.
        limits = (self.trainer.max_epochs or -1) * self._steps, self.trainer.max_steps
        return min((limit for limit in limits if limit > 0), default=self._steps)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            batches = len(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
            limit = self.trainer.limit_train_batches
            self._batches = min(batches, limit) if isinstance(limit, int) else max(int(batches * limit), 1)
            self._steps = -(-self._batches // self.trainer.accumulate_grad_batches)  # updates in an epoch
