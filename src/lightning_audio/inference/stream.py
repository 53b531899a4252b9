"""Audio that comes in pieces: the scores of the whole as it goes on."""

from __future__ import annotations

from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_audio.data.batch import samples_to_float
from lightning_audio.errors import UserError
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.inference.detections import refuse_odd_piece
from lightning_audio.networks.base import Network

LONGEST_PIECE = 10.0  # seconds that run through the task at once: memory is bounded, whatever is pushed
WINDOWS_AT_ONCE = 32  # of a `WindowStream`
PROBE = 256  # frames of silence that show how many rows of scores a network makes of them


class TrainedTask(Protocol):
    """The parts of a task that a waveform passes through."""

    labels: tuple[str, ...]
    sample_rate: int
    frontend: nn.Module
    normalize: Normalize
    network: Network

    @property
    def device(self) -> torch.device: ...

    def stream_scores(self, logits: Tensor) -> Tensor: ...

    def eval(self) -> Self: ...


class AnsweringTask(Protocol):
    """What `WindowStream` asks of a task."""

    labels: tuple[str, ...]
    sample_rate: int

    @property
    def device(self) -> torch.device: ...

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]: ...

    def label_scores(self, outputs: Tensor) -> Tensor: ...

    def eval(self) -> Self: ...


class StreamingFrontEnd(Protocol):
    """What `Stream` asks of a front end; see frontend/base.py."""

    n_fft: int
    hop_length: int
    top_db: float | None

    def frames(self, waveforms: Tensor) -> Tensor: ...


class Stream:
    """Label scores of one recording that is pushed in pieces of any size: those of the whole at once.

    Of a task that transcribes they are what its decoders take. Row k of all scores belongs to the time `k *
    frame_seconds`. It comes as soon as the samples that it takes are there: half a Fourier transform later,
    or with the last sample of its chunk where the network hears chunks.

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
        self._none, frames = self._probe()
        self.frame_seconds = frames * hop / task.sample_rate
        self._start()

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> Tensor:
        """The next samples `(n,)`, int16 or float in [-1, 1] -> scores `(k, C)` of the k new rows.

        Raises:
            UserError: the array has another shape or kind, holds what is no number, or is of another rate
                than the task's, where that is said.
        """
        pieces = _waveform(samples, sample_rate, self.task.sample_rate).split(self._longest)
        return torch.cat([self._advance(piece) for piece in pieces])

    def finish(self) -> Tensor:
        """Scores `(k, C)` of the rows that waited for more; what is pushed then begins another recording."""
        scores = self._advance(torch.zeros(self._size - (self._frontend.n_fft + 1) // 2))
        with torch.inference_mode():
            last = None if self._state is None else self.task.network.finish(self._state)
        self._start()
        return scores if last is None else torch.cat([scores, self._scores(last)])

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
            return self._none
        complete = self._waiting[: (count - 1) * hop + self._frontend.n_fft]
        self._waiting = self._waiting[count * hop :].clone()  # a view would keep all of it
        logits, self._state = self._step(complete, self._state)
        return self._scores(logits)

    @torch.inference_mode()
    def _scores(self, logits: Tensor) -> Tensor:
        return self.task.stream_scores(logits)[0].float().cpu()

    def _step(self, samples: Tensor, state: Any) -> tuple[Tensor, Any]:
        features = self._frontend.frames(samples[None].to(self.task.device))
        lengths = torch.tensor([features.shape[-1]], device=features.device)
        features, _ = self.task.normalize(features, lengths)
        return self.task.network.step(features, state)

    @torch.inference_mode()
    def _probe(self) -> tuple[Tensor, int]:
        """No scores `(0, C)`, and how many frames it is from one row of logits to the next."""
        silence = torch.zeros(self._frontend.n_fft + (PROBE - 1) * self._frontend.hop_length)
        try:
            logits, state = self._step(silence, None)
        except NotImplementedError:
            raise UserError(
                f"The network {type(self.task.network).__name__} needs the whole recording, which a stream "
                "does not know: train one that answers for every frame, such as network=gru "
                "network.per_frame=true, or chunk by chunk, such as network=bilstm network.chunk=8."
            ) from None
        last = self.task.network.finish(state)
        rows = logits.shape[1] + (0 if last is None else last.shape[1])
        return self._scores(logits[:, :0]), round(PROBE / rows)


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


class WindowStream:
    """As `Stream`, of a task that answers for whole clips: it hears the last seconds, again and again.

    Row k belongs to the window that ends at `k * frame_seconds`. Before the recording lies silence, and
    behind it as much as fills the last hop.

    Args:
        task: is put into eval mode; several streams may share it.
        window: seconds.
        hop: seconds from one window to the next.
    """

    def __init__(self, task: AnsweringTask, window: float, hop: float) -> None:
        self.task = task.eval()
        self._size, self._hop = (max(round(seconds * task.sample_rate), 1) for seconds in (window, hop))
        self.frame_seconds = self._hop / task.sample_rate
        self._waiting = torch.zeros(self._size)

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> Tensor:
        """The next samples `(n,)`, int16 or float in [-1, 1] -> scores `(k, C)` of the k new rows.

        Raises:
            UserError: as `Stream.push`.
        """
        return self._advance(_waveform(samples, sample_rate, self.task.sample_rate))

    def finish(self) -> Tensor:
        """Scores `(k, C)` of what waited for more; what is pushed then begins another recording."""
        scores = self._advance(torch.zeros((self._size - len(self._waiting)) % self._hop))
        self._waiting = torch.zeros(self._size)
        return scores

    @torch.inference_mode()
    def _advance(self, samples: Tensor) -> Tensor:
        self._waiting = torch.cat([self._waiting, samples])
        count = (len(self._waiting) - self._size) // self._hop + 1
        if not count:
            return torch.zeros(0, len(self.task.labels))
        windows = self._waiting.unfold(0, self._size, self._hop)
        scores = [self._scores(part) for part in windows.split(WINDOWS_AT_ONCE)]
        self._waiting = self._waiting[count * self._hop :].clone()
        return torch.cat(scores)

    def _scores(self, windows: Tensor) -> Tensor:
        lengths = torch.full((len(windows),), self._size, device=self.task.device)
        logits, _ = self.task(windows.contiguous().to(self.task.device), lengths)
        return self.task.label_scores(logits.float()).cpu()


def _waveform(samples: np.ndarray, sample_rate: int | None, wanted: int) -> Tensor:
    """float32 `(n,)`; raises UserError where they are of a rate that is not wanted, or no samples."""
    refuse_odd_piece(samples, sample_rate, wanted)
    # Copied: what is read from a file or a pipe can't be written to, which torch wants.
    return samples_to_float(torch.from_numpy(samples.copy())).float()
