"""Checkpoints: written whole or not at all, read back to the same answers, no door to anything else."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import lightning_audio
from lightning_audio import build
from lightning_audio.checkpoint import find_checkpoint, load
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.classification import Classification
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO

LABELS = ["bell", "dog", "rain"]
ANSWERING: dict[str, Any] = {
    "frontend": {"_target_": "lightning_audio.frontend.log_mel.LogMel", "n_mels": 32},
    "normalize": "per_feature",
    "network": {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": [4, 8], "dropout": 0.5},
    "task": {"_target_": "lightning_audio.tasks.classification.Classification", "shifts": 2},
}


def trained(**changes: Any) -> AudioTask:
    """A task that has seen something: no statistic of it is that of the start."""
    torch.manual_seed(0)
    info = DataInfo(tuple(LABELS), 16000, 0.5, longest_seconds=0.75, class_counts=(1, 2, 3))
    task = build.assemble(ANSWERING | changes, info)
    waveforms, lengths = batch()
    task.normalize.fit([task.frontend(waveforms, lengths)])
    task.train()(waveforms, lengths)
    return task.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    waveforms = 0.1 * torch.randn(4, 8000, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([8000, 5000, 8000, 7000])
    return waveforms * (torch.arange(8000) < lengths[:, None]), lengths


def content(task: AudioTask) -> dict[str, Any]:
    """What Lightning puts into a checkpoint, as far as reading it goes."""
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "epoch": 3, "optimizer_states": []}
    task.on_save_checkpoint(checkpoint)
    return checkpoint


def save(task: AudioTask, path: Path) -> Path:
    AtomicCheckpointIO().save_checkpoint(content(task), path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_loaded_task_gives_the_same_answers(tmp_path: Path) -> None:
    task = trained()
    loaded = load(save(task, tmp_path / "last.ckpt"))
    assert not loaded.training
    assert (loaded.labels, loaded.sample_rate, loaded.clip_seconds) == (tuple(LABELS), 16000, 0.5)
    assert loaded.info == replace(task.info, class_counts=())
    with torch.no_grad():
        torch.testing.assert_close(loaded(*batch())[0], task(*batch())[0], rtol=0, atol=0)
        torch.testing.assert_close(
            loaded.forward_tta(*batch())[0], task.forward_tta(*batch())[0], rtol=0, atol=0
        )
    found, expected = loaded.state_dict(), task.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    recording = (0.1 * np.sin(np.arange(20000))).astype(np.float32)
    assert loaded.predict(recording, sample_rate=16000) == task.predict(recording, sample_rate=16000)
    assert load(save(loaded, tmp_path / "again.ckpt")).description == task.description


def test_a_checkpoint_that_does_not_name_the_longest_clip_is_read(tmp_path: Path) -> None:
    older = content(trained())
    assert older["lightning_audio"]["facts"].pop("longest_seconds") == 0.75
    AtomicCheckpointIO().save_checkpoint(older, tmp_path / "older.ckpt")
    loaded = load(tmp_path / "older.ckpt")
    assert (loaded.info.longest_seconds, loaded.info.clip_seconds) == (None, 0.5)


class OwnTask(Classification):
    """A task of a user's, which hands on what it does not know."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


def test_what_the_data_know_reaches_a_task_that_does_not_name_it() -> None:
    node = ANSWERING["task"] | {"_target_": f"{__name__}.OwnTask", "class_weights": "balanced"}
    task = trained(task=node)
    assert task.class_weights.tolist() == pytest.approx([2.0, 1.0, 2 / 3])  # type: ignore[operator]
    assert task.info.longest_seconds == 0.75


def test_the_front_door_is_the_same_function() -> None:
    assert lightning_audio.load is load


def test_balanced_class_weights_are_kept(tmp_path: Path) -> None:
    task = trained(task=ANSWERING["task"] | {"class_weights": "balanced"})
    expected = [2.0, 1.0, 2 / 3]
    assert task.class_weights.tolist() == pytest.approx(expected)  # type: ignore[operator]
    assert load(save(task, tmp_path / "a.ckpt")).class_weights.tolist() == pytest.approx(expected)  # type: ignore


def test_a_pretrained_network_is_loaded_without_its_weight_file(tmp_path: Path) -> None:
    file = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    options = {"backbone": "test_resnet", "weights": "pretrained", "models": str(tmp_path)}
    task = trained(network={"_target_": "lightning_audio.networks.timm.Timm", **options})
    path = save(task, tmp_path / "last.ckpt")
    file.unlink()
    torch.testing.assert_close(load(path)(*batch())[0], task(*batch())[0], rtol=0, atol=0)


def test_the_checkpoint_of_a_run_is_the_one_that_was_tested(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(UserError, match=r"There is no checkpoint at .*: give a run folder"):
        find_checkpoint(tmp_path)
    for name in ("last.ckpt", "best.ckpt"):  # best comes before last
        (folder / name).touch()
        assert find_checkpoint(tmp_path) == folder / name
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "metrics.json").write_text(json.dumps({"checkpoint": name, "scores": {}}))
        assert find_checkpoint(str(tmp_path)) == folder / name
    assert find_checkpoint(folder / "last.ckpt") == folder / "last.ckpt"


@pytest.mark.parametrize("error", [RuntimeError("no space left"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_checkpoint_whole(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(trained(), tmp_path / "last.ckpt")
    before = path.read_bytes()

    def broken(checkpoint: object, file: Any) -> None:
        file.write(before[:1000])
        raise error

    monkeypatch.setattr(torch, "save", broken)
    for name in ("last.ckpt", "new.ckpt"):
        with pytest.raises(type(error)):
            AtomicCheckpointIO().save_checkpoint({"other": 1}, tmp_path / name)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_save_replaces_the_old_checkpoint_and_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    path.with_name(".last.ckpt.partial").write_bytes(b"cut sho")
    AtomicCheckpointIO().save_checkpoint({"step": 2}, str(path))
    assert torch.load(path, weights_only=True) == {"step": 2}
    assert torch.load(path.with_name("previous.ckpt"), weights_only=True) == {"step": 1}
    names = ["last.ckpt", "last.ckpt.sha256", "previous.ckpt", "previous.ckpt.sha256"]
    assert files(path.parent) == names


class Malicious:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("kind", ["pickle", "checkpoint", "old checkpoint"])
def test_a_malicious_pickle_is_refused_and_does_nothing(kind: str, tmp_path: Path) -> None:
    file, path = tmp_path / "made", tmp_path / "bad.ckpt"
    bad = content(trained()) | {"extra": Malicious(file)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bad))
    else:
        torch.save(bad, path, _use_new_zipfile_serialization=kind == "checkpoint")
    with pytest.raises(UserError, match=r"bad\.ckpt can't be read as a checkpoint"):
        load(path)
    assert not file.exists()


def test_a_checkpoint_that_is_cut_short_is_one_sentence(tmp_path: Path) -> None:
    whole = save(trained(), tmp_path / "whole.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    for size in (0, 1, 2, 3, 4, 30, 100, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"cut\.ckpt can't be read as a checkpoint: it is cut short"):
            load(path)


def test_a_file_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    noise = np.random.default_rng(0)
    contents = [
        b"just a text\n",
        b"\x80\x02.",
        b"PK\x03\x04",
        *(noise.bytes(n) for n in (1, 2, 9, 99, 999) * 8),
    ]
    for bytes_of_file in contents:
        path.write_bytes(bytes_of_file)
        with pytest.raises(UserError, match=r"other\.ckpt can't be read as a checkpoint"):
            load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(UserError, match=r"other\.ckpt can't be read as a checkpoint"):
        load(path)


@pytest.mark.parametrize(
    "other", [{"state_dict": {}}, [1, 2], torch.zeros(3), "text", {"lightning_audio": 7}]
)
def test_a_checkpoint_of_another_project_is_one_sentence(other: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(other, path)
    with pytest.raises(UserError, match=r"other\.ckpt is no checkpoint of lightning_audio"):
        load(path)


def test_weights_that_do_not_fit_their_network_are_one_sentence(tmp_path: Path) -> None:
    checkpoint = content(trained())
    checkpoint["lightning_audio"]["config"] = ANSWERING | {
        "network": ANSWERING["network"] | {"widths": [8, 8]}
    }
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad\.ckpt holds weights that do not fit"):
        load(tmp_path / "bad.ckpt")


def touch(file: Path) -> dict[str, Any]:
    return {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(file)]}]}


@pytest.mark.parametrize("part", ["frontend", "network", "task"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_configuration_that_builds_something_else_is_refused(
    part: str, inside: bool, tmp_path: Path
) -> None:
    file = tmp_path / "touched"
    checkpoint = content(trained())
    wanted = ANSWERING[part] | {"option": (touch(file),)} if inside else touch(file)
    checkpoint["lightning_audio"]["config"] = ANSWERING | {part: wanted}
    torch.save(checkpoint, tmp_path / "bad.ckpt")
    with pytest.raises(
        UserError, match=r"wants to build pathlib\.Path\.touch, which is not on the allow list"
    ):
        load(tmp_path / "bad.ckpt")
    assert not file.exists()


def test_a_network_of_ones_own_is_loaded_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from lightning_audio.networks.cnn2d import CNN2d\nclass Own(CNN2d):\n    pass\n"
    (tmp_path / "own_network_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    task = trained(network={"_target_": "own_network_of_a_test.Own", "widths": [4, 8]})
    path = save(task, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"own_network_of_a_test\.Own, which is not on the allow list"):
        load(path)
    loaded = load(path, allow=["own_network_of_a_test"])
    torch.testing.assert_close(loaded(*batch())[0], task(*batch())[0], rtol=0, atol=0)
