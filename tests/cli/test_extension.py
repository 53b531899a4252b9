"""A project outside of the clone: its own conf folder and its own package, in every program."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import sine, write_wav
from omegaconf import DictConfig, OmegaConf

from lightning_audio.cli import check, doctor, evaluate, find_lr, folds, predict
from lightning_audio.cli.train import launch
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError

PACKAGE = """
import torch
from torch import nn

from lightning_audio.data.corpora.demo import Demo
from lightning_audio.networks.cnn2d import CNN2d


class Net(CNN2d):
    pass


class Sounds(Demo):
    folds = (1, 2)


class Louder(nn.Module):
    def forward(self, x, lengths):
        return 2 * x, lengths
"""
CONF = {
    "data/sounds.yaml": (
        "defaults: [demo]\n_target_: my_project.parts.Sounds\nclips_per_class: 2\nseconds: 0.5\n"
    ),
    "network/net.yaml": "_target_: my_project.parts.Net\nwidths: [4, 8]\n",
    "augment/louder.yaml": (
        "_target_: lightning_audio.augment.Augment\nwaveform: {louder: {_target_: my_project.parts.Louder}}\n"
    ),
    "experiment/mine.yaml": (
        "# @package _global_\ndefaults:\n  - override /data: sounds\n  - override /network: net\n"
        "  - override /augment: louder\n  - override /logger: none\n  - override /trainer: cpu\n"
        "name: mine\nloader: {batch_size: 16}\ntrainer: {max_epochs: 1}\n"
    ),
}


def write_project(folder: Path) -> None:
    for name, text in {**{f"conf/{n}": t for n, t in CONF.items()}, "my_project/parts.py": PACKAGE}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "my_project" / "__init__.py").touch()
    write_wav(folder / "sound.wav", sine(440, 0.5, 16000), 16000)


@pytest.fixture
def project(tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a conf folder and a package; the programs run in it."""
    folder = tmp_path / "project"
    write_project(folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in ("my_project", "my_project.parts"):
        sys.modules.pop(name, None)


def options_of(kind: str, folder: Path) -> list[str]:
    return {
        "--config-dir DIR": ["--config-dir", "conf"],
        "--config-dir=DIR": ["--config-dir=conf"],
        "-cd DIR": ["-cd", str(folder / "conf")],
        "hydra.searchpath": [f"hydra.searchpath=[file://{folder}/conf]"],
        "--config-path DIR": ["--config-path", "conf"],
    }[kind]


WAYS = ("--config-dir DIR", "--config-dir=DIR", "-cd DIR", "hydra.searchpath", "--config-path DIR")


@pytest.mark.parametrize("way", WAYS)
def test_a_conf_folder_of_ones_own_is_read(way: str, project: Path) -> None:
    cfg = compose_config([*options_of(way, project), "experiment=mine"])
    assert (cfg.name, cfg.network._target_) == ("mine", "my_project.parts.Net")
    assert (cfg.data._target_, cfg.data.clips_per_class) == ("my_project.parts.Sounds", 2)
    assert compose_config([*options_of(way, project), "network=net"]).network.widths == [4, 8]
    with pytest.raises(
        UserError, match=r"There is no network 'nett' .*'net'.*: choose one of .*cnn2d.*, net"
    ):
        compose_config([*options_of(way, project), "network=nett"])
    with pytest.raises(UserError, match=r"network\.widths=-4 is out of range"):
        compose_config([*options_of(way, project), "network=net", "network.widths=[-4]"])
    with pytest.raises(UserError, match=r"There is no experiment 'mine'"):
        compose_config(["experiment=mine"])


@pytest.mark.parametrize("way", ["--config-dir DIR", "hydra.searchpath"])
def test_what_was_trained_with_it_is_evaluated_predicted_and_resumed_without_allow(
    way: str, project: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = options_of(way, project)
    launch([*own, "experiment=mine"])
    (run,) = (logs / "mine").iterdir()
    capsys.readouterr()
    evaluate.main([str(run)])
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    predict.main([str(run), "sound.wav", "--format", "jsonl"])
    assert "sound.wav" in capsys.readouterr().out
    launch([f"resume={run}"])
    launch([*own, "experiment=mine", "resume=latest"])
    file = project / "conf" / "experiment" / "mine.yaml"
    file.write_text(file.read_text().replace("batch_size: 16", "batch_size: 8"))
    with pytest.raises(UserError, match=r"with other settings \(loader\.batch_size 16 -> 8\)"):
        launch([*own, "experiment=mine", "resume=latest"])
    launch([*own, "experiment=mine", "resume=latest", "trainer.max_epochs=2", "resume.force=true"])
    assert OmegaConf.load(run / "config.yaml").loader.batch_size == 8
    assert list((logs / "mine").iterdir()) == [run]


def test_multiruns_folds_and_the_other_programs_take_it(
    project: Path, logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--config-dir=conf", "experiment=mine"]
    sweep = launch([*own, "-m", "network=net,cnn2d"])
    assert sweep is not None
    targets = [OmegaConf.load(sweep / str(n) / "config.yaml").network._target_ for n in range(2)]
    assert [target.startswith("my_project") for target in targets] == [True, False]
    assert len(json.loads((sweep / "sweep.json").read_text())["runs"]) == 2
    folds.cross_validate(own)
    assert len(list((logs / "mine").glob("*/folds.json"))) == 1
    with pytest.raises(SystemExit):
        check.main([*own, "--json", "report.json"])
    assert json.loads(Path("report.json").read_text())["corpus"] == "Sounds"
    monkeypatch.setattr(sys, "argv", ["program", *own])
    monkeypatch.setattr(find_lr, "STEPS", 20)
    find_lr.main()
    assert "Suggested: optimizer.lr=" in capsys.readouterr().out
    examined: list[DictConfig] = []

    def examine(cfg: DictConfig) -> float:
        examined.append(cfg)
        return 1.0

    monkeypatch.setattr(doctor, "examine", examine)
    doctor.main()
    assert [cfg.network._target_ for cfg in examined] == ["my_project.parts.Net"]


def test_hydra_shows_what_it_is_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        launch(["--config-dir=conf", "experiment=mine", "seed=7", "--cfg", "job", "resume.force=true"])
        is None
    )
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.seed, shown.network._target_) == (7, "my_project.parts.Net")
    launch(["--config-dir=conf", "--cfg", "job", "-p", "optimizer"])
    assert OmegaConf.create(capsys.readouterr().out).lr == 0.001
    launch(["--config-dir", "conf", "--info", "searchpath"])
    assert "conf" in capsys.readouterr().out
    with pytest.raises(UserError, match="There is no experiment 'mien'"):
        launch(["--config-dir=conf", "experiment=mien", "--cfg", "job"])


def run(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_audio", *command],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_project_of_ones_own_works_with_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    project = tmp_path / "project"
    write_project(project)
    environment = {
        "PYTHONPATH": str(tmp_path / "site"),
        "HOME": str(tmp_path / "home"),
        "LIGHTNING_AUDIO_CACHE": str(tmp_path / "cache"),
    }
    own = ("--config-dir", "conf", "experiment=mine")
    run(project, environment, "train", *own)
    (trained,) = (project / "logs" / "mine").iterdir()
    assert (tmp_path / "home" / ".config" / "lightning_audio" / "key").stat().st_mode & 0o777 == 0o600
    assert "The same numbers" in run(project, environment, "evaluate", str(trained))
    assert "sound.wav" in run(project, environment, "predict", str(trained), "sound.wav")
    run(project, environment, "train", *own, "resume=latest", "trainer.max_epochs=2", "resume.force=true")
    run(project, environment, "train", *own, "-m", "seed=0,1")
    run(project, environment, "folds", *own)
    assert len(list((project / "logs" / "mine").iterdir())) == 3
