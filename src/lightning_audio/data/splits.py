"""Splits: clips held out or dealt into folds, whole groups at a time, and held against leaks."""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import NONE, ClipTable, Column, distinct
from lightning_audio.errors import UserError, counted

# Of a name what is before its last whole number, that number, and what is behind it, such as `.mp3`.
NUMBERED = re.compile(r"(.*?)(\d*)(\D*?(?:\.[a-z]\w*)?)", re.DOTALL | re.IGNORECASE)
# The golden ratio, root 2 and root 3, times 2**64.
STEPS = {"test": 0x9E3779B97F4A7C15, "val": 0x6A09E667F3BCC909, "train_dev": 0xBB67AE8584CAA73B}
SPARE = 0.1  # that a fold may hold above its share
DEALT_GROUPS = 2000  # in all orders together that are tried for a deal: a fraction of a second

_log = logging.getLogger(__name__)


def split_by_fold(clips: Iterable[Clip], test_fold: int) -> ClipTable:
    """The clips of one fold become the test split, all others train.

    Raises:
        UserError: no clip stands in that fold.
    """
    table = ClipTable.of(clips)
    folds = sorted(fold for fold in table.column("fold").different() if fold is not None)
    if test_fold not in folds:
        raise UserError(f"There is no fold {test_fold}: set data.fold to one of {folds}.")
    is_test = table.column("fold").equals(test_fold)
    return table.replaced("split", Column(["train", "test"], is_test.astype(np.int8)))


def without_tested_groups(clips: Sequence[Clip]) -> list[Clip]:
    """The clips, of which those that train and are of a tested group (recording) are now in no split."""
    tested = {clip.group for clip in clips if clip.split == "test"} - {None}
    return [
        replace(clip, split=None) if clip.split == "train" and clip.group in tested else clip
        for clip in clips
    ]


def validate_by_fold(clips: Sequence[Clip], fold: int | str, test_fold: int) -> list[Clip]:
    """The training clips of one fold become validation; those that others have of its groups are in no split.

    Args:
        clips: with their splits; the test fold is `test`.
        fold: its number; or `next`: the one behind the test fold, so that every fold has its turn.
        test_fold: the fold that is tested.

    Raises:
        UserError: there is no such fold, or it is the test fold.
    """
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if fold == "next" and test_fold in folds:
        fold = folds[(folds.index(test_fold) + 1) % len(folds)]
    if fold not in folds or fold == test_fold:
        others = [number for number in folds if number != test_fold]
        mend = f"set it to `next` or one of {others}" if others else "there are none: set it to null"
        raise UserError(f"data.validation_fold={fold} is no fold beside test fold {test_fold}: {mend}.")
    moved = [
        replace(clip, split="val") if clip.split == "train" and clip.fold == fold else clip for clip in clips
    ]
    held = {clip.group for clip in moved if clip.split == "val"} - {None}
    return [
        replace(clip, split=None) if clip.split == "train" and clip.group in held else clip for clip in moved
    ]


def hold_out(
    clips: Sequence[Clip], share: float, seed: int, into: str = "val", root: str | Path = ""
) -> ClipTable:
    """Moves about `share` of the training clips to the split `into`, whole groups at a time.

    A group moves if the number in [0, 1) that is made of its name and the seed is below `share` (`_number`).
    Nothing else decides: when recordings are added, those that were there stay where they were. The price is
    the share is met about, over all clips and for every label. Only where all groups of a label would move,
    the one with the highest number stays, and where none of several would, the one with the lowest moves;
    that group alone may change sides when the label gets more.

    The name of a clip without a group is its file below `root`, so that a recording is not cut apart; where
    all training clips are of one group, each stands for itself.
    """
    table = ClipTable.of(clips)
    rows = np.flatnonzero(table.column("split").equals("train"))
    if share == 0 or not len(rows):
        return table
    train = table.take(rows)
    units, labels = unit_names(train, root), train.column("labels")
    numbers = np.array([_number(name, into, seed) for name in units.values])
    moved = numbers < share
    of_label: dict[str | None, list[np.ndarray]] = defaultdict(list)
    sides, of = np.divmod(distinct(labels.codes.astype(np.int64) * len(numbers) + units.codes), len(numbers))
    for side, those in zip(np.unique(sides), np.split(of, np.flatnonzero(np.diff(sides)) + 1), strict=True):
        for label in labels.values[side] or (None,):
            of_label[label].append(those)
    groups = [np.concatenate(those) for those in of_label.values()]
    several = [g for g in groups if (g != g[0]).any()]
    moved[[g[numbers[g].argmin()] for g in several if not moved[g].any()]] = True
    moved[[g[numbers[g].argmax()] for g in groups if moved[g].all()]] = False
    return table.replaced("split", table.column("split").put(rows[moved[units.codes]], into))


def unit_names(clips: ClipTable, root: str | Path = "") -> Column:
    """Of each clip the name of what a split does not cut apart: its group, or else its file below `root`; the
    stretch of the file where all clips share one name."""
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    codes = clips.column("group").mapped(lambda group: number(group) if group else NONE, np.int64)
    alone = codes == NONE
    paths = clips.column("path").take(alone)
    codes[alone] = paths.mapped(lambda path: number(below(path, root)), np.int64)
    if len(clips) > 1 and len(numbers) == 1:
        (name,) = numbers
        _log.warning(
            "All %d clips that a split is drawn from are of one group or file, %s: the draw is by clips, so "
            "that what is held out is of the same recording.",
            len(clips),
            name,
        )
        return Column.of(f"{name} from {start:g}" for start in clips.column("start"))
    return Column([*numbers], codes)


def below(path: str, root: str | Path) -> str:
    """A name that stays when the folder of the recordings is moved."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _number(name: str, into: str, seed: int) -> float:
    """A number in [0, 1) that is the same on every machine.

    SHA-256 makes it of the name. The last whole number in that is left out and moves it on by so many steps
    instead, modulo 1: names that are numbered, as most are, spread evenly and are not clustered by chance
    (H. Weyl 1916). Test and validation have a step each, so that one draw says nothing of the other.
    """
    found = NUMBERED.fullmatch(name)
    head, number, tail = found.groups() if found else (name, "", "")
    first = int.from_bytes(_digest(f"{into} {seed} {head}#{tail}")[:8], "big")
    return (first + int(number or 0) * STEPS[into]) % 2**64 / 2**64


def deal_out(clips: Sequence[Clip], share: float, seed: int, into: str = "val") -> list[Clip]:
    """Moves `share` of the training clips of every label to the split `into`, as closely as whole groups
    allow: for a release, whose recordings stay the same. Where some are added, the draw is another one."""
    place = deal([clip for clip in clips if clip.split == "train"], [1 - share, share], seed)
    return [replace(clip, split=into) if place.get(clip.id) else clip for clip in clips]


def into_folds(clips: Sequence[Clip], num_folds: int, seed: int, root: str | Path = "") -> list[Clip]:
    """Gives every clip a fold from 1 on; whole groups, and about as many clips of every label in each.

    Each group, the largest first, goes to the fold that it prefers by its name and the seed among those with
    room: `SPARE` more than an even share of all clips and of those of each label (consistent hashing with
    bounded loads, V. Mirrokni et al., SODA 2018). So most recordings keep their fold when some are added: of
    40 alike 7 % move with the next one; to deal them anew would move 57 %. Groups are as in `hold_out`.
    """
    units = dict(zip((clip.id for clip in clips), unit_names(ClipTable.of(clips), root), strict=True))
    counts = _label_counts(clips, units)
    room = {label: max((1 + SPARE) * n / num_folds, 1) for label, n in _sum(counts).items()}
    folds: list[Counter[str | None]] = [Counter() for _ in range(num_folds)]
    place: dict[str, int] = {}
    order = sorted(counts, key=lambda name: (-counts[name][None], _digest(f"{seed} {name}")))
    for left, name in zip(range(len(order), 0, -1), order, strict=True):
        empty = [number for number, fold in enumerate(folds) if not fold]
        choice = empty if left <= len(empty) else range(num_folds)  # no fold stays empty
        filled = {
            number: max((folds[number][label] + n) / room[label] for label, n in counts[name].items())
            for number in sorted(choice, key=lambda number: _digest(f"{seed} {number} {name}"))
        }
        place[name] = next(
            (n for n, full in filled.items() if full <= 1), min(filled, key=lambda n: filled[n])
        )
        folds[place[name]].update(counts[name])
    return [replace(clip, fold=place[units[clip.id]] + 1) for clip in clips]


def _label_counts(clips: Sequence[Clip], units: Mapping[str, str]) -> dict[str, Counter[str | None]]:
    """Of each group the clips, under None, and those of each label."""
    counts: dict[str, Counter[str | None]] = defaultdict(Counter)
    for clip in clips:
        counts[units[clip.id]].update(dict.fromkeys([None, *clip.labels], 1))
    return counts


def _sum(counts: Mapping[str, Counter[str | None]]) -> Counter[str | None]:
    total: Counter[str | None] = Counter()
    for one in counts.values():
        total.update(one)
    return total


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def deal(clips: Sequence[Clip], shares: Sequence[float], seed: int) -> dict[str, int]:
    """The bin of every clip by its id, so that bin b gets about `shares[b]` of the clips, and of those of
    every label; whole groups.

    Groups are dealt in random orders, and the deal is taken whose chi-squared distance from the shares is the
    smallest: more orders where there are few groups, each of which weighs much.
    """
    units = {clip.id: clip.group or clip.id for clip in clips}
    counts = _label_counts(clips, units)
    totals = _sum(counts)
    parts = {name: {label: n / totals[label] for label, n in counts[name].items()} for name in sorted(counts)}
    rng = random.Random(seed)
    orders = max(DEALT_GROUPS // max(len(parts), 1), 1)
    deals = [_deal(parts, rng.sample([*parts], len(parts)), shares) for _ in range(orders)]
    place = min(deals, key=lambda deal: deal[0])[1]
    return {name: place[unit] for name, unit in units.items()}


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
    table = ClipTable.of(clips)
    groups, splits = table.column("group"), table.column("split")
    keys = distinct(table.keys("group", "split")[~groups.lacks() & ~splits.lacks()])
    of, places = np.divmod(keys, len(splits.values) + 1)
    found: dict[str, list[str]] = defaultdict(list)
    for place in np.flatnonzero(np.isin(of, of[1:][np.diff(of) == 0])).tolist():
        found[groups.values[of[place] - 1]].append(splits.values[places[place] - 1])
    return {group: sorted(found[group]) for group in sorted(found)}


def refuse_leaks(clips: Sequence[Clip]) -> None:
    """Raises UserError where one group (recording, speaker) stands in more than one split."""
    if leaking := leaks(clips):
        shown = ", ".join(f"{group} ({' and '.join(splits)})" for group, splits in [*leaking.items()][:5])
        raise UserError(
            f"The split leaks: {counted(len(leaking), 'groups stand')} in more than one split, such as "
            f"{shown}; give all clips of a group the same split, or (own recordings) set data.group to what "
            "a group is."
        )
