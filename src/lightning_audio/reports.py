"""Several runs as one result: the folds of a corpus, the runs of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.console import Console

from lightning_audio.errors import UserError
from lightning_audio.metrics import Score, confusion_matrix, decision_scores
from lightning_audio.plots import plot_confusion
from lightning_audio.results import (
    FAILURE,
    METRICS,
    RunResult,
    minutes_text,
    percent,
    read_metrics,
    read_overrides,
    to_json,
    write_atomically,
)
from lightning_audio.tables import markdown_table, per_class_table, print_table


@dataclass(frozen=True)
class FoldSummary:
    """The runs of all folds in their order, and the scores and confusion `(C, C)` of all clips together."""

    runs: list[RunResult]
    labels: list[str]
    pooled: dict[str, Score]
    confusion: NDArray

    def values(self) -> dict[str, list[float]]:
        """Per score that every run has, its value in each fold."""
        names = [name for name in self.runs[0].scores if all(name in run.scores for run in self.runs)]
        return {name: [run.scores[name].value for run in self.runs] for name in names}

    def as_dict(self) -> dict[str, Any]:
        values = self.values()
        return {
            "folds": [
                {"fold": run.data["fold"], "folder": run.folder, "minutes": run.minutes, "scores": run.scores}
                for run in self.runs
            ],
            "mean": {name: mean(folds) for name, folds in values.items()},
            "deviation": {name: stdev(folds) for name, folds in values.items()},
            "pooled": self.pooled,
            "labels": self.labels,
            "confusion": self.confusion,
        }

    def table(self) -> list[dict[str, str]]:
        """A row per fold in percent, then mean and sample deviation, then all clips pooled."""
        values = self.values()
        rows = [
            {"fold": str(run.data["fold"])}
            | {name: f"{100 * folds[i]:.1f}" for name, folds in values.items()}
            | {"minutes": minutes_text(run.minutes)}
            for i, run in enumerate(self.runs)
        ]
        spread = {name: f"{100 * mean(v):.1f} ± {100 * stdev(v):.1f}" for name, v in values.items()}
        pooled = {name: percent(score) for name, score in self.pooled.items()}
        return [*rows, {"fold": "mean", **spread}, {"fold": "pooled", **pooled}]


def summarise_folds(runs: Sequence[RunResult]) -> FoldSummary:
    """One result of one run per fold; the clips of all test folds are pooled as they were predicted.

    Each run's metrics name in `data` its `fold`, all `folds` of the corpus, and its `labels` in order.

    Raises:
        UserError: a fold is missing or there twice, a clip stands in two folds, or labels differ.
    """
    labels = _common_labels(runs)
    _check_folds(runs)
    runs = sorted(runs, key=lambda run: run.data["fold"])
    rows = [row for run in runs for row in run.predictions]
    index = {label: i for i, label in enumerate(labels)}
    targets = [index[row["reference"]] for row in rows]
    predictions = [index[row["hypothesis"]] for row in rows]
    scores = decision_scores(targets, predictions, len(labels), [row.get("group") for row in rows])
    pooled = {f"test/{name}": score for name, score in scores.items()}
    return FoldSummary(runs, labels, pooled, confusion_matrix(targets, predictions, len(labels)))


def _common_labels(runs: Sequence[RunResult]) -> list[str]:
    if not runs:
        raise UserError("There is no run to summarise: give the run folders of all folds.")
    labels = runs[0].data.get("labels") or []
    for run in runs:
        if run.data.get("labels") != labels:
            raise UserError(
                f"The labels of {run.folder} differ from those of {runs[0].folder}: "
                "give runs of one corpus and one subset."
            )
        unknown = {row[key] for row in run.predictions for key in ("reference", "hypothesis")} - set(labels)
        if unknown:
            raise UserError(
                f"The predictions of {run.folder} hold labels that its metrics.json does not name, such as "
                f"{min(unknown)!r}: evaluate the run again."
            )
    return labels


def _check_folds(runs: Sequence[RunResult]) -> None:
    for run in runs:
        if run.data.get("fold") is None or not run.data.get("folds"):
            raise UserError(f"{run.folder} is not a run of one fold: train it with data.fold set.")
    folds = Counter(run.data["fold"] for run in runs)
    missing = sorted(set(runs[0].data["folds"]) - set(folds))
    if missing:
        raise UserError(f"The runs of folds {missing} are missing: train them with data.fold set to each.")
    twice = sorted(fold for fold, count in folds.items() if count > 1)
    if twice:
        raise UserError(f"There is more than one run of folds {twice}: give one run folder per fold.")
    if len(folds) < 2:
        raise UserError(f"The corpus of {runs[0].folder} has one fold: give runs of two folds or more.")
    clips = Counter(row["id"] for run in runs for row in run.predictions)
    shared = sorted(clip for clip, count in clips.items() if count > 1)
    if shared:
        raise UserError(
            f"{len(shared)} clips stand in two test folds, such as {shared[0]}: give every clip one fold."
        )


def write_fold_report(folder: Path, summary: FoldSummary) -> None:
    """Writes folds.md, folds.json and confusion.png."""
    write_atomically(folder / "folds.json", to_json(summary.as_dict(), indent=2) + "\n")
    plot_confusion(summary.confusion, summary.labels, folder / "confusion.png")
    clips = int(summary.confusion.sum())
    parts = [
        f"# {len(summary.runs)} folds\n",
        markdown_table(summary.table()),
        "In percent. Mean over the folds with the sample standard deviation; pooled: the predictions of all "
        f"{clips} clips together, with a 95 % interval that takes clips of one group as dependent.\n",
        "## All folds together\n",
        markdown_table(per_class_table(summary.confusion, summary.labels)),
        "![Confusion matrix](confusion.png)\n",
        "## Runs\n",
        "".join(f"- fold {run.data['fold']}: `{run.folder}`\n" for run in summary.runs),
    ]
    write_atomically(folder / "folds.md", "\n".join(parts))


def print_fold_report(summary: FoldSummary, console: Console | None = None) -> None:
    """Prints a row per fold, the mean with its deviation, and the pooled scores with their intervals."""
    print_table(summary.table(), f"{len(summary.runs)} folds, percent", console)


@dataclass(frozen=True)
class SweepSummary:
    """The runs of a multirun as rows in the order of their numbers, the score to compare by, the best row.

    A row holds `run` (number), `folder`, `overrides`, `scores`, `minutes` and `error` (None, or a sentence).
    """

    rows: list[dict[str, Any]]
    monitor: str | None
    best: int | None

    def as_dict(self) -> dict[str, Any]:
        best = None if self.best is None else {key: self.rows[self.best][key] for key in ("run", "folder")}
        return {"best": best, "monitor": self.monitor, "runs": self.rows}

    def table(self) -> list[dict[str, str]]:
        """The rows as text: the overrides that vary, the scores with intervals, minutes and status."""
        keys = dict.fromkeys(key for row in self.rows for key in row["overrides"])
        varying = [key for key in keys if len({row["overrides"].get(key) for row in self.rows}) > 1]
        return [
            {"run": f"{row['run']} (best)" if i == self.best else str(row["run"])}
            | {key: row["overrides"].get(key, "") for key in varying}
            | {name: percent(score) for name, score in row["scores"].items()}
            | {"minutes": minutes_text(row["minutes"])}
            | {"status": "done" if row["error"] is None else "failed"}
            for i, row in enumerate(self.rows)
        ]

    def remarks(self) -> list[str]:
        """How the best run was found, and the sentence with which each failed run ended."""
        if self.best is None:
            found = "No run has a score to compare by."
        elif str(self.monitor).startswith("test/"):
            found = f"Best by {self.monitor}: chosen on the test data, this score is too good to be reported."
        else:
            found = f"Best by {self.monitor}."
        failed = [f"Run {row['run']} failed: {row['error']}" for row in self.rows if row["error"] is not None]
        return [found, *failed]


def summarise_sweep(
    folders: Iterable[Path], monitor: str | None = None, lower_is_better: bool = False
) -> SweepSummary:
    """The runs of a multirun side by side; a run without metrics counts as failed.

    Without a `monitor` they are compared by their first score on validation data, or else by the first.
    """
    rows = sorted((_sweep_row(folder) for folder in folders), key=lambda row: (row["run"], row["folder"]))
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    monitor = monitor or next((name for name in names if name.startswith("val/")), next(iter(names), None))
    sign = -1 if lower_is_better else 1
    values = {
        i: sign * row["scores"][monitor].value for i, row in enumerate(rows) if monitor in row["scores"]
    }
    return SweepSummary(rows, monitor, max(values, key=values.__getitem__, default=None))


def _sweep_row(folder: Path) -> dict[str, Any]:
    done = (folder / METRICS).is_file()
    run = RunResult(folder, read_metrics(folder) if done else {}, overrides=read_overrides(folder))
    found = {"run": _run_number(folder), "folder": str(folder), "overrides": run.overrides}
    outcome = {"scores": run.scores, "minutes": run.minutes, "error": None if done else _failure(folder)}
    return found | outcome


def _run_number(folder: Path) -> int:
    path = folder / ".hydra" / "hydra.yaml"
    number = OmegaConf.select(OmegaConf.load(path), "hydra.job.num") if path.is_file() else None
    return 0 if number is None else int(number)


def _failure(folder: Path) -> str:
    path = folder / FAILURE
    if not path.is_file():
        return f"it ended early; the log in {folder} tells why."
    return path.read_text(encoding="utf-8").strip()


def write_sweep_report(folder: Path, summary: SweepSummary) -> None:
    """Writes sweep.md and sweep.json."""
    write_atomically(folder / "sweep.json", to_json(summary.as_dict(), indent=2) + "\n")
    remarks = "".join(f"\n{remark}\n" for remark in summary.remarks())
    title = f"# {len(summary.rows)} runs, scores in percent with 95 % intervals\n\n"
    write_atomically(folder / "sweep.md", title + markdown_table(summary.table()) + remarks)


def print_sweep_report(summary: SweepSummary, console: Console | None = None) -> None:
    """Prints a row per run, how the best was found, and why runs failed."""
    console = console or Console()
    print_table(summary.table(), f"{len(summary.rows)} runs, scores in percent with 95 % intervals", console)
    for remark in summary.remarks():
        console.print(remark, markup=False, highlight=False)
