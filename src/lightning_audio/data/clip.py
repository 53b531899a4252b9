"""Clip: one row of a corpus, and what makes it sound."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lightning_audio.errors import encodable, is_control

SPLITS = ("train", "val", "test")
# What people call their splits; the names are those that Hugging Face's audiofolder knows.
SPLIT_NAMES = {
    name: split
    for split, names in {
        "train": ("train", "training"),
        "val": ("val", "valid", "validation", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }.items()
    for name in names
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of one audio file and what is known of it.

    `start` and `duration` are in seconds; a duration of None reaches to the end of the file. `group` names
    what must not be split over train and test: the recording that a clip was cut from, or the speaker.
    `channel` is the one that is read of a file that has several, from 0 on; None or "mean" their mean.
    """

    id: str
    path: str
    start: float = 0.0
    duration: float | None = None
    labels: tuple[str, ...] = ()
    text: str | None = None
    split: str | None = None
    fold: int | None = None
    group: str | None = None
    channel: int | str | None = None


# What is wrong with the value of a field other than the id, in a few words, or None.
RULES: dict[str, Callable[[Any], str | None]] = {
    "start": lambda time: None if 0 <= time < math.inf else f"start {time} is not a time from 0 on",
    "duration": lambda time: (
        None if time is None or 0 < time < math.inf else f"duration {time} is not a time above 0"
    ),
    "split": lambda split: (
        None if split is None or split in SPLITS else f"split {split!r} is none of {', '.join(SPLITS)}"
    ),
    "labels": lambda labels: (
        f"its labels {list(labels)} hold control characters" if any(map(_has_control, labels)) else None
    ),
    "channel": lambda channel: (
        None
        if channel in (None, "mean") or (type(channel) is int and channel >= 0)
        else f"channel {channel!r} is neither mean nor a number from 0 on"
    ),
}
# Characters that turn the order of what is shown around: a label would read as another one.
BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Letters of other alphabets that look like Latin ones.
ALIKE = str.maketrans(
    "асеорхуіјѕԁһԛԝАВЕКМНОРСТХУαοριυνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aceopxyijsdhqwABEKMHOPCTXYaopiuvABEZHIKMNOPTYX"
)


def _has_control(label: str) -> bool:
    return not label.isprintable() and any(is_control(c) or c in BIDIRECTIONAL for c in label)


def clean_label(label: str) -> str:
    """A label without spaces around it, in composed letters: what looks the same is the same.

    Written on different systems, equal letters may be different code points. What is no UTF-8, as the name of
    a folder may be, is spelled: tables, pictures and logs take no other text.
    """
    return unicodedata.normalize("NFC", encodable(label.strip()))


def look_alikes(labels: Iterable[str]) -> list[str]:
    """The labels that differ in case, in spaces or `_`, or in what can't be seen alone: `'Dog' and 'dog'`."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        seen = "".join(c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
        alike.setdefault("".join(seen.translate(ALIKE).casefold().replace("_", " ").split()), []).append(
            label
        )
    # repr spells out what can't be seen.
    return [" and ".join(map(repr, sorted(found))) for found in alike.values() if len(found) > 1]


def visible(label: str) -> str:
    """A label in which what can't be seen is spelled out."""
    return label if label.isprintable() else repr(label)[1:-1]


def clips_digest(rows: Iterable[Clip | str]) -> str:
    """A digest of labels, or of what clips are trained and tested as; not of where their files lie."""
    told = (repr(row if isinstance(row, str) else (row.id, row.labels, row.text)) for row in rows)
    digest = hashlib.sha256(next(told, "").encode())
    for line in told:  # never all of them as one text
        digest.update(f"\n{line}".encode())
    return digest.hexdigest()[:16]


def problems(clip: Clip) -> list[str]:
    """What is wrong with a row by itself, each in a few words; the files are not opened."""
    found = [problem for field, rule in RULES.items() if (problem := rule(getattr(clip, field)))]
    return found if clip.id else ["its id is empty", *found]
