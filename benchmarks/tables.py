"""The tables of scores in the README and the docs, made from runs and not typed.

`python benchmarks/tables.py RUN ...` keeps what runs, or folders of folds, reached in benchmarks/scores; runs
of one command that differ in their seed are one row. Without RUN the tables are only written anew. They stand
between the marks `<!-- scores -->` and `<!-- end of scores -->`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import record

from lightning_audio.config.trust import read_yaml
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import to_json, write_atomically
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.results import minutes_text, number_text, read_metrics, read_run, score_text
from lightning_audio.reports.sweep import run_folders
from lightning_audio.reports.tables import markdown_table

ROOT = Path(__file__).resolve().parents[1]
SCORES = ROOT / "benchmarks" / "scores"
PAGES = (ROOT / "README.md", ROOT / "docs" / "pages" / "results.md")
FOLDS = "folds.json"
# Options that name no other experiment, but a seed, the machine, or a place.
UNTOLD = (
    "experiment",
    "name=",
    "seed",
    "test=",  # those of a run that was tested later
    "resume",
    "hydra.",
    "paths.",
    "logger",
    "data.fold",
    "data.root",
    "data.download",
)
# Of these it is told that they name a run, not where that lies.
RUNS = ("init=", "task.teacher=")
TRANSCRIBED = ("test/wer", "test/cer")
# The first two that a run has stand in its row: of a trigger, misses and false alarms before its clips.
SCORED = ("test/miss_rate", "test/false_alarms_per_hour", "test/accuracy", "test/map", "test/macro_f1")


def entry_of(folder: Path) -> dict[str, Any]:
    """What a run, or a folder of folds, says of itself: command, seed, scores, minutes, commit and versions.

    Raises:
        UserError: it has no scores, or they are not as the run wrote them.
    """
    many = (folder / FOLDS).is_file()
    first = run_folders(folder)[0] if many else folder
    read_run(first)  # refuses what was edited
    metrics, config = read_metrics(first), read_yaml(first / "config.yaml")
    overrides = first / ".hydra" / "overrides.yaml"
    told = [str(line) for line in (read_yaml(overrides) if overrides.is_file() else [])]
    chosen = next((line.partition("=")[2] for line in told if line.startswith("experiment=")), "demo")
    told = [f"{line.partition('=')[0]}=RUN" if line.lstrip("+~").startswith(RUNS) else line for line in told]
    told = sorted(line for line in told if not line.lstrip("+~").startswith(UNTOLD))
    command = f"make {'folds' if many else 'train'} EXP={chosen}"
    entry = {"experiment": chosen, "command": command + (f' ARGS="{" ".join(told)}"' if told else "")}
    entry |= {"seed": config["seed"], "commit": metrics["commit"], "versions": metrics["versions"]}
    if many:
        found = json.loads((folder / FOLDS).read_text(encoding="utf-8"))
        minutes = [fold["minutes"] for fold in found["folds"] if fold["minutes"] is not None]
        entry |= {"scores": found["pooled"], "mean": found["mean"], "deviation": found["deviation"]}
        return entry | {"minutes": mean(minutes) if minutes else None}
    seconds = metrics["seconds"]
    return entry | {"scores": metrics["scores"], "minutes": None if seconds is None else seconds / 60}


def keep(entries: Sequence[Mapping[str, Any]], scores: Path = SCORES) -> None:
    """Adds them to what is kept; one of the same command and seed is replaced."""
    for entry in entries:
        path = scores / f"{entry['experiment']}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        mine = entry["command"], entry["seed"]
        rows = [row for row in known if (row["command"], row["seed"]) != mine] + [entry]
        rows.sort(key=lambda row: (row["command"], row["seed"]))
        write_atomically(path, to_json(rows, 1) + "\n")


def kept(scores: Path = SCORES) -> list[list[dict[str, Any]]]:
    """All that is kept: for each command its runs, one a seed."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(scores.glob("*.json"))]
    rows = [row for text in texts for row in json.loads(text)]
    commands = dict.fromkeys(row["command"] for row in rows)
    return [[row for row in rows if row["command"] == command] for command in commands]


def cell(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """A score of the runs of one command: with its interval, or the mean and the spread of several seeds."""
    if any(name not in run["scores"] for run in runs):
        return ""
    scores = [Score(**run["scores"][name]) for run in runs]
    if len(runs) > 1:
        values = [score.value for score in scores]
        spread = " ± ".join(number_text(name, value, scores[0]) for value in (mean(values), stdev(values)))
        return f"{spread}, {len(runs)} seeds"
    if "mean" in runs[0]:
        folds = runs[0]["mean"][name], runs[0]["deviation"][name]
        spread = " ± ".join(number_text(name, value, scores[0]) for value in folds)
        return f"{spread}, pooled {score_text(name, scores[0])}"
    return score_text(name, scores[0])


def written(rows: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The Markdown tables: of what names sounds, then of what transcribes speech."""
    sounds, speech = [], []
    for runs in rows:
        minutes = [run["minutes"] for run in runs if run["minutes"] is not None]
        line = {"experiment": runs[0]["experiment"], "command": f"`{runs[0]['command']}`"}
        took = {"minutes": minutes_text(mean(minutes) if minutes else None)}
        if any(name in runs[0]["scores"] for name in TRANSCRIBED):
            speech.append(line | {"WER": cell(runs, "test/wer"), "CER": cell(runs, "test/cer")} | took)
        else:
            names = [name for name in SCORED if name in runs[0]["scores"]][:2]
            texts = [f"{name.partition('/')[2].replace('_', ' ')} {cell(runs, name)}" for name in names]
            sounds.append(line | {"score": ", ".join(texts)} | took)
    return "\n".join(markdown_table(table) for table in (sounds, speech) if table)


def write_tables(pages: Sequence[Path] = PAGES, scores: Path = SCORES) -> None:
    """Writes the tables into every page that has the marks for them."""
    for page in pages:
        old = page.read_text(encoding="utf-8")
        new = record.replace_between(old, "scores", written(kept(scores)))
        if new != old:
            write_atomically(page, new)
            print(f"Tables written to {page}")


@cli_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of folds")
    given = parser.parse_args()
    if absent := [run for run in given.runs if not run.is_dir()]:
        raise UserError(f"There is no folder {absent[0]}: name one that a run has left.")
    keep([entry_of(run) for run in given.runs])
    write_tables()


if __name__ == "__main__":
    main()
