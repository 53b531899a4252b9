"""Several runs that answer together: the mean that brute force gives, and which runs may be scored so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY, TINY_SPEECH

from lightning_audio.checkpoint import load
from lightning_audio.cli import ensembles, predict
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.config import compose_config
from lightning_audio.data.decode import resample
from lightning_audio.errors import UserError
from lightning_audio.reports.results import write_metrics, write_predictions
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.ensemble import ensemble
from lightning_audio.tasks.multilabel import MultiLabel
from lightning_audio.training.run import train


def probabilities(folder: Path) -> dict[str, dict[str, float]]:
    rows = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    return {row["id"]: row["scores"] for row in rows}


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Another seed, another rate, another fold."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    folders = {}
    for name, option in {"seed": "seed=1", "rate": "data.sample_rate=24000", "fold": "data.fold=2"}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        options = [*TINY, "trainer.max_epochs=1", option, f"paths.cache={cache}"]
        train(compose_config(options), folders[name])
    return folders


def test_the_scores_are_those_of_the_mean_of_the_probabilities(
    tiny_run: Path, others: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([str(tiny_run), str(others["seed"]), "--output", str(tmp_path)])
    one, other, both = map(probabilities, (tiny_run, others["seed"], tmp_path))
    assert one.keys() == other.keys() == both.keys()
    for name, found in both.items():
        expected = [(one[name][label] + other[name][label]) / 2 for label in found]
        assert list(found.values()) == pytest.approx(expected, abs=2e-6)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ensemble"] == [str(tiny_run), str(others["seed"])]
    told = capsys.readouterr().out
    assert "The ensemble of 2 runs beside the best of them" in told
    assert "run - other" in told
    evaluate([str(tiny_run), str(others["seed"]), "--split", "train", "--output", str(tmp_path / "train")])
    assert (tmp_path / "train" / "predictions_train.jsonl").is_file()


def test_labels_of_an_ensemble_have_the_thresholds_that_fit_its_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One run is sure of clip a and the other of b: by the threshold of both, 0.85, neither is said.
    scores = {"a": (0.9, 0.5), "b": (0.5, 0.9), "c": (0.8, 0.1), "d": (0.1, 0.8)}
    runs = [tmp_path / "one", tmp_path / "other"]
    for number, run in enumerate(runs):
        rows = [
            {"id": name, "reference": "x" * there, "hypothesis": "", "scores": {"x": own[number]}}
            | {"reference_labels": ["x"] * there, "hypothesis_labels": []}
            for name, own in scores.items()
            for there in [name in "ab"]
        ]
        write_predictions(run / "predictions_val.jsonl", rows if number else rows[::-1])
    task = cast(MultiLabel, SimpleNamespace(labels=("x",), thresholds=torch.tensor([0.85])))
    ensembles.tune_together(task, runs)
    assert task.thresholds.item() == pytest.approx((0.7 + 0.45) / 2)
    write_predictions(runs[0] / "predictions_val.jsonl", rows[:3])
    task.thresholds.fill_(0.85)
    ensembles.tune_together(task, runs)
    assert task.thresholds.item() == pytest.approx(0.85)
    assert "not tuned on the same validation clips" in capsys.readouterr().err


@torch.no_grad()
def test_each_member_hears_at_its_own_rate(tiny_run: Path, others: dict[str, Path]) -> None:
    wave = (3000 * np.sin(np.arange(12000) / 7)).astype(np.int16)
    heard = {16000: torch.from_numpy(resample(wave, 24000, 16000)), 24000: torch.from_numpy(wave)}
    answers = []
    for task in (load(tiny_run), load(others["rate"])):
        samples = heard[task.sample_rate]
        answers.append(task.forward_tta(samples[None], torch.tensor([len(samples)]))[0].softmax(-1))
    both = ensemble([load(tiny_run), load(others["rate"])])
    assert both.sample_rate == 24000
    logits, lengths = both.forward_tta(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    torch.testing.assert_close(both.label_scores(logits), torch.stack(answers).mean(0))
    assert lengths.tolist() == [1]


def test_predict_takes_runs_and_folds_folders(
    tiny_run: Path, others: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = tmp_path / "folds"
    for name, run in {"0": tiny_run, "1": others["fold"]}.items():
        shutil.copytree(run, folds / name)
        (folds / name / ".hydra").mkdir(exist_ok=True)
        (folds / name / ".hydra" / "overrides.yaml").write_text("[]")
    (folds / "multirun.yaml").touch()
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(8000) / 9) / 3, 16000)
    answers = []
    for runs in ([tiny_run], [others["fold"]], [tiny_run, others["fold"]], [folds]):
        predict.main([*map(str, runs), str(tmp_path / "a.wav"), "--format", "jsonl"])
        answers.append(json.loads(capsys.readouterr().out)["scores"])
    mean = {label: (answers[0][label] + answers[1][label]) / 2 for label in answers[0]}
    assert answers[2] == pytest.approx(mean, abs=1e-5)
    assert answers[3] == pytest.approx(mean, abs=1e-5)


def test_runs_of_other_folds_answer_for_no_clip_together(
    tiny_run: Path, others: dict[str, Path], tmp_path: Path
) -> None:
    """They are a cross-validation, whose folds are not all here, or which is uneven."""
    with pytest.raises(SystemExit):
        evaluate([str(tiny_run), str(others["fold"]), "--output", str(tmp_path)])
    with pytest.raises(UserError, match="2 of fold 1, 1 of fold 2"):
        ensembles.by_fold([tiny_run, others["seed"], others["fold"]])
    assert ensembles.by_fold([tiny_run, others["seed"]]) == [[tiny_run, others["seed"]]]


def test_runs_that_were_tested_on_other_clips_are_no_ensemble(
    tiny_run: Path, others: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(others["fold"], tmp_path / "copy")
    metrics = json.loads((copy / "metrics.json").read_text())
    write_metrics(copy, {}, data=metrics["data"] | {"fold": 1})
    with pytest.raises(UserError, match="clips were tested in only one of"):
        ensembles.by_fold([tiny_run, copy])


def test_a_run_that_is_named_twice_would_count_double(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tiny_run)
    assert ensembles.members([tiny_run]) == [tiny_run]
    with pytest.raises(UserError, match="is named twice, and would count double"):
        ensembles.members([tiny_run, tmp_path / "again"])


def test_a_run_without_a_checkpoint_is_told_before_others_are_scored(
    tiny_run: Path, others: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(others["fold"], tmp_path / "bare")
    for file in (bare / "checkpoints").glob("*.ckpt"):
        file.unlink()
    with pytest.raises(SystemExit, match="2"):
        evaluate([str(tiny_run), str(bare), "--output", str(tmp_path / "scores")])
    assert f"There is no checkpoint at {bare}" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def test_kinds_that_do_not_go_together(tiny_run: Path, speech_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(Classification and CTC|CTC and Classification) make no ensemble"):
        ensemble([load(tiny_run), load(speech_run)])
    one, other = load(tiny_run), load(tiny_run)
    other.labels = one.labels[::-1]
    with pytest.raises(UserError, match="do not have the same labels"):
        ensemble([one, other])


@torch.no_grad()
def test_posteriors_of_frames_are_averaged(speech_run: Path, tmp_path: Path) -> None:
    train(compose_config([*TINY_SPEECH, "seed=1", "test=false"]), tmp_path)
    wave, length = torch.randn(1, 6000, generator=torch.Generator().manual_seed(0)) / 9, torch.tensor([6000])
    members = [load(speech_run), load(tmp_path)]
    expected = torch.stack([task(wave, length)[0].softmax(-1) for task in members]).mean(0)
    both = ensemble([load(speech_run), load(tmp_path)])
    assert isinstance(both, CTC)
    log_probs, _ = both.outputs(wave, length)
    torch.testing.assert_close(log_probs.exp(), expected)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
