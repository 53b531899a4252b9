"""A neural language model from the command line: trained on transcripts, scored, fused, and refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import TINY_SPEECH, trained

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.data.info import DataInfo
from lightning_audio.reports.results import read_metrics, read_predictions
from lightning_audio.tasks.language_model import LanguageModel
from lightning_audio.text.tokenizers import fit_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the transcripts of `speech_run`."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    options = [*TINY_SPEECH, "task=language_model", "task.predictor.hidden=8", "trainer.max_epochs=3"]
    return trained(tmp_path_factory.mktemp("lm") / "run", cache, options)


def test_its_perplexity_is_that_of_its_rows_and_evaluate_finds_it_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(model), "--output", str(tmp_path)])
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    rows = read_predictions(model / "predictions.jsonl")
    tokens = sum(row["tokens"] for row in rows)
    assert tokens == sum(len(row["reference"]) + 1 for row in rows)
    score = read_metrics(model)["scores"]["test/perplexity"]
    assert score["value"] == pytest.approx(math.exp(sum(row["loss"] for row in rows) / tokens))
    assert score["low"] < score["value"] < score["high"]
    assert score["n"] == tokens
    assert "val/perplexity" in read_metrics(model)["scores"]


@pytest.mark.parametrize("rescore", [False, True])
def test_a_recogniser_is_evaluated_with_it(
    rescore: bool, speech_run: Path, model: Path, tmp_path: Path
) -> None:
    options = ["--beam", "4", "--nbest", "3", "--lm", str(model), "--lm-weight", "0.3"]
    evaluate([str(speech_run), *options, *["--rescore"] * rescore, "--output", str(tmp_path)])
    told = read_metrics(tmp_path)["decoding"]
    assert (told["unit"], told["lm_weight"], told.get("rescore", False)) == ("tokens", 0.3, rescore)
    assert told["lm"].endswith(".ckpt")
    task, total = load(model), 0.0
    assert isinstance(task, LanguageModel)
    for row in read_predictions(tmp_path / "predictions.jsonl"):
        best = row["nbest"][0]
        assert best["score"] == row["score"] == pytest.approx(best["acoustic"] + 0.3 * best["lm"])
        targets = torch.tensor([task.tokenizer.encode(best["text"])], dtype=torch.int64) + 1
        with torch.no_grad():
            likely = -float(task.losses(task.texts(targets)[0], targets))
        assert best["lm"] == pytest.approx(likely, abs=1e-4)
        total += likely
    assert total < 0


def test_what_is_no_language_model_of_these_tokens_is_one_sentence(
    speech_run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = {**load(model).description["config"], "normalize": "none"}
    state = fit_tokenizer(["xyz"]).state()
    other = build.assemble(description, DataInfo(tuple("xyz"), 8000, 1.0, encoding={"vocabulary": state}))
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": other.state_dict(), "lightning_audio": other.description}, foreign)
    for options, sentence in (
        (["--lm", str(foreign)], "is a language model of other tokens than the run writes"),
        (["--lm", str(speech_run)], "is no language model: give a run of task=language_model"),
        (["--lm", str(model), "--unit", "words"], "--unit is for n-gram models of words"),
        (["--lm", str(tmp_path)], "There is no checkpoint at"),
        (["--rescore"], "--rescore asks a language model"),
    ):
        with pytest.raises(SystemExit) as ended:
            evaluate([str(speech_run), *options, "--output", str(tmp_path / "out")])
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert sentence in told
        assert told.count("\n") == 1
