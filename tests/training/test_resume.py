"""A run that is killed and resumed ends as if nothing had happened: the same weights, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TWO_PROCESSES
from kill_points import STATE, equal
from omegaconf import OmegaConf
from processes import ended, start

from lightning_audio.cli.train import launch
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.checkpointing import Best
from lightning_audio.training.run import train
from lightning_audio.training.saved_config import load_config

MIX = "augment.mix={_target_:lightning_audio.augment.mix.Mix,mode:power}"
FOUR = (*TINY, "trainer.max_epochs=4", MIX)
EMA, PLAIN = "callbacks=ema", "callbacks=default"


def killed_run(moment: str, overrides: list[str]) -> None:
    """A run that kills itself for real: in the middle of the third epoch, or while its third checkpoint
    stands beside its place and is about to be renamed."""
    step, replace, renamed = AudioTask.training_step, Path.replace, []

    def killed_in_a_step(self: AudioTask, batch: Any, batch_idx: int) -> Any:
        if moment == "step" and (self.current_epoch, batch_idx) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    def killed_in_saving(self: Path, target: Path) -> Any:
        renamed.extend([target] if Path(target).name == "last.ckpt" else [])
        if moment == "saving" and len(renamed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    AudioTask.training_step = killed_in_a_step  # type: ignore[method-assign]
    Path.replace = killed_in_saving  # type: ignore[assignment, method-assign]
    launch(overrides)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The logs of two runs of two whole epochs."""
    logs = {moment: tmp_path_factory.mktemp(moment) for moment in ("step", "saving")}
    os.environ["LIGHTNING_AUDIO_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    for moment, folder in logs.items():
        overrides = [*FOUR, EMA if moment == "step" else PLAIN, f"paths.logs={folder}"]
        assert ended(start(killed_run, moment, overrides)) == -signal.SIGKILL
    return logs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the same runs without an interruption, with and without weight averaging."""
    folders = {callbacks: tmp_path_factory.mktemp("whole") for callbacks in (EMA, PLAIN)}
    cache = tmp_path_factory.getbasetemp() / "cache"
    for callbacks, folder in folders.items():
        train(compose_config([*FOUR, callbacks, f"paths.cache={cache}"]), folder)
    return folders


def state_of(folder: Path) -> dict[str, Any]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {part: checkpoint.get(part) for part in STATE}


def assert_same_run(resumed: Path, whole: Path) -> None:
    assert equal(state_of(resumed), state_of(whole))
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (resumed, whole))
    assert one["scores"] == other["scores"]
    assert one["epochs"] == other["epochs"]
    assert (resumed / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()


def test_the_runs_draw_and_average(whole: dict[str, Path]) -> None:
    """What could go astray is there: dropout, augmentation, mixing, and an average beside the weights."""
    cfg = OmegaConf.load(whole[EMA] / "config.yaml")
    assert cfg.network.dropout > 0
    assert len(cfg.augment.waveform) > 0
    assert cfg.augment.mix is not None
    averaged, plain = state_of(whole[EMA]), state_of(whole[PLAIN])
    assert not equal(averaged["state_dict"], averaged["current_model_state"])
    assert plain["current_model_state"] is None
    assert equal(averaged["current_model_state"], plain["state_dict"])


@pytest.mark.parametrize(("moment", "callbacks"), [("step", EMA), ("saving", PLAIN)])
def test_a_killed_run_goes_on_to_the_same_weights(
    moment: str, callbacks: str, killed: dict[str, Path], whole: dict[str, Path], logs: Path
) -> None:
    (folder,) = (killed[moment] / "demo").iterdir()
    assert state_of(folder)["epoch"] == 1, "the checkpoint of two whole epochs is there"
    assert not (folder / "metrics.json").exists()
    resume = "latest" if moment == "step" else folder
    launch(["experiment=demo", f"paths.logs={killed[moment]}", f"resume={resume}"])
    assert list((killed[moment] / "demo").iterdir()) == [folder], "it stays in its own folder"
    assert state_of(folder)["epoch"] == 3
    assert_same_run(folder, whole[callbacks])


def stepwise(folder: Path, *overrides: str) -> Any:
    """A configuration that also saves in the middle of epochs, at the steps 3, 6, 9 ... of 5 an epoch."""
    cfg = compose_config([*FOUR, *overrides])
    saver = {
        "_target_": "pytorch_lightning.callbacks.ModelCheckpoint",
        "dirpath": str(folder / "steps"),
        "filename": "{step}",
        "every_n_train_steps": 3,
        "save_top_k": -1,
    }
    OmegaConf.update(cfg, "callbacks.steps", saver, force_add=True)
    return cfg


@pytest.mark.parametrize(("step", "overrides"), [(9, (EMA,)), (3, (PLAIN, "loader.workers=1"))])
def test_a_run_goes_on_from_the_middle_of_an_epoch(
    step: int, overrides: tuple[str, ...], whole: dict[str, Path], tmp_path: Path
) -> None:
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    train(stepwise(first, *overrides, "test=false"), first)
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copy(first / "steps" / f"step={step}.ckpt", resumed / "checkpoints" / "last.ckpt")
    train(stepwise(resumed, *overrides), resumed)
    assert_same_run(resumed, whole[overrides[0]])


def test_balanced_batches_by_duration_go_on_from_the_middle_of_an_epoch(tmp_path: Path) -> None:
    options = (PLAIN, "loader.balance=true", "loader.max_batch_duration=6.5")
    first, resumed = tmp_path / "first", tmp_path / "resumed"
    train(stepwise(first, *options), first)
    (resumed / "checkpoints").mkdir(parents=True)
    steps = sorted((first / "steps").glob("*.ckpt"), key=lambda file: int(file.stem.split("=")[1]))
    shutil.copy(steps[len(steps) // 2], resumed / "checkpoints" / "last.ckpt")
    train(stepwise(resumed, *options), resumed)
    assert_same_run(resumed, first)


@pytest.mark.slow
def test_two_processes_go_on_from_the_middle_of_an_epoch(tmp_path: Path) -> None:
    steps = "+callbacks.steps={_target_:pytorch_lightning.callbacks.ModelCheckpoint,every_n_train_steps:3,"
    steps += "filename:'{step}',save_top_k:-1,dirpath:${run_folder}/steps}"
    command = [sys.executable, "-m", "lightning_audio", "train"]
    options = [*FOUR, EMA, *TWO_PROCESSES, f"paths.logs={tmp_path}", steps]
    subprocess.run([*command, *options], timeout=300, check=True)
    (first,) = (tmp_path / "demo").iterdir()
    resumed = tmp_path / "resumed"
    shutil.copytree(first, resumed, ignore=shutil.ignore_patterns("checkpoints", "metrics.json"))
    (resumed / "checkpoints").mkdir()
    shutil.copy(first / "steps" / "step=9.ckpt", resumed / "checkpoints" / "last.ckpt")
    again = [*command, f"resume={resumed}", "allow=[pytorch_lightning.callbacks]"]
    subprocess.run(again, timeout=300, check=True)
    assert_same_run(resumed, first)


@pytest.mark.parametrize("callbacks", [EMA, PLAIN])
def test_a_run_that_has_ended_is_tested_again_and_not_trained(
    callbacks: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole[callbacks], copy)
    train(compose_config([*FOUR, callbacks]), copy)
    assert_same_run(copy, whole[callbacks])


def test_a_run_without_a_checkpoint_starts_anew_in_its_folder(whole: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.ckpt.partial").write_bytes(b"cut short")
    train(compose_config([*FOUR, PLAIN]), tmp_path)
    assert_same_run(tmp_path, whole[PLAIN])


def test_what_lay_in_a_run_that_was_moved_lies_where_it_is_now(tmp_path: Path) -> None:
    saved = {
        "run_folder": "/old/run",
        "logger": {"csv": {"save_dir": "/old/run"}},
        "steps": ["/old/run/steps"],
    }
    others = {"paths": {"logs": "/old", "data": "/old/run2"}, "seed": 1}
    OmegaConf.save(OmegaConf.create(saved | others), tmp_path / "config.yaml")
    cfg = load_config(tmp_path)
    assert cfg.run_folder == cfg.logger.csv.save_dir == str(tmp_path)
    assert cfg.steps == [f"{tmp_path}/steps"]
    assert {key: cfg[key] for key in others} == others


def test_the_best_checkpoint_of_a_run_that_was_moved_is_still_the_best(tmp_path: Path) -> None:
    old, new = (tmp_path / name / "checkpoints" for name in ("old", "new"))
    first, second = (Best(folder, "val/accuracy", "max") for folder in (old, new))
    first.best_model_score = first.current_score = first.kth_value = torch.tensor(0.75)
    first.best_model_path = first.kth_best_model_path = str(old / "best.ckpt")
    first.best_k_models = {first.best_model_path: torch.tensor(0.75)}
    second.load_state_dict(first.state_dict())
    assert second.best_k_models == {str(new / "best.ckpt"): torch.tensor(0.75)}
    assert second.kth_best_model_path == second.best_model_path == str(new / "best.ckpt")
    assert second.best_model_score == 0.75


def test_an_interval_of_nothing_is_refused(tmp_path: Path) -> None:
    for options in ("saving.every_minutes=0", "saving.every_n_steps=-1"):
        with pytest.raises(
            UserError, match=r"saving\.every_\w+=\S+ is no interval: set it above 0, or to null"
        ):
            train(compose_config([*FOUR, options]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
