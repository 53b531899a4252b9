"""A stream gives the scores of the whole, whatever it is cut into, and detections as they come."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import soundfile
import soxr
import torch
from conftest import sine, write_wav
from torch import Tensor, nn

from lightning_audio import build
from lightning_audio.cli import predict
from lightning_audio.data.batch import samples_to_float
from lightning_audio.data.decode import resample
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.inference import stream as stream_module
from lightning_audio.inference.detections import Detector, RawAudio, raw_audio
from lightning_audio.inference.events import events
from lightning_audio.inference.stream import Stream, WindowStream
from lightning_audio.networks.base import Network
from lightning_audio.tasks.base import AudioTask

RATE = 8000
LABELS = ["low", "high", "_silence_"]
FRONTEND: dict[str, Any] = {"n_fft": 256, "hop_length": 80, "n_mels": 8, "top_db": None}


# Networks that do not look ahead.


class Causal(Network):
    """A GRU on every `stride`-th frame, `(B, F, T)` or `(B, C, F, T)`; logits for each of them."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_shape[0] * in_shape[1])
        self.gru = nn.GRU(in_shape[0] * in_shape[1], 8, batch_first=True)
        self.head = nn.Linear(8, num_outputs)
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(x, None)[0], (lengths - 1) // self.stride + 1

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, passed = state or (None, 0)
        kept = x[..., -passed % self.stride :: self.stride].flatten(1, -2).mT
        if kept.shape[1]:
            y, hidden = self.gru(self.norm(kept), hidden)
        else:
            y = kept.new_zeros(len(kept), 0, 8)
        return 10 * self.head(y), (hidden, passed + x.shape[-1])


class Tones(Network):
    """Logits `(B, T, 3)`: is there sound in the lower half of the bands, in the upper one, or in neither."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(x, None)[0], lengths

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        low, high = (half.amax(1) for half in x.chunk(2, dim=1))
        return torch.stack([low, high, torch.full_like(low, -20.0)], dim=-1), state


class Whole(Network):
    """Looks at a clip from its end to its beginning."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int) -> None:
        super().__init__()

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise NotImplementedError


def task_of(
    network: str = "Causal",
    frontend: str = "log_mel.LogMel",
    normalize: str = "corpus",
    stride: int = 1,
    **options: Any,
) -> AudioTask:
    torch.manual_seed(0)
    answering = {
        "frontend": {"_target_": f"lightning_audio.frontend.{frontend}", **options},
        "normalize": normalize,
        "network": {"_target_": f"{__name__}.{network}"} | ({"stride": stride} if stride > 1 else {}),
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    task = build.assemble(answering, DataInfo(tuple(LABELS), RATE, 1.0))
    if normalize != "none":
        task.normalize.mean.normal_(-30, 5)
        task.normalize.std.uniform_(10, 20)
    return task.eval()


def audio(size: int, seed: int = 0) -> np.ndarray:
    """int16 samples of noise that swells and fades, with digital silence between."""
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(size) / 1500).clip(0) ** 2
    return (rng.normal(0, 0.1, size) * swell * 32767).astype(np.int16)


@torch.no_grad()
def scores_of_whole(task: AudioTask, samples: np.ndarray) -> Tensor:
    """Of every frame; a clip task itself would take their mean."""
    waveforms = samples_to_float(torch.from_numpy(samples)[None])
    features, frames = task.normalize(*task.frontend(waveforms, torch.tensor([len(samples)])))
    return task.label_scores(task.network(features, frames)[0])[0]


def in_pieces(stream: Stream | WindowStream, samples: np.ndarray, seed: int) -> Tensor:
    """Scores of samples that are pushed in pieces of one sample to seconds, and sometimes of none."""
    rng = np.random.default_rng(seed)
    scores, start = [], 0
    while start < len(samples):
        size = int(rng.integers(0, rng.choice([1, 2, 3, 100, 500, 20000])))
        scores.append(stream.push(samples[start : start + size]))
        start += size
    return torch.cat([*scores, stream.finish()])


@torch.no_grad()
@pytest.mark.parametrize("size", [20001, 1600, 1, 0])
def test_a_window_stream_hears_the_last_seconds_again_and_again(size: int) -> None:
    """Row k is the answer to the window that ends at k hops, silence around the recording."""
    task, samples = task_of(**FRONTEND, normalize="per_clip"), audio(size)
    stream = WindowStream(task, window=0.5, hop=0.1)
    assert stream.frame_seconds == 0.1
    rows = -(-size // 800) + 1
    padded = np.concatenate([np.zeros(4000, np.int16), samples, np.zeros(800, np.int16)])
    windows = np.stack([padded[800 * row :][:4000] for row in range(rows)])
    expected = task.label_scores(task(torch.from_numpy(windows), torch.full((rows,), 4000))[0])
    for seed in range(2):  # what is pushed behind the end is another recording
        torch.testing.assert_close(in_pieces(stream, samples, seed), expected, rtol=0, atol=1e-5)
    if size > 20000:
        assert float(expected.std(0).max()) > 0.01
    with pytest.raises(UserError, match="resample it on its way"):
        stream.push(samples, 16000)


MEL: dict[str, dict[str, Any]] = {
    "log_mel": FRONTEND,
    "odd": FRONTEND | {"n_fft": 255},
    "hop above window": FRONTEND | {"n_fft": 128, "hop_length": 200},
    "short window": FRONTEND | {"win_length": 150},
    "three windows": FRONTEND | {"win_length": [100, 200, 256]},
    "bins": FRONTEND | {"normalize": "per_feature"},
    "as it is": FRONTEND | {"normalize": "none"},
    "mfcc": FRONTEND | {"frontend": "mfcc.MFCC", "n_mfcc": 5},
    "every third frame": FRONTEND | {"stride": 3},
}


@pytest.mark.parametrize("options", MEL.values(), ids=MEL)
def test_a_stream_in_pieces_gives_the_scores_of_the_whole(options: dict[str, Any]) -> None:
    task = task_of(**options)
    for seed, size in enumerate((30001, 24000, 200, 80, 79, 1)):
        samples = audio(size, seed)
        expected = scores_of_whole(task, samples)
        frames = (size - options["n_fft"] % 2) // options["hop_length"]
        assert len(expected) == frames // options.get("stride", 1) + 1
        if size > 20000:
            assert float(expected.std(0).max()) > 0.01  # the scores say something of the sound
        found = in_pieces(Stream(task), samples, seed)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_floats_are_the_same_samples() -> None:
    task, samples = task_of(**FRONTEND), audio(20000)
    expected = scores_of_whole(task, samples)
    for dtype in (np.float32, np.float64):
        found = in_pieces(Stream(task), (samples / 32768).astype(dtype), 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_rows_come_as_soon_as_their_samples_are_there() -> None:
    stream = Stream(task_of(**FRONTEND))
    assert stream.frame_seconds == 80 / RATE
    # Frame 0 ends half a transform behind the first sample, and each of the others a hop later.
    pushed = [len(stream.push(audio(size))) for size in (127, 1, 79, 1, 160, 0)]
    assert pushed == [0, 1, 0, 1, 2, 0]
    # 368 samples have 5 frames: the last one waits for the end.
    assert len(stream.finish()) == 1
    assert Stream(task_of(stride=4, **FRONTEND)).frame_seconds == 4 * 80 / RATE


def test_streams_of_one_task_do_not_disturb_each_other_and_begin_anew() -> None:
    task = task_of(**FRONTEND).train()
    first, second = Stream(task), Stream(task)
    assert not task.training
    one, other = audio(9000, 1), audio(9000, 2)
    expected = [scores_of_whole(task, samples) for samples in (one, other)]
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start in range(0, 9000, 1000):
        found[0].append(first.push(one[start : start + 1000]))
        found[1].append(second.push(other[start : start + 1000]))
    torch.testing.assert_close(torch.cat([*found[0], first.finish()]), expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([*found[1], second.finish()]), expected[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(in_pieces(first, other, 3), expected[1], rtol=0, atol=1e-4)


def test_a_long_piece_runs_through_the_task_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LONGEST_PIECE", 0.5)
    task = task_of(**FRONTEND)
    samples, frames = audio(30000), []
    stream = Stream(task)
    task.normalize.register_forward_hook(lambda _, inputs, __: frames.append(inputs[0].shape[-1]))
    found = torch.cat([stream.push(samples), stream.finish()])
    assert max(frames) == 0.5 * RATE / 80
    torch.testing.assert_close(found, scores_of_whole(task, samples), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (FRONTEND | {"top_db": 80.0}, r"top_db=80 .* train with frontend\.top_db=null"),
        (
            FRONTEND | {"frontend": "mfcc.MFCC", "n_mfcc": 5, "top_db": 80.0},
            r"train with frontend\.top_db=null",
        ),
        (FRONTEND | {"normalize": "per_clip"}, "normalize=per_clip measures .* train with normalize=corpus"),
        (FRONTEND | {"normalize": "per_clip_cmn"}, "normalize=per_clip_cmn measures .* normalize=corpus"),
        (
            {"frontend": "waveform.Waveform"},
            "front end Waveform does not run on a stream: train with frontend=log_mel",
        ),
        (
            FRONTEND | {"network": "Whole"},
            "Whole needs the whole recording.*: train one .*network=gru",
        ),
    ],
)
def test_what_needs_the_whole_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Stream(task_of(**options))


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (np.zeros((10, 2), np.int16), r"one channel as int16 or float, not int16 of shape \(10, 2\)"),
        (np.zeros(10, np.int32), "not int32"),
        (np.array([0.0, np.nan]), "no numbers"),
        (np.array([0.0, 3000.0]), r"far beyond \[-1, 1\]"),
        ([0.1, 0.2], "not list"),
    ],
)
def test_samples_of_another_kind_are_one_sentence(samples: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Stream(task_of(**FRONTEND)).push(samples)


# Detections.


def detected(scores: list[list[float]], **options: Any) -> list[tuple[float, str, float]]:
    labels = ["a", "b", "_silence_"][: len(scores[0])]
    found = Detector(labels, 0.5, **options).push(np.array(scores, np.float32))
    return [(d.time, d.label, round(d.score, 6)) for d in found]


ROWS = [[0.1, 0.0], [0.6, 0.0], [0.4, 0.9], [0.7, 0.9], [0.2, 0.1], [0.8, 0.0], [0.0, 0.0], [0.9, 1.0]]


def test_a_label_is_detected_when_it_goes_on() -> None:
    found = detected(ROWS, min_gap=0)
    assert found == [(0.5, "a", 0.6), (1.0, "b", 0.9), (2.5, "a", 0.8), (3.5, "a", 0.9), (3.5, "b", 1.0)]


def test_a_label_counts_again_after_the_gap() -> None:
    found = detected(ROWS, min_gap=2.5)
    # The one at 2.5 s is too near to that at 0.5 s, and starts no gap of its own.
    assert [(time, label) for time, label, _ in found] == [(0.5, "a"), (1.0, "b"), (3.5, "a"), (3.5, "b")]


def test_scores_are_smoothed_over_the_last_rows() -> None:
    rows = [[0.8], [0.1], [0.9], [0.6], [0.0]]
    # The means over up to two rows: 0.8, 0.45, 0.5, 0.75, 0.3.
    assert detected(rows, smooth=2, min_gap=0, on=0.5, off=0.48) == [(0.0, "a", 0.8), (1.0, "a", 0.5)]
    assert detected(rows, smooth=5, min_gap=0, on=0.9, off=0.1) == []


def test_a_label_that_is_ignored_is_not_detected() -> None:
    rows = [[0.9, 0.0, 0.9], [0.0, 0.9, 0.9]]
    assert [label for _, label, _ in detected(rows)] == ["a", "_silence_", "b"]
    assert [label for _, label, _ in detected(rows, ignore=["_silence_"])] == ["a", "b"]
    with pytest.raises(UserError, match="no label '_silense_' to ignore"):
        detected(rows, ignore=["_silense_"])


@pytest.mark.parametrize("smooth", [1, 4])
def test_rows_one_by_one_give_the_detections_of_all_at_once(smooth: int) -> None:
    scores = torch.rand(400, 3, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"on": 0.6, "off": 0.45, "min_gap": 0.05, "smooth": smooth}
    expected = Detector("abc", 0.01, **options).push(scores.numpy())
    assert len(expected) > 20
    detector, found = Detector("abc", 0.01, **options), []
    for part in scores.split([1, 0, 2, 1, 96, 300]):
        found += detector.push(part.numpy())
    assert found == expected


def test_detections_are_the_starts_of_events() -> None:
    scores = torch.rand(400, 3, generator=torch.Generator().manual_seed(2))
    starts = {(event.start, event.label) for event in events(scores.numpy(), 0.01, "abc", on=0.8, off=0.4)}
    found = Detector("abc", 0.01, on=0.8, off=0.4, min_gap=0).push(scores.numpy())
    assert {(detection.time, detection.label) for detection in found} == starts


@pytest.mark.parametrize("options", [{"min_gap": -1}, {"smooth": 0}, {"on": 0.2}, {"off": 0}])
def test_options_that_do_not_fit_are_one_sentence(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="set"):
        Detector("abc", 0.01, **options)


# Raw audio.


def test_raw_audio_comes_in_chunks_of_20_ms(capsys: pytest.CaptureFixture[str]) -> None:
    samples = audio(1000)
    chunks = list(raw_audio(io.BytesIO(samples.tobytes()), RATE, RATE))
    assert [len(chunk) for chunk in chunks[:-1]] == [160] * 6
    assert np.array_equal(np.concatenate(chunks), samples)
    assert capsys.readouterr().err == ""
    cut = list(raw_audio(io.BytesIO(samples.tobytes() + b"\x01"), RATE, RATE))
    assert np.array_equal(np.concatenate(cut), samples)
    assert capsys.readouterr().err.startswith("warning: the stream ended within a sample")
    assert list(raw_audio(io.BytesIO(b""), RATE, RATE)) == []


@pytest.mark.parametrize("rate", [16000, 44100, 4000])
def test_other_rates_are_resampled_as_whole_files_are(rate: int) -> None:
    samples = audio(rate)
    found = np.concatenate(list(raw_audio(io.BytesIO(samples.tobytes()), rate, RATE)))
    expected = resample(samples, rate, RATE)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_an_audio_file_is_no_raw_audio(suffix: str, tmp_path: Path) -> None:
    file = write_wav(
        tmp_path / f"a{suffix}", sine(440, 0.1, RATE), RATE, "PCM_16" if suffix != ".ogg" else ""
    )
    with file.open("rb") as raw, pytest.raises(UserError, match="not as raw samples: leave out --stream"):
        list(raw_audio(raw, RATE, RATE))


# The program.

PLANTED = [(1.0, "low"), (3.0, "high"), (5.5, "low")]


def planted(rate: int = RATE) -> np.ndarray:
    """Eight seconds of quiet noise with a tone of half a second at each time in PLANTED, int16."""
    samples = np.random.default_rng(0).normal(0, 1e-4, 8 * rate)
    for time, label in PLANTED:
        start = round(time * rate)
        samples[start : start + rate // 2] += sine(300 if label == "low" else 3000, 0.5, rate)
    return (samples * 32767).astype("<i2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a task that hears tones."""
    task = task_of("Tones", normalize="none", **FRONTEND)
    path = tmp_path_factory.mktemp("run") / "tones.ckpt"
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, path)
    return path


def assert_planted(found: list[tuple[float, str]]) -> None:
    assert [label for _, label in found] == [label for _, label in PLANTED]
    for (time, _), (expected, _) in zip(found, PLANTED, strict=True):
        assert time == pytest.approx(expected, abs=0.02)  # half a Fourier transform, 16 ms


@pytest.mark.parametrize("rate", [None, 22050])
def test_planted_sounds_are_detected_in_a_file(
    rate: int | None, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "audio.raw"
    file.write_bytes(planted(rate or RATE).tobytes())
    options = ["--rate", str(rate)] if rate else []
    common = ["--format", "jsonl", "--allow", __name__, "--ignore", "_silence_"]
    predict.main([str(run), "--stream", str(file), *common, *options])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {tuple(row) for row in rows} == {("time", "label", "score")}
    assert_planted([(row["time"], row["label"]) for row in rows])


def listening(sound: Path, *arguments: str) -> None:
    """The program with a pipe for its standard input."""
    os.dup2(os.open(sound, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0)
    processes.program(*arguments)


def test_detections_are_printed_while_the_stream_goes_on(run: Path, tmp_path: Path) -> None:
    """Standard input stays open behind the first sound: its line has to come nevertheless."""
    arguments = ["predict", str(run), "--stream", "--allow", __name__, "--ignore", "_silence_"]
    samples = planted()
    for name in ("in", "out"):
        os.mkfifo(tmp_path / name)
    predicting = processes.start(listening, tmp_path / "in", *arguments, output=tmp_path / "out")
    with (tmp_path / "out").open() as output, (tmp_path / "in").open("wb") as sound:
        sound.write(samples[: 2 * RATE].tobytes())
        sound.flush()
        first = output.readline()
        sound.write(samples[2 * RATE :].tobytes())
        sound.close()
        rest = output.read()
    assert processes.ended(predicting) == 0
    fields = [line.split("\t") for line in (first + rest).splitlines()]
    assert_planted([(float(time), label) for time, label, _ in fields])
    assert all(0.5 <= float(score) <= 1 for _, _, score in fields)


class OwnDetector:
    """As a task that detects words: it knows what it does not detect."""

    def __init__(self, frame_seconds: float) -> None:
        self.frame_seconds = frame_seconds

    def __call__(self, **rules: Any) -> Detector:
        return Detector(LABELS, self.frame_seconds, **{"ignore": ["_silence_", "low"], **rules})


@pytest.mark.parametrize(
    ("options", "labels"),
    [([], {"high"}), (["--on", "0.6"], {"high"}), (["--ignore", "high"], {*LABELS} - {"high"})],
)
def test_a_task_that_detects_has_its_own_rules(
    options: list[str],
    labels: set[str],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "audio.raw"
    file.write_bytes(planted().tobytes())
    monkeypatch.setattr(AudioTask, "detector", OwnDetector(80 / RATE), raising=False)
    predict.main([str(run), "--stream", str(file), "--allow", __name__, *options])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("\t")[1] for line in lines} == labels


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_a_stream(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[planted().tobytes()])
    writing.start()
    predict.main([str(run), "--stream", str(tmp_path / "pipe"), "--allow", __name__, "--ignore", "_silence_"])
    writing.join()
    fields = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert_planted([(float(time), label) for time, label, _ in fields])


def test_ctrl_c_ends_a_stream_and_what_was_heard_is_told(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Microphone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if chunk := super().read(size):
                return chunk
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("nothing took the signal")

    class Terminal:
        buffer = Microphone(planted().tobytes())

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Terminal())
    predict.main([str(run), "--stream", "-", "--allow", __name__, "--ignore", "_silence_"])
    fields = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert_planted([(float(time), label) for time, label, _ in fields])


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "RF64", "FLAC"])
def test_headers_are_no_samples(form: str) -> None:
    content = io.BytesIO()
    soundfile.write(content, np.zeros(100), RATE, format=form, subtype="PCM_16")
    with pytest.raises(UserError, match="not as raw samples"):
        RawAudio(RATE, RATE).push(content.getvalue())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--stream", "nowhere.raw"], "There is no file nowhere.raw"),
        (["--stream", "WAV"], "begins as a WAV file, not as raw samples"),
        (["--stream", "WAV", "WAV"], "A stream is one, not 2"),
        (["--stream", "WAV", "--rate", "0"], "--rate 0 is no rate between"),
        (["--stream", "WAV", "--format", "csv"], "take no --format but table or jsonl"),
        (["--stream", "WAV", "--output", "x"], "leave out --events and --output"),
        (["--stream", "WAV", "--smooth", "0"], "smooth=0 rows do not fit"),
        (["--stream", "WAV", "--ignore", "nothing"], "no label 'nothing' to ignore"),
        (["--stream"], "Nothing is piped in"),
    ],
)
def test_a_mistake_with_a_stream_is_one_sentence(
    options: list[str],
    sentence: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wav = write_wav(tmp_path / "a.wav", sine(440, 0.1, RATE), RATE)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as ended:
        predict.main([str(run), "--allow", __name__, *(str(wav) if o == "WAV" else o for o in options)])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_soxr_streams_without_a_difference_to_the_whole() -> None:
    """What `raw_audio` relies on."""
    samples = np.random.default_rng(0).normal(0, 0.1, 22050).astype(np.float32)
    resampler = soxr.ResampleStream(22050, RATE, 1, dtype="float32", quality="HQ")
    parts = [resampler.resample_chunk(part) for part in np.split(samples, 45)]
    parts.append(resampler.resample_chunk(samples[:0], last=True))
    expected = soxr.resample(samples, 22050, RATE, quality="HQ")
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-7)
