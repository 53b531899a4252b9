"""A run of the transducer from the command line: scores, beams, language models, times, known texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY_SPEECH, sine, trained, write_wav

from lightning_audio import config
from lightning_audio.cli import align, doctor, export, ngram, predict
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.reports.results import read_metrics, read_predictions

OPTIONS = [
    "experiment=demo_dtmf_transducer",
    *TINY_SPEECH[1:],
    "task.width=16",
    "task.predictor.hidden=8",
    "task.max_symbols=2",
    "task.start_after=0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.getbasetemp() / "cache"
    return trained(tmp_path_factory.mktemp("transducer") / "run", cache, OPTIONS)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "tone.wav", sine(700.0, 0.5, 8000), 8000)


def test_evaluate_gives_the_numbers_of_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(run), "--output", str(tmp_path)])
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    for row in read_predictions(run / "predictions.jsonl"):
        assert row["score"] < 0
        assert row["reference_score"] < 0


def test_beams_and_language_models_score_as_they_say(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ngram.main([str(run), "--order", "2", "--output", str(tmp_path / "words.arpa")])
    options = ["--beam", "4", "--nbest", "3", "--lm", str(tmp_path / "words.arpa"), "--unit", "words"]
    evaluate([str(run), *options, "--lm-weight", "0.3", "--output", str(tmp_path / "out")])
    told = read_metrics(tmp_path / "out")["decoding"]
    assert (told["search"], told["beam"], told["lm_weight"], told["unit"]) == ("beam", 4, 0.3, "words")
    for row in read_predictions(tmp_path / "out" / "predictions.jsonl"):
        best, *_ = row["nbest"]
        assert (best["text"], best["score"]) == (row["hypothesis"], row["score"])
        assert best["score"] == pytest.approx(best["acoustic"] + 0.3 * best["lm"])
        assert [one["score"] for one in row["nbest"]] == sorted(
            (one["score"] for one in row["nbest"]), reverse=True
        )
    evaluate([str(run), "--beam", "2", "--tune", "--output", str(tmp_path / "tuned")])
    assert "Tuned on validation: --word-bonus" in capsys.readouterr().out
    (tmp_path / "other.txt").write_text("WHAT IS SAID HERE\nIS SAID ELSEWHERE\n", encoding="utf-8")
    ngram.main([str(tmp_path / "other.txt"), "--output", str(tmp_path / "other.arpa"), "--order", "2"])
    with pytest.raises(SystemExit):
        evaluate([str(run), "--lm", str(tmp_path / "other.arpa"), "--unit", "words"])
    assert "knows no word of the training transcripts, such as" in capsys.readouterr().err


def test_predict_and_align_give_times(run: Path, spoken: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    predict.main([str(run), str(spoken), "--format", "jsonl", "--beam", "2", "--output", str(output)])
    said = json.loads(output.read_text(encoding="utf-8"))
    for segment in said["segments"]:
        assert all(0 <= word["start"] < word["end"] <= 0.5 for word in segment["words"])
    predict.main([str(run), str(spoken), "--format", "srt", "--output", str(tmp_path / "subtitles")])
    align.main([str(run), str(spoken), "5 star", "--format", "jsonl", "--output", str(output)])
    (segment,) = json.loads(output.read_text(encoding="utf-8"))["segments"]
    first, second = segment["words"]
    assert (first["text"], second["text"]) == ("5", "star")
    assert 0 <= first["start"] < first["end"] <= second["start"] < second["end"] <= 0.5


def test_hotwords_are_favoured_and_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys.txt").write_text("Star\n\npound\n", encoding="utf-8")
    options = ["--hotwords", f"{tmp_path / 'keys.txt'}:200", "--beam", "8"]
    evaluate([str(run), *options, "--output", str(tmp_path / "out")])
    told = read_metrics(tmp_path / "out")["decoding"]
    assert (told["hotwords"], told["boost"], told["beam"]) == (["star", "pound"], 200, 8)
    rows = read_predictions(tmp_path / "out" / "predictions.jsonl")
    counts = read_metrics(tmp_path / "out")["hotwords"]
    heard = sum(word in ("star", "pound") for row in rows for word in row["hypothesis"].split())
    assert counts["found"] + counts["false"] == heard
    assert f"Hotwords: {counts['found']} of {counts['said']} that were said" in capsys.readouterr().out
    for row in rows:
        (best,) = row["nbest"]
        count = sum(word in ("star", "pound") for word in row["hypothesis"].split())
        assert best["score"] == pytest.approx(best["acoustic"] + 200 * count, abs=1e-3)
    (tmp_path / "empty.txt").touch()
    for file, sentence in (("empty.txt", "has no words"), ("nowhere.txt", "cannot be read")):
        with pytest.raises(SystemExit):
            predict.main([str(run), str(tmp_path / "empty.txt"), "--hotwords", str(tmp_path / file)])
        assert sentence in capsys.readouterr().err


def test_an_export_says_what_the_run_says(
    run: Path, spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    export.main([str(run), "--output", str(file)])
    assert "model.predictor.onnx, model.joiner.onnx, model.onnx.json" in capsys.readouterr().out
    evaluate([str(file), "--run", str(run), "--output", str(tmp_path / "out")])
    assert "The same numbers as when it was trained" in capsys.readouterr().out
    for search in ([], ["--beam", "4"]):
        said = []
        for one in (run, file):
            predict.main([str(one), str(spoken), "--format", "ctm", *search])
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
    small = tmp_path / "small.onnx"
    export.main([str(run), "--output", str(small), "--format", "int8", "--max-loss", "100"])
    assert small.stat().st_size < 0.7 * file.stat().st_size
    predict.main([str(small), str(spoken)])
    with pytest.raises(SystemExit):
        export.main([str(run), "--output", str(tmp_path / "other.pt2"), "--format", "torch_export"])
    assert "exported in parts: take --format onnx" in capsys.readouterr().err
    (tmp_path / "model.joiner.onnx").unlink()
    with pytest.raises(SystemExit):
        predict.main([str(file), str(spoken)])
    assert "model.joiner.onnx, a part of model.onnx, is not there" in capsys.readouterr().err


@pytest.mark.slow
def test_the_doctor_learns_a_batch_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CLIPS", 2)
    options = ["network.hidden=32", "task.width=32", "task.ctc_weight=0.5", "task.max_symbols=50"]
    cfg = config.compose_config([*OPTIONS, *options])
    assert doctor.examine(cfg) <= doctor.WRONG


def test_the_doctor_says_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "UPDATES", 2)
    cfg = config.compose_config([*OPTIONS, "normalize=none", "optimizer.lr=1e-6"])
    with pytest.raises(doctor.UserError, match=r"could not learn .* by heart .*normalize=per_feature"):
        doctor.examine(cfg)
