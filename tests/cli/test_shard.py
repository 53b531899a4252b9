"""`shard`, and a run that reads what it wrote: from a web server that fails, cut and resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from bucket import Faults, served
from conftest import TINY

from lightning_audio import build
from lightning_audio.cli import shard as program
from lightning_audio.config import compose_config
from lightning_audio.data.shards import storage
from lightning_audio.data.shards.shard_set import ShardSet
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.run import train

CORPUS = [option for option in TINY if option.startswith(("experiment", "data"))]


def shard(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["shard", *arguments])
    program.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of the tiny demo, 100 clips of half a second, in 20 or more shards."""
    out = tmp_path_factory.mktemp("shard") / "set"
    cache = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        shard(patch, *CORPUS, f"paths.cache={cache}", str(out), "--megabytes", "0.05")
    return out


def test_the_program_says_what_it_did(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    for part in ("1/2", "2/2"):
        shard(monkeypatch, *CORPUS, str(out), "--part", part, "--megabytes", "0.05")
    assert "part 2 of 2: 50 clips, 0.0008 GB" in capsys.readouterr().out
    shard(monkeypatch, *CORPUS, str(out), "--part", "2/2")
    assert "nothing to add" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        shard(monkeypatch, "--verify", str(out))
    assert end.value.code == 0
    assert "100 clips in" in capsys.readouterr().out
    next(out.rglob("*.int16")).write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        shard(monkeypatch, "--verify", str(out))
    assert end.value.code == 1
    assert [*ShardSet.open(str(out)).clips.column("id")] == [*ShardSet.open(str(folder)).clips.column("id")]
    for wrong in ("0/2", "3/2", "two"):
        with pytest.raises(SystemExit) as end:
            shard(monkeypatch, *CORPUS, str(out), "--part", wrong)
        assert end.value.code == 2


def trained(folder: Path, *options: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    cache = folder.parent / "cache"  # in which nobody has made the clips of the demo
    run = train(compose_config([*TINY, f"paths.cache={cache}", *options]), folder)
    assert not cache.is_dir() or {path.name for path in cache.iterdir()} <= {"shards", "normalizers"}
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)
    return run, saved["state_dict"]


def test_a_run_from_a_failing_bucket_is_the_run_from_the_folder_and_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    scores, whole = trained(tmp_path / "whole", f"loader.shards={folder}")
    assert scores["data"]["clips"] == {"train": 80, "val": 0, "test": 20}
    predictions = (tmp_path / "whole" / "predictions.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in predictions} == {
        name for name in ShardSet.open(str(folder)).clips.column("id") if name.startswith("f1-")
    }
    step, seen = AudioTask.training_step, 0

    def cut(self: AudioTask, batch: Any, batch_idx: int) -> Any:
        nonlocal seen
        seen += 1
        if seen == 8:
            raise UserError("cut here")
        return step(self, batch, batch_idx)

    with served(folder, Faults("503", "cut", "damaged")) as address:
        options: Sequence[str] = (f"loader.shards={address}", "loader.cache_gb=0.01", "loader.workers=2")
        with monkeypatch.context() as patch:
            patch.setattr(AudioTask, "training_step", cut)
            with pytest.raises(UserError, match="cut here"):
                trained(tmp_path / "cut", *options, "saving.every_n_steps=1")
        resumed, weights = trained(tmp_path / "cut", *options, "saving.every_n_steps=1")
    assert resumed["scores"] == scores["scores"]
    assert all(torch.equal(weights[name], value) for name, value in whole.items())


def test_folds_are_held_out_as_without_shards(folder: Path, tmp_path: Path) -> None:
    asked = [*CORPUS, f"loader.shards={folder}", f"paths.cache={tmp_path}"]
    data = build.prepared(compose_config([*asked, "data.validation_fold=3"]))
    assert {clip.fold for clip in data.splits["val"].clips} == {3}
    with pytest.raises(UserError, match=r"has 5 folds: set data\.num_folds to 5"):
        build.prepared(
            compose_config(
                [f"loader.shards={folder}", f"paths.cache={tmp_path}", "data=sharded", "data.num_folds=4"]
            )
        )


def test_what_takes_all_clips_at_once_is_refused(folder: Path, tmp_path: Path) -> None:
    for option in ("features=true", "store=memory", "curriculum_epochs=1"):
        with pytest.raises(UserError, match=f"loader.{option.split('=')[0]} takes all clips at once"):
            trained(tmp_path / "run", f"loader.shards={folder}", f"loader.{option}")
