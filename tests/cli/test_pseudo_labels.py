"""Answers that are sure as a manifest to train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import sine, write_wav

from lightning_audio.checkpoint import load
from lightning_audio.cli import predict
from lightning_audio.data.manifests import read_manifest, unused_columns
from lightning_audio.inference.prediction import Prediction


def test_sure_files_make_a_manifest(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write_wav(tmp_path / f"{f}.wav", sine(f, 0.5, 16000), 16000) for f in (200, 500, 900, 2000)]
    answers = load(tiny_run).predict(files)
    least = sorted(answer.score for answer in answers)[2]
    out = tmp_path / "sure.jsonl"
    predict.main([str(tiny_run), *map(str, files), "--pseudo-labels", str(least), "--output", str(out)])
    assert f"2 of 4 files are sure by {least:g}" in capsys.readouterr().out
    expected = {(answer.id, answer.hypothesis) for answer in answers if answer.score >= least}
    found = {(clip.path, *clip.labels) for clip in read_manifest(out)}
    assert found == expected
    assert unused_columns(out) == []


def test_of_speech_the_text_is_written(speech_run: Path, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    out = tmp_path / "sure.jsonl"
    predict.main([str(speech_run), str(file), "--pseudo-labels", "1e-9", "--output", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    text = load(speech_run).predict(file)[0].hypothesis
    assert rows == ([{"path": str(file), "text": text}] if text else [])


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ({"a": 0.95, "b": 0.05, "c": 0.9}, ["a", "c"]),
        ({"a": 0.95, "b": 0.3, "c": 0.01}, None),  # b is neither there nor not there
        ({"a": 0.05, "b": 0.05, "c": 0.05}, None),  # nothing to learn
    ],
)
def test_of_several_labels_each_has_to_be_sure(scores: dict[str, float], labels: list[str] | None) -> None:
    answer = Prediction("/a.wav", "a", max(scores.values()), scores, 1.0)
    row = predict.pseudo_label(answer, 0.9, several=True)
    assert row == (None if labels is None else {"path": "/a.wav", "labels": labels})


@pytest.mark.parametrize("options", [["--pseudo-labels", "1.5", "--output", "x"], ["--pseudo-labels", "0.5"]])
def test_mistakes(options: list[str], tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict.main([str(tiny_run), "a.wav", *options])
    assert "--pseudo-labels takes a score from 0 to 1" in capsys.readouterr().err
