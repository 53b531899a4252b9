"""A multirun ends in one table of all its runs; several processes train one run, but never a multirun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPORTED, TINY, TWO_PROCESSES
from processes import ended, start
from processes import program as whole_program

from lightning_audio.cli import train as program
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError
from lightning_audio.reports import sweep as reports

ONE = (*TINY, "trainer.max_epochs=1")


def the_sweep(logs: Path) -> Path:
    (folder,) = (logs / "demo").iterdir()
    return folder


def table_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def test_all_runs_stand_in_one_table(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(["-m", *ONE, "loader.val_fraction=0.25", "optimizer.lr=1e-3,1e-2", "seed=0"])
    folder = the_sweep(logs)
    table = table_of(folder)
    assert [row["overrides"]["optimizer.lr"] for row in table["runs"]] == ["0.001", "0.01"]
    assert [row["error"] for row in table["runs"]] == [None, None]
    for number, row in enumerate(table["runs"]):
        assert row["folder"] == str(folder / str(number))
        metrics = json.loads((folder / str(number) / "metrics.json").read_text())
        assert row["scores"] == metrics["scores"]
    assert table["monitor"] == "val/accuracy"
    values = [row["scores"]["val/accuracy"]["value"] for row in table["runs"]]
    assert table["best"]["run"] == values.index(max(values))
    printed = capsys.readouterr().out
    markdown = (folder / "sweep.md").read_text()
    for text in (printed, markdown):
        assert "optimizer.lr" in text
        assert "Best by val/accuracy." in text
    assert "seed" not in markdown, "what does not vary is no column"


def test_a_failed_run_is_listed_and_the_others_go_on(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "-m", *ONE, "data.fold=1,9,2"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.endswith("error: 1 runs failed: the table above says why.\n")
    assert "Traceback" not in printed.err
    errors = [row["error"] for row in table_of(the_sweep(logs))["runs"]]
    assert errors[0] is None
    assert errors[1].startswith("There is no fold 9 of the demo")
    assert errors[2] is None
    assert "Run 1 failed: There is no fold 9 of the demo" in " ".join(printed.out.split())


def test_a_resumed_multirun_skips_what_is_done(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(cfg: Any, folder: Path, *options: Any) -> dict[str, Any]:
        if cfg.seed == 1:
            raise KeyboardInterrupt
        return whole(cfg, folder, *options)

    whole = program.train
    monkeypatch.setattr(program, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(["-m", *ONE, "seed=0,1"])
    monkeypatch.setattr(program, "train", whole)
    folder = the_sweep(logs)
    before = (folder / "0" / "metrics.json").stat().st_mtime_ns
    launch([*ONE])  # a later single run is not what a multirun resumes
    with pytest.raises(UserError, match=r"0 was trained with other settings \(seed 0 -> 1\)"):
        launch(["-m", *ONE, "seed=1,0", "resume=latest"])
    launch(["-m", *ONE, "seed=0,1", "resume=latest"])
    assert (folder / "0" / "metrics.json").stat().st_mtime_ns == before
    assert [row["overrides"]["seed"] for row in table_of(folder)["runs"]] == ["0", "1"]
    assert [row["error"] for row in table_of(folder)["runs"]] == [None, None]
    assert len(list((logs / "demo").iterdir())) == 2


def test_several_processes_in_a_multirun_are_refused(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="2 runs failed"):
        launch(["-m", *ONE, *TWO_PROCESSES, "seed=0,1"])
    assert "epoch 1/" not in capsys.readouterr().out
    for row in table_of(the_sweep(logs))["runs"]:
        assert row["error"].startswith("A multirun can't train on several devices")


def test_two_processes_train_one_run(logs: Path, tmp_path: Path) -> None:
    """Each sees half of every batch of both; the run has one folder, and every test clip is scored once."""
    options, out = [*REPORTED, *TWO_PROCESSES, "loader.val_fraction=0.25"], tmp_path / "out"
    assert ended(start(whole_program, "train", *options, output=out)) == 0, (tmp_path / "out.err").read_text()
    assert out.read_text().count("epoch 2/2") == 1
    assert out.read_text().count("Run folder:") == 1
    folder = the_sweep(logs)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics["scores"]) == 9, "three scores of validation, test and as many training clips"
    scored = {(name.partition("/")[0], score["n"]) for name, score in metrics["scores"].items()}
    assert scored == {("val", 20), ("test", 20), ("train", 60)}
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 20
    assert not list(folder.glob("config_until_*"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_of_hydra_run_trials_side_by_side(launcher: str, logs: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    launch(["-m", *ONE, f"hydra/launcher={launcher}", "seed=0,1"])
    rows = table_of(the_sweep(logs))["runs"]
    assert [row["overrides"]["seed"] for row in rows] == ["0", "1"]
    assert [row["error"] for row in rows] == [None, None]


def test_a_damaged_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / reports.STUDY).touch()
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        reports.as_written(tmp_path)
