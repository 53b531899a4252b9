"""Speech recognition by a transducer: Graves 2012 (arXiv:1211.3711) and 2013 (arXiv:1303.5778)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.data.batch import Batch
from lightning_audio.data.targets import BLANK, PAD
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding.transducer import (
    Joiner,
    TransducerBeam,
    TransducerGreedy,
    TransducerModel,
)
from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.tasks.predictors import PREDICTORS
from lightning_audio.tasks.transcription import Transcription

WIDTH = 256  # of frames and predictions where they are joined, unless `task.width` says otherwise


class Transducer(Transcription):
    """Transcripts token by token: what was said so far decides with each frame what comes next.

    The network gives `width` numbers a frame; output 0 is the blank, output i + 1 the token i. Unlike CTC, a
    frame may say several tokens, and knows those before.

    Args:
        text: options of the normaliser, and of the tokenizer that the data made with them.
        width: of frames and predictions where they are joined.
        predictor: its `kind`, `lstm` or `stateless`, and its options; see tasks/predictors.py.
        max_symbols: the most tokens that decoders let one frame say. The loss has no such limit, and an
            encoder that reads all of an utterance may learn to say much of it at once.
        ctc_weight: how much of the loss is CTC over a linear layer of the frames, with which they begin to
            tell something earlier; 0 for none.
        start_after: the share of the training behind which augmentation in `augment.delayed` begins.
        part_megabytes: of the joined lattice that one tensor may hold at once.
        shared: what `Transcription` takes besides.

    Raises:
        UserError: an option does not fit.
    """

    patience = 2  # alignments have to become sure as well

    def __init__(
        self,
        text: Mapping[str, Any],
        width: int = WIDTH,
        predictor: Mapping[str, Any] | None = None,
        max_symbols: int = 50,
        ctc_weight: float = 0.0,
        start_after: float = 0.3,
        part_megabytes: float = 64.0,
        **shared: Any,
    ) -> None:
        super().__init__(text=text, **shared)
        make, options = predictor_of({"kind": "lstm", **(predictor or {})})
        if max_symbols < 1 or not 0 <= ctc_weight < 1:
            raise UserError(
                f"task.max_symbols={max_symbols} and task.ctc_weight={ctc_weight} do not fit: set the first "
                "to 1 or more, the second to 0 or more and below 1."
            )
        outputs = len(self.labels) + 1
        self.max_symbols, self.ctc_weight, self.start_after = max_symbols, ctc_weight, start_after
        self.part_numbers = round(part_megabytes * 2**18)  # of 4 bytes
        self.predictor = make(outputs, width, **options)
        self.ctc_head = nn.Linear(width, outputs) if ctc_weight else None
        self.joiner = Joiner(width, outputs)
        self.model = TransducerModel(self.predictor, self.joiner)
        self.greedy = self.decoder = TransducerGreedy(self.tokenizer, self.model, max_symbols)

    @classmethod
    def outputs_for(cls, labels: Sequence[str], options: Mapping[str, Any]) -> int:
        return int(options.get("width", WIDTH))

    def beam(self, **options: Any) -> TransducerBeam:
        return TransducerBeam(self.tokenizer, self.model, self.max_symbols, **options)

    def judge(self) -> TransducerBeam:
        # The greedy search leaves out tokens that several frames share, until alignments are sure.
        return self.beam(beam=4)

    @torch.inference_mode()
    def emissions(self, rows: Tensor, tokens: Sequence[int]) -> Tensor:
        """The probability of each token, once those before it were said."""
        said = torch.tensor([tokens], dtype=torch.int64, device=rows.device) + 1
        return self.model.lattice(rows[None], said)[0, :, : len(tokens), 1].exp().T

    def frames_needed(self, tokens: TokenRows) -> np.ndarray:
        return np.maximum(-(-tokens.counts() // self.max_symbols), 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.augment.started = self.share_done(batch_idx) >= self.start_after
        return super().training_step(batch, batch_idx)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean over utterances of the negative log-probability of each, by its number of tokens.

        `logits` `(B, T, width)`, `lengths` `(B,)` in frames, `targets` `(B, U)` with PAD behind each.
        """
        counts = (targets != PAD).sum(1)
        said = targets.clamp(min=1)
        losses = self.model.losses(logits, lengths, said, counts, self.part_numbers)
        if self.ctc_head is not None and self.training:
            log_probs = self.ctc_head(logits).float().log_softmax(-1).transpose(0, 1)
            aligned = functional.ctc_loss(log_probs, said, lengths, counts, BLANK, "none", zero_infinity=True)
            losses = (1 - self.ctc_weight) * losses + self.ctc_weight * aligned
        return (losses / counts.clamp(min=1)).mean()


def predictor_of(options: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that `kind` names, and the other options.

    Raises:
        UserError: there is no such kind, or it does not take one of them.
    """
    kind = options.pop("kind")
    if kind not in PREDICTORS:
        raise UserError(
            f"task.predictor.kind={kind} is none{did_you_mean(str(kind), [*PREDICTORS])}: choose "
            f"{' or '.join(PREDICTORS)}."
        )
    known = [name for name in signature(PREDICTORS[kind]).parameters if name not in ("outputs", "width")]
    for name in options:
        if name not in known:
            raise UserError(
                f"task.predictor.{name} is no option{did_you_mean(name, known)}: kind={kind} takes "
                f"{', '.join(known)}."
            )
    return PREDICTORS[kind], options
