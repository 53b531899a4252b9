"""Any network in an ONNX file as an encoder that stays as it is, run by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio import onnx_file
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import in_export
from lightning_audio.networks.encoders.base import Encoder

LONGEST_PROBE = 2**18  # samples: a network that gives nothing for so many takes no waveforms
AT_ONCE = 256  # windows that run together


class Onnx(Encoder):
    """States of an ONNX file that takes samples, `(T,)`, `(1, T)` or `(1, 1, T)`, or of two in a row.

    With `window` the (second) file looks at windows of that size, as many as lie in a clip; without it, it is
    given all of it. The last axis of what it gives are the numbers of a state. How many states come of how
    many samples is found out by trying. Each clip runs by itself, so that padding never reaches the network.

    Args:
        file: an ONNX file, or two: what the first gives are frames, which the second is given; null where a
            checkpoint brings their content.
        sample_rate: of the waveforms in Hz.
        scale: by which samples in [-1, 1] are multiplied.
        frames: `[a, b]`: the frames of a first file times a, plus b.
        window, hop: in frames, or in samples where there is one file.
        center: half of what a state takes as zeros on both sides of a clip, so that state k stands for the
            time around sample k * hop, as in a log-mel spectrogram; no clip is too short, and it runs on a
            stream.
        files, steps, width: what a checkpoint says of the files: their number, the samples that the first
            state takes and that lie from one to the next, the numbers of a state.

    Raises:
        UserError: onnxruntime is not installed, a file is missing, is no ONNX file, or takes no waveforms.
    """

    def __init__(
        self,
        file: str | Sequence[str] | None = None,
        sample_rate: int = 16000,
        scale: float = 1.0,
        frames: Sequence[float] = (1.0, 0.0),
        window: int | None = None,
        hop: int | None = None,
        center: bool = False,
        files: int = 1,
        steps: Sequence[int] | None = None,
        width: int | None = None,
    ) -> None:
        super().__init__()
        if (window is None) != (hop is None) or (window is not None and min(window, hop or 0) < 1):
            raise UserError("encoder.window and encoder.hop go together: give both, 1 or more, or none.")
        self.sample_rate, self.scale, self.frame_scale = sample_rate, scale, tuple(frames)
        self.window, self.hop, self.center = window, hop, center
        names: Sequence[str | None] = [file] if isinstance(file, str) else file or [None] * files
        self.models = nn.ModuleList(OnnxFile(name) for name in names)
        if not 1 <= len(self.models) <= 2:
            raise UserError("encoder.file names one ONNX file, or two that run one after the other: mend it.")
        self.n_fft, self.hop_length = steps or self._find_steps()
        self.top_db = None  # as a front end that a stream can take
        width = width or self._states(np.zeros(self.n_fft, np.float32)).shape[-1]
        self.shape, self.least = (1, width), 1 if center else self.n_fft
        told = {"steps": [int(self.n_fft), int(self.hop_length)], "width": int(width)}
        self.architecture = {"files": len(self.models), **told}

    def output_lengths(self, lengths: Tensor) -> Tensor:
        if self.center:
            return (lengths + self.n_fft // 2 * 2 - self.n_fft) // self.hop_length + 1
        return (lengths.clamp(min=self.n_fft) - self.n_fft) // self.hop_length + 1

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, T)` -> states `(B, width, T')` and lengths; one that is too short is filled up with zeros."""
        if in_export():
            raise UserError(
                "An encoder that is an ONNX file itself does not go into another one: export a run with "
                "another encoder, such as yamnet, or with frontend=log_mel."
            )
        counts = self.output_lengths(lengths)
        states = waveforms.new_zeros(len(waveforms), int(counts.max()), self.shape[1])
        for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
            samples = waveforms[row, :length]
            if self.center:
                samples = functional.pad(samples, (self.n_fft // 2, self.n_fft // 2))
            samples = functional.pad(samples, (0, max(self.n_fft - len(samples), 0)))
            found = self._states(samples.float().cpu().numpy())
            states[row, :count] = torch.from_numpy(found[:count]).to(states)
        return states.mT, counts

    def frames(self, waveforms: Tensor) -> Tensor:
        """States `(B, width, k)` of what lies wholly within waveforms `(B, n)`, as `LogMel.frames`."""
        found = [torch.from_numpy(self._states(samples.float().cpu().numpy())) for samples in waveforms]
        count = (waveforms.shape[-1] - self.n_fft) // self.hop_length + 1
        return torch.stack(found)[:, :count].to(waveforms.device).mT

    def _states(self, samples: np.ndarray) -> np.ndarray:
        """`(T,)` -> `(states, width)`."""
        models = cast(Sequence[OnnxFile], self.models)
        if hasattr(self, "shape") and not all(model.content for model in models):
            # A checkpoint brings it; a task that is built before only looks at shapes.
            count = (len(samples) - self.n_fft) // self.hop_length + 1
            return np.zeros((max(count, 0), self.shape[1]), np.float32)
        x = samples * np.float32(self.scale)
        if len(models) > 1:
            x = models[0].run(x, whole=True)
            x = x * np.float32(self.frame_scale[0]) + np.float32(self.frame_scale[1])
        if self.window is None or self.hop is None:
            return models[-1].run(x, whole=True)
        count = (len(x) - self.window) // self.hop + 1
        places = np.arange(max(count, 0))[:, None] * self.hop + np.arange(self.window)
        parts = [x[places[n : n + AT_ONCE]] for n in range(0, len(places), AT_ONCE)]
        found = [models[-1].run(part, whole=False) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, 1), np.float32)

    def _find_steps(self) -> tuple[int, int]:
        """The samples that the first state takes, and from one to the next.

        Raises:
            UserError: there are no states, or they do not come evenly.
        """

        def count(samples: int) -> int:
            try:
                return len(self._states(np.zeros(samples, np.float32)))
            except RuntimeError:  # too short for it
                return 0

        def least(states: int, low: int) -> int:
            """The fewest samples of so many states; no more than `low` have as many."""
            high = max(2 * low, 64)
            while count(high) < states:
                low, high = high, 2 * high
                if high > LONGEST_PROBE:
                    raise UserError(
                        f"{self.models[0].name} gives no states of samples (T,), (1, T) or (1, 1, T), or of "
                        f"windows of encoder.window={self.window}: set encoder.window and encoder.hop to "
                        "what it takes."
                    )
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if count(middle) >= states else (middle, high)
            return high

        first = least(1, 0)
        hop = least(2, first) - first
        if count(first + 10 * hop - 1) != 10 or count(first + 10 * hop) != 11:
            raise UserError(
                f"The states of {self.models[0].name} do not come evenly: set encoder.window and encoder.hop."
            )
        return first, hop


class OnnxFile(nn.Module):
    """An ONNX file; what is in it goes into checkpoints, byte by byte."""

    def __init__(self, file: str | None) -> None:
        super().__init__()
        self.name, self.content = str(file), b""
        self._session: Any = None
        if file is not None:
            self.content = onnx_file.read(file)
            self.session()

    def session(self) -> Any:
        """Of onnxruntime; raises UserError where it is not installed or refuses the content."""
        if self._session is None:
            onnx_file.refuse_hostile(self.content, self.name)
            self._session = onnx_file.session(self.content, self.name, torch.get_num_threads())
            if len(self._session.get_inputs()) != 1:
                raise UserError(f"{self.name} takes several inputs: give a file that takes one, the samples.")
        return self._session

    def run(self, x: np.ndarray, whole: bool) -> np.ndarray:
        """`(T, ...)` of a whole clip -> `(states, width)`; or windows `(N, window, ...)` -> `(N, width)`.

        Raises:
            RuntimeError: the network does not take arrays of this size.
        """
        session = self.session()
        wanted = session.get_inputs()[0]
        if whole:
            x = x.reshape(*[1] * (len(wanted.shape) - x.ndim), *x.shape)
        else:
            x = x.reshape(*x.shape, *[1] * (len(wanted.shape) - x.ndim))
        try:
            (found, *_) = session.run(None, {wanted.name: x.astype(np.float32)})
        except Exception as error:  # of many kinds, which onnxruntime does not export
            raise RuntimeError(str(error)) from error
        return found.reshape(-1, found.shape[-1]) if whole else found.reshape(len(x), -1)

    def get_extra_state(self) -> Tensor:
        return torch.frombuffer(bytearray(self.content), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self.content, self._session = state.cpu().numpy().tobytes(), None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # which can't be copied
