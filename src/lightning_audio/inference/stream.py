"""Audio that comes in pieces: the scores of the whole as it goes on, and detections out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import soxr
import torch
from torch import Tensor

from lightning_audio.data.batch import INT16_SCALE, samples_to_float
from lightning_audio.data.decode import to_int16
from lightning_audio.errors import UserError
from lightning_audio.inference.events import TINY, Hysteresis, columns_without
from lightning_audio.inference.prediction import TrainedTask

CHUNK_SECONDS = 0.02  # of raw audio that is read at once
LONGEST_PIECE = 10.0  # seconds that run through the task at once: memory is bounded, whatever is pushed
PROBE = 256  # frames of silence that show how many rows of scores a network makes of them
# How files of the usual formats begin: their headers are no samples.
NOT_RAW = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3"}


class StreamingFrontEnd(Protocol):
    """What `Stream` asks of a front end; see frontend.py."""

    n_fft: int
    hop_length: int
    top_db: float | None

    def frames(self, waveforms: Tensor) -> Tensor: ...


class Stream:
    """Label scores of one recording that is pushed in pieces of any size: those of the whole at once.

    Row k of all scores belongs to the time `k * frame_seconds`. It comes as soon as the samples that it takes
    are there: half a Fourier transform later.

    Args:
        task: is put into eval mode; several streams may share it.

    Raises:
        UserError: front end, normalisation or network need the whole recording.
    """

    frame_seconds: float  # from one row of scores to the next

    def __init__(self, task: TrainedTask) -> None:
        self.task = task.eval()
        self._frontend = streaming_frontend(task)
        n_fft, hop = self._frontend.n_fft, self._frontend.hop_length
        self._size = max(n_fft, hop)
        self._longest = round(LONGEST_PIECE * task.sample_rate)
        self.frame_seconds = self._frames_in_a_row() * hop / task.sample_rate
        self._start()

    def push(self, samples: np.ndarray) -> Tensor:
        """The next samples `(n,)`, int16 or float in [-1, 1] -> scores `(k, C)` of the k new rows.

        Raises:
            UserError: the array has another shape or kind, or holds what is no number.
        """
        pieces = _waveform(samples).split(self._longest)
        return torch.cat([self._advance(piece) for piece in pieces])

    def finish(self) -> Tensor:
        """Scores `(k, C)` of the rows that waited for more; what is pushed then begins another recording."""
        scores = self._advance(torch.zeros(self._size - (self._frontend.n_fft + 1) // 2))
        self._start()
        return scores

    def _start(self) -> None:
        # A clip is taken with half a transform of zeros on both sides; at its end `finish` adds them.
        self._waiting = torch.zeros(self._frontend.n_fft // 2)
        self._state: Any = None

    @torch.inference_mode()
    def _advance(self, samples: Tensor) -> Tensor:
        self._waiting = torch.cat([self._waiting, samples])
        hop = self._frontend.hop_length
        count = (len(self._waiting) - self._size) // hop + 1
        if count < 1:
            return torch.zeros(0, len(self.task.labels))
        complete = self._waiting[: (count - 1) * hop + self._frontend.n_fft]
        self._waiting = self._waiting[count * hop :].clone()  # a view would keep all of it
        logits, self._state = self._step(complete, self._state)
        return self.task.label_scores(logits)[0].float().cpu()

    def _step(self, samples: Tensor, state: Any) -> tuple[Tensor, Any]:
        features = self._frontend.frames(samples[None].to(self.task.device))
        lengths = torch.tensor([features.shape[-1]], device=features.device)
        features, _ = self.task.normalize(features, lengths)
        return self.task.network.step(features, state)

    @torch.inference_mode()
    def _frames_in_a_row(self) -> int:
        """How many frames the network takes from one row of its logits to the next."""
        silence = torch.zeros(self._frontend.n_fft + (PROBE - 1) * self._frontend.hop_length)
        try:
            logits, _ = self._step(silence, None)
        except NotImplementedError:
            raise UserError(
                f"The network {type(self.task.network).__name__} needs the whole recording, which a stream "
                "does not know: train one that answers for every frame, such as network=gru "
                "network.per_frame=true."
            ) from None
        return round(PROBE / logits.shape[1])


def streaming_frontend(task: TrainedTask) -> StreamingFrontEnd:
    """The front end of a task; raises UserError where it, or the normalisation, needs the whole recording."""
    frontend: Any = task.frontend
    if not hasattr(frontend, "frames"):
        raise UserError(
            f"The front end {type(frontend).__name__} does not run on a stream: train with frontend=log_mel "
            "frontend.top_db=null."
        )
    if frontend.top_db is not None:
        raise UserError(
            f"frontend.top_db={frontend.top_db:g} measures from the loudest moment of the whole recording, "
            "which a stream does not know: train with frontend.top_db=null."
        )
    if task.normalize.per_clip:
        raise UserError(
            f"normalize={task.normalize.by} measures the whole recording, which a stream does not know: "
            "train with normalize=corpus."
        )
    return cast(StreamingFrontEnd, frontend)


def _waveform(samples: np.ndarray) -> Tensor:
    """float32 `(n,)`."""
    if samples.ndim != 1 or not (samples.dtype == np.int16 or np.issubdtype(samples.dtype, np.floating)):
        raise UserError(
            f"A stream takes samples (n,) of one channel as int16 or float, not {samples.dtype} of shape "
            f"{samples.shape}: convert them."
        )
    if not np.isfinite(samples).all():
        raise UserError("The stream holds samples that are no numbers (NaN or infinite): mend it.")
    # Copied: what is read from a file or a pipe can't be written to, which torch wants.
    return samples_to_float(torch.from_numpy(samples.copy())).float()


@dataclass(frozen=True)
class Detection:
    """A label that came on at a `time` in seconds, with its (smoothed) score then."""

    time: float
    label: str
    score: float


class Detector:
    """Detections out of rows of scores as they come: each time that a label goes on, by `Hysteresis`.

    Args:
        labels: the columns of the scores.
        frame_seconds: from one row to the next, as `Stream` says.
        on, off: a label goes on with the first score of at least `on`, and off with the first below `off`.
        min_gap: seconds after a detection in which the same label gives no other.
        smooth: rows up to the present one whose mean is taken first, fewer at the start, as in Chen et al.
            2014, "Small-footprint keyword spotting using deep neural networks".
        ignore: labels that are not to be detected, such as silence.

    Raises:
        UserError: an option does not fit.
    """

    def __init__(
        self,
        labels: Sequence[str],
        frame_seconds: float,
        on: float = 0.5,
        off: float = 0.3,
        min_gap: float = 1.0,
        smooth: int = 1,
        ignore: Sequence[str] = (),
    ) -> None:
        if not min_gap >= 0 or smooth < 1:
            raise UserError(
                f"min_gap={min_gap:g} s and smooth={smooth} rows do not fit: set them to 0 and 1, or more."
            )
        self.columns = columns_without(labels, ignore)
        self.labels = [labels[column] for column in self.columns]
        self.frame_seconds, self.min_gap = frame_seconds, min_gap
        self._hysteresis = Hysteresis(len(self.columns), on, off)
        # No number where no row has been: the mean leaves them out.
        self._recent = torch.full((smooth - 1, len(self.columns)), torch.nan)
        self._smooth, self._rows = smooth, 0
        self._latest: dict[str, float] = {}

    def push(self, scores: Tensor) -> list[Detection]:
        """The detections in the next rows of scores `(k, C)`, in the order of their times."""
        if not len(scores):
            return []
        rows = torch.cat([self._recent, scores[:, self.columns]])
        self._recent = rows[len(scores) :].clone()
        means = rows.unfold(0, self._smooth, 1).nanmean(-1)
        before = self._hysteresis.last
        active = self._hysteresis.push(means)
        onsets = active & ~torch.cat([before[None], active[:-1]])
        found = []
        for row, column in onsets.nonzero().tolist():
            time, label = (self._rows + row) * self.frame_seconds, self.labels[column]
            if time - self._latest.get(label, -np.inf) >= self.min_gap - TINY:
                self._latest[label] = time
                found.append(Detection(time, label, float(means[row, column])))
        self._rows += len(scores)
        return found


def raw_audio(file: BinaryIO, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """int16 samples `(n,)` at `sample_rate` from raw audio, 20 ms at a time, as soon as they can be read.

    Args:
        file: bytes: signed 16-bit little-endian samples of one channel, without a header.
        rate: of these samples in Hz.

    Raises:
        UserError: the bytes begin with the header of an audio file.
    """
    size = 2 * max(round(CHUNK_SECONDS * rate), 1)
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    chunk = file.read(size)
    for head, name in NOT_RAW.items():
        if chunk.startswith(head):
            raise UserError(
                f"The stream begins as a {name} file, not as raw samples: leave out --stream, or convert it "
                "with `ffmpeg -i FILE -f s16le -ac 1 -`."
            )
    while chunk:
        samples = np.frombuffer(chunk[: len(chunk) // 2 * 2], "<i2")
        if rate != sample_rate:
            samples = to_int16(resampler.resample_chunk(samples / np.float32(INT16_SCALE)))
        yield samples
        chunk = file.read(size)
    if rate != sample_rate:
        yield to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
