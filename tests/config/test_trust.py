"""A run of one's own is known by its signature; YAML that somebody sent is read within bounds."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY
from omegaconf import OmegaConf

from lightning_audio.checkpoint import load
from lightning_audio.config import compose_config, trust
from lightning_audio.errors import UserError, masked
from lightning_audio.training import saved_config
from lightning_audio.training.run import train

OWN = """
from lightning_audio.networks.cnn2d import CNN2d
class Mine(CNN2d):
    pass
"""


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_AUDIO_KEY", str(tmp_path / "home" / "key"))
    return tmp_path / "home" / "key"


def test_what_was_signed_is_known_until_it_is_changed(key: Path, tmp_path: Path) -> None:
    trust.sign(tmp_path, {"one": b"1", "two": b"2"})
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["key"]
    assert trust.is_own(tmp_path, "one", b"1")
    assert not trust.is_own(tmp_path, "one", b"2")
    assert not trust.is_own(tmp_path, "two", b"1"), "a signature is of one thing"
    assert not trust.is_own(tmp_path, "three", b"1")
    assert not trust.is_own(tmp_path / "other", "one", b"1")
    before = key.read_bytes()
    trust.sign(tmp_path, {"one": b"3"})
    assert key.read_bytes() == before
    assert trust.is_own(tmp_path, "one", b"3")


def test_a_key_that_others_know_is_none(key: Path, tmp_path: Path) -> None:
    trust.sign(tmp_path, {"one": b"1"})
    key.chmod(0o644)
    assert not trust.is_own(tmp_path, "one", b"1")
    key.chmod(0o600)
    key.write_bytes(b"short")
    assert not trust.is_own(tmp_path, "one", b"1")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"one": 7}', '{"one": null}', '{"one": "ü"}'])
def test_a_signature_that_is_none_is_not_believed(content: str, key: Path, tmp_path: Path) -> None:
    trust.sign(tmp_path, {"one": b"1"})
    (tmp_path / trust.SIGNATURE).write_text(content)
    assert not trust.is_own(tmp_path, "one", b"1")


def test_where_no_key_can_be_kept_nothing_is_signed_and_nothing_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTNING_AUDIO_KEY", str(tmp_path / "file" / "key"))
    trust.sign(tmp_path, {"one": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_of_ones_own_builds_ones_own_network_and_one_that_was_sent_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "run"
    train(compose_config([*TINY, "network._target_=own_parts.Mine", "trainer.max_epochs=1"]), folder)
    assert type(load(folder).network).__name__ == "Mine"
    assert type(load(folder / "checkpoints" / "last.ckpt").network).__name__ == "Mine"
    assert saved_config.saved_config(folder, training=True).network._target_ == "own_parts.Mine"
    shutil.copytree(folder, tmp_path / "moved")
    assert type(load(tmp_path / "moved").network).__name__ == "Mine"

    # On another machine, or changed by somebody, it is as any that was sent.
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("LIGHTNING_AUDIO_KEY", str(tmp_path / "another" / "key"))
        for read in (load, saved_config.saved_config):
            with pytest.raises(UserError, match=r"own_parts\.Mine, which is not on the allow list"):
                read(folder)
        assert type(load(folder, allow=["own_parts"]).network).__name__ == "Mine"
    for name in ("config.yaml", "checkpoints/last.ckpt"):
        path = folder / name
        if path.suffix == ".yaml":
            path.write_text(path.read_text().replace("own_parts.Mine", "own_parts.CNN2d"))
        else:
            content = torch.load(path, weights_only=True)
            content["lightning_audio"]["config"]["network"]["_target_"] = "os.system"
            torch.save(content, path)
            path.with_name("last.ckpt.sha256").unlink()
    with pytest.raises(UserError, match=r"own_parts\.CNN2d, which is not on the allow list"):
        saved_config.saved_config(folder)
    with pytest.raises(UserError, match=r"os\.system, which is not on the allow list"):
        load(folder)


def test_a_run_that_was_sent_fetches_nothing_and_writes_nowhere_else(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    cfg = OmegaConf.load(file)
    cfg.data.download, cfg.data.cache, cfg.paths.cache = True, "/elsewhere", "/elsewhere"
    cfg.loader.shards = "s3://elsewhere/set"
    cfg.network = {"_target_": "lightning_audio.networks.timm.Timm", "weights": "pretrained"}
    OmegaConf.save(cfg, file)
    cache = os.environ["LIGHTNING_AUDIO_CACHE"]
    for training in (False, True):
        read = saved_config.saved_config(tmp_path / "run", training=training)
        assert (read.data.download, read.data.cache, read.paths.cache) == (False, cache, cache)
        assert read.loader.shards is None
        assert read.network.weights == (None if training else "pretrained"), "the checkpoint has them"
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint to resume"):
        saved_config.saved_config(tmp_path / "run", training=True)
    own = saved_config.saved_config(tiny_run)
    assert saved_config.is_own(tiny_run)
    assert own.data.cache == cache


LAUGHTER = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LARGE = {
    "many brackets": "run_folder: " + "[" * 100_000,
    "many braces": "run_folder: " + "{a: " * 50_000,
    "deep by indentation": "".join(f"{' ' * i}a:\n" for i in range(500)),
    "many values": "run_folder: x\na: [" + "x, " * 100_000 + "]",
    "a large file": "run_folder: x\n#" + "x" * 2_000_000,
    "laughter": LAUGHTER,
    "a circle": "run_folder: &a [*a]",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_configuration_without_bounds_is_one_sentence_at_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(LARGE[kind])
    start = time.process_time()
    with pytest.raises(UserError, match=r"config\.yaml is no configuration that a run wrote"):
        saved_config.load_config(tmp_path)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text(LARGE[kind])
    for arguments in ([f"--config-dir={tmp_path}"], [f"hydra.searchpath=[file://{tmp_path}]"]):
        with pytest.raises(UserError, match=r"\.yaml is no configuration: it|an alias stands"):
            compose_config([*arguments, "experiment=own"])
    assert time.process_time() - start < 5


def test_aliases_of_ones_own_are_read(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\noptimizer: {lr: &lr 0.125}\nschedule: {end: *lr}\n"
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    cfg = compose_config([f"--config-dir={tmp_path}", "experiment=own"])
    assert cfg.optimizer.lr == cfg.schedule.end == 0.125


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uri: http://me:secret@host:5000/x", "uri: http://me:***@host:5000/x"),
        ("postgresql+psycopg2://me:p%40ss@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("http://me:p@ss:word@host", "http://me:***@host"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////tmp/a.db and me:you@host", "sqlite:////tmp/a.db and me:you@host"),
    ],
)
def test_passwords_of_addresses_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


def test_the_files_of_a_run_hold_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Path
) -> None:
    from lightning_audio.cli.train import launch

    secret = "http://me:sesame@host:5000"
    named = f"+callbacks.training_examples.note='{secret}'"  # refused by what is built, behind .hydra
    with pytest.raises(UserError, match="is no option"):
        launch([*TINY, named])
    (folder,) = (logs / "demo").iterdir()
    texts = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert any("http://me:***@host:5000" in text for text in texts.values())
    assert not any("sesame" in text for text in texts.values())

    cfg = compose_config([*TINY])
    cfg.logger, cfg.run_folder = {"mlflow": {"tracking_uri": secret}}, str(tmp_path)
    saved_config.keep_config(cfg, tmp_path, {"config": {}})
    assert "sesame" not in (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"http://me:\*\*\*@host:5000, and no file keeps the password"):
        saved_config.saved_config(tmp_path, training=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    assert saved_config.saved_config(tmp_path, training=True).logger.mlflow.tracking_uri == secret
    assert json.loads((tmp_path / trust.SIGNATURE).read_text()).keys() == {"config.yaml", "checkpoint"}


def test_a_signature_of_brackets_signs_nothing(key: Path, tmp_path: Path) -> None:
    trust.sign(tmp_path, {"one": b"1"})
    (tmp_path / trust.SIGNATURE).write_text("[" * 9_000)
    assert not trust.is_own(tmp_path, "one", b"1")
