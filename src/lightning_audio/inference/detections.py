"""Detections out of scores as they come, and raw audio as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import soxr

from lightning_audio.data.audio_file import LOUDEST
from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.data.decode import to_int16
from lightning_audio.errors import UserError
from lightning_audio.inference.events import TINY, Hysteresis, columns_without
from lightning_audio.inference.labels import refuse_improbable

LONGEST_MEAN = 10_000  # rows
CHUNK_SECONDS = 0.02  # of raw audio that is read at once
# How files of the usual formats begin: their headers are no samples.
NOT_RAW = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64"), "WAV"),
    **{b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"FORM": "AIFF", b".snd": "AU", b"caff": "CAF"},
}


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
        if not min_gap >= 0 or not 1 <= smooth <= LONGEST_MEAN:
            raise UserError(
                f"min_gap={min_gap:g} s and smooth={smooth} rows do not fit: set the gap to 0 or more and "
                f"the rows to 1, or more up to {LONGEST_MEAN}."
            )
        self.columns = columns_without(labels, ignore)
        self.labels = [labels[column] for column in self.columns]
        self.frame_seconds, self.min_gap = frame_seconds, min_gap
        self._hysteresis = Hysteresis(len(self.columns), on, off)
        # No number where no row has been: the mean leaves them out.
        self._recent = np.full((smooth - 1, len(self.columns)), np.nan, np.float32)
        self._smooth, self._rows = smooth, 0
        self._latest: dict[str, float] = {}

    def push(self, scores: np.ndarray) -> list[Detection]:
        """The detections in the next rows of scores `(k, C)`, in the order of their times."""
        if not len(scores):
            return []
        refuse_improbable(scores)
        rows = np.concatenate([self._recent, np.asarray(scores)[:, self.columns]])
        self._recent = rows[len(scores) :].copy()
        means = np.nanmean(np.lib.stride_tricks.sliding_window_view(rows, self._smooth, axis=0), axis=-1)
        before = self._hysteresis.last
        active = self._hysteresis.push(means)
        onsets = active & ~np.concatenate([before[None], active[:-1]])
        found = []
        for row, column in np.argwhere(onsets).tolist():
            time, label = (self._rows + row) * self.frame_seconds, self.labels[column]
            if time - self._latest.get(label, -np.inf) >= self.min_gap - TINY:
                self._latest[label] = time
                found.append(Detection(time, label, float(means[row, column])))
        self._rows += len(scores)
        return found


def detector_by(
    own: Mapping[str, Any], labels: Sequence[str], frame_seconds: float, **given: Any
) -> Detector:
    """A detector by the `own` rules of a task, but for those given.

    They are options of `Detector`, and `release`: `off` as a share of `on`.
    """
    rules = {**own, **given}
    release = rules.pop("release", None)
    if release is not None and "off" not in given:
        rules["off"] = release * rules["on"]
    return Detector(labels, frame_seconds, **rules)


class RawAudio:
    """Raw audio in pieces of any size -> int16 samples at another rate, as soon as they are known.

    Args:
        rate: of the raw audio in Hz.
        sample_rate: of what comes out.
    """

    def __init__(self, rate: int, sample_rate: int) -> None:
        self._resampler = (
            soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
            if rate != sample_rate
            else None
        )
        self._begun, self.half = False, b""

    def push(self, content: bytes) -> np.ndarray:
        """Signed 16-bit little-endian samples of one channel -> `(n,)`.

        Raises:
            UserError: the first of them are the header of an audio file.
        """
        for head, name in () if self._begun else NOT_RAW.items():
            if content.startswith(head):
                raise UserError(
                    f"The stream begins as a {name} file, not as raw samples: leave out --stream, or convert "
                    "it with `ffmpeg -i FILE -f s16le -ac 1 -`."
                )
        self._begun = self._begun or bool(content)
        content = self.half + content
        whole = len(content) // 2 * 2
        self.half = content[whole:]
        samples = np.frombuffer(content[:whole], "<i2")
        if self._resampler is None:
            return samples
        return to_int16(self._resampler.resample_chunk(samples / np.float32(INT16_SCALE)))

    def finish(self) -> np.ndarray:
        """What comes out behind the last of them."""
        if self._resampler is None:
            return np.zeros(0, np.int16)
        return to_int16(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def raw_audio(file: BinaryIO, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """`RawAudio` of what can be read from a file, 20 ms at a time, as soon as it can be read."""
    raw, size = RawAudio(rate, sample_rate), 2 * max(round(CHUNK_SECONDS * rate), 1)
    while chunk := file.read(size):
        yield raw.push(chunk)
    if rate != sample_rate:
        yield raw.finish()
    if raw.half:
        print(
            "warning: the stream ended within a sample of 16 bits, and its last byte was left out.",
            file=sys.stderr,
        )


def refuse_odd_piece(samples: np.ndarray, sample_rate: int | None, wanted: int) -> None:
    """Raises UserError for a piece of a stream of a rate that is not wanted, or that is no samples `(n,)`."""
    if sample_rate not in (None, wanted):
        raise UserError(
            f"The stream has {sample_rate} samples a second and the run hears {wanted}: resample it on its "
            "way, as `predict --stream --rate` does."
        )
    if not isinstance(samples, np.ndarray):
        raise UserError(f"A stream takes NumPy arrays (n,) of samples, not {type(samples).__name__}.")
    if samples.ndim != 1 or not (samples.dtype == np.int16 or np.issubdtype(samples.dtype, np.floating)):
        raise UserError(
            f"A stream takes samples (n,) of one channel as int16 or float, not {samples.dtype} of shape "
            f"{samples.shape}: convert them."
        )
    if not np.isfinite(samples).all():
        raise UserError("The stream holds samples that are no numbers (NaN or infinite): mend it.")
    if samples.dtype != np.int16 and np.abs(samples).max(initial=0) > LOUDEST:
        raise UserError(
            "The stream has samples far beyond [-1, 1], where float audio lies: divide them by their full "
            "scale."
        )
