"""A server gives the answers of `predict`, one for each request, and refuses what it can't take."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import sine

import lightning_audio
from lightning_audio import Runtime
from lightning_audio.cli import export, serve
from lightning_audio.errors import UserError
from lightning_audio.export.onnx import stream_graph
from lightning_audio.inference.formats import live_fields
from lightning_audio.inference.live import LiveText
from lightning_audio.serving import app as app_module
from lightning_audio.serving.metrics import BUCKETS, Metrics

pytest.importorskip("onnxruntime", reason="pip install 'lightning-audio[export]'")
pytest.importorskip("uvicorn", reason="pip install 'lightning-audio[serve]'")
testclient = pytest.importorskip("starlette.testclient", reason="pip install httpx")

RATE = 16000


def server(exported: Path, **limits: Any) -> app_module.Server:
    return app_module.Server(Runtime(exported, threads=1), app_module.Limits(**limits))


@pytest.fixture
def client(exported: Path) -> Iterator[Any]:
    with testclient.TestClient(server(exported, megabytes=0.3, max_seconds=4.0).app()) as one:
        yield one


def wav(samples: np.ndarray, rate: int = RATE, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form)
    return file.getvalue()


def clips() -> list[bytes]:
    """Files of several lengths, rates and formats."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(3 * RATE)
    return [
        wav(sine(400, 0.7, 22050), 22050),
        wav(noise, form="FLAC"),
        wav(sine(3000, 1.0, RATE), form="OGG"),
        wav(noise[:5000]),
        wav(np.stack([noise[:RATE], noise[:RATE]], 1)),
    ]


@pytest.mark.parametrize("kind", ["exported", "exported_speech"])
def test_answers_are_those_of_predict(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Many at a time, which are answered together, and each has its own."""
    file = request.getfixturevalue(kind)
    runtime, wanted = Runtime(file, threads=1), []
    for number, content in enumerate(clips()):
        (tmp_path / f"{number}.audio").write_bytes(content)
        wanted += runtime.predict(tmp_path / f"{number}.audio")
    one = server(file)
    with testclient.TestClient(one.app()) as client, ThreadPoolExecutor(8) as threads:
        bodies = clips() * 8
        found = list(threads.map(lambda body: client.post("/predict", content=body), bodies))
    for own, response in zip(wanted * 8, found, strict=True):
        assert response.status_code == 200
        answer = response.json()
        assert (answer["hypothesis"], answer["seconds"]) == (own.hypothesis, own.seconds)
        assert answer["scores"] == pytest.approx(own.scores, abs=1e-5)
        assert answer["score"] == pytest.approx(own.score, abs=1e-3)
        assert [window[:3] for window in answer["windows"]] == [[*window[:3]] for window in own.windows]
    assert one.metrics.counts["answers_total"] == len(bodies) > one.metrics.counts["batches_total"]
    assert one.metrics.requests == {200: len(bodies)}


def test_what_is_no_audio_or_too_much_is_refused_in_a_sentence(client: Any) -> None:
    seconds = np.zeros(5 * RATE)
    cases: tuple[tuple[int, str, bytes, dict[str, str]], ...] = (
        (400, "can't be read as an audio file: it is empty", b"", {}),
        (400, "can't be read as an audio file", b"RIFF no audio at all" * 40, {}),
        (413, "longer than 4 s", wav(seconds, form="FLAC"), {}),
        (413, "more than 0.3 MB", b"0" * 300_001, {}),
        (415, "--data-binary", b"--x", {"content-type": "multipart/form-data; boundary=x"}),
    )
    for status, words, content, headers in cases:
        response = client.post("/predict", content=content, headers=headers)
        assert response.status_code == status
        assert words in response.json()["error"]
    chunks = (b"0" * 100_000 for _ in range(4))  # a body whose length nobody told
    assert client.post("/predict", content=chunks).status_code == 413
    assert client.get("/predict").status_code == 405
    assert client.post("/predict", content=wav(np.zeros(800))).status_code == 200  # it goes on
    told = client.get("/metrics").text
    assert 'lightning_audio_requests_total{status="413"} 3' in told
    assert "lightning_audio_requests_in_progress 0" in told
    assert client.get("/health").json() == {"status": "ok", "model": "demo.onnx"}


def test_what_is_odd_about_a_file_is_told_to_the_client(client: Any) -> None:
    """Nobody but the server reads its log."""
    tone = sine(400, 1.0, RATE)
    whole = client.post("/predict", content=wav(tone)).json()
    assert "remarks" not in whole
    for content, words in (
        (wav(tone)[:20_000], "of its end are missing; what is there is read"),
        (wav(np.stack([tone, -tone], 1)), "take one of them"),
    ):
        answer = client.post("/predict", content=content).json()
        (remark,) = answer["remarks"]
        assert words in remark
        assert answer.keys() - whole.keys() == {"remarks"}


def test_beyond_the_limit_clients_are_told_to_come_again(exported: Path) -> None:
    one = server(exported, concurrency=2)
    free = threading.Event()
    answers = one.runtime.predict_recordings

    def slow(*arguments: Any) -> Any:
        free.wait(10)
        return answers(*arguments)

    def post() -> Any:
        return own.post("/predict", content=wav(np.zeros(800)))

    one.runtime.predict_recordings = slow  # type: ignore[method-assign,assignment]
    with testclient.TestClient(one.app()) as own, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(post) for _ in range(2)]
        while one.metrics.gauges["requests_in_progress"] < 2:
            time.sleep(0.01)
        refused = post()
        with own.websocket_connect("/stream") as socket:
            assert "try again later" in socket.receive_json()["error"]
        assert own.get("/health").status_code == 200
        free.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert post().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "2 requests are being answered" in refused.json()["error"]


def test_one_that_can_not_be_answered_costs_the_others_nothing(exported: Path) -> None:
    one = server(exported)
    answers = one.runtime.clip_scores

    def failing(given: Any) -> Any:
        if any(len(clip) == 77 for clip in given):
            raise MemoryError
        return answers(given)

    one.runtime.clip_scores = failing  # type: ignore[method-assign,assignment]
    found = one.batches._answers([np.zeros(n, np.int16) for n in (800, 77, 900)])
    assert [type(answer).__name__ for answer in found] == ["Prediction", "RuntimeError", "Prediction"]


def test_windows_of_a_stream_are_answered_as_they_come(client: Any, exported: Path) -> None:
    runtime = Runtime(exported, threads=1)
    size = round(runtime.clip_seconds * RATE)
    samples = (3000 * np.random.default_rng(0).standard_normal(2 * size + 500)).astype("<i2")
    places = [(0, size), (size // 2, size // 2 + size), (size, 2 * size), (3 * size // 2, len(samples))]
    wanted = [runtime.predict(samples[slice(*place)], sample_rate=RATE)[0] for place in places]
    with client.websocket_connect("/stream") as socket:
        for piece in np.array_split(samples, 7):
            content = piece.tobytes()
            socket.send_bytes(content[:101])  # a sample may come in two pieces
            socket.send_bytes(content[101:])
        found = [socket.receive_json() for _ in range(3)]
        socket.send_text("end")
        found.append(socket.receive_json())
    assert [(one["start"] * RATE, one["end"] * RATE) for one in found] == places
    for own, other in zip(wanted, found, strict=True):
        assert (other["label"], other["score"]) == (own.hypothesis, pytest.approx(own.score, abs=1e-5))


def test_detections_and_transcripts_of_a_stream(exported_speech: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
    from test_export import LOG_MEL, export_options, speech_of, task_of

    task = task_of(
        RATE,
        frontend=LOG_MEL | {"top_db": None},
        network={"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True},
        task={"_target_": "lightning_audio.tasks.trigger.Trigger", "background": [" "], "threshold": 0.26},
    )
    content, told = stream_graph(task)
    told["stream"]["detection"] = task.detection
    export.write(tmp_path / "a.onnx", content, export.described(task, tmp_path / "none") | told)
    samples = (3000 * np.random.default_rng(0).standard_normal(3 * RATE)).astype("<i2")
    wanted = task.detector().push(np.concatenate([*heard(tmp_path / "a.onnx", samples)]))
    with testclient.TestClient(server(tmp_path / "a.onnx").app()) as client:
        with client.websocket_connect("/stream") as socket:
            for piece in np.array_split(samples, 50):
                socket.send_bytes(piece.tobytes())
            socket.send_text("end")
            found = [socket.receive_json() for _ in wanted]
        assert len(wanted) > 0
        assert [(one["time"], one["label"]) for one in found] == [(one.time, one.label) for one in wanted]
        with client.websocket_connect("/stream") as socket:
            socket.send_bytes(wav(np.zeros(800)))
            assert "begins as a WAV file" in socket.receive_json()["error"]
        with client.websocket_connect("/stream?rate=fast") as socket:
            assert "rate=fast is no rate" in socket.receive_json()["error"]
        with client.websocket_connect("/stream") as socket:
            socket.send_text("END")
            assert "the text `end` behind" in socket.receive_json()["error"]
        response = client.post("/predict", content=wav(np.zeros(800)))
        assert response.status_code == 400
        assert "exported for streams" in response.json()["error"]
    export.write_streaming(speech_of("bilstm", "ctc"), export_options(tmp_path / "words.onnx"))
    text = LiveText(Runtime(tmp_path / "words.onnx", threads=1))
    words = [one for piece in np.array_split(samples, 50) for one in text.push(piece)] + text.finish()
    with (
        testclient.TestClient(server(tmp_path / "words.onnx").app()) as client,
        client.websocket_connect("/stream") as socket,
    ):
        for piece in np.array_split(samples, 50):
            socket.send_bytes(piece.tobytes())
        socket.send_text("end")
        assert [socket.receive_json() for _ in words] == [live_fields(one) for one in words]
    assert len(words) > 0
    (own,) = Runtime(exported_speech, threads=1).predict(samples, sample_rate=RATE)
    with (
        testclient.TestClient(server(exported_speech, max_seconds=3.0).app()) as client,
        client.websocket_connect(f"/stream?rate={Runtime(exported_speech).sample_rate}") as socket,
    ):
        socket.send_bytes(np.zeros(10, "<i2").tobytes())
        socket.send_text("end")
        assert socket.receive_json()["text"] == ""
    assert own.hypothesis is not None


def heard(file: Path, samples: np.ndarray) -> Iterator[np.ndarray]:
    from lightning_audio.export.streaming import RuntimeStream

    stream = RuntimeStream(Runtime(file, threads=1))
    yield stream.push(samples)
    yield stream.finish()


def test_metrics_are_what_prometheus_reads() -> None:
    metrics = Metrics()
    for status, seconds in ((200, 0.004), (200, 0.3), (503, 99.0)):
        metrics.request(status, seconds)
    lines = metrics.text().splitlines()
    pattern = r'(# TYPE \w+ (counter|gauge|histogram)|\w+(\{\w+="[^"]+"\})? [0-9.e+]+)'
    assert all(re.fullmatch(pattern, line) for line in lines)
    buckets = [int(line.rsplit(" ", 1)[1]) for line in lines if "_bucket" in line]
    assert len(buckets) == len(BUCKETS) + 1
    assert (buckets[0], buckets[5], buckets[-1]) == (1, 2, 3)
    assert sorted(buckets) == buckets
    assert float(next(line for line in lines if "seconds_sum" in line).split()[1]) == pytest.approx(99.304)


def test_a_killed_process_comes_back_without_torch(exported: Path) -> None:
    """The real program: at a free port, on this computer alone; it ends on SIGTERM with what it started."""
    code = "import sys; sys.modules['torch'] = None\nfrom lightning_audio.cli import serve\nserve.main()"
    source = {"PYTHONPATH": str(Path(lightning_audio.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(exported), "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **source}
    ) as process:
        try:
            assert process.stdout is not None
            place = process.stdout.readline().rsplit(" ", 1)[1].strip()
            assert place.startswith("http://127.0.0.1:")
            answer = asked(place)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            if not children.is_file():
                pytest.skip("the system does not tell which process is whose")
            before = worker_of(children)
            os.kill(before, signal.SIGKILL)
            assert asked(place) == answer  # the connection waits for the next process
            assert worker_of(children) != before
        finally:
            process.terminate()
        assert process.wait(20) == 143
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{place}/health", timeout=5)


def worker_of(children: Path) -> int:
    """The process that answers, beside which Python may have one that looks after what is shared."""
    found = [int(one) for one in children.read_text().split()]
    return next(one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes())


def asked(place: str) -> Any:
    request = urllib.request.Request(f"{place}/predict", data=wav(sine(400, 0.7, RATE)), method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_mistakes_are_one_sentence(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            serve.main([*arguments])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "There is no ONNX file" in refused(str(tmp_path / "none.onnx"))
    assert "set them above 0" in refused(str(exported), "--concurrency", "0")
    with serve.bound("127.0.0.1", 0) as taken:
        assert "choose another --port" in refused(str(exported), "--port", str(taken.getsockname()[1]))
    monkeypatch.setattr(serve, "work", os._exit)
    monkeypatch.setattr(serve.multiprocessing, "get_context", lambda kind: serve.multiprocessing)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'lightning-audio[serve]'" in refused(str(exported))


@pytest.mark.parametrize("limit", ["nan", "inf", "-1"])
def test_limits_are_finite(limit: str, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("--megabytes", "--max-seconds"):
        with pytest.raises(SystemExit):
            serve.main([str(exported), name, limit])
        assert "are limits" in capsys.readouterr().err


def test_threads_and_names_that_are_none_are_refused(exported: Path) -> None:
    for threads in (-1, 10**10):
        with pytest.raises(UserError, match=f"{threads} threads are none"):
            Runtime(exported, threads=threads)
    with pytest.raises(UserError, match="choose another --port or --host"):
        serve.bound("a" * 300, 0)


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_who_leaves_a_stream_is_no_failure(
    client: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback in the log for each client that closes; one, and a sentence, for what fails here."""
    with client.websocket_connect("/stream") as socket:
        socket.send_bytes(b"\0" * 10)
    with client.websocket_connect(f"/stream?rate={'9' * 5000}") as socket:
        assert "is no rate between" in socket.receive_json()["error"]
    assert "lightning_audio_streams_open 0" in client.get("/metrics").text
    assert not failures(caplog)

    def failing(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(app_module, "listener_of", failing)
    with client.websocket_connect("/stream") as socket:
        assert "The server failed at this stream" in socket.receive_json()["error"]
    (record,) = failures(caplog)
    assert record.exc_info
    assert "lightning_audio_requests_in_progress 0" in client.get("/metrics").text


def test_a_file_without_a_sample_at_the_rate_of_the_model_is_refused(client: Any) -> None:
    response = client.post("/predict", content=wav(np.array([0.5]), 48_000))
    assert response.status_code == 400
    assert "shorter than a sample at 16000 Hz" in response.json()["error"]
    form = {"content-type": "Multipart/Form-Data; boundary=x"}
    assert client.post("/predict", content=b"--x", headers=form).status_code == 415


def test_a_model_that_was_replaced_by_another_file_is_told_in_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], exported: Path
) -> None:
    """Of the process that starts anew."""
    (tmp_path / "a.onnx").write_bytes(b"something else")
    with serve.bound("127.0.0.1", 0) as listening, pytest.raises(UserError, match="ended 3 times"):
        serve.watch(listening, tmp_path / "a.onnx", 1, (1.0, 1.0, 1))
    told = capfd.readouterr().err
    assert told.count("error: ") == told.count("is no ONNX file") == 3
    assert "Traceback" not in told


def test_who_sends_too_slowly_for_a_server_that_ends_is_told(exported: Path, tmp_path: Path) -> None:
    """By an answer that is counted, and no traceback."""
    one = server(exported)
    one.folder = tmp_path

    async def cancelled() -> Any:
        scope = {"type": "http", "method": "POST", "headers": [], "path": "/predict", "query_string": b""}
        request = app_module.Request(scope, receive=asyncio.Event().wait)  # type: ignore[arg-type]
        waiting = asyncio.create_task(one.predict(request))
        await asyncio.sleep(0.05)
        assert one.metrics.gauges["requests_in_progress"] == 1
        waiting.cancel()
        return await waiting

    response = asyncio.run(cancelled())
    assert (response.status_code, one.metrics.requests) == (503, {503: 1})
    assert "The server ends" in response.body.decode()
    assert one.metrics.gauges["requests_in_progress"] == 0
