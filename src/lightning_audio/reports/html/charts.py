"""Small charts as SVG within a page, whose colours are those of its style sheet, light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 40, 40
SERIES = 6  # colours and dashes of the style sheet

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart, about as many as `most`."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axis:
    """From values to pixels."""

    def __init__(self, values: Iterable[float], start: float, end: float, log: bool = False) -> None:
        self.log, self.start, self.end = log, start, end
        found = [self._scaled(value) for value in values]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high = (low, high) if high > low else (low - spread / 2, high + spread / 2)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else float(value)

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        if self.log and self.high - self.low >= 1:
            powers = range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)
            return [(10.0**n, f"{10.0**n:g}") for n in powers]
        values = ticks(self.low, self.high)
        return [(10**v if self.log else v, f"{10**v:.2g}" if self.log else f"{v:g}") for v in values]


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, more: str = "") -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{more}/>'


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str) -> str:
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [_line(LEFT, base, right, base, "axis")]
    for value, text in y.ticks():
        parts += [_line(LEFT, y(value), right, y(value), "grid"), _text(LEFT - 6, y(value) + 4, text, "end")]
    parts += [_text(x(value), base + 16, text) for value, text in x.ticks()]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 6, x_label))
    parts.append(_text(-(TOP + base) / 2, 13, y_label, more=' transform="rotate(-90)"'))
    return "".join(parts)


def _svg(title: str, body: str, height: float = HEIGHT) -> Markup:
    named = escape(title)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{named}">'
        f"<title>{named}</title>{body}</svg>"
    )


def line_chart(
    title: str,
    series: Mapping[str, Points],
    x_label: str,
    y_label: str,
    log_x: bool = False,
    unit_square: bool = False,
) -> Markup:
    """Lines with a legend; of a `unit_square` both axes run from 0 to 1, and the diagonal is drawn.

    Points that are not finite are left out.
    """
    series = {n: [p for p in points if all(map(math.isfinite, p))] for n, points in series.items()}
    series = {name: points for name, points in series.items() if points}
    every = [point for points in series.values() for point in points]
    corners = [(0.0, 0.0), (1.0, 1.0)] if unit_square else []
    x = _Axis([p[0] for p in every + corners], LEFT + 4, WIDTH - RIGHT, log_x)
    y = _Axis([p[1] for p in every + corners], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, x_label, y_label)]
    if unit_square:
        parts.append(_line(x(0), y(0), x(1), y(1), "axis", ' stroke-dasharray="2 4"'))
    place, row = LEFT + 4, 12  # of the legend, which has two lines
    for number, (name, points) in enumerate(series.items()):
        kind = f"s{number % SERIES}"
        path = " ".join(f"{x(a)},{y(b)}" for a, b in _thinned(points))
        parts.append(f'<polyline class="line {kind}" points="{path}"/>')
        if len(points) <= 40:
            size = 2.5 if len(points) > 1 else 5
            parts += [f'<circle class="dot {kind}" cx="{x(a)}" cy="{y(b)}" r="{size}"/>' for a, b in points]
        if place + 26 + 7 * len(name) > WIDTH:
            place, row = LEFT + 4, 28
        parts += [
            _line(place, row, place + 22, row, f"line {kind}"),
            _text(place + 26, row + 4, name, "start"),
        ]
        place += 44 + 7 * len(name)
    return _svg(title, "".join(parts))


def _thinned(points: Points, most: int = 400) -> Points:
    """At most so many of the points, evenly, the last one among them."""
    if len(points) <= most:
        return points
    return [points[round(i)] for i in np.linspace(0, len(points) - 1, most)]


def interval_chart(title: str, rows: Sequence[tuple[str, float, float, float]], x_label: str) -> Markup:
    """A bar for each `(name, value, low, high)` with its interval as a line; all from 0 on."""
    height = TOP + 30 * len(rows) + BOTTOM
    x = _Axis([0.0, *(row[3] for row in rows)], LEFT + 42, WIDTH - RIGHT - 50)
    parts, base = [], height - BOTTOM
    for value, text in x.ticks():
        parts += [_line(x(value), TOP - 6, x(value), base, "grid"), _text(x(value), base + 16, text)]
    for number, (name, value, low, high) in enumerate(rows):
        y, wide = TOP + 30 * number, max(x(value) - x(0), 1)
        parts.append(_text(LEFT + 36, y + 14, name, "end"))
        parts.append(f'<rect class="bar" x="{x(0)}" y="{y + 2}" width="{wide:.1f}" height="16"/>')
        parts.append(_line(x(low), y + 10, x(high), y + 10, "whisker"))
        parts.append(_text(x(high) + 6, y + 14, f"{value:.1f}", "start"))
    parts.append(_text(WIDTH / 2, height - 6, x_label))
    return _svg(title, "".join(parts), height)


def histogram(title: str, values: Sequence[float], x_label: str, bins: int = 30) -> Markup:
    """How many of the values lie in each of equally wide bins."""
    finite = [value for value in values if math.isfinite(value)]
    counts, edges = np.histogram(finite or [0.0], bins)
    x = _Axis(edges.tolist(), LEFT + 4, WIDTH - RIGHT)
    y = _Axis([0.0, float(counts.max())], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, x_label, "clips")]
    for count, left, right in zip(counts.tolist(), edges, edges[1:], strict=False):
        if count:
            wide = max(x(right) - x(left) - 1, 1)
            told = f"<title>{left:.4g} to {right:.4g}: {count}</title>"
            place = (
                f'x="{x(left)}" y="{y(count)}" width="{wide:.1f}" height="{HEIGHT - BOTTOM - y(count):.1f}"'
            )
            parts.append(f'<rect class="bar" {place}>{told}</rect>')
    return _svg(title, "".join(parts))


def parallel_chart(
    title: str, axes: Sequence[str], rows: Sequence[Sequence[float | str]], best: int | None
) -> Markup:
    """A line for each row across an axis for each column, numbers by size, other values by their order."""
    places = np.linspace(LEFT + 20, WIDTH - 60, max(len(axes), 2)).round(1).tolist()
    heights: list[list[float]] = []
    parts, texts = [], []
    for n, (name, column) in enumerate(zip(axes, zip(*rows, strict=True), strict=True)):
        place = places[n]
        numeric = all(isinstance(value, float) and math.isfinite(value) for value in column)
        distinct = sorted(set(column), key=None if numeric else str)
        spans = numeric and min(distinct) > 0 and max(distinct) / min(distinct) > 50
        numbers = [float(v) for v in column] if numeric else [float(distinct.index(v)) for v in column]
        y = _Axis(numbers, HEIGHT - BOTTOM, TOP + 10, log=spans)
        heights.append([y(value) for value in numbers])
        parts.append(_line(place, TOP + 6, place, HEIGHT - BOTTOM, "axis"))
        texts.append(_text(place, HEIGHT - 20 + 14 * (n % 2), name))  # long names beside one another
        kinds = [v if isinstance(v, str) else f"{v:g}" for v in distinct][:12]
        marked = y.ticks() if numeric else [(float(m), kind) for m, kind in enumerate(kinds)]
        texts += [_text(place + 5, y(v) + 4, t[:14], "start") for v, t in marked]
    # Lines lie below the words.
    order = sorted(range(len(rows)), key=lambda row: row == best)  # the best one lies on top
    for row in order:
        path = " ".join(f"{place},{own[row]}" for place, own in zip(places, heights, strict=False))
        parts.append(f'<polyline class="line {"best" if row == best else "others"}" points="{path}"/>')
    return _svg(title, "".join([*parts, *texts]))
