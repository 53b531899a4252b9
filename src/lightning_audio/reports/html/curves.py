"""Curves of a training as its CSV logger wrote them: loss, scores, learning rate."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from markupsafe import Markup

from lightning_audio.reports.html.charts import line_chart
from lightning_audio.reports.plots import curves_figure, write_png

LOGGED = "csv/metrics.csv"  # in a run folder
PICTURE = "curves.png"

Series = dict[str, list[tuple[float, float]]]


def read_curves(folder: Path) -> dict[str, Series]:
    """By the label of its axis what belongs into one picture; nothing where no CSV logger wrote.

    Test scores, of which there is one each, are no curves.
    """
    if not (folder / LOGGED).is_file():
        return {}
    series: Series = {}
    with (folder / LOGGED).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = row.pop("step", "") or ""
            for name, text in row.items():
                if step.isdigit() and text and (value := _number(text)) is not None:
                    series.setdefault(name, []).append((float(step), value))
    found: dict[str, Series] = {"loss": {}, "score": {}, "learning rate": {}}
    learned = [point[0] for name, points in series.items() if name.startswith("train/") for point in points]
    for name, points in series.items():
        # Behind training the chosen weights, which may be of an earlier epoch, are scored once more.
        if learned and len(points) > 1:
            points = [point for point in points if point[0] <= max(learned)]
        kind = "learning rate" if name == "lr" else "loss" if name.endswith("loss") else "score"
        if not name.startswith("test/") and (name == "lr" or "/" in name):
            found[kind][name] = points
    return {kind: dict(sorted(own.items())) for kind, own in found.items() if own}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def curve_charts(curves: dict[str, Series]) -> list[Markup]:
    """A chart for each kind, over updates of the weights."""
    return [line_chart(kind, own, "updates", kind) for kind, own in curves.items()]


def draw_curves(folder: Path) -> None:
    """Writes curves.png, where there are any."""
    if curves := read_curves(folder):
        write_png(curves_figure(curves), folder / PICTURE)
