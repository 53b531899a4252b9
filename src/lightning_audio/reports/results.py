"""The files that a run leaves in its folder, metrics.json and predictions.jsonl, and the table at its end."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lightning_audio.config.trust import read_yaml
from lightning_audio.data.quarantine import QUARANTINE
from lightning_audio.errors import UserError, printable
from lightning_audio.io import from_json, sha256_of, terminal, to_json, write_atomically
from lightning_audio.metrics.intervals import Score, unit_of

METRICS = "metrics.json"
CONFIG = "config.yaml"
EXPORTED = "exported"  # folder of a run for the scores of what it was exported as

PREDICTIONS = "predictions.jsonl"
COVERED = "predictions_sha256"  # in metrics.json: of the predictions that its test scores are of
OWN = "sha256"  # in metrics.json: of all else that it says

FAILURE = "failure.txt"
PRUNED = "stopped early"  # how its sentence begins where a sweep stopped the run

PAGE = "report.html"

PACKAGES = ("lightning_audio", "torch", "torchaudio", "torchvision", "pytorch_lightning", "timm", "numpy")

GIT_SECONDS = 5.0


def predictions_file(split: str) -> str:
    """The name of the file that has the predictions of a split."""
    return PREDICTIONS if split == "test" else f"predictions_{split}.jsonl"


def write_predictions(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line: id, reference, hypothesis, score, and optionally group, fold, scores."""
    write_atomically(path, "".join(f"{to_json(row)}\n" for row in rows))


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_predictions` wrote.

    Raises:
        UserError: the file is missing or a line is no JSON object.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}: give the folder of a run that has ended, or evaluate it first.")
    rows = []
    # Only "\n" ends a row: splitlines() would also cut at the line separators that a text may hold.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            row = _json_object(line, f"line {number} of {path}")
            if not all(isinstance(row.get(name), str) for name in ("id", "reference", "hypothesis")):
                raise UserError(
                    f"Line {number} of {path} is no prediction: evaluate the run again to write it anew."
                )
            rows.append(row)
    return rows


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        value = from_json(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"There is no JSON object in {place}: evaluate the run again to write it anew.")
    return value


def write_metrics(run_folder: Path, scores: Mapping[str, Score], **facts: Any) -> dict[str, Any]:
    """Writes metrics.json and returns what it holds.

    A second writing, as by evaluate, adds to the first: scores and facts given here replace those of the same
    name, all others stay, the versions and the commit of the training among them. With test scores stands
    the SHA-256 of the predictions that lie in the folder.

    Args:
        run_folder: where it is written.
        scores: by name, such as test/accuracy.
        facts: seconds, clips_per_second, loader_wait (share of the time, 0 to 1), data (hash, labels, and for
            a corpus with folds: fold, folds), and whatever else a program wants to keep.
    """
    if (run_folder / METRICS).is_file():
        known = read_metrics(run_folder)
    else:
        measured = {"seconds": None, "clips_per_second": None, "loader_wait": None}
        known = {"scores": {}, **measured, "versions": versions(), "commit": commit(), "data": {}}
    known["scores"] |= {name: score.as_dict() for name, score in scores.items()}
    if any(name.startswith("test/") for name in scores) and (run_folder / PREDICTIONS).is_file():
        known[COVERED] = sha256_of(run_folder / PREDICTIONS)
    content = json.loads(to_json(known | facts))
    content[OWN] = _digest(content)
    write_atomically(run_folder / METRICS, to_json(content, indent=2) + "\n")
    return content


def read_metrics(run_folder: Path) -> dict[str, Any]:
    """What metrics.json of a run holds.

    Raises:
        UserError: the file is missing or broken.
    """
    path = run_folder / METRICS
    if not path.is_file():
        raise UserError(f"There is no {path}: give the folder of a run that has ended.")
    content = _json_object(path.read_text(encoding="utf-8"), str(path))
    try:
        scores = [Score(**score) for score in content["scores"].values()]
        whole = isinstance(content.get("data") or {}, dict) and all(
            isinstance(number, int | float) for s in scores for number in (s.value, s.low, s.high)
        )
    except (LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path} does not hold the scores of a run: put it back as the run wrote it.")
    return content


def _digest(metrics: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in metrics.items() if name != OWN}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def changed_results(run_folder: Path) -> str | None:
    """A sentence where metrics.json, or the predictions that its scores are of, are not those that were
    written; None where all is well.

    Runs of earlier versions, whose metrics.json says nothing of that, pass.
    """
    metrics, path = read_metrics(run_folder), run_folder / PREDICTIONS
    if metrics.get(OWN, _digest(metrics)) != _digest(metrics):
        path = run_folder / METRICS
    elif COVERED not in metrics or not path.is_file() or sha256_of(path) == metrics[COVERED]:
        return None
    return (
        f"{path} has been edited or damaged since the run wrote it (SHA-256 mismatch): "
        f"`lightning-audio evaluate {run_folder}` writes scores and predictions anew, to another folder."
    )


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which numbers depend, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of the working directory, with -dirty behind it where files differ; None outside git."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    # A status that could not be had in time vouches for nothing.
    return head if _git("status", "--porcelain") == "" else f"{head}-dirty"


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass(frozen=True)
class RunResult:
    """A run folder as read: `metrics` of metrics.json, predictions, and Hydra's overrides by key."""

    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    overrides: dict[str, str] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, Score]:
        return {name: Score(**score) for name, score in self.metrics.get("scores", {}).items()}

    @property
    def data(self) -> dict[str, Any]:
        return self.metrics.get("data") or {}

    @property
    def minutes(self) -> float | None:
        seconds = self.metrics.get("seconds")
        return None if seconds is None else seconds / 60


def read_run(folder: Path, split: str = "test") -> RunResult:
    """A run that has ended with its metrics and its predictions of a split.

    Raises:
        UserError: one of these files is missing or broken, or not as the run wrote it.
    """
    predictions, metrics = read_predictions(folder / predictions_file(split)), read_metrics(folder)
    if problem := changed_results(folder):
        raise UserError(problem)
    return RunResult(folder, metrics, predictions, read_overrides(folder))


def read_overrides(folder: Path) -> dict[str, str]:
    """What the command line said, `optimizer.lr=1e-3` as key and value; empty where Hydra left none."""
    path = folder / ".hydra" / "overrides.yaml"
    lines = read_yaml(path) if path.is_file() else []
    pairs = (str(line).lstrip("+~").partition("=") for line in lines)
    return {key: value for key, _, value in pairs}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run as it was resolved, as plain values; empty where there is none."""
    return read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def monitored(folder: Path, scores: Mapping[str, Score]) -> str | None:
    """By which of its scores a run chose its checkpoint, `task.monitor`; or else the first on validation."""
    asked = (read_config(folder).get("task") or {}).get("monitor")
    return asked if asked in scores else next((name for name in scores if name.startswith("val/")), None)


def write_failure(run_folder: Path, sentence: str) -> None:
    """Leaves the sentence with which a run ended, for the table of its sweep."""
    write_atomically(run_folder / FAILURE, f"{sentence}\n")


def number_text(name: str, value: float, score: Score | None = None) -> str:
    """A value of a score of this name: a fraction in percent to a tenth, others as they are."""
    return f"{100 * value:.1f}" if unit_of(name, score) == "percent" else f"{value:.2f}"


def score_text(name: str, score: Score) -> str:
    """`93.0 (90.1 to 95.2)`: the value of a score and its 95 % interval, in percent or in its own unit."""
    value, low, high = (number_text(name, bound, score) for bound in (score.value, score.low, score.high))
    return f"{value} ({low} to {high})"


def minutes_text(minutes: float | None) -> str:
    """Minutes to a tenth; empty where they were not measured."""
    return "" if minutes is None else f"{minutes:.1f}"


def print_report(run_folder: Path, content: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints what metrics.json holds as a short table, and the run folder on a line of its own."""
    console = console or terminal()
    table = Table(
        "result", "value", "of", title="Scores in percent with 95 % intervals", title_justify="left"
    )
    for name, fields in content["scores"].items():
        score = Score(**fields)
        unit = unit_of(name, score)
        named = name if unit in ("percent", "per hour") else f"{name} ({unit})"
        table.add_row(printable(named), score_text(name, score), str(score.n))
    if content.get("seconds") is not None:
        table.add_row("minutes", minutes_text(content["seconds"] / 60), "")
    if content.get("clips_per_second") is not None:
        table.add_row("clips per second", f"{content['clips_per_second']:.0f}", "")
    if content.get("loader_wait") is not None:
        table.add_row("waiting for data", f"{100 * content['loader_wait']:.1f} % of the time", "")
    console.print(table)
    data = content.get("data") or {}
    if quarantined := data.get("quarantine", {}).get("test", 0):
        console.print(
            f"Attention: {quarantined} of {quarantined + data['clips']['test']} test clips cannot be read "
            f"and count in no score above: {QUARANTINE} names them.",
            style="bold red",
            soft_wrap=True,
        )
    console.print(f"Run folder: {run_folder}", soft_wrap=True)
    if (run_folder / PAGE).is_file():
        page = run_folder / PAGE
        told = Text.assemble("Report: ", (str(page), Style(link=page.absolute().as_uri())))  # can be clicked
        console.print(told, soft_wrap=True)
