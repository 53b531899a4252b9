"""The example in a browser says of files what the runtime in Python says."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_export import LOG_MEL, RATE, task_of

from lightning_audio import Runtime
from lightning_audio.cli import export
from lightning_audio.export.onnx import onnx_graph, stream_graph
from lightning_audio.export.streaming import RuntimeStream

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"

pytest.importorskip("onnxruntime", reason="pip install 'lightning-audio[export]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir(), reason="npm install in examples/browser"
    ),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a folder with the example, on this computer alone."""
    for file in EXAMPLE.iterdir():
        (tmp_path / file.name).symlink_to(file)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        server.shutdown()


def clips(folder: Path, count: int, seconds: float) -> list[Path]:
    """Files of noise of all lengths up to these seconds."""
    rng, files = np.random.default_rng(0), []
    for number in range(count):
        samples = 0.2 * rng.standard_normal(round(rng.uniform(0.05, seconds) * RATE)) * rng.uniform(0.1, 1)
        files.append(folder / f"{number:02d}.wav")
        soundfile.write(files[-1], np.clip(samples, -1, 1), RATE, subtype="PCM_16")
    return files


def heard(chromium: Callable[..., Any], address: str, files: list[Path]) -> list[list[str]]:
    """The rows of the table once all files were heard; nothing is asked of other hosts."""
    page, asked = chromium().new_page(), set[str]()
    page.on("request", lambda request: asked.add(request.url.split("/")[2]))
    page.goto(address)
    page.wait_for_selector("#files:not([disabled])", timeout=60_000)
    page.set_input_files("#files", files)
    page.wait_for_function("document.getElementById('status').textContent.includes('were heard')")
    assert asked == {address.split("/")[2]}
    rows = page.query_selector_all("#heard tr")
    return [[cell.inner_text() for cell in row.query_selector_all("td")] for row in rows]


@pytest.mark.parametrize(
    "kind", ["best", "above", "keyword"], ids=["one label", "several labels", "a keyword"]
)
def test_twenty_clips_are_named_as_by_python(
    kind: str, served: str, tmp_path: Path, chromium: Callable[..., Any]
) -> None:
    """Some of them are longer than a window."""
    parts: dict[str, Any] = {}
    if kind == "above":
        parts = {"task": {"_target_": "lightning_audio.tasks.multilabel.MultiLabel"}}
    if kind == "keyword":
        network = {"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True}
        trigger = {"_target_": "lightning_audio.tasks.trigger.Trigger", "background": [" ", "b"]}
        parts = {"frontend": LOG_MEL | {"top_db": None}, "network": network, "task": trigger}
    task = task_of(**parts)
    export.write(tmp_path / "a.onnx", onnx_graph(task), export.described(task, tmp_path / "none"))
    files = clips(tmp_path, 20, 2.0)
    runtime = Runtime(tmp_path / "a.onnx", threads=1)
    assert runtime.card["rule"]["kind"] == kind
    wanted = runtime.predict(files)
    rows = heard(chromium, f"{served}?model=a.onnx", files)
    assert [row[0] for row in rows] == [file.name for file in files]
    assert [row[2] for row in rows] == [answer.hypothesis or "nothing" for answer in wanted]
    assert [float(row[3]) for row in rows] == pytest.approx([answer.score for answer in wanted], abs=1e-4)
    assert any(answer.windows for answer in wanted)


def test_keywords_are_spotted_when_python_does(
    served: str, tmp_path: Path, chromium: Callable[..., Any]
) -> None:
    network = {"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True}
    trigger = {"_target_": "lightning_audio.tasks.trigger.Trigger", "background": [" "], "threshold": 0.26}
    task = task_of(frontend=LOG_MEL | {"top_db": None}, network=network, task=trigger)
    content, told = stream_graph(task)
    card = export.described(task, tmp_path / "none") | told
    card["stream"]["detection"] = task.detection
    export.write(tmp_path / "a.onnx", content, card)
    rng = np.random.default_rng(0)
    loud = np.repeat(rng.uniform(0.01, 1, 50), RATE // 10)  # changes ten times a second
    samples = (3000 * loud * rng.standard_normal(len(loud))).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    stream = RuntimeStream(Runtime(tmp_path / "a.onnx", threads=1))
    scores = stream.push(samples)[25:, 2]  # of the label that is likeliest, once the state has settled
    on, off = (float(np.quantile(scores, share)) for share in (0.7, 0.5))
    card["stream"]["detection"] = {"on": on, "off": off, "min_gap": 0.2, "smooth": 3, "ignore": [" "]}
    export.write(tmp_path / "a.onnx", content, card)
    stream = RuntimeStream(Runtime(tmp_path / "a.onnx", threads=1))
    wanted = stream.detector().push(stream.push(samples))
    rows = heard(chromium, f"{served}?model=a.onnx", [tmp_path / "a.wav"])
    assert len(wanted) > 3
    assert [row[2] for row in rows] == [one.label for one in wanted]
    assert [float(row[1]) for row in rows] == pytest.approx([one.time for one in wanted], abs=1e-3)
    assert [float(row[3]) for row in rows] == pytest.approx([one.score for one in wanted], abs=1e-4)
