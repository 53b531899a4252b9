"""The mean and deviation of a corpus' features: remembered, and never believed where they could be others."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from omegaconf import DictConfig
from torch import Tensor

from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.normalizer import FOLDER, fit_normalizer

ALL, FIRST = 80, 16  # clips of training, and of a batch


@pytest.fixture
def fitted_on(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips that each fit went through, from now on."""
    clips: list[int] = []
    fit = AudioTask.fit_normalizer

    def counted(self: AudioTask, batches: Iterable[Batch]) -> None:
        batches = list(batches)
        clips.append(sum(map(len, batches)))
        fit(self, batches)

    monkeypatch.setattr(AudioTask, "fit_normalizer", counted)
    return clips


@pytest.fixture
def remembered() -> Path:
    """The folder in the cache of all tests, in which nothing is yet."""
    folder = Path(os.environ["LIGHTNING_AUDIO_CACHE"]) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@cache
def composed(*overrides: str) -> DictConfig:
    return compose_config(overrides)


def built(*overrides: str) -> tuple[AudioTask, AudioDataModule]:
    cfg = composed(*TINY, *overrides)
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    return build.task(cfg, data), data


def fitted(*overrides: str) -> tuple[Tensor, Tensor]:
    task, data = built(*overrides)
    fit_normalizer(task, data)
    return task.normalize.mean.clone(), task.normalize.std.clone()


@pytest.mark.parametrize("by", ["corpus", "per_feature"])
def test_a_second_run_has_the_same_to_the_last_bit_from_one_batch(
    by: str, remembered: Path, fitted_on: list[int]
) -> None:
    task, data = built(f"normalize={by}")
    task.fit_normalizer(data.loader("train"))
    plain = task.normalize.mean, task.normalize.std
    assert fitted_on == [ALL]
    first, second = fitted(f"normalize={by}"), fitted(f"normalize={by}")
    assert fitted_on[1:] == [FIRST, ALL, FIRST]
    for own, again, known in zip(plain, first, second, strict=True):
        assert torch.equal(own, again)
        assert torch.equal(own, known)


@pytest.mark.parametrize(
    "change",
    ["frontend.n_mels=32", "loader.batch_size=8", "data.fold=2", "data.seed=1", "normalize=per_feature"],
)
def test_what_they_depend_on_makes_others(change: str, remembered: Path, fitted_on: list[int]) -> None:
    fitted()
    fitted(change)
    assert fitted_on[1] == fitted_on[3] == ALL
    assert len(list(remembered.iterdir())) == 2


def test_it_is_fitted_on_what_an_epoch_draws(remembered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = built()
    chosen = np.random.default_rng(0).permutation(ALL)[:24]
    # Half of what is drawn is one clip.
    monkeypatch.setattr(data.corpus, "draw", lambda clips, rng: np.concatenate([chosen, [chosen[0]] * 24]))
    fit_normalizer(task, data)
    mean, std = task.normalize.mean.clone(), task.normalize.std.clone()
    clips = data.splits["train"]
    frames = []
    for position in [*chosen, *[chosen[0]] * 24]:
        features, length = task.raw_features(clips[[int(position)]])
        frames.append(features[..., : int(length)].double().flatten())
    expected = torch.cat(frames)
    assert float(mean) == pytest.approx(float(expected.mean()), abs=1e-4)
    assert float(std) == pytest.approx(float(expected.std(correction=0)), rel=1e-4)
    task.fit_normalizer(data.loader("train"))
    assert abs(float(task.normalize.mean - mean)) > 0.1, "that of all clips is another"


def test_it_is_fitted_on_balanced_clips_where_these_are_drawn(remembered: Path) -> None:
    _, data = built("loader.balance=true")
    ids = [name for batch in data.loader("train", drawn=True) for name in batch.ids]
    loader = data.train_dataloader()
    assert sorted(ids) == sorted(name for batch in loader for name in batch.ids)
    assert len(set(ids)) < len(ids) == ALL


def test_nothing_is_remembered_where_nothing_is_fitted(remembered: Path, fitted_on: list[int]) -> None:
    mean, std = fitted("normalize=per_clip")
    assert (float(mean), float(std)) == (0.0, 1.0)
    assert fitted_on == []
    assert not remembered.exists()


def test_a_front_end_whose_code_has_changed_is_fitted_anew(
    remembered: Path, fitted_on: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mean, std), forward = fitted(), LogMel.forward

    def louder(self: LogMel, *arguments: Any) -> tuple[Tensor, Tensor]:
        features, lengths = forward(self, *arguments)
        return features + 6, lengths

    monkeypatch.setattr(LogMel, "forward", louder)
    changed_mean, changed_std = fitted()
    assert fitted_on == [FIRST, ALL] * 2
    assert float(changed_mean - mean) == pytest.approx(6, abs=1e-3)
    assert float(changed_std) == pytest.approx(float(std), rel=1e-4)
    assert torch.equal(fitted()[0], changed_mean)  # known from now on
    assert fitted_on[4:] == [FIRST]


@pytest.mark.parametrize("content", ["[1]", '{"first": {}, "all": {}}'])
def test_a_broken_file_is_written_again(content: str, remembered: Path, fitted_on: list[int]) -> None:
    fitted()
    (file,) = remembered.iterdir()
    whole = file.read_text()
    file.write_text(content)
    fitted()
    assert fitted_on == [FIRST, ALL] * 2
    assert json.loads(file.read_text()) == json.loads(whole)


def test_a_cache_that_takes_no_more_files_only_forgets(remembered: Path, fitted_on: list[int]) -> None:
    remembered.touch()  # a file where the folder would be
    try:
        assert torch.equal(fitted()[0], fitted()[0])
    finally:
        remembered.unlink()
    assert fitted_on == [FIRST, ALL] * 2
