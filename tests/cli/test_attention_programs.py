"""Runs of task=attention in the programs: scores, searches, times, subtitles, comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY_SPEECH, sine, trained, write_wav

from lightning_audio import config
from lightning_audio.cli import align, compare, doctor, export, predict
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.reports.results import read_metrics, read_predictions
from lightning_audio.tasks import attention

TINY = (
    *("experiment=demo_dtmf_attention", *TINY_SPEECH[1:]),
    *("task.width=16", "task.decoder.hidden=16", "task.search.beam=2"),
)


@pytest.fixture(scope="module", autouse=True)
def one_picture() -> Iterator[None]:
    """Of what is attended to; drawing takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "MOST_PICTURES", 1)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.getbasetemp() / "cache"
    return trained(tmp_path_factory.mktemp("attention") / "run", cache, TINY)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "tone.wav", sine(700.0, 0.8, 8000), 8000)


def test_evaluate_gives_the_numbers_of_training_and_compare_finds_no_difference(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(run), "--output", str(tmp_path)])
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    told = read_metrics(tmp_path)["decoding"]
    assert (told["search"], told["beam"], told["ctc_weight"], told["coverage"]) == ("beam", 2, 0.5, 0.0)
    compare.main([str(run), str(tmp_path)])
    assert "0.00" in capsys.readouterr().out
    assert {
        (row["loops"] in (0, 1), row["unended"] in (0, 1))
        for row in read_predictions(run / "predictions.jsonl")
    } == {(True, True)}
    assert len(list((run / "attention").glob("*.png"))) == 1


def test_a_search_takes_a_language_model_coverage_and_another_weight(run: Path, tmp_path: Path) -> None:
    search = [
        "--beam",
        "4",
        "--nbest",
        "3",
        "--coverage",
        "0.5",
        "--ctc-weight",
        "0.4",
        "--word-bonus",
        "0.2",
    ]
    evaluate([str(run), *search, "--lm-from-training", "--unit", "words", "--output", str(tmp_path)])
    told = read_metrics(tmp_path)["decoding"]
    assert [told[name] for name in ("beam", "coverage", "ctc_weight", "word_bonus")] == [4, 0.5, 0.4, 0.2]
    assert told["unit"] == "words"
    for row in read_predictions(tmp_path / "predictions.jsonl"):
        scores = [other["score"] for other in row["nbest"]]
        assert scores == sorted(scores, reverse=True)
        assert 1 <= len(scores) <= 3
        assert row["nbest"][0]["text"] == row["hypothesis"]


@pytest.mark.parametrize("options", [["--coverage", "0.5"], ["--ctc-weight", "0.5"]])
def test_what_is_for_attention_is_refused_elsewhere(
    options: list[str], speech_run: Path, exported_speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (speech_run, exported_speech):
        with pytest.raises(SystemExit):
            predict.main([str(model), __file__, *options])
        told = f"{options[0]} is for runs of task=attention, and this one is of task=ctc: leave it out"
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("form", ["jsonl", "srt", "ctm"])
def test_predict_writes_times_of_every_word(form: str, run: Path, spoken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    predict.main([str(run), str(spoken), "--format", form, "--nbest", "2", "--output", str(output)])
    if form == "jsonl":
        found = json.loads(output.read_text(encoding="utf-8"))
        for segment in found["segments"]:
            assert 0 <= segment["start"] < segment["end"] <= found["seconds"] + 0.05
            assert segment["nbest"][0]["text"].split() == segment["text"].split()
    align.main([str(run), str(spoken), "5 star", "--output", str(tmp_path / "words.ctm")])
    assert len((tmp_path / "words.ctm").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_doctor_learns_a_batch_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CLIPS", 2)
    cfg = config.compose_config([*TINY, "network.hidden=32", "task.width=64", "task.decoder.hidden=64"])
    assert doctor.examine(cfg) <= doctor.WRONG


def test_an_export_searches_as_the_run_does(
    run: Path, spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jointly with CTC; also in eight bits, of the network alone."""
    file, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    export.main([str(run), "--output", str(file)])
    assert "model.begin.onnx, model.step.onnx, model.onnx.json" in capsys.readouterr().out
    evaluate([str(file), "--run", str(run), "--output", str(tmp_path / "out")])
    assert "The same numbers as when it was trained" in capsys.readouterr().out
    told = read_metrics(tmp_path / "out")["decoding"]
    assert (told["beam"], told["ctc_weight"]) == (2, 0.5)
    for search in ([], ["--beam", "4", "--ctc-weight", "0.2"]):
        said = []
        for one in (run, file):
            predict.main([str(one), str(spoken), "--format", "ctm", *search])
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
    export.main([str(run), "--output", str(small), "--format", "int8", "--max-loss", "100"])
    assert small.stat().st_size < 0.7 * file.stat().st_size
    predict.main([str(small), str(spoken)])
