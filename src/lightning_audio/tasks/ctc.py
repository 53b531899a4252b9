"""Speech recognition by connectionist temporal classification (Graves et al. 2006, ICML)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.augment.features import SpecAugment
from lightning_audio.augment.waveform import Speed
from lightning_audio.data.batch import Batch, HostCopy, samples_to_float
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.targets import BLANK, PAD, Targets, Tokens, normalizer_of
from lightning_audio.decoding import Decoder, Greedy
from lightning_audio.decoding.alignment import from_parts
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.inference.prediction import Prediction, Recordings
from lightning_audio.inference.segments import LONGEST
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.transcripts import Transcripts
from lightning_audio.reports.results import PREDICTIONS, write_predictions
from lightning_audio.reports.transcripts import write_transcript_report
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.ctc_doctor import Symptoms, on_plateau, verdict
from lightning_audio.text.tokenizers import tokenizer_of


class CTC(AudioTask):
    """Transcripts from frames: output 0 is the blank, output i + 1 the token i.

    Augmentation that is named in `augment.delayed` waits until the network gives less than
    `start_below_blank_rate` of all frames to the blank: at first it gives it all of them, and what hides the
    speech then keeps it there.

    Args:
        text: options of the normaliser, and of the tokenizer that the data made with them.
        label_prior: how much of the logarithm of the mean posterior is taken off the log-probabilities in
            training, which makes them less peaky (Huang et al. 2024, arXiv:2406.02560); 0 for plain CTC.
        start_below_blank_rate: the blank rate below which delayed augmentation begins.
        shared: what `AudioTask` takes.
    """

    encoding: ClassVar[type[Targets]] = Tokens
    monitor: tuple[str, str] = ("val/wer", "min")
    scored = Transcripts
    usual_metrics = ("wer", "cer", "sentence_error_rate")
    watched = ("blank_rate", "entropy")
    MEMORY: ClassVar[float] = 0.95  # of the running means over training steps
    blank_rate: Tensor
    prior: Tensor

    def __init__(
        self,
        text: Mapping[str, Any],
        label_prior: float = 0.0,
        start_below_blank_rate: float = 0.9,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if label_prior < 0 or not 0 <= start_below_blank_rate <= 1:
            raise UserError(
                f"task.label_prior={label_prior} and task.start_below_blank_rate={start_below_blank_rate} "
                f"do not fit: set the first to 0 or more "
                "(0.3 is much), the second to a share of the frames, such as 0.9."
            )
        try:
            self.network.output_lengths(torch.ones(1, dtype=torch.long))
        except NotImplementedError:
            raise UserError(
                f"The network {type(self.network).__name__} gives one answer for a whole clip, and task=ctc "
                "wants one for every frame: set network=bilstm, conformer or crnn, or network=gru "
                "network.per_frame=true."
            ) from None
        self.normalizer, self.tokenizer = normalizer_of(text), tokenizer_of(dict(self.info.vocabulary or {}))
        self.label_prior, self.start_below_blank_rate = label_prior, start_below_blank_rate
        self.decoder: Decoder = Greedy(self.tokenizer)
        outputs = len(self.labels) + 1
        self.register_buffer("blank_rate", torch.ones(()))
        self.register_buffer("prior", torch.full((outputs,), 1 / outputs))
        self.observed: list[dict[str, Any]] = []
        self.diagnosed = False
        self._blank_rate: HostCopy | None = None  # on its way from the device

    @property
    def frame_seconds(self) -> float:
        """Seconds from one row of logits to the next."""
        second = torch.tensor([0, 3600 * self.sample_rate])
        rows = self.output_lengths(second).tolist()
        return 3600 / (rows[1] - rows[0])

    def spelled(self, target: Tensor) -> tuple[int, ...]:
        """The token ids of a row of targets, `(U,)`."""
        return tuple(output - 1 for output in target.tolist() if output != PAD)

    def name_target(self, target: Tensor) -> str:
        return self.tokenizer.decode(self.spelled(target))

    def log_probs(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms `(B, T)` with lengths in samples -> log-probabilities `(B, T', C)` with lengths."""
        logits, lengths = self(waveforms, lengths)
        return logits.float().log_softmax(-1), lengths

    def training_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """As in every task, where augmentation that is delayed begins in time."""
        last = self._blank_rate or HostCopy(self.blank_rate)  # of the step before; or of a checkpoint
        self._blank_rate = None
        self.augment.started = bool(last.read() < self.start_below_blank_rate)
        return super().training_logits(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/blank_rate", self.blank_rate, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean over utterances of the negative log-probability of each, by its number of tokens.

        `logits` `(B, T, C)`, `lengths` `(B,)` in frames, `targets` `(B, U)` with PAD behind each.
        """
        log_probs = logits.float().log_softmax(-1)  # half precision does not hold sums of so many paths
        if self.training:
            self._follow(log_probs.detach(), lengths)
        if self.label_prior and self.training:
            log_probs = log_probs - self.label_prior * self.prior.log()
        counts = (targets != PAD).sum(1)
        losses = functional.ctc_loss(
            log_probs.transpose(0, 1), targets.clamp(min=1), lengths, counts, BLANK, "none"
        )
        return (losses / counts.clamp(min=1)).mean()

    @torch.no_grad()
    def _follow(self, log_probs: Tensor, lengths: Tensor) -> None:
        """Takes the running blank rate and the prior a step towards those of a batch."""
        # Sums over a mask: picking the frames would wait for the device to count them.
        inside = frame_mask(lengths, log_probs.shape[1])[..., None]
        count = inside.sum()
        blank = (log_probs.argmax(-1, keepdim=True) == BLANK) & inside
        self.blank_rate.lerp_(blank.sum() / count, 1 - self.MEMORY)
        self.prior.lerp_(log_probs.exp().masked_fill(~inside, 0.0).sum((0, 1)) / count, 1 - self.MEMORY)
        self._blank_rate = HostCopy(self.blank_rate)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._blank_rate = None  # of a training that has been left

    def on_train_epoch_end(self) -> None:
        if not self.diagnosed and on_plateau(float(self.blank_rate), self.trainer.global_step):
            self.diagnosed = True
            symptoms = self.symptoms(self.trainer.datamodule, self.trainer.global_step, self.total_steps)  # type: ignore
            self.trainer.print(verdict(symptoms))

    @torch.no_grad()
    def symptoms(self, data: AudioDataModule, updates: int, total: int = 0) -> Symptoms:
        """What the doctor has to know after so many updates, of `total` that a schedule has."""
        assert self.recipe is not None
        clips = data.splits["train"]
        frames = self.output_lengths(clips.store.lengths[clips.rows])
        needed = torch.tensor([frames_needed(target) for target in clips.encoded])
        batch = next(iter(data.loader("train"))).to(self.device)
        features, lengths = self.normalize(*self.frontend(samples_to_float(batch.waveforms), batch.lengths))
        inside = features.transpose(1, -1)[frame_mask(lengths, features.shape[-1])]
        factors = [self.recipe.factor(step, total=total) for step in range(total)] or [1.0]
        early = [*self.augment.waveform_transforms.items(), *self.augment.feature_transforms.items()]
        return Symptoms(
            blank_rate=float(self.blank_rate),
            updates=updates,
            rising=factors.index(max(factors)),
            lr=self.recipe.lr,
            mean=float(inside.mean()),
            deviation=float(inside.std()),
            masked_early=any(
                isinstance(transform, SpecAugment | Speed) and name not in self.augment.delayed
                for name, transform in early
            ),
            tokens_per_frame=float(sum(map(len, clips.encoded)) / frames.sum()),
            tightest=float((needed / frames.clamp(min=1)).max()),
            seconds=data.info.clip_seconds,
        )

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Rows of logits of clips of so many samples, both `(B,)`."""
        return self.network.output_lengths(self.frontend.output_lengths(samples))  # type: ignore[operator]

    def check(self, data: AudioDataModule) -> None:
        """Leaves out, by name, clips whose transcript needs more frames than their audio gives.

        Raises:
            UserError: there are more of them than `loader.max_bad_fraction`.
        """
        bad = {}
        for split, clips in data.splits.items():
            fastest = self.augment.fastest if split == "train" else 1.0
            samples = (clips.store.lengths[clips.rows] / fastest).long()
            frames = self.output_lengths(samples)
            for clip, target, length in zip(clips.clips, clips.encoded, frames.tolist(), strict=True):
                needed = frames_needed(target)
                if needed > length:
                    bad[clip.id] = f"its {len(target)} tokens need {needed} frames, and it has {length}"
        if bad:
            data.leave_out(bad, "lower frontend.hop_length or network.strides, use larger tokens")

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        """Decodes each utterance: a validation takes the best path, a test the decoder that was set."""
        log_probs = logits.float().log_softmax(-1).cpu()
        decoder = self.decoder if stage == "test" else Greedy(self.tokenizer)
        for i, (row, length) in enumerate(zip(log_probs, lengths.tolist(), strict=True)):
            tokens = self.spelled(batch.targets[i])
            found = decoder(row[:length])
            best, reference = found[0], decoder.score_of(row[:length], tokens)
            entropy = -(row[:length].exp() * row[:length]).sum(-1).mean()
            self.observed.append(
                {
                    "id": batch.ids[i],
                    "reference": self.tokenizer.decode(tokens),
                    "hypothesis": best.text,
                    "score": best.score,
                    # A reference that the decoder cannot say, such as by its lexicon, has none.
                    "reference_score": reference.score if math.isfinite(reference.score) else None,
                    "nbest": [other.as_dict() for other in found],
                    "seconds": round(int(batch.lengths[i]) / self.sample_rate, 3),
                    "blank_rate": float((row[:length].argmax(-1) == BLANK).float().mean()),
                    "entropy": float(entropy),
                }
            )

    def take_observed(self, stage: str) -> None:
        unique = {row["id"]: row for row in self.gather(self.observed)}
        if self._trainer is not None:
            unique |= self._wrong_without_look(self.trainer.datamodule.unscorable[stage])  # type: ignore
        self.observed, self.rows = [], [unique[i] for i in sorted(unique)]

    def _wrong_without_look(self, clips: Iterable[tuple[Clip, str]]) -> dict[str, dict[str, Any]]:
        """Rows, by id, of the clips that no loss can take: a test without them would be easier, so all their
        words count as deleted."""
        rows = {}
        for clip, reason in clips:
            if reference := self.normalizer.leniently(clip.text or ""):
                rows[clip.id] = {
                    "id": clip.id,
                    "reference": reference,
                    "hypothesis": "",
                    "score": None,
                    "reference_score": None,
                    "group": clip.group,
                    "fold": clip.fold,
                    "problem": reason,
                }
        return rows

    def predictions(self, clips: Sequence[Clip] | None = None) -> Transcripts:
        return Transcripts(self._grouped(clips or ()))

    def summarise(self, stage: str) -> dict[str, float]:
        """The values of its metrics; the mean blank rate and entropy of frames tell how training goes."""
        found = super().summarise(stage)
        heard = [row for row in self.rows if "problem" not in row]
        return found | {name: float(np.mean([row[name] for row in heard])) for name in self.watched if heard}

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes predictions.jsonl, and what `write_transcript_report` does."""
        rows = self._grouped(clips)
        write_predictions(folder / PREDICTIONS, rows)
        write_transcript_report(folder, rows)
        return scores(self.metrics, Transcripts(rows))

    def _grouped(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        known = {clip.id: {"group": clip.group, "fold": clip.fold} for clip in clips}
        return [row | known.get(row["id"], {}) for row in self.rows]

    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterator[Prediction]:
        """Recordings longer than `window`, by default 20 s, are cut at their pauses: there is no `hop`.

        What was said in each piece stands under `windows`.

        Raises:
            UserError: a hop is asked for.
        """
        if hop is not None:
            raise UserError("Speech is cut at its pauses, not every so many seconds: leave out hop.")
        for found in transcribe(self, recordings, window or LONGEST, batch_size):
            yield Prediction(
                id=found.id,
                hypothesis=found.text,
                score=from_parts(found.text, found.segments).score if found.segments else 0.0,
                scores={},
                seconds=found.seconds,
                windows=[(span.start, span.end, span.text, span.score) for span in found.segments],
            )


def frames_needed(target: Tensor) -> int:
    """The fewest frames that an alignment of these tokens takes: a blank must part two that are alike."""
    return len(target) + int((target[1:] == target[:-1]).sum())
