"""An exported model at work, by NumPy, soundfile, soxr and onnxruntime alone: torch is not imported.

from lightning_audio import Runtime
Runtime("bark.onnx").predict(["dog.wav", "rain.mp3"])
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio import onnx_file
from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.decoding import Beam, BeamSearch, Decoder, Greedy
from lightning_audio.decoding.stepwise import Step, StepAttention, StepTransducer, StepTransducerBeam
from lightning_audio.errors import UserError
from lightning_audio.export.card import Exported, part_of, read_exported
from lightning_audio.inference.labels import LabelRule
from lightning_audio.inference.prediction import Audio, Prediction, Recordings, labelled, read_recordings
from lightning_audio.inference.transcribe import spoken
from lightning_audio.text.tokenizers import Tokenizer

TOGETHER = 3 * 2**16  # samples that run at once: one clip of 5 s, twelve of 1 s


class Runtime:
    """What `lightning_audio.load` gives of a run, of a file that `lightning-audio export` wrote.

    `predict` answers; `timelines`, `transcribe` and the formats of `inference/` take it as they take a task.

    Args:
        file: the ONNX file; its JSON stands beside it.
        threads: of onnxruntime; by default one for each core, or what OMP_NUM_THREADS says.

    Attributes:
        decoder: of one that transcribes: the best path, or by attention what the run's own search finds,
            until it is set to what `beam` gives, or to `LMDecoder` of `lightning_audio.decoding`.

    Raises:
        UserError: the file or its JSON is missing, damaged or hostile, or onnxruntime is not installed.
    """

    least = 1  # samples of a batch
    rule: LabelRule
    search: Mapping[str, Any] = {}  # options of a beam search that are other than the usual ones
    tokenizer: Tokenizer
    decoder: Decoder
    greedy: Decoder  # of one that transcribes: the best token each time
    _asked: Mapping[str, Any] = {}  # what decodes by attention

    def __init__(self, file: str | Path, threads: int | None = None) -> None:
        found = read_exported(file)
        self._take(Path(file), found)
        if threads is None:
            told = os.environ.get("OMP_NUM_THREADS", "")
            threads = int(told) if told.isdecimal() else 0
        unpack = str(found.card.get("format")).startswith("int8")
        self._session = onnx_file.session(found.content, str(file), threads, unpack)
        if found.parts:
            self._take_parts(found, threads)

    def stream(self) -> Any:
        """What hears a stream, of a file of `export --streaming`."""
        from lightning_audio.export.streaming import RuntimeStream

        return RuntimeStream(self)

    def _take(self, file: Path, found: Exported) -> None:
        """What the card says."""
        self.file, self.card, self.info = file, found.card, found.info
        self.labels, self.sample_rate, self.clip_seconds = (
            self.info.labels,
            self.info.sample_rate,
            self.info.clip_seconds,
        )
        self.transcribes = found.tokenizer is not None
        if found.rule is not None:
            self.rule = found.rule
        if found.tokenizer is not None:
            self.tokenizer = found.tokenizer
            self.decoder = self.greedy = Greedy(found.tokenizer)
            self.width = len(found.tokenizer.vocabulary) + 1

    def _take_parts(self, found: Exported, threads: int) -> None:
        """A decoder that asks the graphs behind the network."""
        told = found.card["parts"]
        self.width = told["width"]
        sessions = {
            name: onnx_file.session(content, str(part_of(self.file, name)), threads)
            for name, content in found.parts.items()
        }

        def asked(name: str) -> Step:
            session = sessions[name]
            names = [one.name for one in session.get_inputs()]

            def answer(given: Sequence[np.ndarray]) -> list[np.ndarray]:
                if len(given) != len(names):
                    place = part_of(self.file, name)
                    raise UserError(f"{place} takes {len(names)} inputs, not {len(given)}: export again.")
                return self._answer(session, dict(zip(names, given, strict=True)))

            return answer

        if told["kind"] == "transducer":
            start = tuple(
                np.zeros(one["shape"], np.int64 if one["integer"] else np.float32) for one in told["state"]
            )
            self.greedy = StepTransducer(
                self.tokenizer, asked("predictor"), asked("joiner"), start, told["max_symbols"]
            )
        else:
            # Files of before have no search, and graphs of one hypothesis.
            self.search, self._told = told.get("search", {"beam": 1}), told
            self._asked = {"begin": asked("begin"), "step": asked("step")}
            self.decoder, self.greedy = self.beam(**self.search), self.beam(**{**self.search, "beam": 1})
            return
        self.decoder = self.greedy

    @property
    def frame_seconds(self) -> float:
        """Seconds from one row of log-probabilities to the next."""
        return float(self.card["frame_seconds"])

    def beam(self, **options: Any) -> BeamSearch:
        """A beam search with these options of `BeamSearch` or `AttentionSearch`, the tokenizer left out."""
        if self._asked:
            told = {"fixed": self._told["fixed"], "with_ctc": bool(self._told["ctc"])}
            return StepAttention(self.tokenizer, **self._asked, **told, **options)
        if isinstance(self.greedy, StepTransducer):
            return StepTransducerBeam(self.greedy, **options)
        return Beam(self.tokenizer, **options)

    def predict(
        self,
        audio: Sequence[Audio] | Audio,
        sample_rate: int | None = None,
        window: float | None = None,
        hop: float | None = None,
        batch_size: int = 16,
        channel: int | str = "mean",
    ) -> list[Prediction]:
        """Answers for recordings of any length, format, rate and channels, as `AudioTask.predict`."""
        many = [audio] if isinstance(audio, str | Path | np.ndarray) else audio
        recordings = read_recordings(many, self.sample_rate, sample_rate, channel)
        return list(self.predict_recordings(recordings, window, hop, batch_size))

    def predict_recordings(
        self, recordings: Recordings, window: float | None, hop: float | None, batch_size: int
    ) -> Iterator[Prediction]:
        """`predict` of recordings that have been read."""
        if self.transcribes:
            return spoken(self, recordings, window, hop, batch_size)
        return labelled(self, recordings, window, hop, batch_size)

    def clip_scores(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities `(B, C)` of clips `(T,)` at the model's rate, int16 or float in [-1, 1]."""
        scores = np.zeros((len(clips), len(self.labels)), np.float32)
        for rows in self._together(clips):
            found = self._run([clips[row] for row in rows])[0]
            if found.shape != (len(rows), len(self.labels)):
                raise UserError(
                    f"{self.file} gives scores of shape {found.shape}, not of its {len(self.labels)} labels."
                )
            scores[rows] = found
        return scores

    def frame_outputs(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What decoders take, `(T', D)`, of each of the clips, as `clip_scores` takes them."""
        found: dict[int, np.ndarray] = {}
        for rows in self._together(clips):
            given = self._run([clips[row] for row in rows])
            if len(given) != 2 or given[0].shape[:1] + given[0].shape[2:] != (len(rows), self.width):
                raise UserError(f"{self.file} does not give {self.width} numbers for each frame.")
            log_probs, counts = given
            found |= {
                row: own[:count].copy() for row, own, count in zip(rows, log_probs, counts, strict=True)
            }
        return [found[row] for row in range(len(clips))]

    def _together(self, clips: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """The rows of clips that run at once: of similar lengths, so that little is padding, or of one length
        where padding would matter; few enough that what lies between the steps stays near the core."""
        rows = sorted(range(len(clips)), key=lambda row: len(clips[row]))
        while rows:
            longest = len(clips[rows[-1]])
            alike = len(rows)
            if not self.card["ragged"]:
                alike = sum(len(clips[row]) == longest for row in rows)
            # Four at a time, not five and then one, which alone would take half as long as the five.
            parts = -(-alike // max(TOGETHER // max(longest, 1), 1))
            count = -(-alike // parts)
            yield rows[-count:]
            del rows[-count:]

    def _run(self, clips: Sequence[np.ndarray]) -> list[Any]:
        """What the graph gives for clips as one batch."""
        lengths = np.array([len(clip) for clip in clips])
        waveforms = np.zeros((len(clips), max(int(lengths.max()), self.least)), np.float32)
        for row, clip in zip(waveforms, clips, strict=True):
            row[: len(clip)] = clip / np.float32(INT16_SCALE) if clip.dtype == np.int16 else clip
        if "stream" in self.card:
            raise UserError(
                f"{self.file} was exported for streams: use --stream, or export without --streaming."
            )
        return self.run({"waveforms": waveforms, "lengths": lengths})

    def run(self, feeds: dict[str, np.ndarray]) -> list[Any]:
        """What the graph gives for its inputs; raises UserError where it takes none like these."""
        return self._answer(self._session, feeds)

    def _answer(self, session: Any, feeds: dict[str, np.ndarray]) -> list[Any]:
        try:
            found = session.run(None, feeds)
            if not all(isinstance(one, np.ndarray) and one.dtype.kind in "fib" for one in found):
                raise TypeError("its outputs are no tensors of numbers")
            return found
        except Exception as error:  # of many kinds, which onnxruntime does not export
            shapes = ", ".join(str(one.shape) for one in feeds.values())
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.file} can't answer for inputs of {shapes}: {reason}") from error
