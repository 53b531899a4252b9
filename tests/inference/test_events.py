"""Timelines: planted events come back at their times, and scores over time are those of brute force."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sine, write_wav
from torch import Tensor
from torch.nn import functional

from lightning_audio import build
from lightning_audio.cli.predict import main
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.inference.events import Event, Hysteresis, events, scores_over_time, timelines
from lightning_audio.inference.prediction import Window
from lightning_audio.networks.base import Network
from lightning_audio.tasks.clip_task import ClipTask

RATE = 2000
LABELS = ["low", "high", "_silence_"]
STEP = 0.25  # seconds: a quarter of the windows of one second


def window(start: float, end: float, *scores: float) -> Window:
    return Window(start, end, np.array(scores, np.float32))


# Scores over time.


def test_a_time_has_the_mean_of_the_windows_that_cover_it() -> None:
    windows = [window(0, 1, 0.0, 1.0), window(0.5, 1.5, 0.5, 0.0), window(1.0, 2.0, 1.0, 0.5)]
    expected = [[0.0, 1.0], [0.25, 0.5], [0.75, 0.25], [1.0, 0.5]]
    assert scores_over_time(windows, 2.0, 0.5).tolist() == expected


def test_the_last_row_ends_with_the_recording() -> None:
    # As `windows` cuts them: the last one ends where the recording does.
    windows = [window(0, 1, 0.2), window(0.5, 1.5, 0.4), window(0.7, 1.7, 1.0)]
    found = scores_over_time(windows, 1.7, 0.5)[:, 0]
    assert found.tolist() == pytest.approx([0.2, (0.2 + 0.4 + 1.0) / 3, 0.7, 1.0])
    assert scores_over_time([window(0, 0.3, 0.9)], 0.3, 0.5).tolist() == [[pytest.approx(0.9)]]


@pytest.mark.parametrize("seed", range(5))
def test_scores_over_time_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    step, length, seconds = rng.uniform(0.1, 0.5), rng.uniform(0.5, 2.0), rng.uniform(3, 9)
    starts = [*np.arange(0, seconds - length, step), seconds - length]
    windows = [window(start, start + length, *rng.uniform(size=3).tolist()) for start in starts]
    found = scores_over_time(windows, seconds, step)
    assert len(found) == int(np.ceil(seconds / step))
    for row, scores in enumerate(found):
        middle = (row * step + min((row + 1) * step, seconds)) / 2
        covering = [w.scores for w in windows if w.start <= middle < w.end]
        np.testing.assert_allclose(scores, np.mean(covering, 0), rtol=1e-6)


def test_steps_that_do_not_add_up_exactly_make_no_extra_row() -> None:
    for step, count in ((0.1, 11), (0.1, 3), (0.7, 7), (0.2, 15)):
        total = sum([step] * count)
        assert len(scores_over_time([window(0, total, 0.5)], total, step)) == count


# Events.

# Ten rows of half a second.
PLANTED = [0.1, 0.6, 0.4, 0.3, 0.2, 0.4, 0.9, 0.7, 0.2, 0.8]


def spans(scores: list[float], **options: Any) -> list[tuple[float, float]]:
    found = events(np.array(scores)[:, None], 0.5, ["a"], **options)
    return [(event.start, event.end) for event in found]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # On from 0.5 up; 0.4 and 0.3 keep it on, but do not start one: the row of 0.4 at 2.5 s.
        ({}, [(0.5, 2.0), (3.0, 4.0), (4.5, 5.0)]),
        ({"off": 0.5}, [(0.5, 1.0), (3.0, 4.0), (4.5, 5.0)]),
        ({"off": 0.1}, [(0.5, 5.0)]),
        ({"on": 0.85}, [(3.0, 4.0)]),
        ({"on": 1.0}, []),
        ({"min_seconds": 1.0}, [(0.5, 2.0), (3.0, 4.0)]),
        ({"min_seconds": 1.01}, [(0.5, 2.0)]),
        ({"max_gap": 0.5}, [(0.5, 2.0), (3.0, 5.0)]),
        ({"max_gap": 1.0}, [(0.5, 5.0)]),
        # Gaps are closed first: what is then long enough stays.
        ({"max_gap": 0.5, "min_seconds": 1.6}, [(3.0, 5.0)]),
        ({"seconds": 4.8}, [(0.5, 2.0), (3.0, 4.0), (4.5, 4.8)]),
        ({"seconds": 4.8, "min_seconds": 0.5}, [(0.5, 2.0), (3.0, 4.0)]),
    ],
)
def test_events_of_a_planted_label(options: dict[str, float], expected: list[tuple[float, float]]) -> None:
    assert spans(PLANTED, **options) == expected


def test_an_event_has_the_mean_of_its_scores_and_labels_overlap() -> None:
    scores = np.array([[0.9, 0.0], [0.7, 0.6], [0.0, 1.0], [0.0, 0.0]])
    found = events(scores, 0.5, ["b", "a"])
    assert found == [
        Event(0.0, 1.0, "b", pytest.approx(0.8)),  # type: ignore[arg-type]
        Event(0.5, 1.5, "a", pytest.approx(0.8)),  # type: ignore[arg-type]
    ]
    assert events(scores[:0], 0.5, ["b", "a"]) == []


def brute_force(scores: np.ndarray, step: float, on: float, off: float, shortest: float, gap: float) -> list:
    """One column, row by row."""
    found, start = [], None
    for row, score in enumerate([*scores, -1.0]):
        if start is None and score >= on:
            start = row
        elif start is not None and score < off:
            found.append([start * step, row * step])
            start = None
    merged: list[list[float]] = []
    for first, last in found:
        if merged and first - merged[-1][1] <= gap + 1e-9:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    return [span for span in merged if span[1] - span[0] >= shortest - 1e-9]


@pytest.mark.parametrize("seed", range(8))
def test_events_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(size=(300, 3)).astype(np.float32)
    off, on = sorted(rng.uniform(0.2, 0.9, 2))
    shortest, gap = 0.1 * rng.integers(0, 6), 0.1 * rng.integers(0, 4)
    found = events(scores, 0.1, ["a", "b", "c"], on, off, shortest, gap)
    assert [event.start for event in found] == sorted(event.start for event in found)
    for column, label in enumerate("abc"):
        expected = brute_force(scores[:, column], 0.1, on, off, shortest, gap)
        mine = [(event.start, event.end) for event in found if event.label == label]
        np.testing.assert_allclose(np.array(mine).reshape(-1, 2), np.array(expected).reshape(-1, 2))


def test_hysteresis_in_pieces_is_that_of_the_whole() -> None:
    scores = np.random.default_rng(0).random((500, 4))
    whole = Hysteresis(4, 0.8, 0.3).push(scores)
    assert 0.1 < whole.mean() < 0.9
    pieces = Hysteresis(4, 0.8, 0.3)
    sizes = [0, 1, 1, 0, 7, 100, 3, 388]
    found = [pieces.push(part) for part in np.split(scores, np.cumsum(sizes)[:-1])]
    assert np.array_equal(np.concatenate(found), whole)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"on": 0.3, "off": 0.5}, r"on=0\.3 and off=0\.5 are no thresholds"),
        ({"off": 0.0}, "no thresholds"),
        ({"on": 1.1}, "no thresholds"),
        ({"on": float("nan")}, "no thresholds"),
        ({"min_seconds": -1}, "are lengths"),
        ({"max_gap": -0.1}, "are lengths"),
    ],
)
def test_wrong_rules_are_one_sentence(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        spans(PLANTED, **options)


# A task that hears tones.


class Tones(Network):
    """Logits `(B, 3)` by the share of a clip with sound in the lower bands, in the upper ones, in neither."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (half.amax(1) for half in x.chunk(2, dim=1))
        heard = torch.where(low > high, 0, 1).where(torch.maximum(low, high) > -20, 2)
        shares = mask_frames(functional.one_hot(heard, 3).float().mT, lengths).sum(-1) / lengths[:, None]
        return 20 * shares, torch.ones_like(lengths)


def tone_task() -> ClipTask:
    answering = {
        "frontend": {
            "_target_": "lightning_audio.frontend.log_mel.LogMel",
            "n_fft": 64,
            "hop_length": 32,
            "n_mels": 8,
            "top_db": None,
        },
        "normalize": "none",
        "network": {"_target_": f"{__name__}.Tones"},
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    task: Any = build.assemble(answering, DataInfo(tuple(LABELS), RATE, 1.0)).eval()
    return task


TONES = [(3.0, 5.2, "low"), (7.3, 9.1, "high"), (9.1, 11.0, "low"), (13.0, 14.0, "high")]


def tones() -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 1e-4, 16 * RATE)
    for start, end, label in TONES:
        place = slice(round(start * RATE), round(end * RATE))
        samples[place] += sine(150 if label == "low" else 850, end - start, RATE)
    return samples


def assert_tones(found: list[tuple[float, float, str]], within: float) -> None:
    assert [label for _, _, label in found] == [label for _, _, label in TONES]
    for (start, end, _), (true_start, true_end, _) in zip(found, TONES, strict=True):
        assert abs(start - true_start) <= within + 1e-6
        assert abs(end - true_end) <= within + 1e-6


@pytest.mark.parametrize("hop", [None, 0.1])
def test_tones_are_found_within_a_step_of_their_times(hop: float | None) -> None:
    recording = (tones() * 32767).astype(np.int16)
    ((name, found),) = timelines(
        tone_task(), [("tones", recording)], hop=hop, ignore=["_silence_"], on=0.5, off=0.4
    )
    assert name == "tones"
    assert_tones([(event.start, event.end, event.label) for event in found], hop or STEP)
    assert all(event.score > 0.6 for event in found)


def test_what_is_not_ignored_fills_the_time() -> None:
    recording = (tones() * 32767).astype(np.int16)
    ((_, found),) = timelines(tone_task(), [("tones", recording)], off=0.5)
    covered = sum(event.end - event.start for event in found)
    assert covered == pytest.approx(16.0, abs=2.0)
    assert (found[0].start, found[0].label) == (0.0, "_silence_")
    assert (found[-1].end, found[-1].label) == (16.0, "_silence_")


def test_ten_minutes_are_looked_at_in_batches() -> None:
    task = tone_task()
    shapes: list[tuple[int, ...]] = []
    task.frontend.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape)))
    recording = np.tile((tones() * 32767).astype(np.int16), 38)[: 600 * RATE]
    ((_, found),) = timelines(task, [("long", recording)], hop=0.5, batch_size=64, ignore=["_silence_"])
    assert sum(shape[0] for shape in shapes) == 2 * 600 - 1
    assert max(shape[0] for shape in shapes) == 64
    assert {shape[1] for shape in shapes} == {RATE}
    # 37 times the sixteen seconds of the tones, and half of that.
    assert len(found) == 37 * 4 + 2
    assert found[4 * 36].start == pytest.approx(found[0].start + 36 * 16)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ignore": ["_silense_"]}, r"no label '_silense_' to ignore \(did you mean '_silence_'\?\)"),
        ({"on": 0.2, "off": 0.3}, "no thresholds"),
        ({"hop": 2.0}, "do not cover a recording"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(options: dict[str, Any], sentence: str) -> None:
    def recordings() -> Any:
        raise AssertionError("something was read")
        yield

    with pytest.raises(UserError, match=sentence):
        timelines(tone_task(), recordings(), **options)


# The program.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and the tones as `long file.wav`."""
    folder = tmp_path_factory.mktemp("events")
    task = tone_task()
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, folder / "tones.ckpt")
    write_wav(folder / "audio" / "long file.wav", tones(), RATE)
    return folder


def predict(place: Path, *options: str) -> None:
    common = ["--ignore", "_silence_", "--off", "0.4", "--allow", __name__]
    main([str(place / "tones.ckpt"), *options, "--events", *common])


@pytest.fixture(scope="module")
def expected(place: Path) -> list[Event]:
    recording = (tones() * 32767).astype(np.int16)
    ((_, found),) = timelines(tone_task(), [("", recording)], ignore=["_silence_"], off=0.4)
    return found


@pytest.mark.parametrize("form", ["csv", "jsonl", "audacity", "rttm"])
def test_every_format_gives_the_same_events(
    form: str, place: Path, expected: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    file = place / "audio" / "long file.wav"
    predict(place, str(file), "--format", form)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(printed)))
        assert {row["file"] for row in rows} == {str(file)}
        found = [(float(r["start"]), float(r["end"]), r["label"], float(r["score"])) for r in rows]
    elif form == "jsonl":
        objects = [json.loads(line) for line in lines]
        assert {tuple(row) for row in objects} == {("file", "start", "end", "label", "score")}
        found = [(row["start"], row["end"], row["label"], row["score"]) for row in objects]
    elif form == "audacity":
        parts = [line.split("\t") for line in lines]
        assert all(len(start.partition(".")[2]) == 6 for start, _, _ in parts)
        found = [(float(start), float(end), label, 0.0) for start, end, label in parts]
    else:
        fields = [line.split(" ") for line in lines]
        assert all(f[:3] == ["EVENT", "long_file", "1"] and len(f) == 10 for f in fields)
        assert all(f[5:7] == ["<NA>", "<NA>"] and f[9] == "<NA>" for f in fields)
        found = [(float(f[3]), float(f[3]) + float(f[4]), f[7], float(f[8])) for f in fields]
    assert [row[2] for row in found] == [event.label for event in expected]
    for (start, end, _, score), event in zip(found, expected, strict=True):
        assert (start, end) == pytest.approx((event.start, event.end), abs=1e-3)
        assert score == pytest.approx(event.score if form != "audacity" else 0.0, abs=1e-3)


def test_the_table_has_a_row_for_every_event(
    place: Path, expected: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    predict(place, str(place / "audio"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "long file.wav" in line]
    assert len(lines) == len(expected)
    for line, event in zip(lines, expected, strict=True):
        assert f"{event.start:.3f}" in line
        assert event.label in line


def test_rules_reach_the_program_and_a_file_is_written(place: Path, tmp_path: Path) -> None:
    file, output = place / "audio" / "long file.wav", tmp_path / "labels.txt"
    rules = ["--min-seconds", "1.5", "--max-gap", "2.5"]
    predict(place, str(file), "--format", "audacity", "--output", str(output), *rules)
    # The last tone is too short; 3.9 s lie between the two low ones, and between the two high ones.
    assert [line.split("\t")[2] for line in output.read_text().splitlines()] == ["low", "high", "low"]
    predict(place, str(file), "--format", "audacity", "--output", str(output), "--max-gap", "4.2")
    assert [line.split("\t")[2] for line in output.read_text().splitlines()] == ["low", "high"]


def test_a_file_that_cannot_be_read_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no music")
    with pytest.raises(SystemExit) as ended:
        predict(place, str(place / "audio"), str(tmp_path / "bad.wav"), "--format", "csv")
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert len(printed.out.splitlines()) == 1 + len(TONES)
    assert printed.err.splitlines()[-1] == "error: 1 of 2 files have no answer: see above why."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["FILE", "--format", "rttm"], "--format rttm says what sounds when: add --events"),
        (["FILE", "FILE2", "--events", "--format", "audacity"], "belongs to one file, not to 2"),
        (["FILE", "--events", "--on", "0.1"], "on=0.1 and off=0.3 are no thresholds"),
        (["FILE", "--events", "--ignore", "lo"], "no label 'lo' to ignore (did you mean 'low'?)"),
        (["FILE", "--events", "--min-seconds", "-2"], "are lengths"),
        (["FILE", "--events", "--stream"], "leave out --events"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    options: list[str], sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"FILE": str(place / "audio" / "long file.wav")}
    files["FILE2"] = str(write_wav(tmp_path / "second.wav", tones(), RATE))
    with pytest.raises(SystemExit) as ended:
        main([str(place / "tones.ckpt"), *(files.get(o, o) for o in options), "--allow", __name__])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
