"""What a server says of a stream as it goes on, by the kind of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from lightning_audio.errors import UserError
from lightning_audio.export.runtime import Runtime
from lightning_audio.export.streaming import RuntimeStream
from lightning_audio.inference.formats import live_fields
from lightning_audio.inference.live import LiveText, LiveWord
from lightning_audio.inference.prediction import window_and_hop
from lightning_audio.serving.batches import Batches

# The next samples (n,), int16, and whether they are the last -> answers.
Listener = Callable[[np.ndarray, bool], Awaitable[list[dict[str, Any]]]]


def listener_of(runtime: Runtime, batches: Batches, longest: float) -> Listener:
    """Of a model exported for streams: detections, or words; of one that labels clips: a label for each
    window; of one that transcribes: the text at the end, `longest` being the seconds that it may have."""
    if "stream" in runtime.card:
        return Words(runtime) if runtime.transcribes else Detections(runtime)
    return Speech(runtime, batches, longest) if runtime.transcribes else Windows(runtime, batches)


class Detections:
    """Those of `predict --stream`: time, label and score."""

    def __init__(self, runtime: Runtime) -> None:
        self.stream = RuntimeStream(runtime)
        self.detector = self.stream.detector()

    async def __call__(self, samples: np.ndarray, ended: bool) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(self._heard, samples, ended)
        return [asdict(one) for one in found]

    def _heard(self, samples: np.ndarray, ended: bool) -> list[Any]:
        found = self.detector.push(self.stream.push(samples))
        return found + self.detector.push(self.stream.finish()) if ended else found


class Words:
    """Those of `predict --stream`."""

    def __init__(self, runtime: Runtime) -> None:
        self.text = LiveText(runtime)

    async def __call__(self, samples: np.ndarray, ended: bool) -> list[dict[str, Any]]:
        news = await asyncio.to_thread(self._heard, samples, ended)
        return [live_fields(one) for one in news]

    def _heard(self, samples: np.ndarray, ended: bool) -> list[LiveWord]:
        news = self.text.push(samples)
        return news + self.text.finish() if ended else news


class Windows:
    """The label of each window, as soon as it is over: start, end, label and score."""

    def __init__(self, runtime: Runtime, batches: Batches) -> None:
        self.rate, self.batches = runtime.sample_rate, batches
        self.size, self.hop = window_and_hop(runtime, None, None)
        self.waiting, self.first = np.zeros(0, np.int16), 0  # samples, and which of the stream they begin at
        self.told = 0  # samples that windows were told of

    async def __call__(self, samples: np.ndarray, ended: bool) -> list[dict[str, Any]]:
        self.waiting = np.concatenate([self.waiting, samples])
        found = []
        while len(self.waiting) >= self.size:
            found.append(await self._answer(self.waiting[: self.size]))
            self.waiting, self.first = self.waiting[self.hop :], self.first + self.hop
        if ended and self.first + len(self.waiting) > self.told:  # a last one, which may be short
            found.append(await self._answer(self.waiting))
        return found

    async def _answer(self, samples: np.ndarray) -> dict[str, Any]:
        answer = await self.batches.answer(samples)
        self.told = self.first + len(samples)
        return {
            "start": self.first / self.rate,
            "end": self.told / self.rate,
            "label": answer.hypothesis,
            "score": answer.score,
        }


class Speech:
    """The transcript of all of it."""

    def __init__(self, runtime: Runtime, batches: Batches, longest: float) -> None:
        self.batches, self.longest = batches, longest
        self.most = round(longest * runtime.sample_rate)
        self.waiting: list[np.ndarray] = []

    async def __call__(self, samples: np.ndarray, ended: bool) -> list[dict[str, Any]]:
        self.waiting.append(samples)
        if sum(map(len, self.waiting)) > self.most:
            raise UserError(f"The stream is longer than {self.longest:g} s: send shorter ones.")
        if not ended:
            return []
        answer = await self.batches.answer(np.concatenate(self.waiting))
        return [{"text": answer.hypothesis, "score": answer.score}]
