"""Training in-process: the score of the demo, what a run leaves in its folder, how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_audio.cli import train as program
from lightning_audio.cli.train import launch
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.run import train

SCORES = {
    f"{split}/{name}" for split in ("train", "test") for name in ("accuracy", "top5_accuracy", "macro_f1")
}
FACTS = {"scores", "seconds", "clips_per_second", "loader_wait", "versions", "commit", "data"}


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def tiny(*overrides: str) -> Any:
    return compose_config([*TINY, *overrides])


def test_a_small_demo_is_learned(tmp_path: Path) -> None:
    """Of ten sounds: a 40th of the demo's training."""
    small = (
        "network.widths=[16,32]",
        "data.clips_per_class=4",
        "data.seconds=1",
        "trainer.max_epochs=8",
        "data.min_snr_db=15",
    )
    metrics = train(compose_config(["experiment=demo", "logger=none", *small]), tmp_path)
    assert metrics["scores"]["test/accuracy"]["value"] >= 0.3
    assert metrics["scores"]["test/accuracy"]["n"] == 40


@pytest.mark.slow
def test_the_demo_trains_to_its_score(tmp_path: Path) -> None:
    score = train(compose_config(["experiment=demo", "logger=none"]), tmp_path)["scores"]["test/accuracy"]
    assert 0.90 <= score["value"] <= 0.99
    assert score["low"] < score["value"] < score["high"]
    assert score["n"] == 160


def test_the_run_folder_holds_what_the_design_names(tiny_run: Path) -> None:
    assert (tiny_run / "checkpoints" / "last.ckpt").is_file()
    assert (tiny_run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert len((tiny_run / "per_class.csv").read_text().splitlines()) >= 11
    assert OmegaConf.load(tiny_run / "config.yaml").trainer.max_epochs == 2
    assert "${" not in (tiny_run / "config.yaml").read_text()


def test_metrics_have_the_schema_of_the_design(tiny_run: Path) -> None:
    metrics = metrics_of(tiny_run)
    assert metrics.keys() >= FACTS
    assert metrics["scores"].keys() == SCORES
    for name, score in metrics["scores"].items():
        assert score.keys() == {"value", "low", "high", "n"}
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert score["n"] == (80 if name.startswith("train/") else 20)
    assert metrics["clips_per_second"] > 0
    assert 0 < metrics["loader_wait"] < 1
    assert (metrics["epochs"], metrics["checkpoint"]) == (2, "last.ckpt")
    assert metrics["data"]["clips"] == {"train": 80, "val": 0, "test": 20}
    assert (metrics["data"]["fold"], metrics["data"]["folds"]) == (1, [1, 2, 3, 4, 5])
    assert metrics["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_predictions_add_up_to_the_scores(tiny_run: Path) -> None:
    rows, labels = rows_of(tiny_run), metrics_of(tiny_run)["data"]["labels"]
    assert len(rows) == len({row["id"] for row in rows}) == 20
    for row in rows:
        assert list(row["scores"]) == labels
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert row["hypothesis"] == max(row["scores"], key=row["scores"].__getitem__)
        assert row["score"] == pytest.approx(row["scores"][row["hypothesis"]], abs=1e-6)
        assert row["fold"] == 1
        assert row["reference"] in row["id"]
    hits = [row["reference"] == row["hypothesis"] for row in rows]
    assert metrics_of(tiny_run)["scores"]["test/accuracy"]["value"] == sum(hits) / len(hits)


def test_the_checkpoint_is_the_one_that_validation_chose(tmp_path: Path) -> None:
    metrics = train(tiny("loader.val_fraction=0.25", "trainer.max_epochs=4"), tmp_path)
    best, last = (
        torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert metrics["checkpoint"] == "best.ckpt"
    assert metrics["data"]["clips"] == {"train": 60, "val": 20, "test": 20}
    assert last["epoch"] == 3
    kept = next(state for name, state in best["callbacks"].items() if "'val/accuracy'" in name)
    assert metrics["scores"]["val/accuracy"]["value"] == pytest.approx(float(kept["best_model_score"]))
    assert metrics["scores"]["val/accuracy"]["n"] == 20


def test_early_stopping_stops_where_the_score_stays(tmp_path: Path) -> None:
    stopped = ("callbacks=early_stopping", "loader.val_fraction=0.25", "callbacks.early_stopping.patience=2")
    metrics = train(tiny(*stopped, "optimizer.lr=0", "trainer.max_epochs=9"), tmp_path)
    # With a rate of 0 nothing but the statistics of the BatchNorms moves: few epochs can be the best so far.
    assert 3 <= metrics["epochs"] < 9


def test_without_test_the_test_split_is_not_looked_at(tmp_path: Path) -> None:
    scores = train(tiny("test=false", "trainer.max_epochs=1"), tmp_path)["scores"]
    assert not [name for name in scores if name.startswith("test/")]
    assert not (tmp_path / "predictions.jsonl").exists()


def test_the_same_seed_gives_the_same_run_another_seed_another(tmp_path: Path, tiny_run: Path) -> None:
    train(tiny(), tmp_path / "same")
    train(tiny("seed=1"), tmp_path / "other")
    assert rows_of(tmp_path / "same") == rows_of(tiny_run)
    assert rows_of(tmp_path / "other") != rows_of(tiny_run)


def test_two_runs_never_share_a_folder(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        launch([*TINY, "trainer.max_epochs=1"])
    folders = sorted((logs / "demo").iterdir())
    assert len(folders) == 2
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Run folder:")]
    assert sorted(printed) == [f"Run folder: {folder}" for folder in folders]


def test_a_run_starts_as_hydra_starts_it_and_composes_no_third_time(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = ConfigLoaderImpl.load_configuration
    seen: list[tuple[Path, str, str, float]] = []

    def counted(self: ConfigLoaderImpl, config_name: str, *args: Any, **options: Any) -> DictConfig:
        loaded.append(config_name)
        return load(self, config_name, *args, **options)

    def noted(cfg: DictConfig, folder: Path, *_: Any) -> dict[str, Any]:
        hydra = HydraConfig.get()
        seen.append((folder, cfg.run_folder, hydra.job.name, cfg.optimizer.lr))
        return {}

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr(program, "train", noted)
    launch([*TINY, "optimizer.lr=0.125"])
    (folder,) = (logs / "demo").iterdir()
    assert seen == [(folder, str(folder), "train", 0.125)]
    assert OmegaConf.load(folder / ".hydra" / "overrides.yaml") == [*TINY, "optimizer.lr=0.125"]
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").optimizer.lr == 0.125
    assert not HydraConfig.initialized()
    assert loaded == ["train"] * 2  # as it is wanted, and as it would be without the options


def test_a_resumed_run_keeps_its_folder_and_its_older_configuration(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch([*TINY])
    (folder,) = (logs / "demo").iterdir()
    first = (folder / "config.yaml").read_text()
    again = ["experiment=demo", "network=cnn2d", f"resume={folder}", *TINY[2:5], "trainer.max_epochs=3"]
    with pytest.raises(
        UserError, match=r"with other settings \(trainer\.max_epochs 2 -> 3\): .* add resume\.force=true"
    ):
        launch(again)
    assert (folder / "config.yaml").read_text() == first
    launch([*again, "resume.force=true"])
    assert "Resumes with other settings: trainer.max_epochs 2 -> 3\n" in capsys.readouterr().out
    assert list((logs / "demo").iterdir()) == [folder]
    (kept,) = folder.glob("config_until_*.yaml")
    assert kept.read_text() == first
    now = OmegaConf.load(folder / "config.yaml")
    assert (now.trainer.max_epochs, now.network.widths) == (3, [4, 8])
    assert metrics_of(folder)["epochs"] == 3


def test_what_would_make_another_run_is_refused_on_resuming(tiny_run: Path, logs: Path) -> None:
    with pytest.raises(UserError, match=r"optimizer=sgd makes another run than .*: leave it out"):
        launch(["experiment=demo", f"resume={tiny_run}", "optimizer=sgd"])


@pytest.fixture
def _sigint() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores further ones once it was interrupted
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("_sigint")
def test_ctrl_c_ends_with_how_to_go_on(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = AudioTask.training_step

    def interrupted(self: AudioTask, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (1, 2):
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AudioTask, "training_step", interrupted)
    monkeypatch.setattr("sys.argv", ["train", *TINY])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: resume with resume=latest\n"
    (folder,) = (logs / "demo").iterdir()
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert not (folder / "metrics.json").exists()
