"""Logs of a run that is killed and resumed: nothing is lost, and nothing stands there twice."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_audio.training.loggers import CSVLogger, resume_loggers


def rows(folder: Path) -> list[tuple[int, str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), row["loss"], row.get("val", "")) for row in csv.DictReader(file)]


def test_rows_are_on_the_disk_at_once_and_new_columns_come_beside_the_old(tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    logger.log_metrics({"loss": 2.0}, 0)
    assert rows(tmp_path) == [(0, "2.0", "")]
    logger.log_metrics({"val": 0.5}, 0)
    logger.log_metrics({"loss": 1.0}, 1)
    assert rows(tmp_path) == [(0, "2.0", ""), (0, "", "0.5"), (1, "1.0", "")]


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    first = CSVLogger(str(tmp_path))
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    first.log_metrics({"val": 0.25}, 3)
    with (tmp_path / "csv" / "metrics.csv").open("a") as file:
        file.write("4,0.")  # cut off by a kill
    second = CSVLogger(str(tmp_path))
    resume_loggers([second], 3)
    assert rows(tmp_path) == [(0, "0.0", ""), (1, "1.0", ""), (2, "2.0", "")]
    for step in (2, 3):  # the row of step 2 is there
        second.log_metrics({"loss": float(step)}, step)
    second.log_metrics({"val": 0.5}, 3)
    assert rows(tmp_path)[2:] == [(2, "2.0", ""), (3, "3.0", ""), (3, "", "0.5")]
    third = CSVLogger(str(tmp_path))
    resume_loggers([third], 4, {"loss": 3.0})  # what was to be logged when it was saved: it is there
    assert len(rows(tmp_path)) == 5
    resume_loggers([third], 0)
    assert rows(tmp_path) == []


def test_a_row_that_a_kill_kept_from_the_file_is_made_up_for(tmp_path: Path) -> None:
    CSVLogger(str(tmp_path)).log_metrics({"loss": 0.0}, 0)
    logger = CSVLogger(str(tmp_path))
    resume_loggers([logger], 2, {"loss": 1.0})
    assert rows(tmp_path) == [(0, "0.0", ""), (1, "1.0", "")]


def test_tensorboard_shows_every_step_once(tmp_path: Path) -> None:
    for start, end in ((0, 6), (4, 8)):
        logger = TensorBoardLogger(str(tmp_path), name=None, version="tensorboard")
        resume_loggers([logger], start)
        for step in range(start, end):
            logger.log_metrics({"loss": 100.0 * start + step}, step)
        logger.finalize("success")
        logger.experiment.close()
        time.sleep(1)  # files are read in the order of their names: the second, then a number without zeros
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == list(range(8))
    assert [event.value for event in events[4:]] == [404.0, 405.0, 406.0, 407.0]
