"""Folds and sweeps by hand-worked numbers; what does not fit is refused, what failed is listed."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import f1_score

from lightning_audio.errors import UserError
from lightning_audio.io import terminal
from lightning_audio.metrics.base import metric
from lightning_audio.metrics.classification import ClassPredictions
from lightning_audio.metrics.intervals import Draws, Score, proportion
from lightning_audio.reports.cross_validation import (
    best_of_each_fold,
    print_fold_report,
    summarise_folds,
    write_fold_report,
)
from lightning_audio.reports.results import (
    read_overrides,
    read_run,
    write_failure,
    write_metrics,
    write_predictions,
)
from lightning_audio.reports.sweep import print_sweep_report, summarise_sweep, write_sweep_report

ACCURACY = Score(0.93, 0.9, 0.95, 80)


def console() -> Console:
    return terminal(width=80, record=True, file=io.StringIO())


def write_run(folder: Path, fold: int, hits: int, labels: tuple = ("cat", "dog"), first_id: int = 0) -> Path:
    """A run of ten clips in five groups, `hits` of them right, whose corpus has three folds."""
    groups = [f"{fold}-{i // 2}" for i in range(10)]
    rows = []
    for i, group in enumerate(groups):
        answers = ("cat", "dog") if i % 2 else ("dog", "cat")
        clip = {"id": f"{fold}-{first_id + i}", "reference": answers[0], "hypothesis": answers[i >= hits]}
        rows.append({**clip, "score": 0.9, "fold": fold, "group": group})
    write_predictions(folder / "predictions.jsonl", rows)
    accuracy = proportion([i < hits for i in range(10)], groups)
    data = {"hash": "ab", "labels": list(labels), "fold": fold, "folds": [1, 2, 3]}
    truth, said = ([row[key] for row in rows] for key in ("reference", "hypothesis"))
    macro = Score(f1_score(truth, said, average="macro"), 0.0, 1.0, 10)
    scores = {"test/accuracy": accuracy, "test/macro_f1": macro}
    write_metrics(folder, scores, seconds=60.0 * fold, data=data)
    return folder


def test_folds_by_hand(tmp_path: Path) -> None:
    # 0.9, 0.6 and 0.9: mean 0.8; deviation sqrt((0.01 + 0.04 + 0.01) / 2) = 0.1732.
    runs = [read_run(write_run(tmp_path / str(k), k, hits)) for k, hits in ((3, 9), (1, 9), (2, 6))]
    summary = summarise_folds(runs)
    write_fold_report(tmp_path, summary)
    content = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert [row["fold"] for row in content["folds"]] == [1, 2, 3]
    assert [row["minutes"] for row in content["folds"]] == [1.0, 2.0, 3.0]
    assert content["mean"]["test/accuracy"] == pytest.approx(0.8)
    assert content["deviation"]["test/accuracy"] == pytest.approx(0.173205)
    rows = [row for run in runs for row in run.predictions]
    right = [row["reference"] == row["hypothesis"] for row in rows]
    assert content["pooled"]["test/accuracy"] == proportion(right, [r["group"] for r in rows]).as_dict()
    assert content["pooled"]["test/accuracy"]["value"] == 0.8
    f1 = f1_score([r["reference"] for r in rows], [r["hypothesis"] for r in rows], average="macro")
    assert content["pooled"]["test/macro_f1"]["value"] == pytest.approx(f1)
    # Clips 9 (a cat) miss in folds 1 and 3; 6 to 9 miss in fold 2, two cats and two dogs.
    assert content["confusion"] == [[11, 4], [2, 13]]
    markdown = (tmp_path / "folds.md").read_text(encoding="utf-8")
    assert "| 2 | 60.0 | 60.0 | 2.0 |" in markdown
    assert "| mean | 80.0 ± 17.3 |" in markdown
    assert (tmp_path / "confusion.png").is_file()
    screen = console()
    print_fold_report(summary, screen)
    assert "80.0 ± 17.3" in screen.export_text()


def test_what_is_no_function_of_clips_is_not_pooled(tmp_path: Path) -> None:
    runs = []
    for fold in (1, 2, 3):
        run = read_run(write_run(tmp_path / str(fold), fold, 9))
        alarms = Score(float(fold), 0.5, 9.0, fold)
        scores = {**run.scores, "test/false_alarms_per_hour": alarms}
        write_metrics(run.folder, scores, seconds=60.0, data=run.data)
        runs.append(read_run(run.folder))
    *_, mean, pooled = summarise_folds(runs).table()
    assert mean["test/false_alarms_per_hour"] == "2.00 ± 1.00"
    assert pooled["test/false_alarms_per_hour"] == "-"
    assert pooled["test/accuracy"].startswith("90.0")


def test_folds_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first, second, third = (read_run(write_run(tmp_path / str(k), k, 9)) for k in (1, 2, 3))
    other = read_run(write_run(tmp_path / "other", 3, 9, labels=("cat", "cow", "dog")))
    whole = read_run(write_run(tmp_path / "whole", 3, 9))
    whole.metrics["data"]["fold"] = None
    shared = read_run(write_run(tmp_path / "shared", 2, 9, first_id=100))
    shared.predictions[0]["id"] = "1-0"
    cases: list[tuple[list, str]] = [
        ([], "no run"),
        ([first, third], r"folds \[2\] are missing"),
        ([first, second, third, second], r"more than one run of folds \[2\]"),
        ([first, shared, third], "1 clips stand in two test folds, such as 1-0"),
        ([first, second, other], "labels of .*other differ"),
        ([first, second, whole], "not a run of one fold"),
    ]
    for runs, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            summarise_folds(runs)


def write_sweep_run(folder: Path, number: int, overrides: list[str], scores: dict[str, Any]) -> Path:
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "hydra.yaml").write_text(f"hydra:\n  run:\n    dir: ${{x:1}}\n  job:\n    num: {number}\n")
    (hydra / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    if scores:
        write_metrics(folder, scores, seconds=30 * number)
    return folder


def test_overrides_are_read_by_key(tmp_path: Path) -> None:
    folder = write_sweep_run(tmp_path, 0, ["+a.b=x=y", "seed=1", "~task", "++c=[1,2]"], {})
    assert read_overrides(folder) == {"a.b": "x=y", "seed": "1", "task": "", "c": "[1,2]"}
    assert read_overrides(tmp_path / "none") == {}


def test_the_table_of_a_sweep(tmp_path: Path) -> None:
    def scores(value: float) -> dict[str, Score]:
        return {"test/accuracy": ACCURACY, "val/accuracy": Score(value, value - 0.1, value + 0.1, 20)}

    folders = [
        write_sweep_run(tmp_path / "c", 10, ["lr=0.1", "seed=0", "experiment=demo"], scores(0.6)),
        write_sweep_run(tmp_path / "b", 2, ["lr=0.01", "seed=0", "experiment=demo"], scores(0.8)),
        write_sweep_run(tmp_path / "a", 3, ["lr=10", "experiment=demo"], {}),
        write_sweep_run(tmp_path / "d", 4, ["lr=10", "seed=9", "experiment=demo"], {}),
    ]
    write_failure(folders[2], "The training diverged: lower optimizer.lr.")
    summary = summarise_sweep(folders)
    rows = summary.table()
    assert [row["run"] for row in rows] == ["2 (best)", "3", "4", "10"]
    assert [row["status"] for row in rows] == ["done", "failed", "failed", "done"]
    assert rows[0]["val/accuracy"] == "80.0 (70.0 to 90.0)"
    assert (rows[0]["lr"], rows[0]["seed"], rows[0]["minutes"]) == ("0.01", "0", "1.0")
    assert "experiment" not in rows[0]
    assert summary.remarks()[:2] == [
        "Best by val/accuracy.",
        "Run 3 failed: The training diverged: lower optimizer.lr.",
    ]
    assert "log in" in summary.remarks()[2]
    assert "test data" in summarise_sweep(folders, "test/accuracy").remarks()[0]
    write_sweep_report(tmp_path, summary)
    content = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert content["best"] == {"run": 2, "folder": str(folders[1])}
    assert content["runs"][0]["scores"]["test/accuracy"] == ACCURACY.as_dict()
    assert "| 2 (best) | 0.01 | 0 |" in (tmp_path / "sweep.md").read_text(encoding="utf-8")
    screen = console()
    print_sweep_report(summary, screen)
    assert "Run 3 failed: The training diverged" in screen.export_text()


def test_the_lowest_error_rate_is_the_best(tmp_path: Path) -> None:
    """Of error rates, and of a score of one's own whose name does not tell."""
    for number, name in enumerate(("val/wer", "val/cost")):
        rates = [Score(v, v, v, 9, better="min" if name == "val/cost" else None) for v in (0.5, 0.1, 0.3)]
        folders = [
            write_sweep_run(tmp_path / f"{number}-{i}", i, [f"lr={i}"], {name: rate})
            for i, rate in enumerate(rates)
        ]
        assert summarise_sweep(folders).best == 1, name


def test_runs_are_compared_by_what_they_chose_their_checkpoint_by(tmp_path: Path) -> None:
    runs = []
    for number, values in enumerate(((0.9, 0.1), (0.5, 0.7), (0.7, 0.3))):
        found = {
            f"val/{name}": Score(v, v, v, 9) for name, v in zip(("accuracy", "macro_f1"), values, strict=True)
        }
        folder = write_sweep_run(tmp_path / str(number), number, [f"lr={number}"], found)
        write_predictions(folder / "predictions.jsonl", [])
        runs.append(folder)
    for monitor, best in (("val/accuracy", 0), ("val/macro_f1", 1), ("val/loss", 0)):
        for folder in runs:
            (folder / "config.yaml").write_text(f"task: {{monitor: {monitor}}}\n")
        assert summarise_sweep(runs).best == best
        assert best_of_each_fold([read_run(folder) for folder in runs])[0].folder == runs[best]


def test_own_metrics_are_pooled_and_stand_in_their_unit(tmp_path: Path) -> None:
    @metric(better="min", unit="points")
    def misses(predictions: ClassPredictions, draws: Draws) -> NDArray:
        return draws.sums(predictions.targets != predictions.predictions)

    runs = []
    for fold, hits in ((1, 9), (2, 6), (3, 9)):
        folder = write_run(tmp_path / str(fold), fold, hits)
        own = Score(10.0 - hits, 0.0, 9.0, 10, better="min", unit="points")
        write_metrics(folder, {"test/misses": own, "test/false_alarms_per_hour": Score(2.5, 1.0, 4.0, 5)})
        runs.append(read_run(folder))
    summary = summarise_folds(runs, [misses])
    assert summary.pooled["test/misses"].value == 6.0
    table = summary.table()
    assert [row["test/misses"] for row in table[:3]] == ["1.00", "4.00", "1.00"]
    assert table[3]["test/misses"] == "2.00 ± 1.73"
    assert table[3]["test/false_alarms_per_hour"] == "2.50 ± 0.00"
    assert table[4]["test/misses"].startswith("6.00 (")
    assert summarise_folds(runs).pooled.keys() == {"test/accuracy", "test/macro_f1"}


def test_a_sweep_of_failures_has_no_best_run(tmp_path: Path) -> None:
    summary = summarise_sweep([write_sweep_run(tmp_path / "a", 0, ["lr=1"], {})])
    assert summary.best is None
    assert "No run has a score" in summary.remarks()[0]


def test_of_folds_none_is_the_best(tmp_path: Path) -> None:
    folds = [
        write_sweep_run(
            tmp_path / str(fold), fold, ["seed=0", f"data.fold={fold}"], {"test/accuracy": ACCURACY}
        )
        for fold in (1, 2)
    ]
    summary = summarise_sweep(folds)
    assert summary.best is None
    assert [row["run"] for row in summary.table()] == ["1", "2"]
    assert summary.remarks() == ["Folds differ in their data: none is better than another."]


def test_nested_folds_are_chosen_by_validation(tmp_path: Path) -> None:
    """The run that is best on the test is never the one that is best on validation here."""
    runs = []
    for fold in (1, 2, 3):
        for number, (dev, hits) in enumerate(((0.7, 9), (0.9, 4), (0.8, 10))):
            folder = write_run(tmp_path / f"{fold}-{number}", fold, hits)
            write_metrics(folder, {"val/accuracy": Score(dev, dev, dev, 10), "val/wer": ACCURACY})
            runs.append(read_run(folder))
    chosen = best_of_each_fold(runs)
    assert [run.folder.name for run in chosen] == ["1-1", "2-1", "3-1"]
    assert summarise_folds(chosen).pooled["test/accuracy"].value == 0.4
    assert best_of_each_fold(chosen) == chosen
    blind = [read_run(write_run(tmp_path / f"blind {n}", 1, 5)) for n in range(2)]
    with pytest.raises(UserError, match=r"no validation score .*data\.validation_fold=next"):
        best_of_each_fold(blind)
