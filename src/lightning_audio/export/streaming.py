"""A model that was exported for streams, at work: pieces of audio in, scores out; torch is not imported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.errors import UserError
from lightning_audio.inference.detections import Detector, detector_by, refuse_odd_piece


class RuntimeStream:
    """Scores of one recording that is pushed in pieces of any size, as those of `Stream` from a run.

    A file of `export --streaming` takes a chunk of frames and what the network remembers of those before, and
    gives the scores of the chunk and what it remembers then. At the start that is zeros. The scores of one
    that transcribes are what its decoder takes.

    Raises:
        UserError: the file was exported for whole recordings.
    """

    def __init__(self, runtime: Any) -> None:
        told = runtime.card.get("stream")
        if not told:
            raise UserError(f"{runtime.file} answers for whole recordings: export the run with --streaming.")
        self.runtime = runtime
        self.frame_seconds = float(runtime.card["frame_seconds"])
        self._frames, self._rows, self._hop, self._n_fft = (
            told[n] for n in ("frames", "rows", "hop", "n_fft")
        )
        self._shapes = [tuple(shape) for shape in told["states"]]
        self._short_last = told.get("short_last", False)
        self._width = runtime.width if runtime.transcribes else len(runtime.labels)
        self._waiting: np.ndarray
        self._start()

    def detector(self, **rules: Any) -> Detector:
        """What finds labels in the scores: by the rules of the run's task but for those given."""
        own = self.runtime.card["stream"]["detection"]
        return detector_by(own, self.runtime.labels, self.frame_seconds, **rules)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> np.ndarray:
        """The next samples `(n,)`, int16 or float in [-1, 1] -> scores `(k, C)` of the k new rows.

        Raises:
            UserError: as `Stream.push`.
        """
        refuse_odd_piece(samples, sample_rate, self.runtime.sample_rate)
        if samples.dtype == np.int16:
            samples = samples / np.float32(INT16_SCALE)
        self._waiting = np.concatenate([self._waiting, samples.astype(np.float32)])
        found = [np.zeros((0, self._width), np.float32)]
        size = (self._frames - 1) * self._hop + self._n_fft
        while len(self._waiting) >= max(size, self._frames * self._hop):
            found.append(self._step(self._waiting[:size]))
            self._waiting = self._waiting[self._frames * self._hop :]
        return np.concatenate(found)

    def finish(self) -> np.ndarray:
        """Scores `(k, C)` of the rows that waited for more; what is pushed then begins another recording."""
        # As at the start, half a transform of zeros; what fills the last chunk up gives no rows.
        size = max(self._n_fft, self._hop)
        frames = max((len(self._waiting) - (self._n_fft + 1) // 2) // self._hop + 1, 0)
        if self._short_last:
            scores = self.push(np.zeros(size - (self._n_fft + 1) // 2, np.float32))
            if frames := frames % self._frames:
                rest = self._step(self._waiting[: (frames - 1) * self._hop + self._n_fft])
                scores = np.concatenate([scores, rest])
        else:
            chunks = math.ceil(frames / self._frames)
            scores = self.push(np.zeros(chunks * self._frames * self._hop + self._n_fft, np.float32))
            scores = scores[: math.ceil(frames * self._rows / self._frames)]
        self._start()
        return scores

    def _start(self) -> None:
        self._waiting = np.zeros(self._n_fft // 2, np.float32)
        self._state = [np.zeros(shape, np.float32) for shape in self._shapes]

    def _step(self, samples: np.ndarray) -> np.ndarray:
        feeds = {"samples": samples[None]} | {f"state{i}": one for i, one in enumerate(self._state)}
        scores, *self._state = self.runtime.run(feeds)
        if scores.ndim != 2 or scores.shape[1] != self._width or len(self._state) != len(self._shapes):
            raise UserError(f"{self.runtime.file} does not give {self._width} numbers for each row.")
        return scores
