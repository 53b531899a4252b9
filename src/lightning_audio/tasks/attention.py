"""Speech recognition by attention: an encoder, and a decoder that says token by token what it attends to.

Chan et al. 2016 (arXiv:1508.01211), joint with CTC as in Watanabe et al. 2017 (IEEE J-STSP 11(8)).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.data.batch import Batch, HostCopy, sent
from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import BLANK, PAD
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding import Hypothesis
from lightning_audio.decoding.attention import AttentionBeam
from lightning_audio.errors import UserError
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.transcripts import align_words
from lightning_audio.reports.plots import attention_figure, write_png
from lightning_audio.tasks.decoders import END, START, AttentionDecoder
from lightning_audio.tasks.transcription import Transcription

PICTURES = "attention"  # in the run folder
MOST_PICTURES = 8


class Attention(Transcription):
    """Transcripts token by token; states `(B, T, width)` are what the network gives.

    Augmentation that is named in `augment.delayed` waits until the decoder, given the true tokens before,
    takes less than `start_below_error` of all tokens for others.

    Args:
        decoder: makes the decoder of the width and the number of its outputs.
        width: of the states.
        ctc_weight: of CTC, in the loss and in the search.
        label_smoothing: of the decoder's loss.
        scheduled_sampling: the share of the decoder's inputs that are its own guesses instead of the true
            tokens at the end of training, rising from 0 (Bengio et al. 2015, arXiv:1506.03099). They are
            guessed from true tokens, all at once (Mihaylova and Martins 2019, arXiv:1906.07651).
        start_below_error: the share of wrong tokens below which delayed augmentation begins.
        search: options of `AttentionSearch` in tests and predictions.
        shared: what `Transcription` takes besides.

    Raises:
        UserError: an option is out of range.
    """

    watched = ("loops", "unended", "early")
    MEMORY: ClassVar[float] = 0.95  # of the running mean over training steps
    token_error: Tensor

    def __init__(
        self,
        decoder: Callable[..., AttentionDecoder],
        width: int = 256,
        ctc_weight: float = 0.3,
        label_smoothing: float = 0.1,
        scheduled_sampling: float = 0.0,
        start_below_error: float = 0.5,
        search: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 <= ctc_weight < 1:
            raise UserError(
                f"task.ctc_weight={ctc_weight} is no share below 1: set it to 0.3, or take task=ctc."
            )
        outputs = len(self.labels) + 1
        self.ctc_weight, self.label_smoothing = ctc_weight, label_smoothing
        self.scheduled_sampling, self.start_below_error = scheduled_sampling, start_below_error
        self.norm, self.speller = nn.LayerNorm(width), decoder(width, outputs)
        self.ctc = nn.Linear(width, outputs) if ctc_weight else None
        self.search = {"ctc_weight": ctc_weight, "coverage": 0.0, **(search or {})}
        self.greedy, self.decoder = self.beam(**{**self.search, "beam": 1}), self.beam(**self.search)
        self.register_buffer("token_error", torch.ones(()))
        self._token_error: HostCopy | None = None  # on its way from the device
        self.pictures: list[tuple[int, str, Figure]] = []
        self._said: list[tuple[int, ...]] = []  # of the batch that was observed last

    @classmethod
    def outputs_for(cls, labels: Sequence[str], options: Mapping[str, Any]) -> int:
        return int(options.get("width", 256))

    def beam(self, **options: Any) -> AttentionBeam:
        return AttentionBeam(self.tokenizer, decoder=self.speller, with_ctc=self.ctc is not None, **options)

    def decodable(self, logits: Tensor) -> Tensor:
        states = self.norm(logits.float())
        if self.ctc is None:
            return states
        return torch.cat([self.ctc(states).float().log_softmax(-1), states], -1)

    def frames_needed(self, tokens: TokenRows) -> np.ndarray:
        counts = tokens.counts()
        by_ctc = counts + tokens.repeats() if self.ctc is not None else 0
        return np.maximum(counts + 1, by_ctc)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean over utterances of the cross-entropy of a token, its end among them, and of CTC's loss.

        `logits` `(B, T, width)`, `lengths` `(B,)` in frames, `targets` `(B, U)` with PAD behind each.
        """
        states, counts = self.norm(logits.float()), (targets != PAD).sum(1)
        asked = functional.pad(targets, (0, 1), value=PAD).scatter(1, counts[:, None], END)
        inputs = functional.pad(targets, (1, 0), value=START).clamp(min=0)
        share = self.scheduled_sampling * self.augment.progress if self.training else 0.0
        if share:
            with torch.no_grad():
                guessed = self.speller(states, lengths, inputs)[0].argmax(-1)
            own = sent(torch.rand(inputs[:, 1:].shape), inputs.device) < share
            inputs = torch.cat([inputs[:, :1], torch.where(own, guessed[:, :-1], inputs[:, 1:])], 1)
        scores, _ = self.speller(states, lengths, inputs)
        smoothing = self.label_smoothing if self.training else 0.0
        losses = functional.cross_entropy(
            scores.mT.float(), asked, ignore_index=PAD, reduction="none", label_smoothing=smoothing
        )
        loss = (losses.sum(1) / (counts + 1)).mean()
        if self.training:
            self._follow(scores.detach(), asked)
        if self.ctc is None:
            return loss
        log_probs = self.ctc(states).float().log_softmax(-1).transpose(0, 1)
        ctc = functional.ctc_loss(log_probs, targets.clamp(min=1), lengths, counts, BLANK, "none")
        return (1 - self.ctc_weight) * loss + self.ctc_weight * (ctc / counts.clamp(min=1)).mean()

    @torch.no_grad()
    def _follow(self, scores: Tensor, asked: Tensor) -> None:
        """Takes the running share of wrong tokens a step towards that of a batch."""
        inside = asked != PAD
        wrong = (scores.argmax(-1) != asked) & inside
        self.token_error.lerp_(wrong.sum() / inside.sum(), 1 - self.MEMORY)
        self._token_error = HostCopy(self.token_error)

    def training_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """As in every task, where augmentation that is delayed begins in time."""
        last = self._token_error or HostCopy(self.token_error)  # of the step before; or of a checkpoint
        self._token_error = None
        self.augment.started = bool(last.read() < self.start_below_error)
        return super().training_logits(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/token_error", self.token_error, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def on_train_start(self) -> None:
        super().on_train_start()
        self._token_error = None  # of a training that has been left

    greedy: AttentionBeam

    def remarks(
        self, utterances: Sequence[np.ndarray], found: Sequence[Hypothesis]
    ) -> Sequence[Mapping[str, float]]:
        """Whether the decoder went round in a loop, found no end, or found it before that of the speech."""
        self._said = [best.tokens for best in found]
        return [
            {name: float(own[name]) for name in self.watched}
            for own in self.greedy.odd(utterances, self._said)
        ]

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        """Decodes each utterance; of the test's worst ones it keeps pictures."""
        super().observe(stage, logits, lengths, batch)
        found = zip(self.observed[-len(batch) :], self._said, logits, lengths.tolist(), strict=True)
        drawn = {name for _, name, _ in self.pictures}  # where a test is gone through once more
        for row, tokens, own, length in found:
            if stage == "test" and row["hypothesis"] != row["reference"] and row["id"] not in drawn:
                edits = align_words([row])
                errors = edits.substitutions + edits.deletions + edits.insertions
                if len(self.pictures) < MOST_PICTURES or errors > self.pictures[0][0]:
                    rows = self.decodable(own[None, :length])[0].cpu()
                    picture = errors, row["id"], self.attention_figure(rows, tokens, row["reference"])
                    keep = heapq.heappush if len(self.pictures) < MOST_PICTURES else heapq.heapreplace
                    keep(self.pictures, picture)

    def emissions(self, rows: Tensor, tokens: Sequence[int]) -> Tensor:
        """What is attended to while each token is said."""
        return torch.from_numpy(self.greedy.attended([rows.cpu()], [0], [tokens])[0][1][:-1])

    def attention_figure(self, rows: Tensor, tokens: Sequence[int], title: str = "") -> Figure:
        """What is attended to while tokens are said, of an utterance `(T, D)` as `outputs` gives it."""
        ((_, weights),) = self.greedy.attended([rows], [0], [tokens])
        names = [*(self.tokenizer.vocabulary[token] for token in tokens), "end"]
        return attention_figure(weights, names, len(rows) * self.frame_seconds, title)

    def figures(self) -> dict[str, Figure]:
        return {f"{PICTURES}/{name}": figure for _, name, figure in self.pictures}

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes pictures of what the worst utterances attend to as well."""
        for _, name, figure in self.pictures:
            (folder / PICTURES).mkdir(exist_ok=True)
            safe = re.sub(r"[^\w.-]+", "_", name)
            write_png(figure, folder / PICTURES / f"{safe}.png")
        self.pictures = []
        return super().report(folder, clips)
