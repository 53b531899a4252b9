"""The page of `demo`: the answers of `predict`, odd files as sentences, nothing asked of another machine."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import sine, write_wav

import lightning_audio
from lightning_audio.cli import arguments, demo, demo_answers
from lightning_audio.cli.demo_answers import Listener, listens, shown_of, write_examples
from lightning_audio.errors import UserError
from lightning_audio.inference.detections import Detector
from lightning_audio.inference.events import timelines
from lightning_audio.inference.labels import LabelsAbove
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.tasks.base import AudioTask

RATE = 16000


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> AudioTask:
    return lightning_audio.load(tiny_run)


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(3).normal(size=round(seconds * rate)).clip(-3, 3)


def test_a_file_gets_the_answer_of_predict(model: AudioTask, tmp_path: Path) -> None:
    """Three seconds of a run that learned from half a second: with what is heard when."""
    file = write_wav(tmp_path / "a b.wav", noise(3.0, 22050), 22050)
    shown, (answer,) = shown_of(model, file, 60), model.predict([file])
    assert shown.scores == answer.scores
    assert shown.sentence == f"{answer.hypothesis} ({100 * answer.score:.0f} %)"
    (samples,) = [demo_answers.heard(file, RATE, 60)[0]]
    ((_, events),) = timelines(cast(Any, model), [("a", samples)])
    assert shown.rows == [(event.start, event.end, event.label, event.score) for event in events]
    assert shown.picture is not None
    assert shown.picture.shape[2] == 3
    short = shown_of(model, write_wav(tmp_path / "b.wav", noise(0.5), RATE), 60)
    assert short.rows == []
    assert sum(short.scores.values()) == pytest.approx(1, abs=1e-5)


def test_labels_that_do_not_exclude_one_another_are_named_with_their_scores(
    model: AudioTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_wav(tmp_path / "a.wav", noise(0.5), RATE)
    scores = shown_of(model, file, 60).scores
    first, second = sorted(scores, key=lambda label: -scores[label])[:2]
    for threshold, named in ((scores[second], [first, second]), (1.1, [])):
        rule = LabelsAbove([threshold - 1e-6] * len(scores))
        monkeypatch.setattr(type(model), "rule", rule)
        sentence = shown_of(model, file, 60).sentence
        told = {f"{label} ({100 * scores[label]:.0f} %)" for label in named}
        assert set(sentence.split(", ")) == (told or {"No label reaches its threshold."})


def test_speech_gets_its_words_and_their_times(speech_run: Path, tmp_path: Path) -> None:
    task = lightning_audio.load(speech_run)
    samples = (2**14 * noise(2.0, task.sample_rate)).astype(np.int16)
    shown = shown_of(task, write_wav(tmp_path / "a.wav", samples, task.sample_rate), 60)
    (found,) = transcribe(task, [("a", samples)])
    assert shown.sentence == (found.text or "No word was heard.")
    assert shown.rows == [(word.start, word.end, word.text, word.score) for word in found.words]
    assert shown.scores == {}
    assert not listens(task)


@pytest.mark.parametrize("what", ["text", "empty", "long", "nan"])
def test_an_odd_file_is_a_sentence(what: str, model: AudioTask, tmp_path: Path) -> None:
    file = tmp_path / "odd.wav"
    if what == "long":
        write_wav(file, noise(3.0), RATE)
    elif what == "nan":
        soundfile.write(file, np.full(800, np.nan), RATE, subtype="FLOAT")
    else:
        file.write_text("no audio" if what == "text" else "")
    shown = shown_of(model, file, 2.0)
    assert shown.picture is None
    assert shown.scores == {}
    assert str(tmp_path) not in shown.sentence
    expected = {"text": "can't be read", "empty": "it is empty", "long": "longer than 2 s", "nan": "NaN"}
    assert shown.sentence.startswith("odd.wav ")
    assert expected[what] in shown.sentence


class Loud:
    """In place of a stream: a row for every 10 ms, loud or not; keeps what it heard."""

    labels, frame_seconds, sample_rate, transcribes = ("loud", "quiet"), 0.01, RATE, False

    def __init__(self, task: object = None) -> None:
        self.samples = np.zeros(0, np.int16)
        self.rows = 0

    def detector(self, **rules: Any) -> Detector:
        return Detector(self.labels, self.frame_seconds, ignore=["quiet"], **rules)

    def push(self, samples: np.ndarray) -> torch.Tensor:
        self.samples = np.concatenate([self.samples, samples])
        new = self.samples[self.rows * RATE // 100 :]
        new = new[: len(new) // (RATE // 100) * (RATE // 100)].reshape(-1, RATE // 100)
        self.rows += len(new)
        loud = torch.from_numpy(np.sqrt((new.astype(float) ** 2).mean(1)) > 300).float()
        return torch.stack([loud, 1 - loud], 1)

    def finish(self) -> torch.Tensor:
        return torch.zeros(0, 2)


def bursts(rate: int, seconds: float = 4.0) -> np.ndarray:
    """Half a second of a tone at 1 and at 3 seconds."""
    samples = np.zeros(round(seconds * rate))
    for start in (1.0, 3.0):
        samples[round(start * rate) :][: rate // 2] = sine(500, 0.5, rate)
    return samples


def test_a_microphone_in_pieces_is_heard_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_answers, "stream_of", Loud)
    listener, whole = Listener(Loud()), bursts(48000)
    for number, piece in enumerate(np.array_split(whole, 9)):
        listener.push(write_wav(tmp_path / f"{number}.wav", piece, 48000))
    listener.finish()
    assert [label for _, label, _ in listener.found] == ["loud", "loud"]
    assert [time for time, _, _ in listener.found] == pytest.approx([1.0, 3.0], abs=0.011)
    expected = soxr.resample(whole, 48000, RATE) * 32768
    assert len(listener.stream.samples) == len(expected)
    assert np.abs(listener.stream.samples - expected).max() < 3
    listener.push(write_wav(tmp_path / "a.wav", whole[:4800], 48000))
    with pytest.raises(UserError, match="went from 48000 to 8000 Hz"):
        listener.push(write_wav(tmp_path / "b.wav", whole[:800], 8000))


def test_examples_are_never_of_the_test(tiny_run: Path, tmp_path: Path) -> None:
    from lightning_audio.cli.report import data_of

    data = data_of(tiny_run, [])
    assert data is not None
    written = list(write_examples(data, tmp_path, 5))
    train = {clip.labels[0] for clip in data.splits["train"].clips}
    assert len(written) == 5
    assert {name.removesuffix(" (train)") for _, name in written} <= train
    tests = [clip.id for clip in data.splits["test"].clips]
    heard = {soundfile.read(file, dtype="int16")[0].tobytes() for file, _ in written}
    sound = demo_answers.sounds_of(data)
    found = [sound("test", name) for name in tests]
    assert not heard & {samples.tobytes() for samples, _ in filter(None, found)}


def test_mistakes_are_one_sentence(tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        demo.main([str(tiny_run), "--max-seconds", "0"])
    assert "limits above 0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        demo.main([str(tiny_run)])
    assert "pip install 'lightning-audio[demo]'" in capsys.readouterr().err


# In a browser.


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The machines other than this one that the process asks for or speaks to."""
    found: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local(host: Any) -> bool:
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host in (None, "", "localhost", socket.gethostname())

    def connected(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not local(address[0]):
            found.append(str(address[0]))
        return connect(self, address)

    def looked_up(host: Any, *rest: Any, **more: Any) -> Any:
        if not local(host):
            found.append(str(host))
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return found


@pytest.fixture
def opened(tmp_path: Path, elsewhere: list[str]) -> Iterator[Callable[..., str]]:
    """`opened(run, *options, task=None)` is the address of a demo; it asked nothing elsewhere in the end."""
    pages = []

    def open_page(run: Path, *options: str, task: Any = None) -> str:
        given = arguments.demo([str(run), *options])
        gradio = demo.imported(tmp_path)
        page = demo.built(gradio, task or lightning_audio.load(run), given, demo.examples_of(given, tmp_path))
        pages.append(page)
        return demo.opened(page, given)

    pytest.importorskip("gradio", reason="the extra demo is not installed")
    yield open_page
    for page in pages:
        page.close(verbose=False)
    assert elsewhere == []


class Tab:
    """A page of a browser, and whatever it asked for outside of one address."""

    def __init__(self, browser: Any, url: str, width: int = 1100, scheme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 1000}, color_scheme=scheme, permissions=["microphone"]
        )
        self.page = context.new_page()
        self.left: list[str] = []
        self.problems: list[str] = []
        allowed = (url, "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(allowed) else self.left.append(r.url))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#answer textarea", state="attached", timeout=60_000)

    def answer_other_than(self, before: str) -> str:
        script = "before => !['', before].includes(document.querySelector('#answer textarea').value)"
        self.page.wait_for_function(script, arg=before, timeout=60_000)
        return str(self.page.locator("#answer textarea").input_value())

    def upload(self, file: Path, before: str = "") -> str:
        if self.page.locator("button[aria-label='Clear']").count():
            self.page.locator("button[aria-label='Clear']").first.click()
        self.page.set_input_files("input[type=file]", str(file))
        return self.answer_other_than(before)


@pytest.mark.slow
def test_files_and_examples_in_a_browser(
    tiny_run: Path, model: AudioTask, tmp_path: Path, opened: Callable[..., str], chromium: Callable[..., Any]
) -> None:
    url = opened(tiny_run, "--max-seconds", "4", "--max-megabytes", "0.2", "--examples", "3")
    assert url.startswith("http://127.0.0.1:")
    tab = Tab(chromium(), url)
    file = write_wav(tmp_path / "upload.wav", noise(2.0), RATE)
    (answer,) = model.predict([file])
    said = tab.upload(file)
    assert said == f"{answer.hypothesis} ({100 * answer.score:.0f} %)"
    page = tab.page
    shares = page.get_by_text("%", exact=False).all_inner_texts()
    assert any(f"{100 * answer.score:.0f}%" in text.replace(" ", "") for text in shares)
    assert page.locator("img[alt*='spectrogram']").count() == 1
    (odd := tmp_path / "odd.wav").write_text("no audio at all")
    said = tab.upload(odd, said)
    assert said.startswith("odd.wav can't be read")
    said = tab.upload(write_wav(tmp_path / "long.wav", noise(5.0), RATE), said)
    assert "longer than 4 s" in said
    page.get_by_role("button", name="(train)").first.click()
    assert "%" in tab.answer_other_than(said)
    page.locator("button[aria-label='Clear']").first.click()
    page.set_input_files("input[type=file]", str(write_wav(tmp_path / "large.wav", noise(7.0), RATE)))
    page.get_by_text("exceed", exact=False).first.wait_for(timeout=20_000)
    assert (tab.left, tab.problems) == ([], [])


@pytest.mark.slow
def test_a_microphone_in_a_browser(
    tiny_run: Path,
    speech_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: Callable[..., str],
    chromium: Callable[..., Any],
) -> None:
    """A recording is answered, whatever kind of run; a stream is heard while it goes on."""
    played = write_wav(tmp_path / "played.wav", bursts(48000, 4.0), 48000)
    browser = chromium(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={played}",
    )
    for run in (tiny_run, speech_run):
        tab = Tab(browser, opened(run, "--examples", "0"))
        tab.page.locator("button[aria-label='Record audio']").click()
        tab.page.get_by_role("button", name="Record", exact=True).click()
        tab.page.wait_for_timeout(1500)
        tab.page.get_by_role("button", name="Stop", exact=True).click()
        assert tab.answer_other_than("")
        assert (tab.left, tab.problems) == ([], [])
        tab.page.close()
    monkeypatch.setattr(demo_answers, "stream_of", Loud)
    tab = Tab(browser, opened(tiny_run, "--examples", "0", task=Loud()))
    tab.page.get_by_role("tab", name="Live").click()
    tab.page.get_by_role("button", name="Record", exact=True).last.click()
    twice = "document.querySelector('#detected').innerText.split('loud').length > 2"
    tab.page.wait_for_function(twice, timeout=60_000)
    assert (tab.left, tab.problems) == ([], [])


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_removes_what_was_recorded(tiny_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_audio", "demo", str(tiny_run), "--examples", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        (url,) = re.findall(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(url, timeout=30) as page:
            assert b"gradio" in page.read()
        assert any("demo" in folder.name for folder in tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.returncode == 130
    assert not [folder for folder in tmp_path.iterdir() if "demo" in folder.name]
