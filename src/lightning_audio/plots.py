"""Pictures of results, drawn on figures of their own: no window, no state shared with a notebook's."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from lightning_audio.results import write_atomically

COUNTS_UP_TO = 15  # classes: above, the numbers no longer fit their cells
LARGEST_INCHES = 30.0


def confusion_figure(confusion: ArrayLike, labels: Sequence[str]) -> Figure:
    """A confusion matrix `(C, C)`, rows the reference: colour is the share of the row, numbers are clips."""
    confusion = np.asarray(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    inches_a_class = min(0.45 if len(labels) <= COUNTS_UP_TO else 0.2, LARGEST_INCHES / len(labels))
    font_size = min(9.0, 0.55 * 72 * inches_a_class)  # points: 72 an inch, and air between the lines
    side = inches_a_class * len(labels) + 2.5
    figure = Figure(figsize=(side + 0.7, side), layout="constrained")
    FigureCanvasAgg(figure)
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


def plot_confusion(confusion: ArrayLike, labels: Sequence[str], path: Path) -> None:
    """Writes `confusion_figure` as a PNG."""
    content = io.BytesIO()
    confusion_figure(confusion, labels).savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())


def features_figure(
    features: ArrayLike, seconds: float, title: str, feature: str = "mel band", unit: str = "dB"
) -> Figure:
    """The features of one clip, `(F, T)` or `(C, F, T)` with a row for each channel."""
    features = np.asarray(features)
    channels = features if features.ndim == 3 else features[None]
    figure = Figure(figsize=(6, 0.7 + 2.3 * len(channels)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(channels), squeeze=False, sharex=True)[:, 0]
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
