"""A language model over the tokens of a recogniser, learned from transcripts: nothing is heard."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lightning_audio.data.batch import Batch
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.targets import PAD, Targets, Tokens, describe_unfit
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding.neural import BOUNDARY
from lightning_audio.errors import UserError
from lightning_audio.inference.prediction import Prediction, Recordings
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.perplexity import TokenLosses
from lightning_audio.reports.results import PREDICTIONS, write_predictions
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transducer import predictor_of
from lightning_audio.text.tokenizers import tokenizer_of

_log = logging.getLogger(__name__)


class LanguageModel(AudioTask):
    """What token comes next, from those before: the prediction network of a transducer by itself.

    Mikolov et al. 2010, Recurrent neural network based language model (Interspeech). It learns from the
    transcripts of the training clips, and from a file of text where one is named; audio and network of the
    configuration are not used. Output 0 is the end of a text, output i + 1 the token i.

    Args:
        text: options of the normaliser, and of the tokenizer that the data made with them: those of the
            recogniser.
        predictor: its `kind`, `lstm` or `stateless`, and its options; see tasks/predictors.py.
        corpus: a text file in UTF-8, a sentence a line.
        lines_per_clip: how many of its lines, drawn at random, a batch has for each of its clips.
        shared: what `AudioTask` takes.

    Raises:
        UserError: an option does not fit; at the start of training, that the file can't be read.
    """

    encoding: ClassVar[type[Targets]] = Tokens
    monitor: tuple[str, str] = ("val/perplexity", "min")
    scored = TokenLosses
    usual_metrics = ("perplexity",)

    def __init__(
        self,
        text: Mapping[str, Any],
        predictor: Mapping[str, Any] | None = None,
        corpus: str | None = None,
        lines_per_clip: int = 4,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if lines_per_clip < 1:
            raise UserError(f"task.lines_per_clip={lines_per_clip} learns nothing: set it to 1 or more.")
        self.text, self.corpus, self.lines_per_clip = text, corpus, lines_per_clip
        self.lines: Sequence[Tensor] = []  # of the corpus, once training begins
        make, options = predictor_of({"kind": "lstm", **(predictor or {})})
        self.network.requires_grad_(False)  # processes that share a step would wait for its gradients
        outputs = len(self.labels) + 1
        self.predictor = make(outputs, outputs, **options)
        self.tokenizer = tokenizer_of(dict(self.info.vocabulary or {}))
        self.observed: list[dict[str, Any]] = []

    def learned(self) -> tuple[list[nn.Module], dict[str, list[nn.Module]]]:
        return [self.predictor], {"predictor": [self.predictor]}

    def fit_normalizer(self, batches: Iterable[Batch]) -> None:
        """Nothing is heard."""

    def texts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Targets `(B, U)` -> logits `(B, U + 1, C)` of what follows each place, and their counts `(B,)`."""
        return self.predictor(targets.clamp(min=BOUNDARY)), (targets != PAD).sum(1) + 1

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.corpus:
            self.lines = self.encoded(Path(self.corpus))

    def encoded(self, path: Path) -> TokenRows:
        """The targets of each line of a file; of those that have none is told why."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"task.corpus={path} can't be read ({error}): name a text file in UTF-8, or set it to null."
            ) from None
        numbered = enumerate(text.splitlines(), 1)
        rows = ClipTable.of(Clip(f"line {n}", str(path), text=line) for n, line in numbered if line.strip())
        tokens = Tokens((), rows, self.text, self.info.vocabulary)
        bad = tokens.unfit(rows)
        if len(bad) == len(rows):
            raise UserError(
                f"task.corpus={path} has no line that can be learned{': ' * bool(bad)}"
                f"{describe_unfit(bad) if bad else ''}: name a file with a sentence a line."
            )
        if bad:
            _log.warning("Left out of %s: %s.", path, describe_unfit(bad))
        return tokens.encode(rows.take(~rows.column("id").mapped(bad.__contains__, bool)))

    def training_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        targets = batch.targets
        if self.lines:
            drawn = torch.randint(len(self.lines), (len(batch) * self.lines_per_clip,)).tolist()
            own = [row[row != PAD] for row in targets]
            lines = [self.lines[n].to(targets.device) for n in drawn]
            targets = pad_sequence([*own, *lines], batch_first=True, padding_value=PAD)
        return *self.texts(targets), targets

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The negative log-probability of each text `(B,)`, with its end."""
        following = functional.pad(targets, (0, 1), value=PAD)
        following.scatter_(1, (targets != PAD).sum(1, keepdim=True), BOUNDARY)
        return functional.cross_entropy(
            logits.float().transpose(1, 2), following, ignore_index=PAD, reduction="none"
        ).sum(1)

    def loss(self, logits: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """The mean over all tokens of the batch."""
        return self.losses(logits, targets).sum() / lengths.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, lengths = self.texts(batch.targets)
        self.observe("val", logits, lengths, batch)
        loss = self.loss(logits, lengths, batch.targets)
        self.log("val/loss", loss, batch_size=len(batch), sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.observe("test", *self.texts(batch.targets), batch)

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        losses, counts = self.losses(logits, batch.targets).tolist(), lengths.tolist()
        for i, (loss, count) in enumerate(zip(losses, counts, strict=True)):
            text = self.name_target(batch.targets[i])
            row = {"id": batch.ids[i], "reference": text, "hypothesis": "", "score": -loss / count}
            self.observed.append(row | {"loss": loss, "tokens": count})

    def name_target(self, target: Tensor) -> str:
        return self.tokenizer.decode([output - 1 for output in target.tolist() if output != PAD])

    def take_observed(self, stage: str) -> None:
        unique = {row["id"]: row for row in self.gather(self.observed)}
        self.observed, self.rows = [], [unique[i] for i in sorted(unique)]

    def predictions(self, clips: Sequence[Clip] | None = None) -> TokenLosses:
        return TokenLosses(self.rows_of(clips or ()))

    def rows_of(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        known = {clip.id: {"group": clip.group, "fold": clip.fold} for clip in clips}
        return [row | known.get(row["id"], {}) for row in self.rows]

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes predictions.jsonl."""
        rows = self.rows_of(clips)
        write_predictions(folder / PREDICTIONS, rows)
        return scores(self.metrics, TokenLosses(rows))

    def answer(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        raise UserError("A language model hears nothing: give its run to --lm of one that transcribes.")

    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterable[Prediction]:
        raise UserError("A language model hears nothing: give its run to --lm of one that transcribes.")
