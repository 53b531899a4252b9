"""Speech recognition by connectionist temporal classification (Graves et al. 2006, ICML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.augment.features import SpecAugment
from lightning_audio.augment.warp import TimeWarp
from lightning_audio.augment.waveform import Speed
from lightning_audio.data.batch import Batch, HostCopy, samples_to_float
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.targets import BLANK, PAD
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding import Beam, Greedy, Hypothesis
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask, mask_frames
from lightning_audio.tasks.ctc_doctor import Symptoms, on_plateau, verdict
from lightning_audio.tasks.transcription import Transcription


class CTC(Transcription):
    """Transcripts from frames: output 0 is the blank, output i + 1 the token i.

    Augmentation that is named in `augment.delayed` waits until the network gives less than
    `start_below_blank_rate` of all frames to the blank: at first it gives it all of them, and what hides the
    speech then keeps it there.

    Args:
        text: options of the normaliser, and of the tokenizer that the data made with them.
        label_prior: how much of the logarithm of the mean posterior is taken off the log-probabilities in
            training, which makes them less peaky (Huang et al. 2024, arXiv:2406.02560); 0 for plain CTC.
        start_below_blank_rate: the blank rate below which delayed augmentation begins.
        consistency: weight of the divergence between the posteriors of two copies of each utterance, whose
            features are augmented each by itself, such as 0.2 (Yao et al. 2025, CR-CTC, arXiv:2410.05101); 0
            for one copy. A step takes up to twice the time, and twice the memory.
        shared: what `Transcription` takes besides.
    """

    watched = ("blank_rate", "entropy")
    answers = ("log_probs", "frames")
    MEMORY: ClassVar[float] = 0.95  # of the running means over training steps
    blank_rate: Tensor
    prior: Tensor

    def __init__(
        self,
        text: Mapping[str, Any],
        label_prior: float = 0.0,
        start_below_blank_rate: float = 0.9,
        consistency: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(text=text, **shared)
        if min(label_prior, consistency) < 0 or not 0 <= start_below_blank_rate <= 1:
            raise UserError(
                f"task.label_prior={label_prior}, task.consistency={consistency} and "
                f"task.start_below_blank_rate={start_below_blank_rate} do not fit: set the first two to 0 or "
                "more (0.3 and 0.2 are usual), the third to a share of the frames, such as 0.9."
            )
        self.consistency, self.copies = consistency, 2 if consistency else 1
        self.label_prior, self.start_below_blank_rate = label_prior, start_below_blank_rate
        self.greedy = self.decoder = Greedy(self.tokenizer)
        outputs = len(self.labels) + 1
        self.register_buffer("blank_rate", torch.ones(()))
        self.register_buffer("prior", torch.full((outputs,), 1 / outputs))
        self.diagnosed = False
        self._blank_rate: HostCopy | None = None  # on its way from the device

    def check(self, data: AudioDataModule) -> None:
        """As for every transcript; refuses what moves the frames of one copy and not of the other.

        Raises:
            UserError: `consistency` comes with a warp of time.
        """
        super().check(data)
        found = self.augment.feature_transforms.named_modules()  # also in policies
        warps = [name for name, transform in found if isinstance(transform, TimeWarp)]
        if warps and self.copies > 1:
            raise UserError(
                f"task.consistency compares frame with frame, and augment.features.{warps[0]} moves those of "
                f"each copy by itself: set augment.features.{warps[0]}=null or task.consistency=0."
            )

    def beam(self, **options: Any) -> Beam:
        return Beam(self.tokenizer, **options)

    def decodable(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1)

    def emissions(self, rows: Tensor, tokens: Sequence[int]) -> Tensor:
        """The probability of each token."""
        return rows.exp()[:, [token + 1 for token in tokens]].T

    def frames_needed(self, tokens: TokenRows) -> np.ndarray:
        return tokens.counts() + tokens.repeats()  # a blank must part two tokens that are alike

    def remarks(
        self, utterances: Sequence[np.ndarray], found: Sequence[Hypothesis]
    ) -> list[dict[str, float]]:
        """The share of blank frames and the mean entropy of a frame: they tell how training goes."""
        return [
            {
                "blank_rate": float((rows.argmax(-1) == BLANK).mean()),
                "entropy": float(-(np.exp(rows) * rows).sum(-1).mean()),
            }
            for rows in utterances
        ]

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

        `logits` `(B, T, C)`, `lengths` `(B,)` in frames, `targets` `(B, U)` with PAD behind each. Logits and
        lengths may be of two copies, one behind the other: what parts the copies is added.
        """
        log_probs = logits.float().log_softmax(-1)  # half precision does not hold sums of so many paths
        if self.training:
            self._follow(log_probs.detach(), lengths)
        extra = log_probs.new_zeros(len(lengths))
        if len(lengths) > len(targets):
            targets = targets.repeat(2, 1)
            extra = self.consistency * from_its_twin(log_probs, lengths)
        counts = (targets != PAD).sum(1)
        if self.label_prior and self.training:
            log_probs = log_probs - self.label_prior * self.prior.log()
            # The gradient that torch gives is that of frames whose probabilities sum to 1: what these sum to
            # is taken out of every alignment, and comes back behind the loss.
            sums = log_probs.logsumexp(-1, keepdim=True)
            log_probs, extra = log_probs - sums, extra - mask_frames(sums.mT, lengths).sum((1, 2))
        losses = functional.ctc_loss(
            log_probs.transpose(0, 1), targets.clamp(min=1), lengths, counts, BLANK, "none"
        )
        return ((losses + extra) / counts.clamp(min=1)).mean()

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

    def verdict(self, data: AudioDataModule, updates: int, causes: str) -> str:
        symptoms = replace(self.symptoms(data, updates), masked_early=False)  # nothing was augmented
        return verdict(symptoms, causes).rstrip(".")

    @torch.no_grad()
    def symptoms(self, data: AudioDataModule, updates: int, total: int = 0) -> Symptoms:
        """What the doctor has to know after so many updates, of `total` that a schedule has."""
        assert self.recipe is not None
        clips = data.splits["train"]
        frames = self.output_lengths(clips.store.lengths[clips.rows])
        needed = torch.from_numpy(self.frames_needed(clips.encoded))
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
            tokens_per_frame=float(clips.encoded.counts().sum() / frames.sum()),
            tightest=float((needed / frames.clamp(min=1)).max()),
            seconds=data.info.clip_seconds,
        )


def from_its_twin(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """`(2B,)`: the divergence of each utterance from its other copy, which is taken as it is.

    `log_probs` `(2B, T, C)`, `lengths` `(2B,)` in frames: the copies of B utterances, one behind the other.
    The divergences of all frames are added up.
    """
    twin = log_probs.detach().roll(len(log_probs) // 2, 0)
    divergence = functional.kl_div(log_probs, twin, reduction="none", log_target=True).sum(-1)
    return divergence.masked_fill(~frame_mask(lengths, divergence.shape[1]), 0.0).sum(1)
