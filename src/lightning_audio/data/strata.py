"""Strata: draws of clips that last as long in every epoch, so that all epochs have as many batches."""

from __future__ import annotations

import numpy as np


class Strata:
    """Draws as many clips as there are by their chances, every time of about the same durations.

    The clips of a pool, in order of duration, are parted into strata of equal chance, and of each one clip is
    drawn. A clip comes up as often as in a draw by chances alone, but for the rounding of how many a pool
    gives: those are equally many in every draw.

    Args:
        chances: `(N,)`, which add up to 1.
        seconds: `(N,)`, the durations.
        pools: `(N,)` whole numbers; clips of one number are of one pool. None: all of them.

    Attributes:
        longest: by the number of a pool, what the clip of each of its strata can last at most, rising `(n,)`.
    """

    def __init__(self, chances: np.ndarray, seconds: np.ndarray, pools: np.ndarray | None = None) -> None:
        pools = np.zeros(len(chances), np.int64) if pools is None else pools
        self.order = np.lexsort((seconds, pools))
        names, starts = np.unique(pools[self.order], return_index=True)
        sums = np.add.reduceat(chances[self.order], starts)
        counts = apportioned(sums, len(chances))
        self.ends = np.cumsum(chances[self.order])  # where the part of each clip ends; a stratum is 1 long
        self.longest: dict[int, np.ndarray] = {}
        for name, start, stop, count in zip(
            names.tolist(), starts, [*starts[1:], len(chances)], counts, strict=True
        ):
            before = self.ends[start - 1] if start else 0.0
            parts = np.cumsum(chances[self.order[start:stop]])
            self.ends[start:stop] = before + parts / parts[-1] * count
            self.ends[stop - 1] = before + count
            last = np.searchsorted(self.ends[start:stop], before + np.arange(1, count + 1))
            self.longest[name] = seconds[self.order[start:stop]][last]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Positions `(N,)`, by pools and from the shortest stratum to the longest."""
        strata = np.arange(len(self.order))
        points = np.minimum(strata + rng.random(len(strata)), np.nextafter(strata + 1.0, 0))
        return self.order[np.searchsorted(self.ends, points, side="right")]


def apportioned(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to the total, by shares `(n,)` that add up to 1, by largest remainders."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts
