"""Loggers of a run that may be killed and resumed: what they wrote stays, and nothing stands there twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from lightning_audio.io import write_atomically


@rank_zero_only
def resume_loggers(
    running: Iterable[loggers.Logger], step: int, row: Mapping[str, float] | None = None
) -> None:
    """Training starts or resumes with this step: what a killed run wrote of later ones is written again.

    `row` is what was to be logged of the step before, when the run was saved.
    """
    for logger in running:
        if isinstance(logger, CSVLogger):
            logger.experiment.resume(step)
            if row:
                logger.log_metrics(dict(row), step - 1)
        elif isinstance(logger, loggers.TensorBoardLogger):
            # TensorBoard leaves out what it read before of this step and later ones.
            start = Event(step=step, session_log=SessionLog(status=SessionLog.START))
            writer = logger.experiment._get_file_writer()  # a new one where the last training has closed it
            writer.add_event(Event(step=step, file_version="brain.Event:2"))
            writer.add_event(start)


class CSVLogger(loggers.CSVLogger):
    """`metrics.csv` to which a resumed run appends; Lightning's deletes it. Every row is written at once."""

    def __init__(
        self, save_dir: str, name: str | None = None, version: str = "csv", prefix: str = ""
    ) -> None:
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps=1)

    @property
    @loggers.logger.rank_zero_experiment
    def experiment(self) -> _Rows:
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _Rows(ExperimentWriter):
    """The rows of a `metrics.csv`, those of an earlier start among them."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        rows = self._read()
        self.metrics_keys = sorted({key for row in rows for key in row})
        self._remember(rows)

    def _check_log_dir_exists(self) -> None:
        """Nothing is deleted."""

    def resume(self, step: int) -> None:
        """Drops the rows of this step and later ones, and what a kill cut off."""
        rows = self._read()
        kept = [row for row in rows if int(row["step"]) < step]
        if rows:
            self._write(kept)
        self._remember(kept)

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        # Of the last step some rows may be there, and some not yet: a validation that is run again, a test.
        if (step, frozenset(metrics_dict)) not in self._there:
            super().log_metrics(dict(metrics_dict), step)

    def _remember(self, rows: list[dict[str, str]]) -> None:
        last = max((int(row["step"]) for row in rows), default=None)
        self._there = {
            (last, frozenset(key for key, value in row.items() if value and key != "step"))
            for row in rows
            if int(row["step"]) == last
        }

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0]  # no line that is cut off
        rows = csv.DictReader(io.StringIO(whole))
        return [row for row in rows if str(row.get("step", "")).isdigit()]

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(self._read())
