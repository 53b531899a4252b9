"""The page of one run: its scores, where the error comes from, its errors to hear, and how it was made."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_audio.data.inspect.sound import noise_ratio
from lightning_audio.errors import UserError
from lightning_audio.io import read_json, to_json
from lightning_audio.metrics.intervals import Score, direction, unit_of
from lightning_audio.reports.cross_validation import TOKENS
from lightning_audio.reports.html import answers
from lightning_audio.reports.html.charts import interval_chart, line_chart
from lightning_audio.reports.html.clips import Shelf, Sound
from lightning_audio.reports.html.curves import curve_charts, draw_curves, read_curves
from lightning_audio.reports.html.gaps import NAMES, error_of, gaps_of, verdict
from lightning_audio.reports.html.occlusion import Explained
from lightning_audio.reports.html.page import write_page
from lightning_audio.reports.results import (
    EXPORTED,
    METRICS,
    PAGE,
    predictions_file,
    read_config,
    read_metrics,
    read_overrides,
    read_predictions,
    score_text,
)

NOTHING = Explained()
ROBUSTNESS = "robustness.json"
MEASURED = 400  # clips, of which the noise is measured


def write_run_report(
    folder: Path,
    sound: Sound | None,
    clips: int = 40,
    megabytes: float = 15.0,
    target: float | None = None,
    test: bool = False,
    explained: Explained = NOTHING,
) -> Path:
    """Writes report.html and curves.png into the folder of a run that has its scores.

    Args:
        folder: of the run.
        sound: gives the samples of clips; None for a page without.
        clips: that can be heard.
        megabytes: of the page, at most.
        target: the score to reach, as a fraction.
        test: show clips of the test split, too; otherwise those of validation, or without one of training.
        explained: of which clips it is shown what the answer hangs on.

    Raises:
        UserError: a file of the run is missing or broken, or a chosen clip is none of the shown split.
    """
    metrics, config = read_metrics(folder), read_config(folder)
    scores = {name: Score(**score) for name, score in metrics["scores"].items()}
    rows = {s: read_predictions(f) for s in NAMES if (f := folder / predictions_file(s)).is_file()}
    draw_curves(folder)
    metric = chosen_metric(config, scores)
    gaps = gaps_of(
        scores, metric, target, drawn_from_train=bool(config.get("loader", {}).get("val_fraction"))
    )
    return write_page(
        folder / PAGE,
        "run.html",
        title=f"{config.get('name', 'run')} · {folder.name}",
        key=f"{folder.parent.name}/{folder.name}",
        metric=metric,
        target=target,
        score_rows=score_rows(scores, exported_scores(folder)),
        chart=error_chart(scores, metric),
        gaps=gaps,
        verdict=verdict(gaps),
        remarks=_remarks(config, rows, test),
        curves=curve_charts(read_curves(folder)),
        robustness=robustness_charts(folder),
        det=_det_chart(folder, scores),
        facts=_facts(folder, metrics),
        config=to_json(config, indent=1),
        **_answers(rows, metrics, sound, clips, megabytes, test, explained),
    )


def chosen_metric(config: Mapping[str, Any], scores: Mapping[str, Score]) -> str:
    """What the run was chosen by, or else the first that it was scored by."""
    wanted = str((config.get("task") or {}).get("monitor") or "").rpartition("/")[2]
    names = list(dict.fromkeys(name.partition("/")[2] for name in scores))
    return wanted if wanted in names else next(iter(names), "")


def exported_scores(folder: Path) -> dict[str, Score]:
    """Those that `evaluate FILE.onnx --run RUN` left in the folder of the run, by metric."""
    place = folder / EXPORTED
    found = read_metrics(place)["scores"] if (place / METRICS).is_file() else {}
    return {name.removeprefix("test/"): Score(**score) for name, score in found.items()}


def score_rows(scores: Mapping[str, Score], exported: Mapping[str, Score]) -> list[dict[str, str]]:
    """A row for each metric, the splits side by side, as the terminal has them; behind them the test by what
    the run was `exported` as."""
    metrics = list(dict.fromkeys(name.partition("/")[2] for name in scores))
    rows = []
    for metric in metrics:
        own = {split: scores.get(f"{split}/{metric}") for split in NAMES}
        known = next(score for score in own.values() if score)
        unit = unit_of(metric, known)
        less = " (less is better)" if direction(metric, known) == "min" else ""
        row = {"metric": (metric if unit == "percent" else f"{metric}, {unit}") + less}
        row |= {NAMES[s]: score_text(metric, score) for s, score in own.items() if score}
        if metric in exported:
            row["exported"] = score_text(metric, exported[metric])
        rows.append(row)
    counts = {s: next((x.n for n, x in scores.items() if n.startswith(f"{s}/")), None) for s in NAMES}
    return [*rows, {"metric": "n"} | {NAMES[s]: str(n) for s, n in counts.items() if n is not None}]


def error_chart(scores: Mapping[str, Score], metric: str) -> Any:
    """Train, train-dev, dev and test side by side as errors with intervals; None where none is a rate."""
    own = {split: scores[f"{split}/{metric}"] for split in NAMES if f"{split}/{metric}" in scores}
    own = {split: score for split, score in own.items() if unit_of(metric, score) == "percent"}
    if not own:
        return None
    what = metric if direction(metric, next(iter(own.values()))) == "min" else f"100 - {metric}"
    found = [(NAMES[split], *error_of(metric, score)) for split, score in own.items()]
    return interval_chart("Error of each split", found, f"{what} in percent, with 95 % intervals")


def _remarks(config: Mapping[str, Any], rows: Mapping[str, Any], test: bool) -> list[str]:
    found = []
    if "train" not in rows:
        found.append("No training clips were scored: lightning-audio report RUN scores some and adds them.")
    if (shifts := (config.get("task") or {}).get("shifts", 1)) > 1:
        found.append(f"The test averages {shifts} shifts of each clip; train and dev are scored on one.")
    if test:
        found.append(
            "This page shows clips of the test split. What is chosen from here on by looking at them makes "
            "the test score too good: report it as a dev score, and keep other clips for the test."
        )
    return found


def _answers(
    rows: Mapping[str, answers.Rows],
    metrics: Mapping[str, Any],
    sound: Sound | None,
    clips: int,
    megabytes: float,
    test: bool,
    explained: Explained,
) -> dict[str, Any]:
    """The split that is counted up (dev, or else the test), and the one whose clips are shown."""
    labels = (metrics.get("data") or {}).get("labels") or []
    rows = {split: own for split, own in rows.items() if own and TOKENS not in own[0]}
    heard = "test" if test and "test" in rows else next((s for s in ("val", "train") if s in rows), None)
    counted = "val" if "val" in rows and not test else "test" if "test" in rows else heard
    content: dict[str, Any] = {"counted": NAMES.get(counted or "", ""), "heard": NAMES.get(heard or "", "")}
    content |= {
        "of_labels": None,
        "of_transcripts": None,
        "cards": [],
        "doubted": [],
        "clickable": heard == counted,
    }
    if counted and answers.has_labels(rows[counted]):
        content["of_labels"] = answers.of_labels(rows[counted], labels)
    elif counted:
        content["of_transcripts"] = answers.of_transcripts(
            rows[counted], noise_of(rows[counted], counted, sound)
        )
    if not heard:
        return content
    # What a network has learned by heart vouches for no label: of training clips there are no doubts.
    doubts = (
        answers.doubts(rows[heard], labels) if heard != "train" and answers.has_labels(rows[heard]) else {}
    )
    if strange := sorted(set(explained.chosen) - {row["id"] for row in rows[heard]}):
        raise UserError(
            f"{strange[0]} is no clip of {NAMES[heard]}, whose clips the page shows: name one of these."
        )
    ranked = answers.ranked(rows[heard], explained.chosen)
    shelf = Shelf.for_clips(sound, [(heard, row["id"]) for row in ranked[:clips]], megabytes)
    shelf.explain, shelf.explained = explained.by, explained.count
    found = answers.cards(ranked, heard, shelf, clips, doubts)
    by_id = {card["id"]: card for card in found}
    content["doubted"] = [by_id[name] for name in doubts if name in by_id][: answers.ROWS]
    return content | {"cards": found}


def noise_of(rows: answers.Rows, split: str, sound: Sound | None) -> dict[str, float]:
    """The estimated signal-to-noise ratio of clips in dB, by id; of many clips of every so manieth."""
    if sound is None:
        return {}
    measured = {row["id"]: sound(split, row["id"]) for row in rows[:: -(-len(rows) // MEASURED)]}
    return {name: noise_ratio(*clip) for name, clip in measured.items() if clip and len(clip[0])}


def robustness_charts(folder: Path) -> list[tuple[str, Any]]:
    """The curves that `evaluate --noise` and `--speed` left, each with a caption."""
    place = next((p for p in (folder / ROBUSTNESS, folder / "evaluation" / ROBUSTNESS) if p.is_file()), None)
    found: list[Any] = read_json(place, list, "evaluate again") if place else []
    charts = []
    for curve in found:
        series: dict[str, list[tuple[float, float]]] = {}
        for point in curve["points"]:
            for name, score in point["scores"].items():
                if unit_of(name) != "percent" or score.get("unit") not in (None, "percent"):
                    continue
                series.setdefault(name, []).append((float(point["level"]), 100 * float(score["value"])))
        title = f"Robustness against {curve['against']}"
        whole = {name: Score(**score) for name, score in curve.get("undisturbed", {}).items()}
        told = [
            f"{n.replace('/', ' ')} {score_text(n, s)}"
            for n, s in whole.items()
            if unit_of(n, s) == "percent"
        ]
        caption = f"{title}; undisturbed: {', '.join(told)}." if told else f"{title}."
        charts.append((caption, line_chart(title, series, curve["unit"], "percent")))
    return charts


def _det_chart(folder: Path, scores: Mapping[str, Score]) -> Any:
    if not (folder / "det.csv").is_file():
        return None
    with (folder / "det.csv").open(encoding="utf-8") as file:
        rows = [
            (float(r["false_alarms_per_hour"]), 100 * float(r["miss_rate"])) for r in csv.DictReader(file)
        ]
    series = {"thresholds": sorted((alarms, misses) for alarms, misses in rows if alarms > 0)}
    alarms, misses = (scores.get(f"test/{name}") for name in ("false_alarms_per_hour", "miss_rate"))
    if alarms and misses and alarms.value > 0:
        series["the one of this run"] = [(alarms.value, 100 * misses.value)]
    return line_chart(
        "Detection of the test",
        series,
        "false alarms per hour",
        "misses in percent",
        log_x=True,
    )


def _facts(folder: Path, metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """How the run was made, for a reader who wants to make it again."""
    data = metrics.get("data") or {}
    seconds, wait = metrics.get("seconds"), metrics.get("loader_wait")
    overrides = " ".join(f"{key}={value}" for key, value in read_overrides(folder).items())
    told = {
        "command": f"lightning-audio train {overrides}",
        "minutes": None if seconds is None else f"{seconds / 60:.1f}",
        "clips per second": metrics.get("clips_per_second"),
        "waiting for data": None if wait is None else f"{100 * wait:.1f} % of the time of training",
        "memory": f"{metrics['memory_gb']:.1f} GB at most" if metrics.get("memory_gb") else None,
        "memory of the GPU": f"{metrics['gpu_memory_gb']:.1f} GB at most"
        if metrics.get("gpu_memory_gb")
        else None,
        "epochs": metrics.get("epochs"),
        "checkpoint": metrics.get("checkpoint"),
        "data": f"{data.get('corpus', '')}, {data.get('sample_rate', '')} Hz, hash {data.get('hash', '')}",
        "clips": ", ".join(f"{count} {split}" for split, count in (data.get("clips") or {}).items()),
        "fold": data.get("fold"),
        "commit": metrics.get("commit"),
        "versions": ", ".join(f"{name} {number}" for name, number in (metrics.get("versions") or {}).items()),
        "folder": str(folder),
    }
    return [{"what": name, "value": str(value)} for name, value in told.items() if value not in (None, "")]
