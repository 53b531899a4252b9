"""Which labels follow from probabilities: those of a clip, and those of the windows of a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lightning_audio.errors import UserError

NEARLY = 1e-3  # by which rounding may carry a probability beyond 0 and 1


class LabelRule(Protocol):
    """What a task makes of probabilities, without its network: an exported model keeps it as JSON."""

    def chosen(self, probabilities: np.ndarray) -> list[int]:
        """The columns of the labels that are said, from the probabilities `(C,)` of a clip."""

    def over_windows(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities `(C,)` of a recording from those of its windows `(W, C)`."""

    def state(self) -> dict[str, Any]:
        """Plain JSON, of which `rule_of` makes an equal rule."""


class BestLabel:
    """The one label with the highest probability; windows are several views of one thing: their mean."""

    kind = "best"

    def chosen(self, probabilities: np.ndarray) -> list[int]:
        return [int(probabilities.argmax())]

    def over_windows(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.mean(0)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}


class BestKeyword(BestLabel):
    """The one label with the highest probability; a keyword is one in whatever window it comes.

    The labels in the columns `background` share what the best keyword leaves of 1, in proportion to their
    probabilities over all windows, as over the frames of a clip.
    """

    kind = "keyword"

    def __init__(self, background: Sequence[int]) -> None:
        self.background = list(background)

    def over_windows(self, probabilities: np.ndarray) -> np.ndarray:
        together = probabilities.max(0)
        sums = probabilities.sum(0)[self.background].clip(1e-12)
        together[self.background] = 0
        together[self.background] = (1 - together.max()) * sums / sums.sum()
        return together / together.sum()

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "background": self.background}


class LabelsAbove:
    """Every label whose probability reaches its threshold, of `(C,)`.

    A label is true of a recording that has its sound anywhere: of windows the highest counts. A mean would
    lose a bark in a minute of rain. With the number of windows the false alarms grow.
    """

    kind = "above"

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = np.asarray(thresholds, np.float32)

    def chosen(self, probabilities: np.ndarray) -> list[int]:
        return np.flatnonzero(probabilities >= self.thresholds).tolist()

    def over_windows(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.max(0)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "thresholds": self.thresholds.tolist()}


def refuse_improbable(scores: np.ndarray) -> None:
    """Raises UserError for scores that are no probabilities, as of weights that overflow."""
    if not ((scores >= -NEARLY) & (scores <= 1 + NEARLY)).all():  # false of NaN, too
        raise UserError(
            "The model answers with what are no probabilities, or NaN: train or export it again, or take "
            "another checkpoint."
        )


def rule_of(state: Mapping[str, Any]) -> LabelRule:
    """The rule that such a state describes; raises KeyError for one of another kind."""
    kinds = {kind.kind: kind for kind in (BestLabel, BestKeyword, LabelsAbove)}
    options = {name: value for name, value in state.items() if name != "kind"}
    return kinds[state["kind"]](**options)
