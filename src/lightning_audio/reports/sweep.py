"""The runs of a Hydra multirun side by side: one table at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_audio.config.trust import read_yaml
from lightning_audio.errors import counted
from lightning_audio.io import read_json, terminal, to_json, write_atomically
from lightning_audio.metrics.intervals import merit
from lightning_audio.reports.results import (
    FAILURE,
    METRICS,
    PRUNED,
    RunResult,
    minutes_text,
    monitored,
    read_metrics,
    read_overrides,
    score_text,
)
from lightning_audio.reports.tables import markdown_table, print_table

STUDY = "study.journal"  # in the folder of a sweep whose values are drawn
FOLDS_ONLY = ["data.fold"]  # the varying option of runs that are not to be compared


def run_folders(folder: Path) -> list[Path]:
    """The folders of the runs of a multirun."""
    found = {file.parents[1] for file in folder.glob("**/.hydra/overrides.yaml")}
    return sorted(found - {folder})


@dataclass(frozen=True)
class SweepSummary:
    """The runs of a multirun as rows in the order of their numbers, the score to compare by, the best row.

    A row holds `run` (number), `folder`, `overrides`, `scores`, `minutes` and `error` (None, or a sentence).
    `notes` are what a sweep that draws its values says of the best run, in place of how it was found here.
    """

    rows: list[dict[str, Any]]
    monitor: str | None
    best: int | None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        best = None if self.best is None else {key: self.rows[self.best][key] for key in ("run", "folder")}
        notes = {"notes": self.notes} if self.notes else {}
        return {"best": best, "monitor": self.monitor, **notes, "runs": self.rows}

    @property
    def varying(self) -> list[str]:
        """The options whose values differ between the runs."""
        keys = dict.fromkeys(key for row in self.rows for key in row["overrides"])
        return [key for key in keys if len({row["overrides"].get(key) for row in self.rows}) > 1]

    def table(self) -> list[dict[str, str]]:
        """The rows as text: the overrides that vary, the scores with intervals, minutes and status."""
        return [
            {"run": f"{row['run']} (best)" if i == self.best else str(row["run"])}
            | {key: row["overrides"].get(key, "") for key in self.varying}
            | {n: score_text(n, score) for n, score in row["scores"].items() if not n.startswith("train")}
            | {"minutes": minutes_text(row["minutes"])}
            | {"status": _status(row["error"])}
            for i, row in enumerate(self.rows)
        ]

    @property
    def failed(self) -> list[str]:
        """The folders of the runs that did not come to their end."""
        return [row["folder"] for row in self.rows if _status(row["error"]) == "failed"]

    def remarks(self) -> list[str]:
        """How the best run was found, and the sentence with which each failed run ended."""
        failed = [
            f"Run {row['run']} failed: {row['error']}"
            for row in self.rows
            if _status(row["error"]) == "failed"
        ]
        if self.notes:
            return [*self.notes, *failed]
        if self.varying == FOLDS_ONLY:
            found = "Folds differ in their data: none is better than another."
        elif self.best is None:
            found = "No run has a score to compare by."
        elif str(self.monitor).startswith("test/"):
            found = f"Best by {self.monitor}: chosen on the test data, this score is too good to be reported."
        else:
            found = f"Best by {self.monitor}."
        return [found, *failed]


def summarise_sweep(folders: Iterable[Path], monitor: str | None = None) -> SweepSummary:
    """The runs of a multirun side by side; a run without metrics counts as failed.

    Without a `monitor` they are compared by what the first of them chose its checkpoint by, or else by the
    first score.
    """
    rows = sorted((_sweep_row(folder) for folder in folders), key=lambda row: (row["run"], row["folder"]))
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    names = [name for name in names if not name.startswith("train")]  # what was learned by heart
    chosen = (monitored(Path(row["folder"]), row["scores"]) for row in rows)
    monitor = monitor or next(filter(None, chosen), next(iter(names), None))
    scored = {i: row["scores"][monitor] for i, row in enumerate(rows) if monitor in row["scores"]}
    values = {i: merit(str(monitor), score) for i, score in scored.items()}
    summary = SweepSummary(rows, monitor, None)
    if summary.varying == FOLDS_ONLY:
        return summary
    return replace(summary, best=max(values, key=values.__getitem__, default=None))


def as_written(folder: Path) -> SweepSummary:
    """The runs of a multirun, and what its sweep said of the best one when it ended."""
    summary = summarise_sweep(run_folders(folder))
    file = folder / "sweep.json"
    if not (folder / STUDY).is_file() or not file.is_file():
        return summary
    said: dict[str, Any] = read_json(file, dict, "remove it, and start the sweep's command again")
    numbers, best = [row["run"] for row in summary.rows], (said.get("best") or {}).get("run")
    found = numbers.index(best) if best in numbers else None
    return replace(summary, monitor=said.get("monitor"), best=found, notes=tuple(said.get("notes", ())))


def _sweep_row(folder: Path) -> dict[str, Any]:
    done = (folder / METRICS).is_file()
    run = RunResult(folder, read_metrics(folder) if done else {}, overrides=read_overrides(folder))
    found = {"run": _run_number(folder), "folder": str(folder), "overrides": run.overrides}
    outcome = {"scores": run.scores, "minutes": run.minutes, "error": None if done else _failure(folder)}
    return found | outcome


def _status(error: str | None) -> str:
    return "done" if error is None else PRUNED if error.startswith(PRUNED) else "failed"


def _run_number(folder: Path) -> int:
    if folder.name.isdecimal() and (folder.parent / STUDY).is_file():
        return int(folder.name)
    path = folder / ".hydra" / "hydra.yaml"
    about = read_yaml(path) if path.is_file() else {}
    return int(about.get("hydra", {}).get("job", {}).get("num") or 0)


def _failure(folder: Path) -> str:
    path = folder / FAILURE
    if not path.is_file():
        return f"it ended early; the log in {folder} tells why."
    return path.read_text(encoding="utf-8").strip()


def write_sweep_report(folder: Path, summary: SweepSummary) -> None:
    """Writes sweep.md and sweep.json."""
    write_atomically(folder / "sweep.json", to_json(summary.as_dict(), indent=2) + "\n")
    remarks = "".join(f"\n{remark}\n" for remark in summary.remarks())
    title = f"# {counted(len(summary.rows), 'runs')}, scores in percent with 95 % intervals\n\n"
    write_atomically(folder / "sweep.md", title + markdown_table(summary.table()) + remarks)


def print_sweep_report(summary: SweepSummary, console: Console | None = None) -> None:
    """Prints a row per run, how the best was found, and why runs failed."""
    console = console or terminal()
    title = f"{counted(len(summary.rows), 'runs')}, scores in percent with 95 % intervals"
    print_table(summary.table(), title, console)
    for remark in summary.remarks():
        console.print(remark)
