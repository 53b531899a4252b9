"""predict answers for files of any format, rate and length, from the program and from Python."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from conftest import write_wav

import lightning_audio
from lightning_audio import Runtime
from lightning_audio.build import corpus
from lightning_audio.cli import predict as predict_module
from lightning_audio.cli.predict import main
from lightning_audio.errors import UserError
from lightning_audio.inference.prediction import Prediction
from lightning_audio.io import write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.saved_config import load_config

RATE = 16000
WINDOW = 0.5  # seconds: the clips that the tiny run was trained on


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> AudioTask:
    return lightning_audio.load(tiny_run)


@pytest.fixture(scope="module")
def clips(tiny_run: Path) -> dict[str, Path]:
    """The files of the corpus of the tiny run by the ids of the clips."""
    return {clip.id: Path(clip.path) for clip in corpus(load_config(tiny_run)).clips()}


@pytest.fixture(scope="module")
def sound(clips: dict[str, Path]) -> np.ndarray:
    """One second of audio `(T,)` at 16 kHz: two clips in a row."""
    names = sorted(clips)
    return np.concatenate([soundfile.read(clips[name])[0] for name in (names[0], names[-1])])


def probabilities(answer: Prediction) -> list[float]:
    return list(answer.scores.values())


def test_a_test_clip_gets_the_scores_of_the_test(
    model: AudioTask, tiny_run: Path, clips: dict[str, Path]
) -> None:
    rows = [json.loads(line) for line in (tiny_run / "predictions.jsonl").read_text().splitlines()]
    answers = model.predict([clips[row["id"]] for row in rows])
    assert [answer.hypothesis for answer in answers] == [row["hypothesis"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert answer.id == str(clips[row["id"]])
        assert answer.seconds == WINDOW
        assert answer.windows == []
        assert answer.scores == pytest.approx(row["scores"], abs=2e-6)


def test_an_answer_is_a_distribution_over_the_labels(model: AudioTask, clips: dict[str, Path]) -> None:
    (answer,) = model.predict(next(iter(clips.values())))
    assert tuple(answer.scores) == model.labels
    assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
    assert answer.score == max(answer.scores.values()) == answer.scores[answer.hypothesis]


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.flac", "PCM_16", 0),
        ("stereo.wav", "PCM_16", 1e-3),
        ("deep.wav", "PCM_24", 1e-3),
        ("float.wav", "FLOAT", 1e-3),
        ("a.ogg", "", 0.2),
        ("a.mp3", "", 0.2),
    ],
)
def test_formats_of_one_sound_get_one_answer(
    name: str, subtype: str, tolerance: float, model: AudioTask, sound: np.ndarray, tmp_path: Path
) -> None:
    samples = np.stack([sound, sound], axis=1) if name.startswith("stereo") else sound
    path = write_wav(tmp_path / name, samples, RATE, subtype)
    reference, answer = model.predict([write_wav(tmp_path / "reference.wav", sound, RATE), path])
    assert probabilities(answer) == pytest.approx(probabilities(reference), abs=tolerance)
    assert answer.seconds == pytest.approx(1.0, abs=0.1)


def test_other_rates_are_resampled(model: AudioTask, sound: np.ndarray, tmp_path: Path) -> None:
    low = np.rint(soxr.resample(sound, RATE, 8000) * 32767).clip(-32768, 32767).astype(np.int16)
    path = write_wav(tmp_path / "low.wav", low, 8000)
    (from_file,), (from_array,) = model.predict(path), model.predict(low, sample_rate=8000)
    assert from_file.seconds == from_array.seconds == 1.0
    assert probabilities(from_file) == pytest.approx(probabilities(from_array), abs=1e-6)
    # As if it were at 16 kHz it would be half as long: the rate is what makes the difference.
    assert model.predict(low, sample_rate=RATE)[0].seconds == 0.5


def test_arrays_of_both_kinds_and_shapes(model: AudioTask, sound: np.ndarray) -> None:
    integers = np.rint(sound * 32768).clip(-32768, 32767).astype(np.int16)
    views = [sound, sound.astype(np.float32), integers, np.stack([sound, sound], axis=1)]
    answers = model.predict(views, sample_rate=RATE)
    assert [answer.id for answer in answers] == ["array 0", "array 1", "array 2", "array 3"]
    for answer in answers[1:]:
        assert probabilities(answer) == pytest.approx(probabilities(answers[0]), abs=1e-4)


def test_channels_are_taken_as_asked_for(
    model: AudioTask, tiny_run: Path, sound: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean of a sound and its opposite is silence; each of them is there."""
    half = sound[: len(sound) // 2]
    stereo = write_wav(tmp_path / "call.wav", np.stack([half, -sound[len(half) :]], axis=1), RATE)
    alone = [
        write_wav(tmp_path / "first.wav", half, RATE),
        write_wav(tmp_path / "second.wav", -sound[len(half) :], RATE),
    ]
    expected = [answer.scores for answer in model.predict(alone)]

    def answers(channel: str) -> list[dict[str, object]]:
        main([str(tiny_run), str(stereo), "--format", "jsonl", "--channel", channel])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    for number in (0, 1):
        (row,) = answers(str(number))
        assert row["id"] == str(stereo)
        assert row["scores"] == pytest.approx(expected[number], abs=2e-6)
    rows = answers("each")
    assert [row["id"] for row in rows] == [f"{stereo}#0", f"{stereo}#1"]
    for row, scores in zip(rows, expected, strict=True):
        assert row["scores"] == pytest.approx(scores, abs=2e-6)
    # The same in Python, of files and of arrays.
    array = np.stack([half, -sound[len(half) :]], axis=1)
    for audio, rate in ((stereo, None), (array, RATE)):
        found = model.predict(audio, rate, channel="each")
        assert [answer.id.rpartition("#")[2] for answer in found] == ["0", "1"]
        for answer, scores in zip(
            [*found, *model.predict(audio, rate, channel=1)], [*expected, expected[1]], strict=True
        ):
            assert answer.scores == pytest.approx(scores, abs=1e-4)
        with pytest.raises(UserError, match="has no channel 2, but 2, counted from 0"):
            model.predict(audio, rate, channel=2)


@pytest.mark.parametrize(
    ("channel", "sentence"), [("2", "1 of 1 files have no answer"), ("left", "--channel left is none")]
)
def test_channels_that_are_not_there(
    channel: str,
    sentence: str,
    tiny_run: Path,
    sound: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_wav(tmp_path / "call.wav", np.stack([sound, sound], axis=1), RATE)
    with pytest.raises(SystemExit) as ended:
        main([str(tiny_run), str(path), "--channel", channel])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.out == ""  # no table without a row


def test_files_up_to_the_longest_training_clip_are_taken_whole(
    model: AudioTask, sound: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As evaluate takes them; what is longer, or where a window is asked for, goes in windows."""
    path = write_wav(tmp_path / "two.wav", sound, RATE)
    monkeypatch.setattr(model, "info", replace(model.info, longest_seconds=1.0))
    assert model.predict(path)[0].windows == []
    assert len(model.predict(path, window=WINDOW)[0].windows) == 3
    monkeypatch.setattr(model, "info", replace(model.info, longest_seconds=0.9))
    assert len(model.predict(path)[0].windows) == 3
    monkeypatch.setattr(model, "info", replace(model.info, longest_seconds=None))  # an older checkpoint
    assert len(model.predict(path)[0].windows) == 3


def test_an_array_without_its_rate_is_refused(model: AudioTask, sound: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"sample_rate"):
        model.predict(sound)


def test_a_recording_of_ten_minutes_is_covered_by_windows(
    model: AudioTask, sound: np.ndarray, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "long.flac", np.tile(sound, 600), RATE)
    (answer,) = model.predict(path, batch_size=64)
    starts = [window[0] for window in answer.windows]
    # Half a window from one to the next: 0, 0.25, ... 599.5.
    assert starts == pytest.approx([0.25 * number for number in range(2399)])
    assert all(end - start == pytest.approx(WINDOW) for start, end, _, _ in answer.windows)
    assert answer.seconds == answer.windows[-1][1] == 600.0
    # The sound repeats after a second, and so do the windows within it.
    assert answer.windows[4][2:] == pytest.approx(answer.windows[400][2:], abs=1e-5)


def test_the_answer_is_the_mean_of_its_windows(model: AudioTask, sound: np.ndarray) -> None:
    (long,) = model.predict(sound, sample_rate=RATE, window=0.5, hop=0.5)
    halves = model.predict([sound[:8000], sound[8000:]], sample_rate=RATE)
    assert [window[:3] for window in long.windows] == [
        (0.0, 0.5, halves[0].hypothesis),
        (0.5, 1.0, halves[1].hypothesis),
    ]
    mean = np.mean([probabilities(half) for half in halves], axis=0)
    assert probabilities(long) == pytest.approx(mean, abs=1e-5)


def test_the_batch_size_changes_no_answer(
    model: AudioTask, sound: np.ndarray, clips: dict[str, Path]
) -> None:
    """Clips of several lengths in one batch are padded, and that must not be heard."""
    pieces = [sound[: round(seconds * RATE)] for seconds in (0.05, 0.5, 1.0, 0.31, 0.62)]
    alone, together = (model.predict(pieces, RATE, batch_size=size) for size in (1, 7))
    for one, other in zip(alone, together, strict=True):
        assert probabilities(one) == pytest.approx(probabilities(other), abs=1e-5)
        assert [window[:3] for window in one.windows] == [window[:3] for window in other.windows]
        scores = [window[3] for window in other.windows]
        assert [window[3] for window in one.windows] == pytest.approx(scores, abs=1e-5)


def test_predicting_leaves_the_mode_of_the_model(model: AudioTask, sound: np.ndarray) -> None:
    model.train()
    first, second = (probabilities(*model.predict(sound, RATE)) for _ in range(2))
    assert model.training
    model.eval()
    assert first == second == probabilities(*model.predict(sound, RATE))


# The program.


@pytest.fixture
def files(tmp_path: Path, clips: dict[str, Path], sound: np.ndarray) -> Path:
    """A folder of one short and one long file."""
    folder = tmp_path / "audio files"
    folder.mkdir()
    (folder / "a short [1].wav").write_bytes(next(iter(clips.values())).read_bytes())
    write_wav(folder / "deeper" / "long.flac", np.tile(sound, 2), RATE)
    return folder


def test_the_table_names_files_labels_and_scores(
    tiny_run: Path, files: Path, model: AudioTask, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tiny_run), str(files)])
    printed = capsys.readouterr().out
    for answer in model.predict(sorted(files.rglob("*.*"))):
        (line,) = [line for line in printed.splitlines() if Path(answer.id).name in line]
        assert answer.hypothesis in line
        assert f"{answer.score:.4f}" in line


def test_csv_rows_of_files_and_of_windows(
    tiny_run: Path, files: Path, model: AudioTask, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tiny_run), str(files / "**/*"), "--format", "csv", "--windows", "--top", "2"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (short,), (long,) = (
        [row for row in rows if row["file"].endswith(name) and row["next"]] for name in ("].wav", "long.flac")
    )
    assert (short["from"], short["to"]) == ("0.00", "0.50")
    assert (long["from"], long["to"]) == ("0.00", "2.00")
    windows = [row for row in rows if row["file"].endswith("long.flac") and not row["next"]]
    assert [row["from"] for row in windows] == [f"{0.25 * number:.2f}" for number in range(7)]
    (answer,) = model.predict(files / "deeper" / "long.flac")
    assert [row["label"] for row in windows] == [window[2] for window in answer.windows]
    second = sorted(answer.scores.items(), key=lambda item: -item[1])[1]
    assert long["next"] == f"{second[0]} {second[1]:.2f}"


def test_jsonl_holds_all_scores_in_a_file(
    tiny_run: Path, files: Path, model: AudioTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "answers.jsonl"
    main([str(tiny_run), str(files), "--format", "jsonl", "--output", str(output), "--batch-size", "1"])
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    for row, answer in zip(rows, model.predict([row["id"] for row in rows]), strict=True):
        assert row["hypothesis"] == answer.hypothesis
        assert row["scores"] == pytest.approx(answer.scores, abs=1e-5)


def test_bad_files_are_named_and_the_others_answered(
    tiny_run: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "empty.wav").touch()
    (files / "corrupt.mp3").write_bytes(b"no music at all" * 99)
    write_wav(files / "silent.wav", np.zeros(0), RATE)
    with pytest.raises(SystemExit) as ended:
        main([str(tiny_run), str(files), "--format", "csv"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    *named, last = printed.err.splitlines()
    assert len(named) == 3
    for name, line in zip(("corrupt.mp3", "empty.wav", "silent.wav"), sorted(named), strict=True):
        assert line.startswith(f"error: Cannot read {files / name}: ")
    assert last == "error: 3 of 5 files have no answer: see above why."
    assert {Path(row["file"]).name for row in csv.DictReader(io.StringIO(printed.out))} == {
        "a short [1].wav",
        "long.flac",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.wav"], "missing.wav gives no audio"),
        (["FOLDER", "--device", "abacus"], "There is no device 'abacus' here"),
        (["FOLDER", "--batch-size", "0"], "--batch-size and --top count something"),
        (["FOLDER", "--window", "-1"], "do not cover a recording: set the hop"),
        (["FOLDER", "--hop", "0"], "do not cover a recording: set the hop"),
        (["FOLDER", "--window", "1", "--hop", "2"], "do not cover a recording: set the hop"),
    ],
)
def test_what_cannot_be_predicted_ends_in_one_sentence(
    arguments: list[str], sentence: str, tiny_run: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tiny_run), *(str(files) if argument == "FOLDER" else argument for argument in arguments)])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_no_run_and_no_checkpoint_end_in_one_sentence(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.ckpt").write_text("no checkpoint")
    for place, sentence in (
        (tmp_path / "nowhere", "There is no checkpoint"),
        (tmp_path / "notes.ckpt", "read"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(place), str(files)])
        err = capsys.readouterr().err
        assert ended.value.code == 2
        assert sentence in err
        assert err.count("\n") == 1


def test_what_is_shorter_than_a_sample_at_the_rate_of_the_run_has_no_answer(
    model: AudioTask, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sample at 48 kHz is a third of one at 16 kHz."""
    write_wav(tmp_path / "a.wav", np.array([0.5]), 48_000)
    write_wav(tmp_path / "b.wav", np.array([0.5, 0.4]), RATE)
    with pytest.raises(SystemExit):
        main([str(tiny_run), str(tmp_path), "--format", "csv"])
    found = capsys.readouterr()
    assert "a.wav: it is shorter than a sample at 16000 Hz" in found.err
    assert [row["file"] for row in csv.DictReader(io.StringIO(found.out))] == [str(tmp_path / "b.wav")]
    with pytest.raises(UserError, match="shorter than a sample at 16000 Hz"):
        model.predict(np.array([0.5]), sample_rate=48_000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "0.9"], "--on belongs to --events or --stream"),
        (["--ignore", "rain", "--stream"], None),
        (["--min-seconds", "1"], "--min-seconds belongs to --events"),
        (["--max-gap", "0", "--stream"], "--max-gap belongs to --events"),
        (["--rate", "8000"], "--rate belongs to --stream"),
        (["--smooth", "2", "--events"], "--smooth belongs to --stream"),
        (["--hop", "1", "--stream"], "--hop is of whole recordings"),
        (["--rate", "1", "--stream"], "--rate 1 is no rate between 1000 and 768000 Hz"),
        (["--window", "inf"], "Windows of inf s"),
    ],
)
def test_no_option_is_passed_over_in_silence(
    options: list[str], words: str | None, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_wav(tmp_path / "a.wav", np.zeros(800), RATE)
    with pytest.raises(SystemExit):
        main([str(tiny_run), str(file), *options])
    told = capsys.readouterr().err
    assert words in told if words else "belongs to" not in told


def test_models_that_do_not_answer_here_are_named(
    tiny_run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not taken for audio that can't be decoded, beside an answer of the first one alone."""
    audio = str(write_wav(tmp_path / "a.wav", np.zeros(800), RATE))
    (tmp_path / "a.pt2").write_bytes(b"PK")
    for words, *named in (
        ("answers by itself", str(tiny_run), str(exported)),
        ("answers by itself", str(exported), str(exported)),
        ("is for torch.export.load", str(tmp_path / "a.pt2")),
        ("is an address", "https://example.org/a.onnx"),
    ):
        with pytest.raises(SystemExit):
            main([*named, audio])
        found = capsys.readouterr()
        assert words in found.err
        assert found.out == ""


def test_what_is_read_is_never_written_over(
    tiny_run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the model nor what belongs to it; of a run, nothing that is in its folder."""
    audio = write_wav(tmp_path / "a.wav", np.zeros(800), RATE)
    for model, kept in (
        (exported, exported),
        (exported, exported.with_name("demo.onnx.json")),
        (tiny_run, tiny_run / "checkpoints" / "last.ckpt"),
        (tiny_run, tiny_run / "predictions.jsonl"),
    ):
        before = kept.read_bytes()
        with pytest.raises(SystemExit):
            main([str(model), str(audio), "--output", str(kept)])
        assert f"{kept} is read, and would be written over" in capsys.readouterr().err
        assert kept.read_bytes() == before
    with pytest.raises(SystemExit):
        main([str(exported), str(audio), "--output", str(tmp_path / ("a" * 300))])
    assert "is too long a name" in capsys.readouterr().err


def test_a_disk_that_fails_is_told_in_a_sentence(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio, failing = write_wav(tmp_path / "a.wav", np.zeros(800), RATE), tmp_path / "found.txt"

    def fail(*_: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(failing))

    monkeypatch.setattr(predict_module, "write_atomically", fail)
    with pytest.raises(SystemExit) as ended:
        main([str(exported), str(audio), "--output", str(failing)])
    assert ended.value.code == 2
    assert f"{failing} can't be used (Stale file handle): look after its disk" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_devices_and_pipes_stay_what_they_are(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of root, who may rename in /dev."""
    audio = write_wav(tmp_path / "a.wav", np.zeros(800), RATE)
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/stdout")):
        with pytest.raises(SystemExit):
            main([str(exported), str(audio), "--output", str(place)])
        assert "is no file but a device or a pipe" in capsys.readouterr().err
        with pytest.raises(UserError, match="is no file"):
            write_atomically(place, "{}")
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("form", ["csv", "events", "pseudo"])
def test_a_recording_without_an_answer_costs_the_others_nothing(
    form: str,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    for number, size in enumerate((800, 901, 1000)):
        write_wav(tmp_path / f"{number}.wav", np.zeros(size), RATE)
    whole = Runtime.clip_scores

    def failing(self: Runtime, clips: Sequence[np.ndarray]) -> np.ndarray:
        scores = whole(self, clips)
        scores[[len(clip) == 901 for clip in clips]] = np.nan
        return scores

    monkeypatch.setattr(Runtime, "clip_scores", failing)
    output = tmp_path / "out.txt"
    options = {
        "csv": ["--format", "csv"],
        "events": ["--events", "--on", "0.1", "--off", "0.01", "--format", "csv"],
    }
    with pytest.raises(SystemExit):
        main(
            [
                str(exported),
                str(tmp_path),
                *options.get(form, ["--pseudo-labels", "0.01"]),
                "--output",
                str(output),
            ]
        )
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told[:2]] == [
        f"Cannot read {tmp_path / 'text.wav'}",
        str(tmp_path / "1.wav"),
    ]
    assert told[2:] == ["error: 2 of 4 files have no answer: see above why."]
    answered = {
        name for name in ("0", "1", "2", "text") if str(tmp_path / f"{name}.wav") in output.read_text()
    }
    assert answered == {"0", "2"}


def test_what_is_neither_file_nor_array_and_batches_of_none_are_refused(
    model: AudioTask, sound: np.ndarray
) -> None:
    """Not answered by nothing, which looks as if there were no audio."""
    with pytest.raises(UserError, match="not float"):
        model.predict(sound.tolist(), sample_rate=RATE)
    for size in (0, -1):
        with pytest.raises(UserError, match=f"batch_size={size} is none"):
            model.predict(sound, sample_rate=RATE, batch_size=size)


def test_an_empty_name_is_no_folder_and_a_tilde_may_begin_one(
    model: AudioTask,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a variable of the shell that is not set: it was all that is in the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "~b.wav", np.zeros(800), RATE)
    with pytest.raises(SystemExit):
        main([str(tiny_run), ""])
    assert "One of the names is empty" in capsys.readouterr().err
    main([str(tiny_run), "~b.wav", "--format", "csv"])
    assert [row["file"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["~b.wav"]
    with pytest.raises(SystemExit):
        main([str(tiny_run), "~nobody here/c.wav"])
    assert "~nobody here/c.wav gives no audio" in capsys.readouterr().err
