"""A server of an exported model under load, on this computer: lost answers, seconds of an answer, memory.

Clients keep a connection each and ask again as soon as they are answered. Server and clients share the cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from timing import arguments, report

from lightning_audio.cli.serve import SOON
from lightning_audio.export.runtime import Runtime

CLIENTS = 200


def made(folder: Path) -> Path:
    """A BC-ResNet tau 3 for clips of a second, with weights as drawn."""
    from export import task_of  # with torch, of which the server knows nothing

    from lightning_audio.cli.export import described, write
    from lightning_audio.export.onnx import onnx_graph

    task = task_of("speech_commands_bc_resnet")
    write(folder / "model.onnx", onnx_graph(task), described(task, folder / "none"))
    return folder / "model.onnx"


def files(rate: int, count: int = 40) -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        content = BytesIO()
        noise = 0.2 * rng.standard_normal(round(rng.uniform(0.5, 1.0) * rate)) * rng.uniform()
        soundfile.write(content, np.clip(noise, -1, 1), rate, format="WAV")
        found.append(content.getvalue())
    return found


async def answer(reader: Any, writer: Any, body: bytes) -> tuple[int, Any]:
    """One request on a connection that stays."""
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    size = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
    return int(lines[0].split()[1]), json.loads(await reader.readexactly(size))


async def client(port: int, number: int, requests: int, bodies: Sequence[bytes]) -> list[tuple[Any, ...]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for turn in range(requests):
        which = (7 * number + turn) % len(bodies)
        start = time.perf_counter()
        status, content = await answer(reader, writer, bodies[which])
        found.append((which, status, content, time.perf_counter() - start))
    writer.close()
    return found


async def load(port: int, requests: int, bodies: Sequence[bytes]) -> tuple[list[Any], float]:
    """All answers, and how long they took."""
    start = time.perf_counter()
    rows = await asyncio.gather(*(client(port, number, requests, bodies) for number in range(CLIENTS)))
    return [row for own in rows for row in own], time.perf_counter() - start


def memory(pid: int) -> float:
    """MB that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def worker(process: subprocess.Popen[str]) -> int:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(one) for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes())


def restarted(process: subprocess.Popen[str], port: int, body: bytes) -> float:
    """Seconds from the kill of the process that answers to the next answer."""

    async def asked() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await answer(reader, writer, body)
        writer.close()
        return status

    time.sleep(SOON)  # or the server takes it for one that can't start
    os.kill(worker(process), signal.SIGKILL)
    start = time.perf_counter()
    while True:
        try:
            assert asyncio.run(asked()) == 200
            return time.perf_counter() - start
        except ConnectionError:  # taken by the process that was about to end
            time.sleep(0.01)


def refuse_others(rows: Sequence[Any], wanted: Sequence[Any], count: int) -> None:
    """Every request has one answer, which is that of `predict`."""
    assert len(rows) == count, f"{count - len(rows)} answers are lost"
    wrong = [row for row in rows if row[1] != 200 or row[2]["hypothesis"] != wanted[row[0]].hypothesis]
    assert not wrong, f"{len(wrong)} answers are others: {wrong[0]}"
    assert max(abs(row[2]["score"] - wanted[row[0]].score) for row in rows) < 1e-4


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    requests = 10 if options.quick else 30
    columns: dict[str, list[float]] = {name: [] for name in ("p50", "p99", "back", "MB", "a second")}
    with tempfile.TemporaryDirectory() as folder:
        model = made(Path(folder))
        runtime, wanted = Runtime(model, threads=1), []
        bodies = files(runtime.sample_rate)
        for number, body in enumerate(bodies):
            file = Path(folder) / f"{number}.wav"
            file.write_bytes(body)
            wanted += runtime.predict(file)
        command = [sys.executable, "-m", "lightning_audio", "serve", str(model), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().rsplit(":", 1)[1])
            try:
                for turn in range(options.repeats + 1):
                    rows, seconds = asyncio.run(load(port, requests, bodies))
                    refuse_others(rows, wanted, CLIENTS * requests)
                    took = np.array([row[3] for row in rows])
                    if turn:  # the first one warms up
                        columns["p50"].append(float(np.median(took)))
                        columns["p99"].append(float(np.quantile(took, 0.99)))
                        columns["MB"].append(memory(worker(process)))
                        columns["a second"].append(len(rows) / seconds)
                columns["back"] = [restarted(process, port, bodies[0]) for _ in range(options.repeats)]
            finally:
                process.terminate()
    taken = {"an answer, median": "p50", "an answer, 99 of 100": "p99", "the first one after a kill": "back"}
    more = {name: {"an answer, median": columns[name]} for name in ("MB", "a second")}
    title = f"{CLIENTS} clients, {requests} requests each a round, BC-ResNet tau 3, clips up to 1 s"
    report(title, {name: columns[short] for name, short in taken.items()}, 1, {}, more)


if __name__ == "__main__":
    main()
