"""Learning-rate schedules: factors of each group's own rate, one for every optimizer step."""

from __future__ import annotations

import math


def one_cycle(step: int, total: int, warmup: float = 0.3, start: float = 0.04, end: float = 1e-4) -> float:
    """Cosine up from `start` to 1 over the first `warmup` share of the steps, then down to `end`.

    Smith 2018, arXiv:1803.09820.
    """
    peak = warmup * (total - 1)
    if step < peak:
        return _between(start, 1.0, step / peak)
    return _between(1.0, end, min((step - peak) / max(total - 1 - peak, 1), 1.0))


def cosine(step: int, total: int, warmup: float = 0.05, end: float = 0.0) -> float:
    """Linear up over the first `warmup` share of the steps, then cosine down to `end`."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return _between(1.0, end, min((step - rising) / max(total - 1 - rising, 1), 1.0))


def constant(step: int, total: int, warmup: float = 0.0) -> float:
    """Linear up over the first `warmup` share of the steps, then 1."""
    return min((step + 1) / max(warmup * total, 1), 1.0)


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
