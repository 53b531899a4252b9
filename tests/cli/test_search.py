"""`lightning-audio sweep`: runs whose options are drawn, in one study and one table."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, TWO_PROCESSES
from processes import ended, program, start

from lightning_audio.cli import sweep
from lightning_audio.cli.sweep import search
from lightning_audio.cli.train import launch
from lightning_audio.config import Command
from lightning_audio.errors import UserError
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO

pytest.importorskip("optuna", reason="the extra sweep is not installed")

from lightning_audio.training.study import Study

ONE = (*TINY, "trainer.max_epochs=1", "sweep=random", "search.best=1", "search.seeds=1")


def table_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sweep.json").read_text())


def test_trials_end_in_one_table_and_a_mistake_costs_its_own_alone(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["search.trials=3", "optimizer.weight_decay=0.01", "loader.batch_size=choice(16,0,8)"]
    folder = search([*ONE, *options, "search.best=1", "search.seeds=2"])
    assert folder is not None
    printed, table = capsys.readouterr().out, table_of(folder)
    sizes = [row["overrides"]["loader.batch_size"] for row in table["runs"]]
    assert "0" in sizes, "of seed 0"
    for row, size in zip(table["runs"], sizes, strict=True):
        if size == "0":
            assert row["error"].startswith("loader.batch_size=0 is out of range")
        else:
            metrics = json.loads((Path(row["folder"]) / "metrics.json").read_text())
            assert row["scores"] == metrics["scores"]
            assert not any(name.startswith("test/") for name in row["scores"])
    assert len(table["runs"]) == 4
    assert [row["overrides"].get("seed") for row in table["runs"]] == [None, None, None, "1"]
    assert table["monitor"] == "val/accuracy"
    best = table["best"]["run"]
    assert table["runs"][best]["overrides"]["optimizer.lr"] == table["runs"][3]["overrides"]["optimizer.lr"]
    assert f"Best: trial {best} by val/accuracy" in " ".join(printed.split())
    assert re.search(r"Cost: .* hours of training in 4 trials, \d failed", " ".join(printed.split()))
    assert "No validation clips: a fifth of the training clips" in printed

    # The same command starts another sweep, now that this one is over; `resume` adds to it.
    again = search([f"resume={folder}", "search.trials=4"])
    assert again == folder
    assert len([row for row in table_of(folder)["runs"] if "seed" not in row["overrides"]]) == 4
    with pytest.raises(UserError, match="holds another sweep than this"):
        search([*ONE, "search.trials=1", "optimizer.lr=interval(1,2)", f"hydra.sweep.dir={folder}"])


def test_two_processes_work_on_one_study(logs: Path, tmp_path: Path) -> None:
    options = [*ONE, "search.trials=4"]
    both = [start(program, "sweep", *options, output=tmp_path / name) for name in "ab"]
    assert [ended(one) for one in both] == [0, 0], (tmp_path / "a.err").read_text()
    folder, *more = (one.parent for one in logs.glob("demo/*/search.json"))
    assert not more
    rows = table_of(folder)["runs"]
    assert [row["run"] for row in rows] == [0, 1, 2, 3]
    assert all(row["error"] is None for row in rows)
    trained = "".join((tmp_path / name).read_text() for name in "ab")
    assert sorted(re.findall(r"^trial (\d+)", trained, re.MULTILINE)) == ["0", "1", "2", "3"]


def test_a_full_disk_loses_no_trial(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
        with pytest.raises(UserError, match=r"disk of .* is full: free some space; the same command"):
            search([*ONE, "search.trials=1"])
    folder = search([*ONE, "search.trials=1"])
    assert folder is not None
    (trial,) = Study(folder).trials()
    assert trial.state.name == "COMPLETE"
    assert len(list(logs.glob("demo/*/search.json"))) == 1


def test_trials_behind_are_stopped_and_limits_kept(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, "sweep=asha", "search.trials=4", "callbacks.pruning.after=1", "search.seeds=1"]
    with pytest.raises(UserError, match="No trial came to its end within the limits"):
        search([*options, "search.limits.parameters=100", "search.limits.latency_ms=1e6"])
    folder = next(logs.glob("demo/*/search.json")).parent
    for trial, row in zip(Study(folder).trials(), table_of(folder)["runs"], strict=True):
        if trial.state.name == "PRUNED":
            assert re.match(
                r"stopped early after epoch 1: val/accuracy .* is not among the best 1 in 3", row["error"]
            )
            assert sorted(trial.intermediate_values) == [1]
        else:
            assert sorted(trial.intermediate_values) == [1, 2]
            assert trial.value == row["scores"]["val/accuracy"]["value"]
            assert max(trial.intermediate_values.values()) == pytest.approx(trial.value)  # best.ckpt
            assert trial.constraints["parameters"] == pytest.approx(1446 / 100 - 1)
            assert -1 < trial.constraints["latency_ms"] < 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("stopped early" in said) == any(t.state.name == "PRUNED" for t in Study(folder).trials())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sweep=random", "optimizer.rl=interval(0,1)"], "'optimizer.rl' is no option"),
        (["sweep=random", "loader.batch_size=0,16"], "loader.batch_size=0 is out of range"),
        (["sweep=random", "search.draw=grid"], "search.draw=grid is none of random, coarse_to_fine, tpe"),
        (["sweep=random", "search.trials=0"], "search.trials=0 does not fit"),
        (["sweep=random", "loader.batch_size=interval(8,64)"], "loader.batch_size=33.58"),
        (["sweep=random", "search.limits.minutes=0"], "search.limits.minutes=0 is no limit"),
        (["sweep=random", "~search.best"], "search.best is missing"),
        (["sweep=random", "search.limits.mintues=3"], "'search.limits.mintues' is no option"),
        (["sweep=random", "+search.trails=3"], "search: trails is no option"),
        (["sweep=random", "trainer.limit_val_batches=0"], "this run has none: set loader.val_fraction"),
        (["optimizer.lr=interval(1e-4,1e-2)"], "is drawn at random: add sweep=random"),
    ],
)
def test_a_mistake_is_told_before_a_trial_starts(options: list[str], said: str, logs: Path) -> None:
    with pytest.raises(UserError, match=said):
        search([*TINY, *options])
    assert not list(logs.glob("demo/*/0"))


def test_a_sweep_that_was_hopeless_is_over(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> None:
        raise UserError("no sound")

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_one", fails)
        with pytest.raises(UserError, match="All 5 trials have failed"):
            search([*ONE, "search.trials=9"])
    (first,) = logs.glob("demo/*/sweep.json")
    assert [row["error"] for row in table_of(first.parent)["runs"]] == ["no sound"] * 5
    assert search([*ONE, "search.trials=1"]) not in (None, first.parent)


def test_a_seed_that_fails_is_told(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = sweep.run_one

    def unlucky(command: Command, asked: Any, **options: Any) -> Any:
        if asked.cfg.seed == 1:
            raise UserError("no sound")
        return train(command, asked, **options)

    monkeypatch.setattr(sweep, "run_one", unlucky)
    search([*ONE, "search.trials=1", "search.best=1", "search.seeds=2"])
    assert "1 of 2 seeds came to no end and do not count" in " ".join(capsys.readouterr().out.split())


def test_a_damaged_file_of_another_sweep_costs_nothing(logs: Path) -> None:
    other = logs / "demo" / "other"
    other.mkdir(parents=True)
    for content, said in (("{", "is damaged"), ("[]", "holds no dict"), ("{}", "does not say how")):
        (other / sweep.SWEEP_FILE).write_text(content)
        assert not sweep._is_of(other / sweep.SWEEP_FILE, [])
        with pytest.raises(UserError, match=rf"search\.json .*{said}"):
            search([f"resume={other}"])


def test_a_sweep_is_known_by_its_options_in_any_order(logs: Path) -> None:
    file = logs / "demo" / "one" / sweep.SWEEP_FILE
    file.parent.mkdir(parents=True)
    file.write_text(
        '{"arguments": ["experiment=demo", "sweep=random", "seed=1"], "trials": "search.trials=3"}'
    )
    given = ["experiment=demo", "sweep=random", f"resume={file.parent}", "search.trials=9"]
    resumed = sweep._resumed(Command.read(given), given)
    assert resumed is not None
    own = [option for option in resumed.arguments if option.split("=")[0] not in sweep.OWN]
    assert sweep._is_of(file, own)
    assert not sweep._is_of(file, own[1:])


def test_train_says_what_draws_values(logs: Path) -> None:
    with pytest.raises(UserError, match="draws values for many runs: start it by `lightning-audio sweep`"):
        launch([*TINY, "sweep=random"])
    with pytest.raises(
        UserError, match=r"interval\(\.\.\.\) has none: draw from it by `lightning-audio sweep`"
    ):
        launch(["-m", *TINY, "optimizer.lr=interval(1e-4,1e-2)"])


def test_lists_alone_are_all_combined(logs: Path) -> None:
    folder = search([*TINY, "trainer.max_epochs=1", "test=false", "loader.val_fraction=0.25", "seed=0,1"])
    assert folder is not None
    assert [row["overrides"]["seed"] for row in table_of(folder)["runs"]] == ["0", "1"]
    assert not (folder / sweep.SWEEP_FILE).exists()


@pytest.mark.slow
def test_fifty_trials_of_two_processes_of_which_one_is_killed_again_and_again(
    logs: Path, tmp_path: Path
) -> None:
    options = [*TINY, "sweep=optuna", "search.trials=50", "search.seeds=1"]
    steady = start(program, "sweep", *options, output=tmp_path / "steady")

    def ended() -> int:
        return len([*logs.glob("demo/**/metrics.json")])

    kills, number = 0, 0
    while steady.exitcode is None:
        killed = start(program, "sweep", *options, output=tmp_path / f"killed_{number}")
        number += 1
        end, enough = time.monotonic() + 30, ended() + 12  # fast machines have all fifty within 40 s
        while time.monotonic() < end and steady.exitcode is None and killed.exitcode is None:
            time.sleep(0.1)
            if ended() >= enough:
                break
        if killed.exitcode is None and steady.exitcode is None:
            killed.kill()
            kills += 1
        killed.join(120)
    assert steady.exitcode == 0, (tmp_path / "steady.err").read_text()
    folder = next(logs.glob("demo/*/search.json")).parent
    trials = Study(folder).trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 50
    assert len({tuple(trial.params.values()) for trial in trials}) == 50
    rows = table_of(folder)["runs"]
    assert [row["run"] for row in rows] == list(range(50))
    values = [row["scores"]["val/accuracy"]["value"] for row in rows]
    assert values == [trial.value for trial in trials]
    assert kills >= 2
    print(f"{kills} kills")


@pytest.mark.slow
def test_a_trial_on_two_devices_is_a_group_of_processes_of_its_own(logs: Path) -> None:
    folder = search([*ONE, *TWO_PROCESSES, "search.trials=1"])
    assert folder is not None
    (row,) = table_of(folder)["runs"]
    assert row["error"] is None
    assert Study(folder).trials()[0].value == row["scores"]["val/accuracy"]["value"]


def test_a_sweep_that_is_resumed_asks_for_the_passwords_that_no_file_keeps(logs: Path) -> None:
    file = logs / "demo" / "one" / sweep.SWEEP_FILE
    file.parent.mkdir(parents=True)
    about = {
        "arguments": ["loader.shards=http://me:***@host/set", "sweep=random"],
        "trials": "search.trials=3",
    }
    file.write_text(json.dumps(about))
    resume = f"resume={file.parent}"
    with pytest.raises(UserError, match=r"keeps no password of loader\.shards: give loader\.shards=ADDRESS"):
        sweep._resumed(Command.read([resume]), [resume])
    again = [resume, "loader.shards=http://me:secret@host/set"]
    command = sweep._resumed(Command.read(again), again)
    assert command is not None
    assert again[1] in command.arguments
    assert not [one for one in command.arguments if "***" in one]
