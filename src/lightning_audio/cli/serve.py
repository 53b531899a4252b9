"""Answers over HTTP and WebSocket with what `export` wrote; torch is not imported.

lightning-audio serve model.onnx --port 8000
curl --data-binary @dog.wav http://127.0.0.1:8000/predict
curl http://127.0.0.1:8000/metrics

One process answers, and another one watches it and starts it anew where it ends. It listens to this computer
alone unless `--host` says otherwise; it knows no users and no passwords, which a proxy in front of it may.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

from lightning_audio.cli import arguments
from lightning_audio.errors import UserError, cli_errors, end_on

SOON, MOST_FAILURES = 5.0, 3  # seconds after its start, and how often a process may end within them
BACKLOG = 1024  # connections that wait to be taken


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Serves a model until it is stopped."""
    options = arguments.serve(argv)
    limits = (options.megabytes, options.max_seconds, options.concurrency)
    if not all(0 < limit < math.inf for limit in limits):
        raise UserError("--megabytes, --max-seconds and --concurrency are limits: set them above 0.")
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"A server needs {error.name}, which is not installed: run pip install 'lightning-audio[serve]'."
        ) from error
    from lightning_audio.export.runtime import Runtime

    Runtime(options.model, threads=options.threads)  # refused here, where a sentence is read
    with bound(options.host, options.port) as listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving {options.model} at http://{shown}:{port}", flush=True)
        watch(listening, options.model, options.threads, limits)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; raises UserError where the place is taken or is not one of this computer."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"Nothing can listen at {host}, port {port} ({error}): choose another --port or --host."
        ) from error


def watch(
    listening: socket.socket, model: Path, threads: int | None, limits: tuple[float, float, int]
) -> None:
    """Lets a process answer; one that ends, killed or for want of memory, is started anew.

    Raises:
        UserError: it ends again and again as soon as it has begun.
    """
    context, failures = multiprocessing.get_context("spawn"), 0
    while failures < MOST_FAILURES:
        start = time.monotonic()
        worker = context.Process(target=work, args=(listening, model, threads, limits))
        worker.start()
        try:
            worker.join()
        finally:
            if worker.is_alive():
                worker.terminate()
                worker.join()
        failures = failures + 1 if time.monotonic() - start < SOON else 0
        print(f"The process that answers has ended ({worker.exitcode}): it is started anew.", flush=True)
    raise UserError(f"The process that answers ended {failures} times within {SOON:g} s: see above.")


def work(
    listening: socket.socket, model: Path, threads: int | None, limits: tuple[float, float, int]
) -> None:
    """Answers what comes in at a socket."""
    import uvicorn

    from lightning_audio.export.runtime import Runtime
    from lightning_audio.serving.app import Limits, Server

    threading.Thread(target=end_with_parent, daemon=True).start()
    own = Limits(*limits)
    try:
        runtime = Runtime(model, threads=threads)
    except UserError as error:  # since it was served first, the file has been replaced
        end_on(error)
    config = uvicorn.Config(
        Server(runtime, own).app(),
        ws_max_size=round(own.megabytes * 1e6),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    uvicorn.Server(config).run(sockets=[listening])


def end_with_parent() -> None:
    """Ends this process when the one that started it has ended, even if by a kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
