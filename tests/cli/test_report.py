"""`report`, `explore`, and what `evaluate` scores beside the test: on runs that were trained."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPORTED, TINY, write_wav

from lightning_audio.checkpoint import load
from lightning_audio.cli import evaluate, explore, report
from lightning_audio.config import compose_config
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.html import corpus
from lightning_audio.reports.html.occlusion import explainer, occlusion
from lightning_audio.reports.html.several import write_sweep
from lightning_audio.reports.results import (
    read_metrics,
    read_predictions,
    score_text,
    write_metrics,
    write_predictions,
)
from lightning_audio.reports.sweep import (
    STUDY,
    SweepSummary,
    run_folders,
    summarise_sweep,
    write_sweep_report,
)
from lightning_audio.training import run as training
from lightning_audio.training.run import train


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy to write into. It has 80 training and 20 test clips, and no validation."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def share_right(rows: list[dict[str, Any]]) -> float:
    return sum(row["reference"] == row["hypothesis"] for row in rows) / len(rows)


def test_training_scores_some_training_clips_and_writes_the_page(run: Path) -> None:
    rows, metrics = read_predictions(run / "predictions_train.jsonl"), read_metrics(run)
    assert len(rows) == 80  # all, for there are no more than a hundred
    assert metrics["scores"]["train/accuracy"]["value"] == pytest.approx(share_right(rows))
    assert next(iter(metrics["scores"])).startswith("test/")
    assert metrics["memory_gb"] > 0.1
    page = (run / "report.html").read_text(encoding="utf-8")
    for name, score in metrics["scores"].items():
        assert score_text(name, Score(**score)) in page
    assert page.count('<article class="clip" ') >= 20
    assert 'data-split="test"' not in page


def test_report_adds_what_an_older_run_lacks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same training clips are drawn again, and scored alike; what was there stays."""
    before, rows = read_metrics(run), read_predictions(run / "predictions_train.jsonl")
    (run / "predictions_train.jsonl").unlink()
    (run / "report.html").unlink()
    report.main([str(run), "--clips", "3"])
    assert str(run / "report.html") in capsys.readouterr().out
    again = read_predictions(run / "predictions_train.jsonl")
    assert [(row["id"], row["hypothesis"]) for row in again] == [
        (row["id"], row["hypothesis"]) for row in rows
    ]
    assert read_metrics(run)["scores"] == before["scores"]
    assert (run / "report.html").read_text(encoding="utf-8").count("<audio ") == 3


def test_a_split_is_scored_by_itself(run: Path) -> None:
    evaluate.main([str(run), "--split", "train"])
    folder = run / "evaluation"
    rows = read_predictions(folder / "predictions_train.jsonl")
    assert len(rows) == 80
    assert read_metrics(folder)["scores"]["train/accuracy"]["value"] == pytest.approx(share_right(rows))
    assert not (folder / "predictions.jsonl").exists()


@pytest.mark.parametrize(("asked", "split"), [("val", "val"), ("dev", "val"), ("train-dev", "train_dev")])
def test_a_split_without_clips_is_refused(
    asked: str, split: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main([str(run), "--split", asked])
    assert f"no clips of {split}" in capsys.readouterr().err


def test_noise_that_nobody_hears_changes_nothing(run: Path) -> None:
    """At 100 dB and at speed 1 the scores are those of the test; 40 dB below its noise no clip is heard."""
    evaluate.main([str(run), "--noise", "white", "--snr", "100,-40", "--speed", "1"])
    noise, speed = json.loads((run / "evaluation" / "robustness.json").read_text())
    clean = {n.partition("/")[2]: s for n, s in read_metrics(run / "evaluation")["scores"].items()}
    assert noise["points"][0]["scores"]["accuracy"] == clean["accuracy"]
    assert speed["points"][0]["scores"]["accuracy"] == clean["accuracy"]
    assert noise["points"][1]["scores"]["accuracy"]["value"] <= 0.3
    report.main([str(run)])
    page = (run / "report.html").read_text(encoding="utf-8")
    told = score_text("test/accuracy", Score(**clean["accuracy"]))
    assert f"Robustness against white noise; undisturbed: test accuracy {told}," in page


def test_rooms_and_codecs_have_their_curves(run: Path, tmp_path: Path) -> None:
    """A room without an echo changes nothing but what rounding does; every codec has its own curve."""
    click = np.zeros(400, np.int16)
    click[30] = 20000
    write_wav(tmp_path / "rooms" / "dead.wav", click, 8000)
    command = [str(run), "--codec", "mp3@64k,mp3@8k,gsm,telephone", "--room"]
    evaluate.main([*command, str(tmp_path / "rooms")])
    curves = json.loads((run / "evaluation" / "robustness.json").read_text())
    assert [(c["unit"], [p["level"] for p in c["points"]]) for c in curves] == [
        ("share of the clips in a room", [0, 1]),
        ("kbit/s", [64, 8]),
        ("kbit/s", [13]),
        ("kbit/s", [64]),
    ]
    clean = read_metrics(run / "evaluation")["scores"]["test/accuracy"]["value"]
    dry, dead = (point["scores"]["accuracy"]["value"] for point in curves[0]["points"])
    assert dry == clean
    assert dead == pytest.approx(clean, abs=0.051)
    report.main([str(run)])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f"Robustness against {name}" in page for name in ("rooms of", "MP3", "GSM", "a telephone"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--room", "0,1"], "give seconds above 0"),
        (["--codec", "flac@9k"], "is no codec"),
        (["--codec", "mp3@320k"], "is no rate of bits for"),
    ],
)
def test_a_room_or_codec_that_is_none_is_told(
    options: list[str], sentence: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main([str(run), *options])
    assert sentence in capsys.readouterr().err


def test_noise_for_several_runs_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each hears by a front end of its own, and all but one would hear none of it."""
    other = shutil.copytree(run, tmp_path / "other")
    with pytest.raises(SystemExit):
        evaluate.main([str(run), str(other), "--noise", "white"])
    assert "leave out other runs" in capsys.readouterr().err


def test_two_runs_show_the_clips_that_flip(run: Path, tmp_path: Path) -> None:
    """In the copy two test clips are answered otherwise: these are named, with --test alone."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    rows = read_predictions(other / "predictions.jsonl")
    labels = read_metrics(other)["data"]["labels"]
    for row in rows[:2]:
        row["hypothesis"] = next(label for label in labels if label != row["hypothesis"])
    write_predictions(other / "predictions.jsonl", rows)
    scores = {name: Score(**score) for name, score in read_metrics(other)["scores"].items()}
    write_metrics(other, scores)
    report.main([str(run), str(other)])
    page = (run / "report_against_other.html").read_text(encoding="utf-8")
    assert "They differ in 2 of 20 clips" in page
    assert "<article" not in page
    report.main([str(run), str(other), "--test"])
    page = (run / "report_against_other.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert all(f'data-id="{row["id"]}"' in page for row in rows[:2])


def test_runs_that_were_not_tested_are_held_side_by_side_by_dev(run: Path, tmp_path: Path) -> None:
    """As trials of a sweep, which leave the test alone."""
    rows = read_predictions(run / "predictions.jsonl")
    right = next(n for n, row in enumerate(rows) if row["reference"] == row["hypothesis"])
    other = Path(shutil.copytree(run, tmp_path / "other"))
    for place in (run, other):
        (place / "predictions.jsonl").unlink()
        write_predictions(place / "predictions_val.jsonl", rows)
        write_metrics(place, {"val/accuracy": Score(share_right(rows), 0.0, 1.0, 20)})
        rows[right]["hypothesis"] = next(x for x in rows[right]["scores"] if x != rows[right]["reference"])
    report.main([str(run), str(other)])
    page = (run / "report_against_other.html").read_text(encoding="utf-8")
    assert "Paired comparison on dev" in page
    assert "They differ in 1 of 20 clips; the run alone is right in 1" in page
    assert page.count("<article") == 1


def test_speech_has_its_page(speech_run: Path) -> None:
    page = (speech_run / "report.html").read_text(encoding="utf-8")
    assert len(read_predictions(speech_run / "predictions_val.jsonl")) == 4
    for name, score in read_metrics(speech_run)["scores"].items():
        assert score_text(name, Score(**score)) in page
    assert "Transcripts (dev)" in page
    assert 'data-split="val"' in page


def test_explore_writes_a_page_of_the_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explore.main([*TINY, "--output", str(tmp_path / "demo.html"), "--clips", "5"])
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert page.count("<article") == 100
    assert page.count("<audio ") == 5
    assert "Measured on 100 of 100 clips" in page
    assert page.count('<svg class="chart"') == 5


def test_near_duplicates_are_told_with_their_splits(tmp_path: Path) -> None:
    """One recording stands in train and, quieter, in test under another label; others are not alike."""
    rng = np.random.default_rng(0)
    for n in range(12):
        levels = np.repeat(rng.uniform(0.01, 0.5, 16), 1000)
        samples = levels * np.sin(np.cumsum(np.repeat(rng.uniform(0.1, 1.2, 16), 1000)))
        split, label = ("train", "test")[n % 2], ("cat", "dog")[n // 2 % 2]
        write_wav(tmp_path / "own" / split / label / f"{n}.wav", samples, 16000)
        if n == 0:
            write_wav(tmp_path / "own" / "test" / "dog" / "again.wav", 0.25 * samples, 16000)
    page = tmp_path / "page.html"
    explore.main(
        ["data=audio_folder", f"data.root={tmp_path / 'own'}", "--output", str(page), "--clips", "9"]
    )
    text = page.read_text(encoding="utf-8")
    (tag,) = re.findall(r'data-filter="(.* and .*?)"', text)
    twins = [part for part in text.split("<article")[1:] if tag in html.unescape(part.split("<h3>")[0])]
    assert len(twins) == 2
    assert all("<audio" in part for part in twins)
    assert "1 pair of clips may be cut from one recording, 1 of them on two sides" in text
    assert "test and train; labels differ" in text


def test_speakers_are_listed_the_largest_first() -> None:
    def row(group: str, split: str) -> dict[str, Any]:
        return {"group": group, "split": split, "seconds": 30.0}

    rows = [
        row("bob", "test"),
        row("ann", "train"),
        row("ann", "test"),
        row("ann", "train"),
        row("bob", "test"),
    ]
    (found,) = corpus._groups(rows)
    cells = [
        (line["group"]["text"], line["clips"], line["minutes"], line["splits"]) for line in found["rows"]
    ]
    assert cells == [("ann", "3", "1.5", "test, train"), ("bob", "2", "1.0", "test")]
    assert found["text"] == ["2 of them, 2 to 3 clips each."]
    assert corpus._groups([row(str(n), "train") for n in range(4)]) == [], "each stands alone"


def test_what_an_answer_hangs_on_is_the_piece_that_the_network_hears(run: Path) -> None:
    """One that knows the energy of a single piece, and features that fall over time: 3 at first, then 0."""
    ramp = torch.linspace(3, 0, 64).expand(1, 32, 64)

    def apply_network(features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heard = features[:, 4:8, 8:12].square().sum((1, 2))
        return torch.stack([0 * heard, heard / 100], 1), torch.ones_like(frames)

    task = SimpleNamespace(
        labels=("no", "yes"),
        device=torch.device("cpu"),
        frontend=lambda waveforms, lengths: (ramp, torch.tensor([64])),
        normalize=lambda features, frames: (features, frames),
        apply_network=apply_network,
        label_scores=lambda logits: logits.softmax(-1),
    )
    label, falls = occlusion(task, np.ones(8000, np.int16))
    assert (label, falls.shape) == ("yes", (8, 16))
    before, after = (float(energy) / 100 for energy in (ramp[0, 4:8, 8:12].square().sum(), 16 * 1.5**2))
    expected = np.log1p(np.exp(-after)) - np.log1p(np.exp(-before))
    assert falls[1, 2] == pytest.approx(expected, rel=1e-4)
    assert falls[1, 2] > 0.1
    falls[1, 2] = 0
    np.testing.assert_allclose(falls, 0, atol=1e-6)
    report.main([str(run), "--clips", "5", "--explain", "2"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("hangs on what is coloured") == 2 * 2  # as text, and for those who do not see it
    last = re.findall(r'<article class="clip" data-id="([^"]+)"', page)[-1]
    report.main([str(run), "--clips", "5", "--explain", last])
    page = (run / "report.html").read_text(encoding="utf-8")
    first, *others = page.split("<article")[1:]
    assert f'data-id="{last}"' in first
    assert "hangs on what is coloured" in first
    assert not any("hangs on what is coloured" in other for other in others)
    with pytest.raises(SystemExit):
        report.main([str(run), "--explain", "nothing"])


def test_transcripts_are_explained_by_the_frames_of_their_tokens(speech_run: Path) -> None:
    task: Any = load(speech_run)
    rows = np.full((2, len(task.labels) + 1), -9.0, np.float32)
    rows[:, :3] = np.log([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3]])
    weights = task.emissions(torch.from_numpy(rows), [1, 0, 1])
    np.testing.assert_allclose(weights, [[0.2, 0.3], [0.7, 0.1], [0.2, 0.3]], rtol=1e-6)
    task.frame_outputs = lambda clips: [rows]
    picture, told = explainer(task)(np.zeros(100, np.int16), task.sample_rate)
    assert picture.startswith("data:image/png")
    assert told.startswith("what is heard, from top to bottom")
    task.frame_outputs = lambda clips: [rows[1:]]  # the blank alone
    assert explainer(task)(np.zeros(100, np.int16), task.sample_rate) == ("", "nothing is heard")


def test_sweep_page_marks_the_best_run(tmp_path: Path) -> None:
    rows = [
        {
            "run": n,
            "folder": f"runs/{n}",
            "overrides": {"optimizer.lr": lr},
            "scores": {"val/accuracy": Score(value, value - 0.1, value + 0.05, 50)},
            "minutes": 1.0,
            "error": None,
        }
        for n, (lr, value) in enumerate([("1e-3", 0.7), ("1e-2", 0.9), ("1e-1", 0.2)])
    ]
    page = write_sweep(tmp_path, SweepSummary(rows, "val/accuracy", 1)).read_text(encoding="utf-8")
    assert re.findall(r"<tr><td>(\d.*?)</td>", page)[:3] == ["1 (best)", "0", "2"]
    assert "90.0 (80.0 to 95.0)" in page
    assert page.count('class="line others"') == 2
    assert page.count('class="line best"') == 1
    assert "val/accuracy %" in page
    for row, value in zip(rows, (80.0, 60.0, 95.0), strict=True):
        row["scores"] = {"val/perplexity": Score(value, value, value, 50, better="min", unit="points")}
    page = write_sweep(tmp_path, SweepSummary(rows, "val/perplexity", 1)).read_text(encoding="utf-8")
    assert ">val/perplexity<" in page
    assert "6000" not in page


def test_the_page_of_a_drawn_sweep_has_what_it_said_of_the_best(tmp_path: Path) -> None:
    for number, value in enumerate((0.9, 0.7)):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(f"[optimizer.lr={number + 1}]")
        write_metrics(tmp_path / str(number), {"val/accuracy": Score(value, value, value, 50)})
    (tmp_path / STUDY).touch()
    summary = replace(
        summarise_sweep(run_folders(tmp_path)), best=1, notes=("Best: trial 1 by three seeds.",)
    )
    write_sweep_report(tmp_path, summary)
    report.main([str(tmp_path)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Best: trial 1 by three seeds." in page
    assert "1 (best)" in page


def test_train_dev_is_held_out_of_training_and_scored(tmp_path: Path) -> None:
    """A quarter of 80 clips is not learned from; the page names variance between train and train-dev."""
    cache = f"paths.cache={tmp_path}"
    options = [*REPORTED, "trainer.max_epochs=1", "loader.train_dev_fraction=0.25", cache]
    content = train(compose_config(options), tmp_path / "run")
    held_out = {row["id"] for row in read_predictions(tmp_path / "run" / "predictions_train_dev.jsonl")}
    learned = {row["id"] for row in read_predictions(tmp_path / "run" / "predictions_train.jsonl")}
    counts = content["data"]["clips"]
    assert counts["train"] + counts["train_dev"] == 80
    assert 10 <= counts["train_dev"] == len(held_out) <= 30
    assert not held_out & learned
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "train → train-dev" in page
    assert "train-dev → test" in page


def test_a_report_that_fails_costs_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(training, "write_run_report", broken)
    content = train(
        compose_config([*REPORTED, "trainer.max_epochs=1", f"paths.cache={tmp_path}"]), tmp_path / "run"
    )
    assert read_metrics(tmp_path / "run")["scores"] == content["scores"]
    assert "no report.html: ZeroDivisionError: planted" in capsys.readouterr().err
