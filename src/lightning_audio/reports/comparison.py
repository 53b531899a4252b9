"""Whether one run is better than another, by their answers to the same clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import ndtri, stdtr
from scipy.stats import binomtest

from lightning_audio.errors import UserError
from lightning_audio.io import terminal
from lightning_audio.metrics.base import Metric, Predictions, metrics_of
from lightning_audio.metrics.intervals import direction, expanded_tail, resampled_groups, unit_of
from lightning_audio.metrics.transcripts import Transcripts
from lightning_audio.reports.cross_validation import kind_of
from lightning_audio.reports.results import RunResult
from lightning_audio.reports.tables import print_table

NAMED = 3  # clips in a message


@dataclass(frozen=True)
class Difference:
    """A score of a run and of another, and their difference (run less other) with its 95 % interval.

    `p` is that of no difference, two-sided; `better` the share of resamples in which the run is the better
    one, ties halved (the probability of improvement).
    """

    name: str
    unit: str
    run: float
    other: float
    low: float
    high: float
    p: float
    better: float

    @property
    def difference(self) -> float:
        return self.run - self.other


@dataclass(frozen=True)
class Comparison:
    """The scores of two runs side by side, and of how many clips they say something else.

    `only_run` and `only_other` are clips of which one alone has all right; `mcnemar` is the exact p of as
    uneven a split.
    """

    differences: list[Difference]
    clips: int
    differing: int
    only_run: int
    only_other: int
    mcnemar: float


def compare_runs(
    run: RunResult, other: RunResult, metrics: Sequence[Metric] = (), split: str = "test"
) -> Comparison:
    """The paired comparison of two runs on the same clips, by every metric that both have scores of `split`
    of; by one's own `metrics` too, which no name finds.

    Groups of clips, speakers for instance, are drawn anew with replacement, the same for both runs. Source:
    Bisani and Ney, ICASSP 2004, 409-412.

    Raises:
        UserError: the clips or their references are not the same, or there are fewer than two.
    """
    sides = paired_rows(run, other)
    first, second = sides
    if len(first) < 2:
        raise UserError(f"{run.folder} has answers to {len(first)} clips: compare runs of two or more.")
    kind = kind_of(run)
    if kind is not kind_of(other):
        raise UserError(
            f"{other.folder} is a run of another kind than {run.folder}: compare runs of one task."
        )
    labels = run.data.get("labels") or sorted({row[k] for row in first + second for k in TEXTS})
    own, others = (kind.from_rows(rows, labels) for rows in sides)
    known = {**metrics_of(kind), **{metric.name: metric for metric in metrics}}
    differences = [
        paired_difference(metric, own, others)
        for name, metric in known.items()
        if f"{split}/{name}" in run.scores and f"{split}/{name}" in other.scores
    ]
    right = np.array([[row["reference"] == row["hypothesis"] for row in rows] for rows in sides])
    if isinstance(own, Transcripts) and isinstance(others, Transcripts):
        right = np.stack([own.words[:, 0] == 0, others.words[:, 0] == 0])  # whatever spaces there are
    only_run, only_other = (int((right[i] > right[1 - i]).sum()) for i in (0, 1))
    differing = sum(a["hypothesis"] != b["hypothesis"] for a, b in zip(first, second, strict=True))
    return Comparison(differences, len(first), differing, only_run, only_other, mcnemar(only_run, only_other))


TEXTS = ("reference", "hypothesis")


def paired_rows(run: RunResult, other: RunResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The predictions of both runs in one order.

    Raises:
        UserError: the clips or their references are not the same.
    """
    known = {row["id"]: row for row in other.predictions}
    own = {row["id"] for row in run.predictions}
    unmatched = sorted(own ^ known.keys())
    if unmatched:
        raise UserError(
            f"{len(unmatched)} clips were tested in only one of {run.folder} and {other.folder}"
            f"{_some(unmatched)}: compare runs on the same test split."
        )
    pairs = [(row, known[row["id"]]) for row in run.predictions]
    unlike = [row["id"] for row, same in pairs if row["reference"] != same["reference"]]
    if unlike:
        raise UserError(
            f"{len(unlike)} clips have another reference in {other.folder} than in {run.folder}"
            f"{_some(unlike)}: evaluate both with the same labels and the same text normaliser."
        )
    return [row for row, _ in pairs], [same for _, same in pairs]


def _some(names: Sequence[str]) -> str:
    return f", such as {', '.join(names[:NAMED])}" if names else ""


def paired_difference(metric: Metric, run: Predictions, other: Predictions) -> Difference:
    """The difference of a metric of two runs over the same clips, of at least two groups."""
    values = metric.value(run), metric.value(other)
    draws = list(resampled_groups(run.numbers, metric.resamples))
    drawn = np.concatenate([metric.drawn(run, d) - metric.drawn(other, d) for d in draws])
    differences = np.where(np.abs(drawn) < 1e-12, 0.0, drawn)[~np.isnan(drawn)]
    group_count, difference = int(run.numbers.max()) + 1, values[0] - values[1]
    level = expanded_tail(0.025, group_count)
    low, high = np.quantile(differences, (level, 1 - level)).tolist()
    above, below = float((differences > 0).mean()), float((differences < 0).mean())
    wins = above if (metric.better or direction(metric.name)) == "max" else below
    return Difference(
        metric.name,
        metric.unit or unit_of(metric.name),
        *values,
        low=min(low, difference),
        high=max(high, difference),
        p=p_value(differences, group_count),
        better=wins + (1 - above - below) / 2,
    )


def p_value(differences: NDArray[np.float64], group_count: int) -> float:
    """The two-sided p of no difference: at which level the interval of these resamples reaches zero.

    It inverts `expanded_tail`, so that p is below 0.05 where zero lies outside of the 95 % interval.
    """
    tail = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    share = min(tail / (len(differences) + 1), 0.5)
    spread = math.sqrt((group_count - 1) / group_count)
    return float(min(1.0, 2 * stdtr(group_count - 1, ndtri(share) * spread)))


def mcnemar(only_run: int, only_other: int) -> float:
    """The exact two-sided p that two runs are equally often the only one that is right.

    Clips count as independent of one another. Source: McNemar, Psychometrika 12 (1947) 153-157.
    """
    both = only_run + only_other
    return float(binomtest(only_run, both).pvalue) if both else 1.0


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Prints a row for each score, and in how many clips the runs differ."""
    console = console or terminal()
    print_table(comparison_table(found), "Paired comparison, with 95 % intervals", console)
    console.print(flips_sentence(found), soft_wrap=True)


def comparison_table(found: Comparison) -> list[dict[str, str]]:
    """A row for each score as text."""
    rows = []
    for row in found.differences:
        scale = 100 if row.unit == "percent" else 1
        run, other, difference, low, high = (
            scale * value for value in (row.run, row.other, row.difference, row.low, row.high)
        )
        rows.append(
            {
                "percent": row.name if row.unit == "percent" else f"{row.name}, {row.unit}",
                "run": f"{run:.2f}",
                "other": f"{other:.2f}",
                "run - other": f"{difference:+.2f} ({low:+.2f} to {high:+.2f})",
                "p": p_text(row.p),
                "run is better": f"{100 * row.better:.1f}",
            }
        )
    return rows


def flips_sentence(found: Comparison) -> str:
    return (
        f"They differ in {found.differing} of {found.clips} clips; the run alone is right in "
        f"{found.only_run}, the other in {found.only_other} (McNemar's exact p {p_text(found.mcnemar)})."
    )


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
