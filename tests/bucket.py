"""A web server on loopback that fails on purpose, as buckets do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Faults:
    """What goes wrong: the first `times` requests for each shard get each of `kinds` in turn.

    Kinds: `503`, `cut` (half of the bytes, then the connection ends), `damaged` (one byte is another one).
    """

    def __init__(self, *kinds: str, slow: float = 0.0) -> None:
        self.kinds, self.slow = kinds, slow
        self.asked: Counter[str] = Counter()

    def of(self, path: str) -> str | None:
        number = self.asked[path]
        self.asked[path] += 1
        return self.kinds[number] if number < len(self.kinds) else None


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, faults: Faults, *arguments: Any, **options: Any) -> None:
        self.faults = faults
        super().__init__(*arguments, **options)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".int16", ".files", ".tar"):
            return super().do_GET()
        time.sleep(self.faults.slow)
        fault = self.faults.of(path.name)
        if fault == "503":
            return self.send_error(503)
        if not path.is_file():
            return self.send_error(404)
        content = bytearray(path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "damaged":
            content[len(content) // 2] ^= 1
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        return None


@contextmanager
def served(folder: Path, faults: Faults | None = None) -> Iterator[str]:
    """The address of a folder."""
    handler = partial(_Handler, faults or Faults(), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
