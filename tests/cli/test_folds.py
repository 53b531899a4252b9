"""Cross-validation: every fold once, one result, and what was done is not done again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from conftest import TINY, edit
from omegaconf import OmegaConf

from lightning_audio.cli import evaluate, folds
from lightning_audio.cli import train as program
from lightning_audio.errors import UserError
from lightning_audio.reports.html.several import write_folds
from lightning_audio.reports.sweep import run_folders

ONE = (*TINY, "trainer.max_epochs=1", "data.clips_per_class=1")


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """A cross-validation that was interrupted in its third fold and resumed: its folder, and when the
    metrics of the folds that were done before had been written."""
    root, whole = tmp_path_factory.mktemp("folds"), program.train
    arguments = [*ONE, f"paths.logs={root}", f"paths.cache={tmp_path_factory.getbasetemp() / 'cache'}"]

    def interrupted(cfg: Any, folder: Path, *options: Any) -> dict[str, Any]:
        if cfg.data.fold == 3:
            raise KeyboardInterrupt
        return whole(cfg, folder, *options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["folds"])
        patch.setattr(program, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folds.cross_validate(arguments)
        (folder,) = (root / "demo").iterdir()
        assert not (folder / "folds.json").exists()
        written = {number: mtime(folder, number) for number in (0, 1)}
        assert not (folder / "2" / "metrics.json").exists()
        patch.setattr(program, "train", whole)
        folds.cross_validate([*arguments, "resume=latest"])
    assert list((root / "demo").iterdir()) == [folder]
    return folder, written


def mtime(folder: Path, number: int) -> float:
    return (folder / str(number) / "metrics.json").stat().st_mtime_ns


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / str(number) / "metrics.json").read_text()) for number in range(5)]


def test_page_pools_the_folds(validated: tuple[Path, dict[int, float]]) -> None:
    """Its scores are those of folds.json, and no clip is shown, since all are test clips."""
    folder, _ = validated
    page, found = write_folds(folder).read_text(), json.loads((folder / "folds.json").read_text())
    pooled = found["pooled"]["test/accuracy"]
    assert f"{100 * pooled['value']:.1f} ({100 * pooled['low']:.1f} to {100 * pooled['high']:.1f})" in page
    assert "<article" not in page


def test_finished_folds_are_left_as_they_were(validated: tuple[Path, dict[int, float]]) -> None:
    folder, written = validated
    assert {number: mtime(folder, number) for number in written} == written
    assert [metrics["data"]["fold"] for metrics in metrics_of(folder)] == [1, 2, 3, 4, 5]


def test_mean_and_deviation_are_those_of_the_runs(validated: tuple[Path, dict[int, float]]) -> None:
    folder, _ = validated
    result = json.loads((folder / "folds.json").read_text())
    for name in ("test/accuracy", "test/macro_f1"):
        values = [metrics["scores"][name]["value"] for metrics in metrics_of(folder)]
        assert result["mean"][name] == pytest.approx(mean(values))
        assert result["deviation"][name] == pytest.approx(stdev(values))
    assert f"{100 * result['mean']['test/accuracy']:.1f} ±" in (folder / "folds.md").read_text()


def test_pooled_scores_are_those_of_all_predictions(validated: tuple[Path, dict[int, float]]) -> None:
    folder, _ = validated
    rows = [
        json.loads(line)
        for number in range(5)
        for line in (folder / str(number) / "predictions.jsonl").read_text().splitlines()
    ]
    assert len({row["id"] for row in rows}) == len(rows) == 50, "every clip is tested on once"
    result = json.loads((folder / "folds.json").read_text())
    hits = sum(row["reference"] == row["hypothesis"] for row in rows)
    pooled = result["pooled"]["test/accuracy"]
    assert (pooled["value"], pooled["n"]) == (hits / 50, 50)
    assert sum(map(sum, result["confusion"])) == 50
    assert sum(result["confusion"][i][i] for i in range(10)) == hits
    assert [sum(row) for row in result["confusion"]] == [5] * 10


def test_all_folds_are_scored_again_at_once(
    validated: tuple[Path, dict[int, float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = validated
    before = (folder / "folds.json").read_bytes()
    evaluate.main([str(folder), "--output", str(tmp_path / "again")])
    assert capsys.readouterr().out.count("The same numbers as when it was trained.") == 5
    again, trained = json.loads((tmp_path / "again" / "folds.json").read_text()), json.loads(before)
    names = [name for name in trained["mean"] if name.startswith("test/")]
    assert names
    assert {name: again["mean"][name] for name in names} == {name: trained["mean"][name] for name in names}
    assert (again["pooled"], again["confusion"]) == (trained["pooled"], trained["confusion"])
    assert (folder / "folds.json").read_bytes() == before


def test_runs_of_one_name_are_scored_into_folders_of_their_own(
    validated: tuple[Path, dict[int, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        shutil.copytree(run, tmp_path / str(number) / "0")
        for number, run in enumerate(run_folders(validated[0]), start=1)
    ]
    monkeypatch.setattr(
        evaluate, "evaluate", lambda run, _, output, *__: [*shutil.copytree(run, output).glob("x")]
    )
    evaluate.evaluate_folds([[run] for run in runs], [], tmp_path / "again")
    written = json.loads((tmp_path / "again" / "folds.json").read_text())
    assert [Path(row["folder"]).name for row in written["folds"]] == [f"fold_{n}" for n in range(1, 6)]


def test_an_edited_file_is_asked_about_before_some_folds_take_it(
    validated: tuple[Path, dict[int, float]], logs: Path, conf: Path
) -> None:
    shutil.copytree(validated[0], folder := logs / "demo" / validated[0].name)
    folds.cross_validate([*ONE, "resume=latest"])  # all have their scores
    shutil.rmtree(folder / "2")
    edit(conf / "experiment" / "demo.yaml", "lr: 2.0e-3", "lr: 1.0e-3")
    with pytest.raises(UserError, match=r"0 was trained with other settings \(optimizer\.lr 0\.002 -> "):
        folds.cross_validate([*ONE, "resume=latest"])
    assert not (folder / "2").exists()
    folds.cross_validate([*ONE, "resume=latest", "resume.force=true"])
    rates = [OmegaConf.load(folder / str(number) / "config.yaml").optimizer.lr for number in (1, 2)]
    assert rates == [0.002, 0.001]
    assert (folder / "2" / "metrics.json").is_file()


def test_runs_that_are_not_all_folds_are_not_scored_again(
    validated: tuple[Path, dict[int, float]], tmp_path: Path
) -> None:
    folder, _ = validated
    shutil.copytree(folder, tmp_path / "some")
    shutil.rmtree(tmp_path / "some" / "1")
    with pytest.raises(UserError, match=r"The runs of folds \[2\] are missing"):
        evaluate.evaluate_folds([[run] for run in run_folders(tmp_path / "some")], [], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_fold_that_fails_ends_without_a_result(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(cfg: Any, folder: Path, *options: Any) -> dict[str, Any]:
        raise UserError("No luck.")

    monkeypatch.setattr(program, "train", failing)
    with pytest.raises(UserError, match="5 runs failed"):
        folds.cross_validate(list(ONE))
    (folder,) = (logs / "demo").iterdir()
    assert not (folder / "folds.json").exists()


def test_other_options_vary_only_with_a_validation_fold(logs: Path) -> None:
    with pytest.raises(UserError, match=r"or choose among the values for each fold by data\.validation_fold"):
        folds.cross_validate([*ONE, "optimizer.lr=1e-3,2e-3"])


@pytest.mark.slow
def test_nested_cross_validation(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten runs; of each fold the one with the better validation score is its answer."""
    folds.cross_validate([*ONE, "data.validation_fold=next", "optimizer.lr=1e-9,3e-3"])
    (folder,) = (logs / "demo").iterdir()
    metrics = [json.loads((run / "metrics.json").read_text()) for run in run_folders(folder)]
    assert len(metrics) == 10
    best: dict[int, float] = {}
    for one in metrics:
        fold, score = one["data"]["fold"], one["scores"]["val/accuracy"]["value"]
        best[fold] = max(best.get(fold, 0.0), score)
    found = json.loads((folder / "folds.json").read_text())["folds"]
    assert {row["fold"]: row["scores"]["val/accuracy"]["value"] for row in found} == best
    assert capsys.readouterr().out.count("chosen on its validation fold: ") == 5
    assert all(one["data"]["clips"] == {"train": 30, "val": 10, "test": 10} for one in metrics)
