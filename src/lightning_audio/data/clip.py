"""Clip: one row of a corpus. Tables of clips: validated, split by fold or by group, held against leaks."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, eq
from typing import Any

from lightning_audio.errors import UserError, is_control

SPLITS = ("train", "val", "test")
DEALT_GROUPS = 2000  # in all orders together that are tried for a split: a fraction of a second
# What people call their splits.
SPLIT_NAMES = {name: name for name in SPLITS} | dict.fromkeys(("valid", "validation", "dev"), "val")


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of one audio file and what is known of it.

    `start` and `duration` are in seconds; a duration of None reaches to the end of the file. `group` names
    what must not be split over train and test: the recording that a clip was cut from, or the speaker.
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
}


def _has_control(label: str) -> bool:
    return not label.isprintable() and any(map(is_control, label))


def clips_digest(rows: Iterable[Clip | str]) -> str:
    """A digest of labels, or of what clips are trained and tested as; not of where their files lie."""
    told = (row if isinstance(row, str) else (row.id, row.labels, row.text) for row in rows)
    return hashlib.sha256("\n".join(map(repr, told)).encode()).hexdigest()[:16]


def problems(clip: Clip) -> list[str]:
    """What is wrong with a row by itself, each in a few words; the files are not opened."""
    found = [problem for field, rule in RULES.items() if (problem := rule(getattr(clip, field)))]
    return found if clip.id else ["its id is empty", *found]


def validated(clips: Iterable[Clip], source: str) -> list[Clip]:
    """The rows in the order of their ids; every bad row is named in one error.

    Raises:
        UserError: a row is bad, two rows share an id, or there is none.
    """
    rows = sorted(clips, key=attrgetter("id"))
    if not rows:
        raise UserError(f"{source} holds no clips: check that it is the folder or file that you meant.")
    found = []
    ids = list(map(attrgetter("id"), rows))
    repeated = any(map(eq, ids, ids[1:]))  # in order, equal ones stand side by side
    # Each different value once: a look at every field of a million rows takes more than a second.
    try:
        columns = [(rule, set(map(attrgetter(field), rows))) for field, rule in RULES.items()]
    except TypeError:
        raise UserError(f"{source} has clips whose labels are a list: make them tuples.") from None
    if not all(ids) or any(rule(value) for rule, values in columns for value in values):
        found = [f"{clip.id!r}: {problem}" for clip in rows for problem in problems(clip)]
    if repeated:
        found += [f"{name!r}: stands {n} times" for name, n in Counter(ids).items() if n > 1]
    if found:
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(f"{source} has {len(found)} bad rows to mend: {'; '.join(found[:10])}{more}.")
    return rows


def split_by_fold(clips: Iterable[Clip], test_fold: int) -> list[Clip]:
    """The clips of one fold become the test split, all others train.

    Raises:
        UserError: no clip stands in that fold.
    """
    clips = list(clips)
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if test_fold not in folds:
        raise UserError(f"There is no fold {test_fold}: set data.fold to one of {folds}.")
    return [replace(clip, split="test" if clip.fold == test_fold else "train") for clip in clips]


def hold_out(clips: Sequence[Clip], share: float, seed: int, into: str = "val") -> list[Clip]:
    """Moves about `share` of the training clips of every label to the split `into`, whole groups at a time.

    The draw depends on the seed and the groups alone, not on the order of the clips.
    """
    if share == 0:
        return list(clips)
    place = _dealt([clip for clip in clips if clip.split == "train"], [1 - share, share], seed)
    return [
        replace(clip, split=into) if clip.split == "train" and place[_unit(clip)] else clip for clip in clips
    ]


def into_folds(clips: Sequence[Clip], num_folds: int, seed: int) -> list[Clip]:
    """Gives every clip a fold from 1 on; whole groups, and about as many clips of every label in each."""
    place = _dealt(clips, [1 / num_folds] * num_folds, seed)
    return [replace(clip, fold=place[_unit(clip)] + 1) for clip in clips]


def _unit(clip: Clip) -> str:
    """What a split does not cut apart: the group, or the clip where it has none."""
    return clip.group or clip.id


def _dealt(clips: Iterable[Clip], shares: Sequence[float], seed: int) -> dict[str, int]:
    """The bin of every group, so that bin b gets about `shares[b]` of the clips, and of those of every label.

    Groups are dealt in random orders, and the deal is taken whose chi-squared distance from the shares is the
    smallest: more orders where there are few groups, each of which weighs much.
    """
    counts: dict[str, Counter[str | None]] = defaultdict(Counter)
    for clip in clips:
        # None stands for the clip, whatever its labels.
        counts[_unit(clip)].update(dict.fromkeys([None, *clip.labels], 1))
    totals: Counter[str | None] = sum(counts.values(), Counter())
    parts = {name: {label: n / totals[label] for label, n in counts[name].items()} for name in sorted(counts)}
    rng = random.Random(seed)
    orders = max(DEALT_GROUPS // max(len(parts), 1), 1)
    deals = [_deal(parts, rng.sample([*parts], len(parts)), shares) for _ in range(orders)]
    return min(deals, key=lambda deal: deal[0])[1]


def _deal(
    parts: Mapping[str, Mapping[str | None, float]], order: Sequence[str], shares: Sequence[float]
) -> tuple[float, dict[str, int]]:
    """The distance, and each group's bin where it takes most off the distance between what the bins should
    hold and what they hold so far."""
    labels = dict.fromkeys(label for group in parts.values() for label in group)
    lacking = [dict.fromkeys(labels, share) for share in shares]
    place = {}
    for name in order:
        gain = [
            sum(part * (2 * bin_[label] - part) for label, part in parts[name].items()) / share
            for bin_, share in zip(lacking, shares, strict=True)
        ]
        # Rounded, so that equal bins are equal, and the first of them is taken.
        best = place[name] = max(range(len(shares)), key=lambda b: round(gain[b], 9))
        for label, part in parts[name].items():
            lacking[best][label] -= part
    off = [sum(bin_[label] ** 2 for label in labels) / s for bin_, s in zip(lacking, shares, strict=True)]
    return round(sum(off), 9), place


def leaks(clips: Sequence[Clip]) -> dict[str, list[str]]:
    """The groups (recordings, speakers) that stand in more than one split, with these splits."""
    groups, places = (list(map(attrgetter(field), clips)) for field in ("group", "split"))
    last = dict(zip(groups, places, strict=True))
    # A set for each group only where there is something to tell: there may be as many groups as clips.
    off = {group for group, split in zip(groups, places, strict=True) if split != last[group]} - {None}
    splits: dict[str, set[str]] = {group: set() for group in sorted(off)}
    for group, split in zip(groups, places, strict=True):
        if group in off and split is not None:
            splits[group].add(split)
    return {group: sorted(found) for group, found in splits.items() if len(found) > 1}


def refuse_leaks(clips: Sequence[Clip]) -> None:
    """Raises UserError where one group (recording, speaker) stands in more than one split."""
    if leaking := leaks(clips):
        shown = ", ".join(f"{group} ({' and '.join(splits)})" for group, splits in [*leaking.items()][:5])
        raise UserError(
            f"The split leaks: {len(leaking)} groups stand in more than one split, such as {shown}; "
            "give all clips of a group the same split, or (own recordings) set data.group to what a group is."
        )
