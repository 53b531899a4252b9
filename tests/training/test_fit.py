"""Resuming a run: with other settings, on other data, with another network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, sine, write_wav

from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A tiny run of two epochs to resume."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def files_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file): file.read_bytes() for file in files}


def resume(folder: Path, *options: str) -> None:
    launch([f"resume={folder}", *options])


def test_settings_of_the_optimizer_that_are_forced_count(run: Path, logs: Path) -> None:
    before = checkpoint(run)
    assert before["lr_schedulers"][0]["base_lrs"] == [0.002, 0.002]
    changed = ("optimizer.lr=1e-4", "optimizer.weight_decay=0", "schedule=constant", "trainer.max_epochs=3")
    with pytest.raises(UserError, match="makes another run"):
        resume(run, *changed, "resume.force=true")
    resume(run, *changed[:2], changed[3], "resume.force=true")
    after = checkpoint(run)
    assert after["lr_schedulers"][0]["base_lrs"] == [1e-4, 1e-4]
    groups = after["optimizer_states"][0]["param_groups"]
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(1e-4, 0.0), (1e-4, 0.0)]
    assert max(group["lr"] for group in groups) <= 1e-4
    steps = [
        state["state"][0]["step"] for state in (before["optimizer_states"][0], after["optimizer_states"][0])
    ]
    assert steps == [10, 15], "its moments are those of the checkpoint"
    # A rate of a twentieth moves the weights by less than an epoch did before.
    moved = (
        (after["state_dict"]["network.head.weight"] - before["state_dict"]["network.head.weight"]).abs().max()
    )
    assert 0 < moved < 5 * 1.5e-4


def test_patience_that_is_forced_counts(logs: Path) -> None:
    stops = ("callbacks=early_stopping", "loader.val_fraction=0.25", "trainer.max_epochs=4")
    never = "+callbacks.early_stopping.min_delta=2"  # no accuracy gets better by that much
    launch([*TINY, *stops, never, "callbacks.early_stopping.patience=1", "test=false"])
    (folder,) = (logs / "demo").iterdir()
    assert checkpoint(folder)["epoch"] == 1
    resume(folder)
    assert checkpoint(folder)["epoch"] == 1
    resume(folder, "callbacks.early_stopping.patience=2", "resume.force=true")
    assert checkpoint(folder)["epoch"] == 2


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("network.widths=[4,16]", r"has other weights than this network \(network\.\S+ is \("),
        ("trainer.max_epochs=0", r"trainer\.max_epochs=0 is less than the 2 epochs"),
    ],
)
def test_what_cannot_go_on_changes_nothing(option: str, sentence: str, run: Path, logs: Path) -> None:
    before = files_of(run)
    with pytest.raises(UserError, match=sentence):
        resume(run, option, "resume.force=true")
    assert files_of(run) == before


def test_a_run_with_scores_and_no_checkpoint_is_not_written_over(run: Path, logs: Path) -> None:
    for file in (run / "checkpoints").glob("*"):
        file.unlink()
    before = files_of(run)
    with pytest.raises(UserError, match=r"has scores, but neither last\.ckpt nor previous\.ckpt"):
        resume(run)
    assert files_of(run) == before


def test_a_failure_that_is_over_is_forgotten(run: Path, logs: Path) -> None:
    (run / "failure.txt").write_text("The disk was full.\n")
    resume(run)
    assert not (run / "failure.txt").exists()


def test_weights_without_a_state_of_training_are_told(run: Path, logs: Path) -> None:
    file = run / "checkpoints" / "last.ckpt"
    bare = {key: checkpoint(run)[key] for key in ("state_dict", "lightning_audio")}
    torch.save(bare, file)
    file.with_name("last.ckpt.sha256").unlink()
    with pytest.raises(UserError, match="holds weights, but no state of training"):
        resume(run)


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root with recordings of two labels."""
    monkeypatch.setenv("LIGHTNING_AUDIO_DATA", str(tmp_path / "data"))
    for label, frequency in (("high", 3000), ("low", 300)):
        for take in range(6):
            write_wav(
                tmp_path / "data" / "recordings" / label / f"{take}.wav",
                sine(frequency + take, 0.2, 8000),
                8000,
            )
    return tmp_path / "data"


OWN = ("data=audio_folder", "data.sample_rate=8000", "network=cnn2d", "network.widths=[4]", "logger=none")


def started(logs: Path) -> Path:
    launch([*OWN, "trainer.max_epochs=1", "loader.batch_size=4"])
    (folder,) = (logs / "default").iterdir()
    return folder


def test_data_that_changed_are_told_and_want_force(
    recordings: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = started(logs)
    before = checkpoint(folder)["AudioDataModule"]["identity"]
    assert before.keys() == {"samples", "labels", "train", "val", "test"}
    (recordings / "recordings" / "low" / "3.wav").unlink()
    files = files_of(folder)
    with pytest.raises(UserError, match=r"The data changed \(samples, (train|test).* differ from what"):
        resume(folder)
    assert files_of(folder) == files
    resume(folder, "trainer.max_epochs=2", "resume.force=true")
    assert "Resumes with other data: samples" in capsys.readouterr().out
    after = checkpoint(folder)["AudioDataModule"]["identity"]
    assert after["labels"] == before["labels"]
    assert after["samples"] != before["samples"]
    resume(folder)  # these are its data now


def test_a_label_that_is_new_is_told(recordings: Path, logs: Path) -> None:
    folder = started(logs)
    shutil.copytree(recordings / "recordings" / "low", recordings / "recordings" / "middle")
    with pytest.raises(UserError, match="has other weights than this network"):
        resume(folder)


@pytest.mark.parametrize("way", ["environment", "paths.data={}", "data.root={}/recordings"])
def test_data_that_moved_are_the_same_data(
    way: str, recordings: Path, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, there = started(logs), tmp_path / "elsewhere"
    recordings.rename(there)
    if way == "environment":
        monkeypatch.setenv("LIGHTNING_AUDIO_DATA", str(there))
    resume(folder, *([] if way == "environment" else [way.format(there)]))  # no force is asked for
    resume(folder)


def test_an_option_that_the_run_does_not_have_is_told(run: Path, logs: Path) -> None:
    before = files_of(run)
    for option in ("callbacks.early_stopping.patience=3", "optimizer.lrr=1", "trainer.max_epochs=x"):
        with pytest.raises(
            UserError, match=rf"{option.split('=')[0]}=(\S+ changes no option of the run|x does not fit)"
        ):
            resume(run, option)
    assert files_of(run) == before
