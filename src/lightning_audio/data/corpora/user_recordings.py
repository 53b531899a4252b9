"""What the user's own recordings have in common: a split made here, where they bring none."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from lightning_audio.data.audio_file import AudioError, channels_of
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import NONE, ClipTable, Column, distinct
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.splits import below, hold_out, into_folds, split_by_fold
from lightning_audio.errors import UserError, counted


class OwnRecordings(Corpus):
    """Recordings with their own split or folds, or with one that depends on the seed and the groups alone.

    About `test_share` of the clips of every label are tested on, as `hold_out` draws them: what was tested on
    stays so when recordings are added. With `num_folds` one of so many folds is, as `into_folds` makes them:
    most recordings keep theirs. A group stays whole. What is validated on is for `loader.val_fraction` to
    say, where the recordings do not.

    Clips of one file that have no group are one group, unless their own split or folds part them.

    Args:
        root, cache, sample_rate: as for every corpus.
        channel: what is read of files that have several: None or `mean` their mean, a number from 0 on that
            channel, `each` every channel as a clip of its own.
        test_share: share of the clips that are tested on where the recordings have no split.
        num_folds: how many folds to make instead.
        fold: the fold that is tested on, where there are folds.
        split_seed: another seed makes another split.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        channel: int | str | None = None,
        test_share: float = 0.2,
        num_folds: int | None = None,
        fold: int = 1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, cache, sample_rate)
        if not 0 < test_share < 1:
            raise UserError(f"data.test_share={test_share} is no share: set it to a number between 0 and 1.")
        if num_folds is not None and num_folds < 2:
            raise UserError(f"data.num_folds={num_folds} are too few: set it to 2 or more, or to null.")
        if channel not in (None, "mean", "each") and not (type(channel) is int and channel >= 0):
            raise UserError(
                f"data.channel={channel} is no channel: set it to mean, each, or a number from 0 on."
            )
        self.channel = channel
        self.test_share, self.num_folds, self.fold, self.split_seed = test_share, num_folds, fold, split_seed
        self.notes: list[str] = []

    @abstractmethod
    def rows(self) -> Sequence[Clip]:
        """All clips with the split, or the fold, that the recordings bring; with neither where they do not.
        What a user should know of them is added to `notes`.

        Raises:
            UserError: something is missing or bad.
        """

    @cached_property
    def _rows(self) -> ClipTable:
        rows = ClipTable.of(self.rows())
        channel = rows.column("channel")
        if self.channel is not None and channel.lacks().any():
            rows = rows.replaced("channel", channel.put(channel.lacks(), self.channel))
        if rows.column("channel").equals("each").any():
            rows = ClipTable.of([clip for row in rows for clip in _channels(row)])
        self.notes += _repeated(rows)
        return self._grouped_by_file(rows)

    def draw_validation(self, clips: Sequence[Clip], share: float, seed: int) -> ClipTable:
        """As the test split is drawn: those stay that were there when recordings are added."""
        return hold_out(clips, share, seed, "val", self.root)

    def remarks(self) -> list[str]:
        _ = self._rows
        return self.notes

    @property
    def folds(self) -> tuple[int, ...]:  # type: ignore[override]  # known once the recordings are looked at
        """The numbers of the folds, where there are any."""
        if self.num_folds:
            return tuple(range(1, self.num_folds + 1))
        if any(self._rows.column("split").different()):
            return ()
        return tuple(sorted(fold for fold in self._rows.column("fold").different() if fold is not None))

    def clips(self) -> ClipTable:
        """All clips, each in its split.

        Raises:
            UserError: something is missing or bad, or there are too few groups to split.
        """
        rows = self._rows
        has_split = any(rows.column("split").different())
        brought = "split" if has_split else "fold" if self.folds else None
        if has_split or not rows.column("fold").lacks().all():
            if self.num_folds:
                raise UserError(
                    f"{self.root} has {brought}s of its own: set data.num_folds=null to use them."
                )
            _refuse_partial(rows, str(brought))
            return rows if brought == "split" else split_by_fold(rows, self.fold)
        names = rows.column("group").different()
        groups = len(names) if all(names) else len({clip.group or clip.id for clip in rows})
        if not self.num_folds:
            train = rows.replaced("split", Column.constant("train", len(rows)))
            clips = hold_out(train, self.test_share, self.split_seed, "test", self.root)
            if not clips.column("split").equals("test").any():
                raise UserError(
                    f"data.test_share={self.test_share} of {groups} groups of clips in {self.root} is less "
                    "than one: raise it, add recordings, or set data.group to smaller groups."
                )
            return clips
        if groups < self.num_folds:
            raise UserError(
                f"{groups} groups of clips in {self.root} do not make {self.num_folds} folds: set "
                "data.num_folds to less, or data.group to smaller groups."
            )
        return split_by_fold(into_folds(rows, self.num_folds, self.split_seed, self.root), self.fold)

    def _grouped_by_file(self, clips: ClipTable) -> ClipTable:
        """Clips of one file that have no group become one, unless the table parts them or has no other file:
        a recording is not cut into train and test."""
        paths, groups = clips.column("path"), clips.column("group")
        alone = groups.lacks()
        if not alone.any():
            return clips
        # One file may go by several names; what is cut from it begins later than it.
        later = paths.take(clips.column("start").mapped(bool, bool))
        files = {path: path for path in paths.different()}
        files |= {path: os.path.realpath(path) for path in later.different()}
        if len({*files.values()}) == 1:
            return clips
        those = clips.take(alone)
        sides: dict[str, set[Any]] = defaultdict(set)
        names: dict[str, str] = {}
        for path, *side in those.combinations("path", "split", "fold"):
            sides[files[path]].add(tuple(side))
            names[files[path]] = min(path, names.get(files[path], path))
        counts = Counter(files[path] for path in those.column("path"))
        one = {
            file: below(path, self.root)
            for file, path in names.items()
            if counts[file] > 1 and len(sides[file]) == 1
        }
        place = {name: code for code, name in enumerate(groups.values)}
        codes_of = {file: place.setdefault(name, len(place)) for file, name in one.items()}
        codes = groups.codes.astype(np.int64)
        codes[alone] = those.column("path").mapped(lambda path: codes_of.get(files[path], NONE), np.int64)
        return clips.replaced("group", Column([*place], codes))


def _channels(row: Clip) -> Iterator[Clip]:
    """The row once for each channel of its file, where it wants `each`."""
    if row.channel != "each":
        yield row
        return
    try:
        channels = channels_of(row.path)
    except AudioError:
        channels = 1  # decoding it will say why it can't be read
    for channel in range(channels):
        yield replace(row, id=f"{row.id}#{channel}" if channels > 1 else row.id, channel=channel)


def _refuse_partial(clips: ClipTable, field: str) -> None:
    if (lacks := clips.column(field).lacks()).any():
        without = clips.take(lacks).column("id").at(slice(None))
        raise UserError(
            f"{len(without)} of {len(clips)} clips have no {field}, such as {', '.join(without[:3])}: give "
            f"all of them a {field}, or none."
        )


def _repeated(clips: ClipTable) -> Iterator[str]:
    """A sentence where the same audio stands in two splits or folds."""
    place = ("path", "start", "channel")
    places = distinct(clips.keys(*place))
    if len(places) in (len(clips), len(distinct(clips.keys(*place, "split", "fold")))):
        return
    places, sides = clips.keys(*place), clips.keys("split", "fold")
    order = np.argsort(places, kind="stable")
    last = np.append(np.flatnonzero(np.diff(places[order])), len(order) - 1)
    known = np.repeat(sides[order[last]], np.diff(last, prepend=-1))
    again = clips.take(np.sort(order[sides[order] != known]))
    if len(again):
        yield (
            f"{counted(len(again), 'clips stand')} in two splits or folds, such as {again[0].path} from "
            f"{again[0].start:g} s: what is learned is tested; leave out all but one of each."
        )
