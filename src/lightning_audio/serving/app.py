"""An exported model behind HTTP and WebSocket: `POST /predict`, `/stream`, `/health`, `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from lightning_audio.data.audio_file import HIGHEST_RATE, LOWEST_RATE, AudioError, read_audio
from lightning_audio.data.decode import heard_at
from lightning_audio.errors import UserError
from lightning_audio.export.runtime import Runtime
from lightning_audio.inference.detections import RawAudio
from lightning_audio.serving.batches import Batches
from lightning_audio.serving.listeners import listener_of
from lightning_audio.serving.metrics import CONTENT_TYPE, Metrics

IDLE = 30.0  # seconds that a file may take to come, and that a client may be silent within a stream
POLICY, TOO_BIG, FAILED, TRY_LATER = 1008, 1009, 1011, 1013  # why a WebSocket is closed (RFC 6455)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Of one request, `megabytes` and `max_seconds` of audio; of all together, `concurrency`."""

    megabytes: float = 10.0
    max_seconds: float = 60.0
    concurrency: int = 256


class Refused(Exception):
    """A request that is not answered: a status, and a sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Server:
    """The answers of one process to all its clients.

    Args:
        runtime: what answers.
        limits: beyond which requests are refused.
    """

    def __init__(self, runtime: Runtime, limits: Limits) -> None:
        self.runtime, self.limits, self.metrics = runtime, limits, Metrics()
        self.batches = Batches(runtime, self.metrics)

    def app(self) -> Starlette:
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.told),
            WebSocketRoute("/stream", self.stream),
        ]
        return Starlette(routes=routes, lifespan=self.lifespan)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Answers batches, and holds a folder for the files of requests, while the server runs."""
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            working = asyncio.create_task(self.batches.run())
            yield
            working.cancel()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.runtime.file.name})

    async def told(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics.text(), media_type=CONTENT_TYPE)

    async def predict(self, request: Request) -> Response:
        """The audio file that is the body -> what `predict --format jsonl` says of it."""
        start = time.perf_counter()
        try:
            with self._place():
                samples, remarks = await self._samples(request)
                answer = await self.batches.answer(samples)
            response: Response = JSONResponse(told_of(answer) | ({"remarks": remarks} if remarks else {}))
        except Refused as refused:
            response = JSONResponse({"error": str(refused)}, refused.status)
            if refused.status == 503:
                response.headers["Retry-After"] = "1"
        except UserError as error:
            response = JSONResponse({"error": str(error)}, 400)
        except asyncio.CancelledError:  # it was asked to end, and this request took too long for that
            response = JSONResponse({"error": "The server ends: send it again."}, 503)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; it is counted
        except Exception:  # of whatever kind: the server goes on
            _log.exception("A request could not be answered.")
            response = JSONResponse({"error": "The server failed at this request; its log says why."}, 500)
        self.metrics.request(response.status_code, time.perf_counter() - start)
        return response

    @contextlib.contextmanager
    def _place(self) -> Any:
        """One of the places that requests and streams share; raises Refused where all are taken."""
        gauges = self.metrics.gauges
        if gauges["requests_in_progress"] >= self.limits.concurrency:
            raise Refused(503, f"{self.limits.concurrency} requests are being answered: try again later.")
        gauges["requests_in_progress"] += 1
        try:
            yield
        finally:
            gauges["requests_in_progress"] -= 1

    async def _samples(self, request: Request) -> tuple[np.ndarray, list[str]]:
        """int16 `(T,)` of the file in the body, which passes through a temporary file, and what is odd about
        it, a clause each.

        Raises:
            Refused, UserError: it is too large, too long, too slow, or no audio.
        """
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise Refused(415, "Send the file itself as the body, as `curl --data-binary @FILE` does.")
        most = round(self.limits.megabytes * 1e6)
        too_large = Refused(413, f"The file has more than {self.limits.megabytes:g} MB: send less at once.")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            size = 0
            try:
                async with asyncio.timeout(IDLE):
                    async for chunk in request.stream():
                        size += len(chunk)
                        if size > most:
                            raise too_large
                        file.write(chunk)
            except TimeoutError:
                raise Refused(408, f"The file did not come within {IDLE:g} s: send it again.") from None
            file.flush()
            return await asyncio.to_thread(self._decoded, Path(file.name))

    def _decoded(self, file: Path) -> tuple[np.ndarray, list[str]]:
        rate, longest = self.runtime.sample_rate, self.limits.max_seconds
        try:
            audio = read_audio(file, duration=longest + 1)
            samples = heard_at(file, audio, rate)
        except AudioError as error:
            raise Refused(400, f"The body can't be read as an audio file: {error.reason}.") from error
        if len(samples) > longest * rate:
            raise Refused(413, f"The audio is longer than {longest:g} s: send shorter pieces.")
        return samples, [*audio.remarks().values()]

    async def stream(self, socket: WebSocket) -> None:
        """Raw audio in pieces, signed 16-bit little-endian, one channel, `?rate=` in Hz -> answers as they
        come, each a JSON object; the text `end` asks for the last ones."""
        await socket.accept()
        gauges, code, told = self.metrics.gauges, 1000, ""
        try:
            with self._place():
                gauges["streams_open"] += 1
                self.metrics.counts["streams_total"] += 1
                try:
                    await self._listen(socket)
                finally:
                    gauges["streams_open"] -= 1
        except WebSocketDisconnect:
            return
        except Refused as refused:
            code, told = {503: TRY_LATER, 413: TOO_BIG}.get(refused.status, POLICY), str(refused)
        except UserError as error:
            code, told = POLICY, str(error)
        except Exception:  # of whatever kind: the server goes on
            _log.exception("A stream could not be answered.")
            code, told = FAILED, "The server failed at this stream; its log says why."
        with contextlib.suppress(WebSocketDisconnect):  # who has left is told nothing
            if told:
                await socket.send_json({"error": told})
            await socket.close(code)

    async def _listen(self, socket: WebSocket) -> None:
        rate = socket.query_params.get("rate", str(self.runtime.sample_rate))
        if not rate.isdecimal() or len(rate) > 9 or not LOWEST_RATE <= int(rate) <= HIGHEST_RATE:
            raise UserError(f"rate={rate[:20]} is no rate between {LOWEST_RATE} and {HIGHEST_RATE} Hz.")
        raw = RawAudio(int(rate), self.runtime.sample_rate)
        listener = listener_of(self.runtime, self.batches, self.limits.max_seconds)
        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), IDLE)
            except TimeoutError:
                raise UserError(f"Nothing came for {IDLE:g} s: the stream has ended.") from None
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            ended = message.get("text") == "end"
            if message.get("text") and not ended:
                raise UserError(
                    "A stream takes raw audio as bytes, and the text `end` behind the last of it."
                )
            samples = raw.finish() if ended else raw.push(message.get("bytes") or b"")
            for answer in await listener(samples, ended):
                await socket.send_json(answer)
            if ended:
                return


def told_of(answer: Any) -> dict[str, Any]:
    """A prediction as JSON; what it is of knows the client."""
    return {name: value for name, value in asdict(answer).items() if name != "id"}
