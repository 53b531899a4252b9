"""What a run says of its speed, on a clock that only the planted events move."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import TINY
from omegaconf import OmegaConf

from lightning_audio.config import compose_config
from lightning_audio.data import sampler
from lightning_audio.data.clip_set import ClipSet
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import seed_draws
from lightning_audio.training.callbacks import ema, throughput
from lightning_audio.training.callbacks.ema import EMA
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO
from lightning_audio.training.run import train
from lightning_audio.training.schedule import one_cycle

EPOCHS, STEPS = 2, 4  # 60 training clips in batches of 16
ORDER, GATHER, STEP, AVERAGE, VALIDATION, SAVE = 7, 3, 5, 11, 100, 1000


CLOCK: Any = SimpleNamespace(now=0.0, perf_counter=lambda: CLOCK.now)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds pass in the loader, in steps, in averaging, in validation and in saving, and nowhere else."""

    def slow(owner: Any, name: str, seconds: float) -> None:
        original = getattr(owner, name)

        def slower(*arguments: Any, **options: Any) -> Any:
            CLOCK.now += seconds
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, slower)

    for module in (throughput, sampler):
        monkeypatch.setattr(module, "time", CLOCK)
    slow(sampler.BatchSampler, "__iter__", ORDER)
    slow(ClipSet, "__getitem__", GATHER)
    slow(AudioTask, "training_step", STEP)
    slow(ema.EMA, "on_train_batch_end", AVERAGE)
    slow(AudioTask, "validation_step", VALIDATION)
    slow(AtomicCheckpointIO, "save_checkpoint", SAVE)


@pytest.mark.parametrize("every", [STEPS, STEPS // 2])  # validation at the end of an epoch, and within it too
def test_waiting_is_the_time_of_the_loader_and_nothing_else(
    every: int, planted: None, tmp_path: Path
) -> None:
    watched = ("loader.val_fraction=0.25", "callbacks=ema", "test=false")
    cfg = compose_config([*TINY, *watched, f"trainer.max_epochs={EPOCHS}"])
    OmegaConf.update(cfg, "trainer.val_check_interval", every, force_add=True)
    metrics = train(cfg, tmp_path)
    waited = EPOCHS * (ORDER + STEPS * GATHER)
    seconds = waited + EPOCHS * STEPS * (STEP + AVERAGE)
    assert metrics["loader_wait"] == pytest.approx(waited / seconds, abs=1e-4)
    assert metrics["clips_per_second"] == pytest.approx(EPOCHS * 60 / seconds, abs=0.05)


def test_the_learning_rate_is_logged_whenever_loggers_write(tmp_path: Path) -> None:
    options = (
        "logger=default",
        "trainer.log_every_n_steps=2",
        "callbacks.training_examples=null",
        "test=false",
    )
    cfg = compose_config([*TINY, *options])
    cfg.run_folder = str(tmp_path)
    train(cfg, tmp_path)
    with (tmp_path / "csv" / "metrics.csv").open(encoding="utf-8") as file:
        rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(file) if row["lr"]}
    # Ten steps; the second one is number 1.
    assert rates == {step: pytest.approx(cfg.optimizer.lr * one_cycle(step, 10)) for step in (1, 3, 5, 7, 9)}


def test_draws_are_seeded_as_torch_seeds_them() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_draws(5, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_masks_of_an_encoder_are_drawn_by_the_step() -> None:
    modeling = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    drawn = []
    for _ in range(2):  # as in a run that was never cut, and in one that is resumed at this step
        seed_draws(5, torch.device("cpu"))
        drawn.append(modeling._compute_mask_indices((4, 200), 0.1, 5).tolist())
    assert drawn[0] == drawn[1]


def test_weights_are_averaged_where_they_are_trained_and_counted_on_the_host() -> None:
    # Lightning calls `setup` before it moves the weights; "meta" stands for a GPU here.
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    callback, task = EMA(), pl.LightningModule()
    task.layer = torch.nn.Linear(2, 3)
    callback.setup(trainer, task, "fit")  # type: ignore[arg-type]
    assert callback._average_model is not None
    assert {p.device.type for p in callback._average_model.parameters()} == {"meta"}
    assert callback._average_model.n_averaged.device.type == "cpu"
