"""Scores and predictions of splits that no test is made on: training clips, validation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl

from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.intervals import Score
from lightning_audio.networks.base import Network
from lightning_audio.reports.results import predictions_file, write_predictions
from lightning_audio.tasks.base import AudioTask

LEAST = 100  # training clips that are scored, where there are so many: a score of fewer says little


def in_place_of(stage: str, data: AudioDataModule, split: str, most: int | None = None) -> AudioDataModule:
    """The same data whose `stage` (val or test) is made of the clips of another split.

    Of more than `most` clips as many are drawn, by the seed of the data; of training clips those count that
    the first epoch draws.
    """
    found, view, rng = data.splits[split], copy.copy(data), np.random.default_rng(data.seed)
    places = np.arange(len(found))
    if split == "train":
        places = np.unique(data.corpus.draw(found.clips, rng))
    if most is not None and len(places) > most:
        places = np.sort(rng.choice(places, most, replace=False))
    chosen = found.take(places)
    view.splits = {**data.splits, stage: chosen}
    view.unscorable = {**data.unscorable, stage: [] if most else data.unscorable[split]}
    view.validates = True
    if data.featured and (features := data.featured[split].features) is not None:
        view.featured = {**data.featured, stage: chosen.with_features(features)}
    return view


@contextlib.contextmanager
def shown(task: AudioTask, split: str) -> Iterator[None]:
    """Tells networks that remember training clips whether it is these that they are shown: none of the clips
    is to vouch for itself."""
    networks = [module for module in task.modules() if isinstance(module, Network)]
    for network in networks:
        network.knows_clips = split == "train"
    try:
        yield
    finally:
        for network in networks:
            network.knows_clips = False


def score_split(
    trainer: pl.Trainer,
    task: AudioTask,
    data: AudioDataModule,
    split: str,
    folder: Path,
    most: int | None = None,
) -> dict[str, Score]:
    """Scores of the clips of a split as validation scores them, without augmentation, and their predictions.

    With `most`, of so many clips at most: half of what validation, or else the test, has, and 100 where that
    is less. No logger hears of them: it would take them for those of validation.
    """
    if most is not None:
        other = len(data.splits["val" if data.has_validation else "test"])
        most = min(most, max(other // 2, LEAST))
    if most == 0 or not trainer.limit_val_batches:
        return {}
    view, loggers = in_place_of("val", data, split, most), trainer.loggers
    trainer.loggers = []
    try:
        with shown(task, split):
            trainer.validate(task, view, verbose=False)
    finally:
        trainer.loggers = loggers
    return keep_split(trainer, task, view, "val", split, folder)


def keep_split(
    trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, stage: str, split: str, folder: Path
) -> dict[str, Score]:
    """The scores of what was summarised last, where the clips of `split` stood in `stage`; leaves their
    predictions in the folder."""
    if not trainer.is_global_zero:
        return {}
    clips = data.splits[stage].clips
    write_predictions(folder / predictions_file(split), task.rows_of(clips))
    found = scores(task.metrics, task.predictions(clips))
    return {f"{split}/{name}": score for name, score in found.items()}
