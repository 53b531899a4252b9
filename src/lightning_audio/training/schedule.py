"""Learning-rate schedules: factors of each group's own rate, one for every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_audio.errors import UserError


def one_cycle(
    step: int,
    total: int,
    warmup: float = 0.3,
    start: float = 0.04,
    end: float = 1e-4,
    momentum: Sequence[float] | None = None,
) -> float | tuple[float, float]:
    """Cosine up from `start` to 1 over the first `warmup` share of the steps, then down to `end`.

    With `momentum` `(outer, inner)` also the momentum of the step, which goes from outer to inner while the
    rate rises, and back (Smith 2018, arXiv:1803.09820).
    """
    peak = warmup * (total - 1)
    rises = step < peak
    share = step / peak if rises else min((step - peak) / max(total - 1 - peak, 1), 1.0)
    factor = _between(start, 1.0, share) if rises else _between(1.0, end, share)
    if momentum is None:
        return factor
    outer, inner = momentum
    return factor, _between(outer, inner, share if rises else 1.0 - share)


def cosine(step: int, total: int, warmup: float = 0.05, end: float = 0.0) -> float:
    """Linear up over the first `warmup` share of the steps, then cosine down to `end`."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return _between(1.0, end, min((step - rising) / max(total - 1 - rising, 1), 1.0))


def constant(step: int, total: int, warmup: float = 0.0) -> float:
    """Linear up over the first `warmup` share of the steps, then 1."""
    return min((step + 1) / max(warmup * total, 1), 1.0)


def step_decay(
    step: int, total: int, warmup: float = 0.0, at: Sequence[float] = (0.5, 0.75), by: float = 0.1
) -> float:
    """Linear up, then 1, times `by` from each of the shares of the steps in `at` on."""
    return constant(step, total, warmup) * by ** sum(step >= share * total for share in at)


def exponential(step: int, total: int, warmup: float = 0.0, end: float = 0.01) -> float:
    """Linear up, then down to `end` by the same factor in every step."""
    return constant(step, total, warmup) * end ** _decayed(step, total, warmup, end)


def inverse(step: int, total: int, warmup: float = 0.0, end: float = 0.01) -> float:
    """Linear up, then `1 / (1 + c t)` of the steps `t` that follow, with the `c` that leads to `end`."""
    return constant(step, total, warmup) / (1 + (1 / end - 1) * _decayed(step, total, warmup, end))


def inverse_sqrt(step: int, total: int, warmup: float = 0.05) -> float:
    """Linear up, then with the inverse square root of the step, 1 where the warm-up ends.

    Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
    """
    return min(constant(step, total, warmup), math.sqrt(max(warmup * total, 1) / (step + 1)))


def _decayed(step: int, total: int, warmup: float, end: float) -> float:
    """How much of the way from the end of the warm-up to the last step is behind this one.

    Raises:
        UserError: such a decay never comes to its `end`.
    """
    if end <= 0:
        raise UserError(f"schedule.end={end} is never reached by this decay: set it above 0, such as 0.01.")
    rising = warmup * total
    return min(max(step - rising, 0) / max(total - 1 - rising, 1), 1.0)


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
