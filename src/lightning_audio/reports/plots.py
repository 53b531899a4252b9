"""Pictures of results, drawn on figures of their own: no window, no state shared with a notebook's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from lightning_audio.io import write_atomically

COUNTS_UP_TO = 15  # classes: above, the numbers no longer fit their cells
LARGEST_INCHES = 30.0
LEGIBLE_WORDS = 30  # beside one another


def confusion_figure(confusion: ArrayLike, labels: Sequence[str]) -> Figure:
    """A confusion matrix `(C, C)`, rows the reference: colour is the share of the row, numbers are clips."""
    confusion = np.asarray(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    inches_a_class = min(0.45 if len(labels) <= COUNTS_UP_TO else 0.2, LARGEST_INCHES / len(labels))
    font_size = min(9.0, 0.55 * 72 * inches_a_class)  # points: 72 an inch, and air between the lines
    side = inches_a_class * len(labels) + 2.5
    figure = Figure(figsize=(side + 0.7, side), layout="constrained")
    axes = figure.add_subplot()
    # The root of the share, so that a single confusion among forty clips can still be seen.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=font_size, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, fontsize=font_size, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("reference")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the reference")
    if len(labels) <= COUNTS_UP_TO:
        _write_counts(axes, confusion, shares, font_size)
    return figure


def _write_counts(axes: Axes, confusion: NDArray, shares: NDArray, font_size: float) -> None:
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if shares[row, column] > 0.35 else "black"
        count = str(confusion[row, column])
        axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=font_size)


def label_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A bar of average precision for each label, precision and recall of its decisions as marks on it.

    Args:
        rows: of `multilabel_metrics.per_label`.
    """
    names = [f"{row['label']} ({row['n']})" for row in rows]
    inches_a_label = min(0.3, LARGEST_INCHES / len(rows))
    figure = Figure(figsize=(7, inches_a_label * len(rows) + 1.5), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1.02), xlabel="rate")
    places = range(len(rows))
    axes.barh(
        places,
        [row["average_precision"] or 0.0 for row in rows],
        color="lightblue",
        label="average precision",
    )
    for rate, marker in (("precision", "o"), ("recall", "x")):
        axes.plot([row[rate] for row in rows], places, marker, color="tab:blue", label=rate)
    font_size = min(9.0, 0.75 * 72 * inches_a_label)
    axes.set_yticks(places, names, fontsize=font_size, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first label on top
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def features_figure(
    features: ArrayLike, seconds: float, title: str, feature: str = "mel band", unit: str = "dB"
) -> Figure:
    """The features of one clip, `(F, T)` or `(C, F, T)` with a row for each channel."""
    features = np.asarray(features)
    channels = features if features.ndim == 3 else features[None]
    inches = 0.7 + 2.3 * len(channels)
    figure = Figure(figsize=(6, inches))
    rows = figure.subplots(len(channels), squeeze=False, sharex=True)[:, 0]
    # Not `layout="constrained"`: finding room for the same few words takes as long as drawing all the rest.
    figure.subplots_adjust(left=0.1, right=1.0, bottom=0.5 / inches, top=1 - 0.3 / inches, hspace=0.1)
    for axes, channel in zip(rows, channels, strict=True):
        figure.colorbar(draw_features(axes, channel, seconds), ax=axes, label=unit)
        axes.set_ylabel(feature)
    rows[0].set_title(title, parse_math=False)
    rows[-1].set_xlabel("seconds")
    return figure


def draw_features(axes: Axes, features: ArrayLike, seconds: float) -> AxesImage:
    """Features `(F, T)` of a clip of so many seconds, the first of them at the bottom."""
    features = np.asarray(features)
    extent = (0.0, seconds, 0.0, float(len(features)))
    return axes.imshow(features, origin="lower", aspect="auto", cmap="magma", extent=extent)


def attention_figure(weights: ArrayLike, tokens: Sequence[str], seconds: float, title: str) -> Figure:
    """What a decoder attends to in `seconds` of audio for each of its tokens, `(U, T)`, the first on top."""
    weights = np.asarray(weights)
    inches_a_token = min(0.2, LARGEST_INCHES / len(tokens))
    figure = Figure(figsize=(7, inches_a_token * len(tokens) + 1.3), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds")
    extent = (0.0, seconds, len(tokens) - 0.5, -0.5)
    axes.imshow(weights, aspect="auto", cmap="magma", extent=extent, interpolation="nearest", vmin=0)
    font_size = min(9.0, 0.75 * 72 * inches_a_token)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=font_size, parse_math=False)
    axes.set_title(title, fontsize=9, parse_math=False, wrap=True)
    return figure


def det_figure(
    curve: Sequence[tuple[float, float]], chosen: tuple[float, float], words: int, hours: float
) -> Figure:
    """Miss rates over false alarms per hour; the misses as deviates of a normal distribution.

    Args:
        curve: `(miss rate, false alarms per hour)` of each threshold.
        chosen: the same of the threshold that is used.
        words, hours: what they were counted over; a rate of 0 is drawn as half an event.
    """
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    least = np.array([0.5 / max(words, 1), 0.5 / hours])
    for points, style in ((curve, "o-"), ([chosen], "D")):
        misses, alarms = np.clip(np.array(points).reshape(-1, 2), least, [1 - least[0], np.inf]).T
        axes.plot(alarms, misses, style, markersize=3 if style == "o-" else 8)
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(lambda y: ndtri(np.clip(y, 1e-6, 1 - 1e-6)), ndtr))
    ticks = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95])
    low, high = axes.get_ylim()
    axes.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
    axes.set_ylim(max(low, least[0] / 2), min(high, 0.99))
    axes.set_xlabel(f"false alarms per hour, in {60 * hours:.0f} minutes")
    axes.set_ylabel(f"misses of {words} keywords")
    axes.grid(alpha=0.3, which="both")
    axes.legend(["thresholds", "chosen"])
    return figure


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """A picture for each kind of curves, by the name of its axis; points are `(update, value)`."""
    inches = 2.2 * len(curves) + 0.6
    figure = Figure(figsize=(7, inches))
    # No layout and no best place for a legend to be found: both take longer than all the rest.
    figure.subplots_adjust(left=0.12, right=0.98, top=1 - 0.1 / inches, bottom=0.5 / inches, hspace=0.08)
    pictures = figure.subplots(len(curves), squeeze=False, sharex=True)[:, 0]
    for axes, (kind, own) in zip(pictures, curves.items(), strict=True):
        for name, points in own.items():
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set_ylabel(kind)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper right")
    pictures[-1].set_xlabel("updates")
    return figure


def plane_figure(points: ArrayLike, groups: Sequence[str]) -> Figure:
    """Points `(N, 2)`, each group in a colour of its own, with a legend where there are few."""
    points, names = np.asarray(points), sorted(set(groups))
    figure = Figure(figsize=(8.0, 6.5), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        own = points[[group == name for group in groups]]
        colour = f"C{number % 10}"
        axes.scatter(
            own[:, 0], own[:, 1], s=14, color=colour, marker="o^sDv"[number // 10 % 5], label=name or "."
        )
    if 1 < len(names) <= 2 * COUNTS_UP_TO:
        legend = figure.legend(loc="outside right upper", fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def recording_figure(
    features: ArrayLike, seconds: float, rows: Sequence[tuple[float, float, str, float]], spoken: bool
) -> Figure:
    """The features `(F, T)` of a recording, and below it on the same axis what is heard when.

    Args:
        rows: start and end in seconds, label or word, score.
        spoken: whether they are words, which follow one another; labels have a line each, those first that
            are heard the longest.
    """
    lengths: dict[str, float] = {}
    for start, end, name, _ in rows:
        lengths["" if spoken else name] = lengths.get(name, 0.0) + end - start
    names = sorted(lengths, key=lambda name: -lengths[name])[:COUNTS_UP_TO]
    below = 0.0 if not rows else 0.5 if spoken else 0.3 + 0.22 * len(names)
    figure = Figure(figsize=(8, 2.6 + below), layout="constrained")
    pictures = figure.subplots(
        2 if rows else 1, squeeze=False, sharex=True, height_ratios=[2.2, below][: 1 + bool(rows)]
    )
    draw_features(pictures[0, 0], features, seconds)
    pictures[0, 0].set_ylabel("mel band")
    if rows:
        axes = pictures[1, 0]
        for start, end, name, score in rows:
            if not spoken and name not in names:
                continue
            line, shade = (0 if spoken else names.index(name)), 0.25 + 0.6 * min(max(score, 0.0), 1.0)
            axes.barh(
                line,
                end - start,
                left=start,
                height=0.8,
                color=f"C{line % 10}",
                alpha=shade,
                edgecolor="black",
            )
            if spoken and len(rows) <= LEGIBLE_WORDS:
                middle = (start + end) / 2
                axes.text(middle, 0, name, ha="center", va="center", fontsize=8, parse_math=False)
        if spoken:
            axes.set_yticks([])
        else:
            axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
    pictures[-1, 0].set_xlabel("seconds")
    pictures[-1, 0].set_xlim(0, seconds)
    return figure


def rgb(figure: Figure) -> NDArray[np.uint8]:
    """A figure as a picture `(H, W, 3)`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_png(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())
