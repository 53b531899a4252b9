"""Requests that come at the same time, answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lightning_audio.errors import UserError
from lightning_audio.export.runtime import Runtime
from lightning_audio.inference.prediction import Prediction
from lightning_audio.serving.metrics import Metrics

MOST_TOGETHER = 16  # recordings, and windows of them


class Batches:
    """Recordings wait while the model is at work; then all that wait, up to `MOST_TOGETHER`, are answered.

    Nothing waits for company: alone on the server, a request is answered at once.
    """

    def __init__(self, runtime: Runtime, metrics: Metrics) -> None:
        self.runtime, self.metrics = runtime, metrics
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future[Prediction]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def answer(self, samples: np.ndarray) -> Prediction:
        """What the model says of int16 `(T,)` at its rate; raises UserError where it says nothing."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((samples, future))
        return await future

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            taken = [await self._waiting.get()]
            while len(taken) < MOST_TOGETHER and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            taken = [(samples, future) for samples, future in taken if not future.done()]  # who left
            if not taken:
                continue
            found = await loop.run_in_executor(self._thread, self._answers, [one[0] for one in taken])
            self.metrics.counts["batches_total"] += 1
            self.metrics.counts["answers_total"] += len(found)
            for (_, future), answer in zip(taken, found, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _answers(self, clips: Sequence[np.ndarray]) -> list[Prediction | Exception]:
        """One for each; a recording that has none does not cost the others theirs."""
        try:
            recordings = [("audio", samples) for samples in clips]
            return list(self.runtime.predict_recordings(recordings, None, None, MOST_TOGETHER))
        except Exception as error:  # told to the one who asked
            if len(clips) == 1:
                return [error if isinstance(error, UserError) else RuntimeError(error)]
            return [self._answers([samples])[0] for samples in clips]
