"""A metric: one function over the predictions of a split.

Its value, its interval, its place in every table, its pooling over folds and its comparison between two runs
follow from that function.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.metrics.intervals import (
    RESAMPLES,
    Draws,
    Score,
    all_clips,
    bootstrap_interval,
    group_numbers,
    resampled_groups,
    share_interval,
)


class Predictions:
    """The rows of predictions.jsonl as columns: what a metric is a function of.

    Args:
        groups: of each clip, the recording or the speaker that it belongs to; None is a group of its own.
    """

    alone: ClassVar[bool] = False  # where all clips are of one group: whether each stands for itself

    def __init__(self, groups: Sequence[str | None]) -> None:
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Self:
        """Those of a file; `labels` are all that the data have."""
        raise NotImplementedError

    @cached_property
    def numbers(self) -> NDArray[np.intp]:
        """The group of each clip, `(N,)`, from 0 on."""
        one = self.alone and len(set(self.groups)) < 2
        return group_numbers([None] * len(self) if one else self.groups, len(self))

    @property
    def independent(self) -> int:
        """How many clips count where groups do not differ: as many as there are groups."""
        return int(self.numbers.max()) + 1

    def refuse_not_finite(self) -> None:
        """Raises UserError where a network answered what is no number."""


class Metric:
    """A score with its interval; made of a function by `metric` or `share`.

    Args:
        function: takes `Predictions` and `Draws` and gives a value for each resample, `(R,)`.
        better, unit: of its scores, where its name does not tell them.
        resamples: of the interval.
        bias: of `bootstrap_interval`.
        counted: what the `n` of a score is, from the predictions.
    """

    def __init__(
        self,
        function: Callable[..., NDArray],
        better: str | None = None,
        unit: str | None = None,
        resamples: int = RESAMPLES,
        bias: float = 0.0,
        counted: Callable[[Any], int] = len,
    ) -> None:
        functools.update_wrapper(self, function)  # where it is defined, for the allow list
        self.function, self.name = function, function.__name__
        self.better, self.unit = better, unit
        self.resamples, self.bias, self.counted = resamples, bias, counted

    def __call__(self, name: str | None = None, **options: Any) -> Metric:
        """The same metric with options of its function, as `_target_` in YAML gives them."""
        bound = copy.copy(self)
        bound.function, bound.name = functools.partial(self.function, **options), name or self.name
        return bound

    def drawn(self, predictions: Any, draws: Draws) -> NDArray[np.float64]:
        """Its values `(R,)` in resamples of the clips; NaN where it is not defined."""
        return self.function(predictions, draws)

    def value(self, predictions: Any) -> float:
        """NaN where it is not defined."""
        return float(self.drawn(predictions, all_clips(len(predictions)))[0])

    def interval(self, predictions: Any, value: float) -> tuple[float, float]:
        """That of 95 %, over the groups of the clips."""
        drawn = [self.drawn(predictions, d) for d in resampled_groups(predictions.numbers, self.resamples)]
        groups = int(predictions.numbers.max()) + 1
        independent = predictions.independent if self.unit in (None, "percent") else None
        return bootstrap_interval(value, np.concatenate(drawn), groups, independent, self.bias)

    def score(self, predictions: Any) -> Score | None:
        """None where it is not defined."""
        value = self.value(predictions)
        if np.isnan(value):
            return None
        low, high = self.interval(predictions, value)
        return Score(value, low, high, self.counted(predictions), self.better, self.unit)


class Share(Metric):
    """A metric whose function says for each clip `(N,)`, or each decision `(N, C)`, whether it hits."""

    def drawn(self, predictions: Any, draws: Draws) -> NDArray[np.float64]:
        hits = np.asarray(self.function(predictions), dtype=float).reshape(len(predictions), -1)
        return draws.sums(hits.sum(1)) / (draws.sums(np.ones(len(hits))) * hits.shape[1])

    def interval(self, predictions: Any, value: float) -> tuple[float, float]:
        hits = np.asarray(self.function(predictions), dtype=float).reshape(len(predictions), -1)
        numbers = np.repeat(predictions.numbers, hits.shape[1])
        return share_interval(hits.ravel(), numbers, predictions.independent)


def metric(**options: Any) -> Callable[[Callable[..., NDArray]], Metric]:
    """Makes a metric of a function of predictions and `Draws` that gives a value for each resample, `(R,)`.

    `options` are those of `Metric`.
    """
    return lambda function: Metric(function, **options)


def share(**options: Any) -> Callable[[Callable[..., NDArray]], Share]:
    """Makes a metric of a function that says for each clip of predictions whether it hits, `(N,)`."""
    return lambda function: Share(function, **options)


def metrics_of(kind: type[Predictions]) -> dict[str, Metric]:
    """The metrics that stand beside a kind of predictions, by their names."""
    return {n: found for n, found in vars(sys.modules[kind.__module__]).items() if isinstance(found, Metric)}


def named_metrics(kind: type[Predictions], names: Iterable[str | Metric]) -> list[Metric]:
    """The metrics of these names; those that are metrics already, as `_target_` makes them, stay.

    Raises:
        UserError: there is none of that name.
    """
    known = metrics_of(kind)
    for name in names:
        if not (isinstance(name, Metric) or (isinstance(name, str) and name in known)):
            raise UserError(
                f"task.metrics names {name!r}, which is no metric{did_you_mean(str(name), known)}: take from "
                f"{', '.join(known)}, or name your own by _target_."
            )
    return [name if isinstance(name, Metric) else known[name] for name in names]


def values(metrics: Sequence[Metric], predictions: Predictions) -> dict[str, float]:
    """The values by name, without intervals; NaN where one is not defined."""
    return {metric.name: metric.value(predictions) for metric in metrics}


def scores(metrics: Sequence[Metric], predictions: Predictions) -> dict[str, Score]:
    """The scores by name; one that is not defined is left out.

    Raises:
        UserError: a network answered what is no number.
    """
    predictions.refuse_not_finite()
    return {m.name: found for m in metrics if (found := m.score(predictions)) is not None}
