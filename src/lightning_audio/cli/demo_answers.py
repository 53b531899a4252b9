"""What the page of `demo` shows of a recording, and of a microphone as it is heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from lightning_audio.cli.live import detector_of
from lightning_audio.data.audio_file import AudioError, read_audio
from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.data.decode import heard_at, to_int16
from lightning_audio.errors import UserError
from lightning_audio.inference.events import timelines
from lightning_audio.inference.labels import LabelsAbove
from lightning_audio.inference.live import stream_of
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.reports.html.clips import log_mel_of, sounds_of
from lightning_audio.reports.plots import recording_figure, rgb

Row = tuple[float, float, str, float]  # start and end in seconds, what is there, score

COLUMNS = 1000  # of a picture
LISTED = 500  # rows of a table


@dataclass(frozen=True)
class Shown:
    """What is said of a recording: a sentence, the scores of all labels, when what is heard, a picture.

    `picture` is RGB `(H, W, 3)`, None where the sentence says why there is no answer.
    """

    sentence: str
    scores: dict[str, float] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    picture: np.ndarray | None = None


def shown_of(task: Any, file: str | Path, max_seconds: float) -> Shown:
    """What a task says of a file, by the code of `predict`; of one that it can't hear, the reason.

    Args:
        task: in eval mode, or an exported one.
        file: of any format, rate and number of channels.
        max_seconds: longer ones are refused.
    """
    name = Path(file).name
    try:
        samples, remarks = heard(file, task.sample_rate, max_seconds)
        sentence, scores, rows = (_said if task.transcribes else _labelled)(task, name, samples)
    except AudioError as error:
        return Shown(f"{name} can't be read: {error.reason}.")
    except UserError as error:
        return Shown(str(error))
    log_mel = log_mel_of(samples, task.sample_rate, COLUMNS)
    picture = rgb(recording_figure(log_mel, len(samples) / task.sample_rate, rows, task.transcribes))
    return Shown(" ".join([sentence, *remarks]), scores, rows[:LISTED], picture)


def heard(file: str | Path, sample_rate: int, max_seconds: float) -> tuple[np.ndarray, list[str]]:
    """The samples `(T,)` of a file at `sample_rate`, int16, and a sentence for what is odd about it.

    Raises:
        UserError: it can't be read, or is longer than `max_seconds`.
    """
    audio = read_audio(file, duration=max_seconds + 1)  # what is too long is not read to its end
    if len(audio.samples) > max_seconds * audio.rate:
        raise UserError(
            f"{Path(file).name} is longer than {max_seconds:g} s: cut it, use `lightning-audio predict`, or "
            "start the demo with a larger --max-seconds."
        )
    remarks = [f"Note: {remark}." for remark in audio.remarks().values()]
    return heard_at(file, audio, sample_rate), remarks


def _said(task: Any, name: str, samples: np.ndarray) -> tuple[str, dict[str, float], list[Row]]:
    (found,) = transcribe(task, [(name, samples)])
    rows = [(word.start, word.end, word.text, word.score) for word in found.words]
    return found.text or "No word was heard.", {}, rows


def _labelled(task: Any, name: str, samples: np.ndarray) -> tuple[str, dict[str, float], list[Row]]:
    """The labels of the whole; of a recording that takes several windows also what sounds when."""
    (found,) = task.predict_recordings([(name, samples)], None, None, 16)
    scores = found.scores
    if isinstance(task.rule, LabelsAbove):
        named = [f"{label} ({100 * scores[label]:.0f} %)" for label in found.hypothesis.split(", ") if label]
        sentence = ", ".join(named) or "No label reaches its threshold."
    else:
        sentence = f"{found.hypothesis} ({100 * found.score:.0f} %)"
    if not found.windows:
        return sentence, scores, []
    ((_, events),) = timelines(task, [(name, samples)])
    return sentence, scores, [(event.start, event.end, event.label, event.score) for event in events]


def listens(task: Any) -> bool:
    """Whether a task can hear a stream."""
    try:
        return not task.transcribes and stream_of(task) is not None
    except UserError:
        return False


class Listener:
    """A microphone that comes in pieces: what was detected in it, and what is heard now.

    Args:
        task: as `predict --stream` takes it; it may serve several listeners.
    """

    def __init__(self, task: Any) -> None:
        self.task, self.stream = task, stream_of(task)
        self.detector = detector_of(task, self.stream)
        self.found: list[tuple[float, str, float]] = []  # seconds, label, score
        self.scores: dict[str, float] = {}
        self._rate = 0

    def push(self, file: str | Path) -> None:
        """The next piece, an audio file of any rate, which stays that of the first.

        Raises:
            UserError: it can't be read, or its rate changes.
        """
        audio = read_audio(file)
        if not self._rate:
            self._rate = audio.rate
            self._resampler = soxr.ResampleStream(audio.rate, self.task.sample_rate, 1, dtype="float32")
        if audio.rate != self._rate:
            raise UserError(f"The microphone went from {self._rate} to {audio.rate} Hz: record anew.")
        samples = audio.samples.astype(np.float32)
        if audio.samples.dtype == np.int16:
            samples /= INT16_SCALE
        self._take(self.stream.push(to_int16(self._resampler.resample_chunk(samples))))

    def finish(self) -> None:
        """The end: what waited for more is heard, too."""
        if self._rate:
            rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            self._take(self.stream.push(to_int16(rest)))
            self._take(self.stream.finish())
            self._rate = 0

    def _take(self, scores: Any) -> None:
        if len(scores):
            top = np.asarray(scores).max(0).tolist()
            self.scores = dict(zip(self.task.labels, top, strict=True))
        self.found += [(one.time, one.label, one.score) for one in self.detector.push(scores)]


def write_examples(data: Any, folder: Path, most: int) -> Iterator[tuple[Path, str]]:
    """Clips of the run's data as files, and what they are: of validation, or of training without one.

    Never of the test, which is looked at once.
    """
    split = "val" if data.has_validation else "train"
    clips, sound = data.splits[split].clips, sounds_of(data)
    for number in np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int):
        clip, file = clips[number], folder / f"example_{number}.wav"
        soundfile.write(file, *sound(split, clip.id))  # type: ignore[misc]
        yield file, f"{clip.text if clip.text is not None else ', '.join(clip.labels)} ({split})"
