"""What a sweep draws from: options with a range or with choices, as conf/sweep writes them.

`{low: 1e-4, high: 1e-2, log: true}`, `{factor: 10}` (from a tenth of the experiment's own value to ten times
of it, on a log scale; whole numbers where it is one), a list of choices, or Hydra's `interval(...)`,
`range(...)` and `choice(...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lightning_audio.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGE_KEYS = ("low", "high", "log", "factor", "step")
EXAMPLE = "{low: 1e-4, high: 1e-2, log: true}, {factor: 10}, or a list of choices"


@dataclass(frozen=True)
class Dimension:
    """One option: numbers from `low` to `high`, whole ones where both are, or else one of `choices`, each a
    number, a switch or text as on the command line."""

    name: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> Any:
        """The value that a trial has, or draws now."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if self.whole:
            step = int(self.step or 1)
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=step)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def examples(self) -> tuple[str, str, str]:
        """Its first value, one between where it is a range, and its last, as options of the command line."""
        ends = (self.choices[0], self.choices[-1]) if self.choices else (self.low, self.high)
        first, between, last = ends[0], ends[0] if self.choices else self._between(), ends[1]
        return override(self.name, first), override(self.name, between), override(self.name, last)

    def _between(self) -> float:
        if self.whole:
            return (int(self.low) + int(self.high)) // 2
        width = 0.4567 * (self.high - self.low)  # which no whole number is likely to be
        return self.low + (width // self.step * self.step if self.step else width)

    def around(self, values: Sequence[float]) -> Dimension:
        """The part of the range that these values of good trials span, and a tenth of it to each side."""
        if self.choices or not values:
            return self
        if self.log:
            wider = (self.high / self.low) ** 0.1
            low, high = min(values) / wider, max(values) * wider
        else:
            wider = (self.high - self.low) / 10
            low, high = min(values) - wider, max(values) + wider
        low, high = max(low, self.low), min(high, self.high)
        if self.step:
            return self  # its grid would move
        return (
            replace(self, low=int(low), high=int(-(-high // 1)))
            if self.whole
            else replace(self, low=low, high=high)
        )


def override(name: str, value: Any) -> str:
    """A value as an option of the command line; a number has four digits that count."""
    if isinstance(value, float):
        return f"{name}={value:.4g}"
    return f"{name}={str(value).lower() if isinstance(value, bool) else value}"


def read_space(space: Mapping[str, Any], cfg: DictConfig) -> list[Dimension]:
    """What `search.space` says; `cfg` has the experiment's own values.

    Raises:
        UserError: a range is empty or not one that is understood.
    """
    if not space:
        raise UserError(f"search.space is empty: name an option and what to draw for it: {EXAMPLE}.")
    return [_dimension(name, node, cfg) for name, node in space.items()]


def _dimension(name: str, node: Any, cfg: DictConfig) -> Dimension:
    if isinstance(node, str):
        return _by_hydra(name, node)
    if isinstance(node, list | tuple) and node:
        return Dimension(name, choices=tuple(_choice(value) for value in node))
    if not isinstance(node, dict) or not node:
        raise UserError(f"search.space: {name} is {node!r}, which nothing can be drawn from: give {EXAMPLE}.")
    if unknown := [key for key in node if key not in RANGE_KEYS]:
        mend = did_you_mean(unknown[0], RANGE_KEYS)
        raise UserError(f"search.space: {name} has {unknown[0]!r}{mend}: a range is {EXAMPLE}.")
    node = dict(node)
    if factor := node.pop("factor", None):
        own = OmegaConf.select(cfg, name, default=None)
        if type(own) not in (int, float) or own <= 0 or factor <= 1 or node:
            raise UserError(
                f"search.space: {name} is {own} in this experiment, and factor={factor} asks for numbers "
                "around it: give a factor above 1 alone, or low and high."
            )
        node = {"low": float(own / factor), "high": float(own * factor), "log": True}
        if type(own) is int:
            node |= {"low": max(round(own / factor), 1), "high": round(own * factor)}
    return _checked(Dimension(name, **{"low": None, "high": None, **node}))


def _checked(found: Dimension) -> Dimension:
    numbers = all(type(value) in (int, float) for value in (found.low, found.high))
    if not numbers or not found.low < found.high or (found.log and found.low <= 0):
        above = ", both above 0 on a log scale" if found.log else ""
        raise UserError(
            f"search.space: {found.name} goes from {found.low} to {found.high}: give numbers low < "
            f"high{above}."
        )
    if found.step is not None and (found.log or found.step <= 0):
        raise UserError(f"search.space: {found.name} has step={found.step}: leave it out, or leave out log.")
    return found


def _choice(value: Any) -> Any:
    """Optuna keeps numbers, switches and text; a list or a mapping becomes text of the command line."""
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(str(_choice(one)) for one in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_choice(one)}" for key, one in value.items()) + "}"
    return value


def _by_hydra(name: str, text: str) -> Dimension:
    try:
        return from_override(OverridesParser.create().parse_override(f"{name}={text}"))
    except HydraException as error:
        raise UserError(f"search.space: {name}={text} is no range: give {EXAMPLE}.") from error


def from_override(given: Override) -> Dimension:
    """What `KEY=interval(1e-4,1e-2)`, `KEY=tag(log,interval(1e-4,1e-2))`, `KEY=range(1,9)` and `KEY=a,b` of
    a command line mean."""
    value, name = given.value(), given.get_key_element()  # with the + of one that is added
    if isinstance(value, IntervalSweep):
        return _checked(Dimension(name, value.start or 0, value.end or 0, "log" in value.tags))
    if isinstance(value, ChoiceSweep):
        return Dimension(name, choices=tuple(_choice(one) for one in value.list))
    if isinstance(value, RangeSweep):
        return Dimension(name, choices=tuple(value.range()))
    return Dimension(name, choices=(_choice(value),))
