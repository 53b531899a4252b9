"""Loggers of a run that may be killed and resumed: what they wrote stays, and nothing stands there twice."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers
from pytorch_lightning.utilities import rank_zero_only

from lightning_audio.io import to_csv, write_atomically

Row = dict[str, Any]


@rank_zero_only
def resume_loggers(
    running: Iterable[loggers.Logger], step: int, row: Mapping[str, float] | None = None
) -> None:
    """Training starts or resumes with this step: what a killed run wrote of later ones is written again.

    `row` is what was to be logged of the step before, when the run was saved.
    """
    for logger in running:
        if isinstance(logger, CSVLogger):
            logger.resume(step)
            if row:
                logger.log_metrics(dict(row), step - 1)
        elif isinstance(logger, loggers.TensorBoardLogger):
            # The next file that it begins lets TensorBoard leave out what it read before of later steps.
            logger.experiment.close()
            logger.experiment.purge_step = step


class CSVLogger(loggers.Logger):
    """`metrics.csv` to which a resumed run appends; Lightning's deletes it. Every row is written at once.

    Args:
        save_dir, name, version: the file is in `SAVE_DIR/NAME/VERSION`.
        prefix: goes before the names of all columns, with a hyphen.
    """

    def __init__(
        self, save_dir: str, name: str | None = None, version: str = "csv", prefix: str = ""
    ) -> None:
        super().__init__()
        self._name, self._version, self.prefix = name or "", version, f"{prefix}-" if prefix else ""
        self.path = Path(save_dir, self._name, version, "metrics.csv")
        self._columns: list[str] = []  # of the file
        self._last: set[tuple[int, frozenset[str]]] | None = (
            None  # the rows of its last step, by their columns
        )

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration stands in the run folder."""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Drops the rows of this step and later ones, and what a kill cut off."""
        rows = self._rows()
        kept = [row for row in rows if int(row["step"]) < step]
        if rows:
            self._write(kept)
        last = max((int(row["step"]) for row in kept), default=None)
        self._last = {
            (last, frozenset(name for name, value in row.items() if value and name != "step"))
            for row in kept
            if last is not None and int(row["step"]) == last
        }

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self._last is None:
            self.resume(2**63)  # what is there stays
        named = {f"{self.prefix}{name}": value for name, value in metrics.items()}
        row = {name: value.item() if hasattr(value, "item") else value for name, value in named.items()}
        # Of the last step some rows may be there, and some not yet: a validation that is run again, a test.
        if (step, frozenset(row)) in (self._last or ()):
            return
        row["step"] = len(self._rows()) if step is None else step
        if row.keys() <= set(self._columns) and self.path.is_file():
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(to_csv([row], self._columns, header=False))
        else:
            self._write([*self._rows(), row])

    def _rows(self) -> list[Row]:
        if not self.path.is_file():
            return []
        whole = self.path.read_text(encoding="utf-8").rpartition("\n")[0]  # no line that is cut off
        return [row for row in csv.DictReader(io.StringIO(whole)) if str(row.get("step", "")).isdigit()]

    def _write(self, rows: list[Row]) -> None:
        self._columns = sorted({name for row in rows for name in row})
        write_atomically(self.path, to_csv(rows, self._columns))
