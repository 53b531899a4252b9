"""Scores with 95 % intervals, over clips that are not independent of one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

# What is better the less of it there is, by the end of its name.
LESS_IS_BETTER = (
    *("loss", "error", "wer", "cer", "per", "eer", "ece", "entropy", "blank_rate"),
    *("miss_rate", "error_rate", "_per_hour"),
)
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of a standard normal lie below it: two tails of 2.5 %
CHUNK = 1000  # resamples that are drawn at once, so that the weights of a large corpus fit into memory
RESAMPLES = 4 * CHUNK
NO_WIDTH = 1e-9  # of an interval


@dataclass(frozen=True, slots=True)
class Score:
    """A value with `low` and `high` of its 95 % interval, and the number `n` it was counted over.

    `better` (`max` or `min`) and `unit` (`percent` of a fraction, or what stands behind the number) are given
    where its name does not tell them: see `direction` and `unit_of`.
    """

    value: float
    low: float
    high: float
    n: int
    better: str | None = None
    unit: str | None = None

    def as_dict(self) -> dict[str, float | int | str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def direction(name: str, score: Score | None = None) -> str:
    """`min` for a score such as `val/wer`, of which less is better, and `max` for all others."""
    if score is not None and score.better is not None:
        return score.better
    return "min" if name.rpartition("/")[2].endswith(LESS_IS_BETTER) else "max"


def merit(name: str, score: Score) -> float:
    """The value of a score with the sign by which the better one is the larger."""
    return score.value if direction(name, score) == "max" else -score.value


def unit_of(name: str, score: Score | None = None) -> str:
    """`per hour` for a score whose name says so, and `percent` for all others."""
    if score is not None and score.unit is not None:
        return score.unit
    return "per hour" if name.endswith("_per_hour") else "percent"


@dataclass(frozen=True)
class Draws:
    """Groups of clips drawn anew, as many as there are: `weights` `(R, G)` is how often, in each resample;
    `numbers` `(N,)` is the group of each clip."""

    weights: NDArray[np.int64]
    numbers: NDArray[np.intp]

    def sums(self, counts: ArrayLike) -> NDArray[np.float64]:
        """What was counted in each clip, `(N, ...)`, summed over each resample, `(R, ...)`."""
        counts = np.asarray(counts)
        groups = np.zeros((self.weights.shape[1], *counts.shape[1:]))
        np.add.at(groups, self.numbers, counts)
        return np.tensordot(self.weights.astype(float), groups, axes=1)

    def of_clips(self) -> NDArray[np.int64]:
        """How often each clip comes up, `(R, N)`."""
        return self.weights[:, self.numbers]


def all_clips(count: int) -> Draws:
    """Every clip once."""
    return Draws(np.ones((1, 1), dtype=np.int64), np.zeros(count, dtype=np.intp))


def resampled_groups(numbers: NDArray[np.intp], resamples: int = RESAMPLES) -> Iterator[Draws]:
    """Groups drawn with replacement, always the same ones, `CHUNK` resamples at a time."""
    group_count = int(numbers.max()) + 1
    for seed in range(-(-resamples // CHUNK)):
        generator, shares = np.random.default_rng(seed), np.full(group_count, 1 / group_count)
        yield Draws(generator.multinomial(group_count, shares, size=min(CHUNK, resamples)), numbers)


def group_numbers(groups: Sequence[str | None], count: int) -> NDArray[np.intp]:
    """The group of each of `count` clips as a number from 0 on `(N,)`; None is a group of its own."""
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} clips")
    names = [f"clip {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    return np.unique(names, return_inverse=True)[1]


def bootstrap_interval(
    value: float, drawn: NDArray, group_count: int, independent: int | None, bias: float = 0.0
) -> tuple[float, float]:
    """The 95 % interval around a statistic from its values in resamples of the groups, NaN where undefined.

    Of few groups the bootstrap shows too little spread, by sqrt((G - 1) / G), and no Student's t; so the
    levels of the percentiles are moved outwards: see `expanded_tail`. Where the values do not differ, since
    there is one group or no error at all, it is the Wilson interval of a share of `independent` clips; of
    what is no share, where nothing tells of its spread, the value alone.

    Args:
        value: the statistic itself.
        drawn: `(R,)`.
        group_count: how many groups were drawn.
        independent: how many clips count where the groups do not tell; None of what is no share.
        bias: how many times the bias of the resamples the interval is moved by, within 0 to 1. A mean over
            labels of which some are rare is biased, and in resamples again, where fewer different clips
            stand for each: once for the resamples, and by as much as the value itself is off (Efron and
            Tibshirani 1993, chapter 10).

    Source: Bisani and Ney, ICASSP 2004, 409-412; Hesterberg, The American Statistician 69 (2015) 371-386.
    """
    level = expanded_tail(0.025, group_count)
    low, high = np.nanquantile(drawn, (level, 1 - level)) if not np.isnan(drawn).all() else (value, value)
    if high - low < NO_WIDTH:
        low, high = (value, value) if independent is None else wilson(min(value, 1.0), independent)
    elif bias:
        shift = bias * (np.nanmean(drawn) - value)
        low, high = max(low - shift, 0.0), min(high - shift, 1.0)
    return min(float(low), value), max(float(high), value)


def expanded_tail(tail: float, group_count: int) -> float:
    """The tail of the bootstrap distribution that stands for a `tail` of the truth; a half for one group.

    For 95 %: of six groups 0.24 %, of a thousand 2.5 %.
    """
    if group_count < 2:
        return 0.5
    spread = math.sqrt(group_count / (group_count - 1))
    return float(ndtr(spread * stdtrit(group_count - 1, tail)))


def share_interval(hits: NDArray, numbers: NDArray[np.intp], independent: int) -> tuple[float, float]:
    """The Wilson interval of the share of hits `(N,)` that knows of the groups of the clips, `(N,)`.

    Clips cut from one recording, or said by one speaker, tell less than as many independent ones. So N is
    divided by the design effect, which is the variance between groups over the binomial variance, and at
    least 1; few groups widen the interval further, as Student's t does. Where all clips hit or all miss, or
    all are of one group, the groups show no variance, and `independent` takes the place of N.

    Sources: Wilson, JASA 22 (1927) 209-212; Rao and Scott, Biometrics 48 (1992) 577-585, for the design
    effect of a ratio; Korn and Graubard, Survey Methodology 24 (1998) 193-201, for the few groups.
    """
    count, share = len(hits), float(hits.mean())
    group_count = int(numbers.max()) + 1
    if group_count == 1 or share in (0, 1):
        return wilson(share, independent)
    residuals = np.bincount(numbers, weights=hits - share)
    between = group_count / (group_count - 1) * np.sum(residuals**2) / count**2
    binomial = share * (1 - share) / (count - 1)
    few = (stdtrit(count - 1, 0.975) / stdtrit(group_count - 1, 0.975)) ** 2
    return wilson(share, float(count / max(between / binomial, 1.0) * few))


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent clips."""
    square = NORMAL_QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Rounding may leave a bound a hair inside the share where all clips hit or all miss.
    return max(0.0, min(share, float(middle - half))), min(1.0, max(share, float(middle + half)))


def proportion(hits: ArrayLike, groups: Sequence[str | None]) -> Score:
    """The share of hits `(N,)` with its `share_interval`; a group None is one of its own."""
    hits = np.asarray(hits, dtype=float)
    if len(hits) == 0:
        raise ValueError("proportion needs at least one clip")
    numbers = group_numbers(groups, len(hits))
    return Score(float(hits.mean()), *share_interval(hits, numbers, int(numbers.max()) + 1), len(hits))
