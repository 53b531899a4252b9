"""What tasks of speech recognition share: transcripts, how they are looked for, scored and written."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lightning_audio.augment.waveform import RandomCrop, TimeRoll
from lightning_audio.data.batch import Batch, pad_clips
from lightning_audio.data.clip import Clip
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.targets import PAD, Targets, Tokens, normalizer_of
from lightning_audio.data.token_rows import TokenRows
from lightning_audio.decoding import BeamSearch, Decoder, Hypothesis
from lightning_audio.errors import UserError
from lightning_audio.inference.prediction import Prediction, Recordings
from lightning_audio.inference.transcribe import spoken
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.intervals import Score
from lightning_audio.metrics.transcripts import Transcripts
from lightning_audio.reports.results import PREDICTIONS, write_predictions
from lightning_audio.reports.transcripts import write_transcript_report
from lightning_audio.tasks.base import AudioTask
from lightning_audio.text.tokenizers import tokenizer_of

_log = logging.getLogger(__name__)


class Transcription(AudioTask):
    """Transcripts of what a network says of frames.

    A subclass says `loss` and `beam`, how many outputs it asks of the network (`outputs_for`) unless one
    for the blank and one for each token, and what of them its decoders take (`decodable`). Behind
    `super().__init__` it makes what it has behind the network, and sets `greedy`, the decoder of validation,
    and `decoder`, that of tests and predictions.

    Args:
        text: options of the normaliser, and of the tokenizer that the data made with them.
        shared: what `AudioTask` takes.

    Raises:
        UserError: the network answers once for a whole clip.
    """

    encoding: ClassVar[type[Targets]] = Tokens
    monitor: tuple[str, str] = ("val/wer", "min")
    scored = Transcripts
    usual_metrics = ("wer", "cer", "sentence_error_rate")
    transcribes = True
    search: Mapping[str, Any] = {}  # options of its beam search that are other than the usual ones

    def __init__(self, text: Mapping[str, Any], **shared: Any) -> None:
        super().__init__(**shared)
        try:
            self.network.output_lengths(torch.ones(1, dtype=torch.long))
        except NotImplementedError:
            raise UserError(
                f"The network {type(self.network).__name__} gives one answer for a whole clip, and task="
                f"{type(self).__name__.lower()} wants one for every frame: set network=bilstm, conformer or "
                "crnn, or network=gru network.per_frame=true."
            ) from None
        self.normalizer, self.tokenizer = normalizer_of(text), tokenizer_of(dict(self.info.vocabulary or {}))
        self.observed: list[dict[str, Any]] = []

    # What a task of speech recognition says.

    greedy: Decoder
    decoder: Decoder

    @abstractmethod
    def beam(self, **options: Any) -> BeamSearch:
        """A beam search with these options of `BeamSearch`, the tokenizer left out."""

    def decodable(self, logits: Tensor) -> Tensor:
        """What decoders take of the network's outputs, both `(B, T, D)`."""
        return logits.float()

    def stream_scores(self, logits: Tensor) -> Tensor:
        return self.decodable(logits)

    @abstractmethod
    def emissions(self, rows: Tensor, tokens: Sequence[int]) -> Tensor:
        """How much each frame of an utterance `(T, D)`, as `outputs` gives it, has to do with each of some
        tokens, `(U, T)`, from 0 to 1."""

    def frames_needed(self, tokens: TokenRows) -> np.ndarray:
        """The fewest frames in which the tokens of each clip can be said, `(N,)`."""
        return np.ones(len(tokens), np.int64)

    def remarks(
        self, utterances: Sequence[np.ndarray], found: Sequence[Hypothesis]
    ) -> Sequence[Mapping[str, float]]:
        """What `watched` names, of each utterance `(T, D)` and what was found in it."""
        return [{}] * len(utterances)

    def verdict(self, data: AudioDataModule, updates: int, causes: str) -> str:
        """What `doctor` says of a network that learned nothing in so many updates, after what it found."""
        return causes

    def judge(self) -> Decoder:
        """By what `doctor` says whether a few utterances are known by heart."""
        return self.decoder

    # What all of them do.

    def learned(self) -> tuple[list[nn.Module], dict[str, list[nn.Module]]]:
        """As in every task, where what stands behind the network belongs to the network's head."""
        roots, stages = super().learned()[0], self.network.named_stages()
        head = list(stages)[-1]
        return roots, {**stages, head: [*stages[head], *roots[1:]]}

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

    def outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms `(B, T)` with lengths in samples -> what decoders take `(B, T', D)`, with lengths."""
        logits, lengths = self(waveforms, lengths)
        return self.decodable(logits), lengths

    answers: ClassVar[tuple[str, ...]] = ("states", "frames")

    def answer(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(waveforms, lengths)

    @torch.inference_mode()
    def frame_outputs(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What decoders take, `(T', D)`, of each of the clips `(T,)`, int16 at the task's rate."""
        rows, counts = self.outputs(*pad_clips(clips, self.device))
        # Copied: a view would keep the padding of the whole batch.
        return [row[:n].copy() for row, n in zip(rows.cpu().numpy(), counts.tolist(), strict=True)]

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Rows of logits of clips of so many samples, both `(B,)`."""
        return self.network.output_lengths(self.frontend.output_lengths(samples))  # type: ignore[operator]

    def check(self, data: AudioDataModule) -> None:
        """Leaves out, by name, clips whose transcript needs more frames than their audio gives; and
        augmentation behind which no transcript fits its audio.

        Raises:
            UserError: there are more of them than `loader.max_bad_fraction`.
        """
        if left := self.augment.leave_out(TimeRoll, RandomCrop):
            _log.warning(
                "Left out: augment.%s, behind which a transcript no longer fits its audio; augment=speech is "
                "made for transcripts.",
                " and augment.".join(left),
            )
        bad = {}
        for split, clips in data.splits.items():
            fastest = self.augment.fastest if split == "train" else 1.0
            samples = (clips.store.lengths[clips.rows] / fastest).long()
            frames, needed = self.output_lengths(samples).numpy(), self.frames_needed(clips.encoded)
            short = np.flatnonzero(needed > frames)
            counts = clips.encoded.counts()[short]
            found = zip(counts.tolist(), needed[short].tolist(), frames[short].tolist(), strict=True)
            for name, (count, least, there) in zip(clips.clips.column("id").at(short), found, strict=True):
                bad[name] = f"its {count} tokens need {least} frames, and it has {there}"
        if bad:
            data.leave_out(bad, "lower frontend.hop_length or network.strides, use larger tokens")

    def observe(self, stage: str, logits: Tensor, lengths: Tensor, batch: Batch) -> None:
        """Decodes each utterance: greedily in validation, in a test by the decoder that was set."""
        outputs = self.decodable(logits).detach().cpu()
        decoder = self.decoder if stage == "test" else self.greedy
        utterances = [row[:n].numpy() for row, n in zip(outputs, lengths.tolist(), strict=True)]
        said = [self.spelled(target) for target in batch.targets]
        references, everything = decoder.scores_of(utterances, said), decoder.many(utterances)
        remarks = self.remarks(utterances, [found[0] for found in everything])
        for i, (reference, found) in enumerate(zip(references, everything, strict=True)):
            best = found[0]
            self.observed.append(
                {
                    "id": batch.ids[i],
                    "reference": self.info.as_scored(reference.text),
                    "hypothesis": self.info.as_scored(best.text),
                    "score": best.score,
                    # A reference that the decoder cannot say, such as by its lexicon, has none.
                    "reference_score": reference.score if math.isfinite(reference.score) else None,
                    "nbest": [other.as_dict() | {"text": self.info.as_scored(other.text)} for other in found],
                    "seconds": round(int(batch.lengths[i]) / self.sample_rate, 3),
                    **remarks[i],
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
            if reference := self.info.as_scored(self.normalizer.leniently(clip.text or "")):
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
        return Transcripts(self.rows_of(clips or ()))

    def summarise(self, stage: str) -> dict[str, float]:
        """The values of its metrics; the mean blank rate and entropy of frames tell how training goes."""
        found = super().summarise(stage)
        heard = [row for row in self.rows if "problem" not in row]
        return found | {name: float(np.mean([row[name] for row in heard])) for name in self.watched if heard}

    def report(self, folder: Path, clips: Sequence[Clip]) -> dict[str, Score]:
        """Writes predictions.jsonl, and what `write_transcript_report` does."""
        rows = self.rows_of(clips)
        write_predictions(folder / PREDICTIONS, rows)
        write_transcript_report(folder, rows)
        return scores(self.metrics, Transcripts(rows))

    def rows_of(self, clips: Sequence[Clip]) -> list[dict[str, Any]]:
        known = {clip.id: {"group": clip.group, "fold": clip.fold} for clip in clips}
        return [row | known.get(row["id"], {}) for row in self.rows]

    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterator[Prediction]:
        """Recordings longer than `window`, by default 20 s, are cut at their pauses: there is no `hop`."""
        return spoken(self, recordings, window, hop, batch_size)
