"""Resuming a run after files in conf/ were edited: nothing of that counts, or is lost, unasked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, edit
from omegaconf import DictConfig, OmegaConf

from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError
from lightning_audio.training import run_folder, saved_config
from lightning_audio.training.resume import ABSENT, _merged, differences, edited, latest
from lightning_audio.training.run import resume_hint, train


def config_of(folder: Path) -> DictConfig:
    loaded = OmegaConf.load(folder / "config.yaml")
    assert isinstance(loaded, DictConfig)
    return loaded


def test_an_edited_file_is_told_and_counts_only_where_it_is_meant(
    logs: Path, conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch([*TINY, "seed=3", "test=false"])
    (folder,) = (logs / "demo").iterdir()
    first = config_of(folder)
    edit(conf / "experiment" / "demo.yaml", "lr: 2.0e-3", "lr: 1.0e-3")
    edit(conf / "train.yaml", "channels_last: false", "channels_last: false  # a comment changes nothing")
    # An option that the run was started with may be left out, and is no change.
    again = ["experiment=demo", "resume=latest"]
    with pytest.raises(
        UserError, match=rf"with other settings \(optimizer\.lr 0\.002 -> 0\.001\).*resume={folder} alone"
    ):
        launch(again)
    assert config_of(folder) == first

    capsys.readouterr()
    launch([f"resume={folder}"])
    assert config_of(folder) == first
    assert "resumes without what has changed in conf/" in (told := capsys.readouterr().out)
    assert ": optimizer.lr 0.002 -> 0.001\n" in told

    launch([*again, "trainer.max_epochs=3", "resume.force=true"])
    told = capsys.readouterr().out
    assert "Resumes with other settings: " in told
    assert "optimizer.lr 0.002 -> 0.001" in told
    assert "trainer.max_epochs 2 -> 3" in told
    now = config_of(folder)
    assert (now.optimizer.lr, now.trainer.max_epochs, now.seed) == (0.001, 3, 3)
    launch(again)  # it has these settings now, and no file says otherwise than they did
    assert config_of(folder) == now


def test_options_that_are_newer_than_a_run_and_at_their_defaults_are_no_change(logs: Path) -> None:
    launch([*TINY])
    (folder,) = (logs / "demo").iterdir()
    for file in (folder / "config.yaml", folder / ".hydra" / "config.yaml"):  # as an older version wrote them
        older = OmegaConf.load(file)
        del older.trainer.overfit_batches, older.task.monitor, older.callbacks.guard, older.loader.timeout
        OmegaConf.save(older, file)
    launch([*TINY, "resume=latest"])
    launch([*TINY, f"hydra.run.dir={folder}"])
    assert config_of(folder).trainer.overfit_batches == 0
    for other in ("trainer.overfit_batches=2", "task.monitor=val/loss", "callbacks.guard.factor=9"):
        with pytest.raises(UserError, match=r"was trained with other settings"):
            launch([*TINY, other, "resume=latest"])


def test_what_is_new_is_taken_from_the_group_and_nowhere_else() -> None:
    saved = {"task": {"kept": 1, "name": "a"}, "data": {"root": "/old"}}
    now = {"task": {"kept": 2, "name": "a", "new": None, "many": 0, "set": 5}, "data": None, "part": {"a": 1}}
    usual = {"task": {"kept": 2, "new": None, "many": 0, "set": 4}, "data": {"root": 1}, "part": {"a": 1}}
    assert saved_config.with_new_defaults(saved, now, usual) == {
        "task": {"kept": 1, "name": "a", "new": None, "many": 0},
        "data": {"root": "/old"},
        "part": {"a": 1},
    }


def test_where_the_data_lie_now_is_no_edit(
    logs: Path, conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch([*TINY, "trainer.max_epochs=1", "test=false"])
    (folder,) = (logs / "demo").iterdir()
    first = config_of(folder)
    monkeypatch.setenv("LIGHTNING_AUDIO_DATA", str(tmp_path / "elsewhere"))
    assert edited(folder, first)[1] == first
    edit(conf / "data" / "demo.yaml", "clips_per_class: 16", "clips_per_class: 9")
    assert edited(folder, first)[1] == first  # the command line chose another number


def test_a_run_whose_command_makes_none_any_more_goes_on_as_it_was(logs: Path, conf: Path) -> None:
    launch([*TINY, "trainer.max_epochs=1", "test=false"])
    (folder,) = (logs / "demo").iterdir()
    (conf / "experiment" / "demo.yaml").rename(conf / "experiment" / "renamed.yaml")
    assert edited(folder, config_of(folder))[1] == config_of(folder)
    shutil.rmtree(folder / ".hydra")
    assert edited(folder, config_of(folder))[1] == config_of(folder)


def test_a_command_from_somebody_else_builds_no_more_than_a_configuration(logs: Path, tmp_path: Path) -> None:
    launch([*TINY])
    (folder,) = (logs / "demo").iterdir()
    canary = tmp_path / "canary"
    evil = f"+callbacks.evil={{_target_:os.system,command:'touch {canary}'}}"
    OmegaConf.save(OmegaConf.create([*TINY, evil]), folder / ".hydra" / "overrides.yaml")
    with pytest.raises(UserError, match=r"wants to build os\.system, which is not on the allow list"):
        launch([f"resume={folder}", "resume.force=true"])
    assert not canary.exists()


@pytest.mark.parametrize(
    ("then", "now", "saved", "expected"),
    [
        ({"a": 1}, {"a": 1}, {"a": 5}, {"a": 5}),  # changed on the command line
        ({"a": 1}, {"a": 2}, {"a": 5}, {"a": 2}),
        ({"a": 1}, {"a": 2}, {"a": 1, "b": 3}, {"a": 2, "b": 3}),
        ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}, {"a": 1}),  # taken out
        ({"a": 1}, {"a": 1, "b": None}, {"a": 1}, {"a": 1, "b": None}),  # put in
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, {"a": {"b": 1, "d": 4}}, {"a": {"b": 2, "d": 4, "c": 3}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": {"b": 1}}, {"a": None}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1]}, {"a": [1, 2]}),
    ],
)
def test_edits_are_merged_into_what_was_saved(then: Any, now: Any, saved: Any, expected: Any) -> None:
    assert _merged(then, now, saved) == expected
    assert _merged(then, then, saved) == saved
    assert ABSENT not in expected.values()


def test_differences_name_options_by_their_place() -> None:
    old, new = ({"a": {"b": 1, "c": [1]}, "d": None}, {"a": {"b": 2, "c": [1]}, "e": 3})
    found = differences(OmegaConf.create(old), OmegaConf.create(new))
    assert found == {"a.b": (1, 2), "e": (None, 3)}


def test_a_folder_in_which_another_process_trains_is_left_alone(tiny_run: Path, tmp_path: Path) -> None:
    with run_folder.alone_in(tmp_path), pytest.raises(UserError, match="Another process is training in"):
        train(OmegaConf.load(tiny_run / "config.yaml"), tmp_path)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]
    with run_folder.alone_in(tmp_path):
        pass


def test_a_process_of_the_same_run_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_folder.alone_in(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with run_folder.alone_in(tmp_path):
            pass


def test_the_latest_run_is_not_one_that_was_renamed(tmp_path: Path) -> None:
    for name in ("2026-01-31_12-00-00_ffff", "2026-02-01_12-00-00_0000", "baseline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    assert latest(tmp_path, "config.yaml").name == "2026-02-01_12-00-00_0000"
    shutil.rmtree(tmp_path / "2026-01-31_12-00-00_ffff")
    shutil.rmtree(tmp_path / "2026-02-01_12-00-00_0000")
    assert latest(tmp_path, "config.yaml").name == "baseline"


def test_what_to_do_with_a_run_that_had_not_begun(tmp_path: Path) -> None:
    assert resume_hint(tmp_path).startswith("start it again")
    (tmp_path / "config.yaml").touch()
    assert resume_hint(tmp_path) == f"resume with resume={tmp_path}"


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("sqlite:///{logs}/mlflow.db", True),
        ("http://mine:5000", True),
        ("http://evil.example:5000", False),
        ("sqlite:///{logs}/../outside/mlflow.db", False),
        ("file:///tmp/outside", False),
        ("/tmp/outside", False),
    ],
)
def test_a_run_folder_logs_to_no_server_but_the_users_own(
    address: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    folder = tmp_path / "logs" / "demo" / "2026-01-31"
    (tmp_path / "outside").mkdir()
    node = {"logger": {"mlflow": {"tracking_uri": address.format(logs=tmp_path / "logs")}}}
    if fits:
        saved_config.refuse_elsewhere(node, folder)
        return
    with pytest.raises(
        UserError, match=r"wants to log to .*: set MLFLOW_TRACKING_URI to that if it is yours"
    ):
        saved_config.refuse_elsewhere(node, folder)
