"""Several runs where one is asked for: their folders, and which of them may answer for the same clips."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_audio.checkpoint import description_of, find_checkpoint, load, read
from lightning_audio.errors import UserError
from lightning_audio.metrics.intervals import merit
from lightning_audio.metrics.multilabel import LabelPredictions, best_thresholds
from lightning_audio.reports import sweep
from lightning_audio.reports.comparison import compare_runs, paired_rows, print_comparison
from lightning_audio.reports.results import (
    predictions_file,
    read_metrics,
    read_predictions,
    read_run,
)
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.ensemble import ensemble
from lightning_audio.tasks.multilabel import MultiLabel
from lightning_audio.training import saved_config


def runs_first(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders and checkpoints at the beginning of a command line, and what stands behind them."""
    count = next((n for n, word in enumerate(words) if n and not _is_run(Path(word))), len(words))
    return [Path(word) for word in words[:count]], list(words[count:])


def _is_run(place: Path) -> bool:
    if place.suffix == ".ckpt" or (place / saved_config.MULTIRUN_FILE).is_file():
        return True
    return (place / saved_config.CONFIG_FILE).is_file() and (place / "checkpoints").is_dir()


def members(places: Sequence[Path]) -> list[Path]:
    """The runs that places are: a run or a checkpoint itself, of folds or a sweep each one.

    Raises:
        UserError: one is named twice, which would count double, or has no checkpoint, which is told before
            any other one is scored.
    """
    several = {place: (place / saved_config.MULTIRUN_FILE).is_file() for place in places}
    runs = [run for place in places for run in (sweep.run_folders(place) if several[place] else [place])]
    counts = Counter(run.resolve() for run in runs)
    if twice := [run for run, count in counts.items() if count > 1]:
        raise UserError(f"{twice[0]} is named twice, and would count double: name each run once.")
    for run in runs if len(runs) > 1 else ():
        find_checkpoint(run)
    return runs


def load_all(
    runs: Sequence[Path], device: torch.device | str = "cpu", allow: Sequence[str] = ()
) -> AudioTask:
    """One trained task of them all; raises UserError as `load` and `ensemble`."""
    tasks = [load(run, device, allow) for run in runs]
    if len(tasks) == 1:
        return tasks[0]
    together = ensemble(tasks)
    if isinstance(together, MultiLabel) and all(task.tuned for task in tasks):
        tune_together(together, runs)
    return together


def tune_together(task: MultiLabel, runs: Sequence[Path]) -> None:
    """Sets the thresholds of an ensemble by the mean of what its runs said of the validation clips that they
    were tuned on; where these are not the same it leaves the mean of their thresholds, and says so."""
    files = [run / predictions_file("val") for run in runs]
    found = [sorted(read_predictions(file), key=lambda row: row["id"]) for file in files if file.is_file()]
    clips = {tuple(row["id"] for row in rows) for rows in found}
    if len(found) < len(runs) or len(clips) > 1:
        print(
            "warning: the runs were not tuned on the same validation clips (loader.val_fraction draws others "
            "for another seed), so their thresholds are averaged.",
            file=sys.stderr,
        )
        return
    said = [LabelPredictions.from_rows(rows, task.labels) for rows in found]
    mean = np.mean([one.scores for one in said], axis=0)
    task.thresholds.copy_(torch.from_numpy(best_thresholds(mean, said[0].targets)))


def highest_rate_first(runs: Sequence[Path]) -> list[Path]:
    """Runs in the order of their sample rates, those of the same rate as they stand."""
    if len(runs) == 1:
        return list(runs)
    paths = {run: find_checkpoint(run) for run in runs}
    rates = {run: description_of(read(path), path)[1]["sample_rate"] for run, path in paths.items()}
    return sorted(runs, key=lambda run: -rates[run])


def by_fold(runs: Sequence[Path]) -> list[list[Path]]:
    """Runs that were tested on the same clips, together, in the order of the folds.

    A fold's run has learned from what other folds test on, so that those answer for no clip together.

    Raises:
        UserError: one has not been tested, folds have different numbers of runs, or runs of a group were
            tested on different clips.
    """
    groups: dict[object, list[Path]] = {}
    for run in runs:
        groups.setdefault(read_metrics(run)["data"].get("fold"), []).append(run)
    counts = {fold: len(group) for fold, group in groups.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of fold {fold}" for fold, count in counts.items())
        raise UserError(f"Every fold needs as many runs as the others, and there are {told}.")
    for first, *others in groups.values():
        for other in others:
            paired_rows(read_run(first), read_run(other))
    return [groups[fold] for fold in sorted(groups, key=str)]


def compare_with_best(output: Path, runs: Sequence[Path]) -> None:
    """Prints the paired comparison of an ensemble with the one of its runs that has the best test score.

    That one is chosen on the test data, so that the comparison is in its favour.
    """
    found = read_run(output)
    name = next(name for name in found.scores if name.startswith("test/"))
    best = max(map(read_run, runs), key=lambda run: merit(name, run.scores[name]))
    print(f"The ensemble of {len(runs)} runs beside the best of them, {best.folder}:", flush=True)
    print_comparison(compare_runs(found, best))
