"""Scores with 95 % intervals, over clips that are not independent of one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

# What is better the less of it there is, by the end of its name.
LESS_IS_BETTER = (
    *("loss", "error", "wer", "cer", "eer", "ece", "entropy", "blank_rate"),
    *("miss_rate", "false_alarms_per_hour"),
)
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of a standard normal lie below it: two tails of 2.5 %


@dataclass(frozen=True, slots=True)
class Score:
    """A rate as a fraction, `low` and `high` of its 95 % interval, and the number `n` it was counted over."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


def direction(name: str) -> str:
    """`min` for a score such as `val/wer`, of which less is better, and `max` for all others."""
    return "min" if name.rpartition("/")[2].endswith(LESS_IS_BETTER) else "max"


def proportion(hits: ArrayLike, groups: Sequence[str | None]) -> Score:
    """The share of hits `(N,)`, with a Wilson interval that knows of groups; None is a group of its own.

    Clips cut from one recording, or said by one speaker, tell less than as many independent ones. So N is
    divided by the design effect, which is the variance between groups over the binomial variance, and at
    least 1; few groups widen the interval further, as Student's t does. Where all clips hit or all miss,
    the groups show no variance, and their number takes the place of N.

    Sources: Wilson, JASA 22 (1927) 209-212; Rao and Scott, Biometrics 48 (1992) 577-585, for the design
    effect of a ratio; Korn and Graubard, Survey Methodology 24 (1998) 193-201, for the few groups.
    """
    hits = np.asarray(hits, dtype=float)
    if len(hits) == 0:
        raise ValueError("proportion needs at least one clip")
    return clustered_share(hits, group_numbers(groups, len(hits)))


def clustered_share(hits: NDArray, numbers: NDArray[np.intp]) -> Score:
    """`proportion` of hits `(N,)` whose groups are numbered from 0 on, `(N,)`."""
    share = float(hits.mean())
    low, high = wilson(share, _effective_number(hits, numbers))
    return Score(share, low, high, len(hits))


def group_numbers(groups: Sequence[str | None], count: int) -> NDArray[np.intp]:
    """The group of each of `count` clips as a number from 0 on `(N,)`; None is a group of its own."""
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} clips")
    names = [f"clip {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def _effective_number(hits: NDArray[np.floating], numbers: NDArray[np.intp]) -> float:
    """How many independent clips would leave as much doubt about the share of hits as these do."""
    count, share = len(hits), hits.mean()
    group_count = int(numbers.max()) + 1
    if group_count == 1 or share in (0, 1):
        return group_count
    residuals = np.bincount(numbers, weights=hits - share)
    between = group_count / (group_count - 1) * np.sum(residuals**2) / count**2
    binomial = share * (1 - share) / (count - 1)
    few = (stdtrit(count - 1, 0.975) / stdtrit(group_count - 1, 0.975)) ** 2
    return float(count / max(between / binomial, 1.0) * few)


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent clips."""
    square = NORMAL_QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding may leave a bound a hair inside the share where all clips hit or all miss.
    return max(0.0, min(share, float(middle - half))), min(1.0, max(share, float(middle + half)))


def bootstrap(
    counts: ArrayLike,
    statistic: Callable[[NDArray], NDArray],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over groups drawn anew with replacement.

    Args:
        counts: `(G, ...)`, what was counted in each group; only sums over groups enter the statistic.
        statistic: takes sums `(resamples, ...)` and gives values `(resamples,)`.
        resamples: how many times the groups are drawn.
        seed: of the draw.

    With fewer than about 20 groups the interval comes out too narrow; with one it is a point.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    counts = np.asarray(counts, dtype=float)
    weights = group_weights(len(counts), resamples, seed)
    return percentile_interval(statistic(np.tensordot(weights.astype(float), counts, axes=1)))


def group_weights(group_count: int, resamples: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    """How often each group comes up `(resamples, G)` where as many are drawn with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(group_count, np.full(group_count, 1 / group_count), size=resamples)


def percentile_interval(values: NDArray) -> tuple[float, float]:
    """Between which 95 % of the values `(resamples,)` lie; those that are not defined (NaN) do not count."""
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)
