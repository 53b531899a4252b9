"""Several runs as one result: the folds of a corpus, the runs of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from lightning_audio.errors import UserError
from lightning_audio.io import terminal, to_json, write_atomically
from lightning_audio.metrics.base import Metric, Predictions, metrics_of, scores
from lightning_audio.metrics.classification import ClassPredictions, confusion_matrix, per_class
from lightning_audio.metrics.intervals import Score, merit
from lightning_audio.metrics.multilabel import LabelPredictions, per_label
from lightning_audio.metrics.perplexity import TokenLosses
from lightning_audio.metrics.transcripts import Transcripts, per_group
from lightning_audio.reports.plots import confusion_figure, label_figure, write_png
from lightning_audio.reports.results import RunResult, minutes_text, monitored, number_text, score_text
from lightning_audio.reports.tables import markdown_table, per_class_table, print_table
from lightning_audio.reports.transcripts import has_transcripts

SEVERAL = "hypothesis_labels"  # what predictions hold where a clip may have several labels
TOKENS = "tokens"  # and what they hold of texts, of which a language model hears nothing
WER = "test/wer"


@dataclass(frozen=True)
class FoldSummary:
    """The runs of all folds in their order, and of all clips together the scores and a row for each class.

    The confusion `(C, C)` is None where a clip may have several labels. Transcripts have no labels and no
    confusion either, and a row for each group of utterances in the place of classes.
    """

    runs: list[RunResult]
    labels: list[str]
    pooled: dict[str, Score]
    classes: list[dict[str, Any]]
    confusion: NDArray | None

    @property
    def worst(self) -> dict[str, Any] | None:
        """The `fold` with the highest `test/wer`, and that; None of what are no transcripts."""
        rates = self.values().get(WER)
        if rates is None:
            return None
        position = rates.index(max(rates))
        return {"fold": self.runs[position].data["fold"], WER: rates[position]}

    def remark(self) -> str:
        """A sentence that names the worst fold of transcripts, otherwise nothing."""
        worst = self.worst
        return f"Worst fold: {worst['fold']}, WER {100 * worst[WER]:.1f} %." if worst else ""

    def values(self) -> dict[str, list[float]]:
        """Per score that every run has, but those of training clips, its value in each fold."""
        names = [name for name in self.runs[0].scores if all(name in run.scores for run in self.runs)]
        names = [name for name in names if not name.startswith("train")]
        return {name: [run.scores[name].value for run in self.runs] for name in names}

    def as_dict(self) -> dict[str, Any]:
        """What folds.json holds."""
        values = self.values()
        return {
            "folds": [
                {"fold": run.data["fold"], "folder": run.folder, "minutes": run.minutes, "scores": run.scores}
                for run in self.runs
            ],
            "mean": {name: mean(folds) for name, folds in values.items()},
            "deviation": {name: stdev(folds) for name, folds in values.items()},
            **({"worst": self.worst} if self.worst else {}),
            "pooled": self.pooled,
            "labels": self.labels,
            "classes": self.classes,
            "confusion": self.confusion,
        }

    def table(self) -> list[dict[str, str]]:
        """A row per fold in percent, then mean and sample deviation, then all clips pooled."""
        values, known = self.values(), self.runs[0].scores
        rows = [
            {"fold": str(run.data["fold"])}
            | {name: number_text(name, folds[i], known[name]) for name, folds in values.items()}
            | {"minutes": minutes_text(run.minutes)}
            for i, run in enumerate(self.runs)
        ]
        spread = {
            name: " ± ".join(number_text(name, value, known[name]) for value in (mean(folds), stdev(folds)))
            for name, folds in values.items()
        }
        # What is measured on long audio is no function of clips, and is not pooled.
        pooled = {
            name: score_text(name, self.pooled[name]) if name in self.pooled else "-" for name in values
        }
        return [*rows, {"fold": "mean", **spread}, {"fold": "pooled", **pooled}]


def summarise_folds(runs: Sequence[RunResult], metrics: Sequence[Metric] = ()) -> FoldSummary:
    """One result of one run per fold; the clips of all test folds are pooled as they were predicted.

    Each run's metrics name in `data` its `fold`, all `folds` of the corpus, and its `labels` in order, which
    transcripts need not have. Pooled are the scores that every run has; those of one's own `metrics` too,
    which no name finds.

    Raises:
        UserError: a fold is missing or there twice, a clip stands in two folds, or labels differ.
    """
    transcribed = bool(runs) and all(has_transcripts(run) for run in runs)
    labels = [] if transcribed else _common_labels(runs)
    check_folds(runs)
    runs = sorted(runs, key=lambda run: run.data["fold"])
    rows = [row for run in runs for row in run.predictions]
    pooled = kind_of(runs[0]).from_rows(rows, labels)
    known = {**metrics_of(type(pooled)), **{metric.name: metric for metric in metrics}}
    scored = [m for name, m in known.items() if all(f"test/{name}" in run.scores for run in runs)]
    classes, confusion = per_group(rows) if transcribed else [], None
    if isinstance(pooled, LabelPredictions):
        classes = per_label(pooled.scores, pooled.targets, pooled.said, labels)
    elif isinstance(pooled, ClassPredictions):
        confusion = confusion_matrix(pooled.targets, pooled.predictions, len(labels))
        classes = per_class(confusion, labels)
    found = {f"test/{name}": score for name, score in scores(scored, pooled).items()}
    return FoldSummary(runs, labels, found, classes, confusion)


def kind_of(run: RunResult) -> type[Predictions]:
    """What the predictions of a run are."""
    if has_transcripts(run):
        return Transcripts
    if run.predictions and TOKENS in run.predictions[0]:
        return TokenLosses
    return LabelPredictions if run.predictions and SEVERAL in run.predictions[0] else ClassPredictions


def _labels_of(row: dict[str, Any]) -> list[str]:
    if SEVERAL in row:
        return [*row["reference_labels"], *row[SEVERAL]]
    return [row["reference"], row["hypothesis"]]


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
        unknown = {label for row in run.predictions for label in _labels_of(row)} - set(labels)
        if unknown:
            raise UserError(
                f"The predictions of {run.folder} hold labels that its metrics.json does not name, such as "
                f"{min(unknown)!r}: evaluate the run again."
            )
    return labels


def best_of_each_fold(runs: Sequence[RunResult]) -> list[RunResult]:
    """Of several runs of a fold the one that is best by what it is monitored by, of one run that itself.

    So settings are chosen anew for every test fold, on clips that it does not hold (nested cross-validation:
    Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection").

    Raises:
        UserError: a run that is one of several has no validation score.
    """
    groups: dict[object, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.data.get("fold"), []).append(run)

    def rank(run: RunResult) -> float:
        name = monitored(run.folder, run.scores)
        if name is None:
            raise UserError(
                f"{run.folder} has no validation score to be chosen by: set data.validation_fold=next."
            )
        return merit(name, run.scores[name])

    return [max(own, key=rank) if len(own) > 1 else own[0] for own in groups.values()]


def check_folds(runs: Sequence[RunResult]) -> None:
    """Raises UserError where the runs, with predictions or without, are not one for each fold of a corpus."""
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
    """Writes folds.md, folds.json, and of labels confusion.png, or where they overlap per_class.png."""
    write_atomically(folder / "folds.json", to_json(summary.as_dict(), indent=2) + "\n")
    ending = f"{summary.remark()}\n"
    if summary.labels and summary.confusion is None:
        write_png(label_figure(summary.classes), folder / "per_class.png")
        ending = "![Average precision, precision and recall](per_class.png)\n"
    elif summary.confusion is not None:
        write_png(confusion_figure(summary.confusion, summary.labels), folder / "confusion.png")
        ending = "![Confusion matrix](confusion.png)\n"
    clips = sum(len(run.predictions) for run in summary.runs)
    parts = [
        f"# {len(summary.runs)} folds\n",
        markdown_table(summary.table()),
        "In percent. Mean over the folds with the sample standard deviation; pooled: the predictions of all "
        f"{clips} clips together, with a 95 % interval that takes clips of one group as dependent.\n",
        "## All folds together\n",
        markdown_table(per_class_table(summary.classes)),
        ending,
        "## Runs\n",
        "".join(f"- fold {run.data['fold']}: `{run.folder}`\n" for run in summary.runs),
    ]
    write_atomically(folder / "folds.md", "\n".join(parts))


def print_fold_report(summary: FoldSummary, console: Console | None = None) -> None:
    """Prints a row per fold, the mean with its deviation, and the pooled scores with their intervals."""
    console = console or terminal()
    print_table(summary.table(), f"{len(summary.runs)} folds, percent", console)
    if remark := summary.remark():
        console.print(remark, soft_wrap=True)
