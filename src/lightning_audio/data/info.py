"""DataInfo: what the data of a run know, as one object that every task gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMED = ("labels", "sample_rate", "clip_seconds", "longest_seconds")  # facts of a checkpoint, by their names


@dataclass(frozen=True)
class DataInfo:
    """Made by AudioDataModule once it is set up, or from the facts of a checkpoint, which has no counts.

    Attributes:
        labels: the names of the outputs, in their order.
        sample_rate: in Hz.
        clip_seconds: the median length of the training clips: what a window of a longer recording should be.
        longest_seconds: the length of the longest training clip; None where a checkpoint does not say.
        class_counts: how many clips with each label an epoch draws, in the mean where the draw is balanced;
            empty where that is not known.
        clip_counts: how many clips each split has; in training, how many make an epoch. Empty likewise.
        encoding: what the encoding of the targets has learned beside the labels.
    """

    labels: tuple[str, ...]
    sample_rate: int
    clip_seconds: float
    longest_seconds: float | None = None
    class_counts: tuple[float, ...] = ()
    clip_counts: Mapping[str, int] = field(default_factory=dict)
    encoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> Mapping[str, Any] | None:
        """The state of the tokenizer, of data that are learned as text."""
        return self.encoding.get("vocabulary")

    def as_scored(self, text: str) -> str:
        """A transcript, reference or hypothesis, with the words that its corpus scores as another one."""
        known: Mapping[str, str] = self.encoding.get("scored_as") or {}
        return " ".join(filter(None, (known.get(word, word) for word in text.split()))) if known else text

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as plain values."""
        named = {name: getattr(self, name) for name in NAMED} | {"labels": list(self.labels)}
        return {name: value for name, value in named.items() if value is not None} | dict(self.encoding)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> DataInfo:
        """The opposite of `facts`; older checkpoints lack some."""
        named = {name: facts[name] for name in NAMED if name in facts} | {"labels": tuple(facts["labels"])}
        return cls(**named, encoding={name: value for name, value in facts.items() if name not in NAMED})
