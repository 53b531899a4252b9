"""A run that learns from another one: its logits are those of the teacher, computed once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import TINY

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.config import compose_config
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.tasks.classification import Classification
from lightning_audio.training import teacher
from lightning_audio.training.run import train

CPU = torch.device("cpu")


def student(*overrides: str) -> tuple[Classification, AudioDataModule]:
    cfg = compose_config([*TINY, *overrides])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    assert isinstance(task, Classification)
    return task, data


def test_it_hears_the_clips_of_training_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"paths.cache={tmp_path}"
    task, data = student(f"task.teacher={tiny_run}", own)
    teacher.distil(task, data, CPU)
    batch = data.splits["train"][[3, 0, 5]]
    with torch.no_grad():
        logits, _ = load(tiny_run)(batch.waveforms, batch.lengths)
    targets = task.targets_of(batch)
    torch.testing.assert_close(targets[:, len(task.labels) :], (logits / 2).softmax(-1))
    monkeypatch.setattr(teacher, "_said", None)  # not asked again
    again, data = student(f"task.teacher={tiny_run}", own, "task.temperature=5")
    teacher.distil(again, data, CPU)
    torch.testing.assert_close(again.targets_of(batch)[:, len(task.labels) :], (logits / 5).softmax(-1))


def test_a_student_of_a_weight_of_one_comes_close_to_its_teacher(tiny_run: Path, tmp_path: Path) -> None:
    """Of the same architecture and without labels: its probabilities are nearer than those it began with."""
    options = [f"task.teacher={tiny_run}", "task.teacher_weight=1.0", "seed=3", "augment=none", "test=false"]
    train(compose_config([*TINY, *options, "trainer.max_epochs=4"]), tmp_path)
    fresh, data = student("seed=3")
    batch = data.splits["train"][list(range(40))]
    with torch.no_grad():
        first, last, told = (
            task(batch.waveforms, batch.lengths)[0].log_softmax(-1)
            for task in (fresh.eval(), load(tmp_path), load(tiny_run))
        )
    far, near = ((told.exp() * (told - said)).sum(-1).mean() for said in (first, last))
    assert near < far


def test_what_does_not_go_together(tiny_run: Path, speech_run: Path) -> None:
    for options, sentence in {
        (f"task.teacher={speech_run}",): "does not name the labels of this run",
        (
            f"task.teacher={tiny_run}",
            "augment.mix={_target_: lightning_audio.augment.mix.Mix, mode: between_class}",
        ): "does not go with augment.mix.mode=between_class",
        ("task.teacher=nowhere",): "There is no checkpoint at",
    }.items():
        task, data = student(*options)
        with pytest.raises(UserError, match=sentence):
            teacher.distil(task, data, CPU)
