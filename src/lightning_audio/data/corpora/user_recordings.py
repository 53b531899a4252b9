"""What the user's own recordings have in common: a split made here, where they bring none."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from operator import attrgetter

from lightning_audio.data.clip import Clip, hold_out, into_folds, split_by_fold
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.errors import UserError


class OwnRecordings(Corpus):
    """Recordings with their own split or folds, or with one that depends on the seed and the groups alone.

    Labels and groups decide what is made: about `test_share` of the clips of every label are tested on, or
    with `num_folds` one of so many folds is; a group stays whole. What is validated on is for
    `loader.val_fraction` to say, where the recordings do not.

    Args:
        root, cache, sample_rate: as for every corpus.
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
        self.test_share, self.num_folds, self.fold, self.split_seed = test_share, num_folds, fold, split_seed

    @abstractmethod
    def rows(self) -> list[Clip]:
        """All clips with the split, or the fold, that the recordings bring; with neither where they do not.

        Raises:
            UserError: something is missing or bad.
        """

    @cached_property
    def _rows(self) -> list[Clip]:
        return self.rows()

    @property
    def folds(self) -> tuple[int, ...]:  # type: ignore[override]  # known once the recordings are looked at
        """The numbers of the folds, where there are any."""
        if self.num_folds:
            return tuple(range(1, self.num_folds + 1))
        if any(clip.split for clip in self._rows):
            return ()
        return tuple(sorted({clip.fold for clip in self._rows if clip.fold is not None}))

    def clips(self) -> list[Clip]:
        """All clips, each in its split.

        Raises:
            UserError: something is missing or bad, or there are too few groups to split.
        """
        rows = self._rows
        brought = "split" if any(clip.split for clip in rows) else "fold" if self.folds else None
        if any(clip.split or clip.fold is not None for clip in rows):
            if self.num_folds:
                raise UserError(
                    f"{self.root} has {brought}s of its own: set data.num_folds=null to use them."
                )
            _refuse_partial(rows, str(brought))
            return rows if brought == "split" else split_by_fold(rows, self.fold)
        rows = _grouped_by_file(rows)
        groups = len({clip.group or clip.id for clip in rows})
        if not self.num_folds:
            clips = hold_out(
                [replace(row, split="train") for row in rows], self.test_share, self.split_seed, "test"
            )
            if not any(clip.split == "test" for clip in clips):
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
        return split_by_fold(into_folds(rows, self.num_folds, self.split_seed), self.fold)


def _refuse_partial(clips: Sequence[Clip], field: str) -> None:
    if None in set(map(attrgetter(field), clips)):
        without = [clip.id for clip in clips if getattr(clip, field) is None]
        raise UserError(
            f"{len(without)} of {len(clips)} clips have no {field}, such as {', '.join(without[:3])}: give "
            f"all of them a {field}, or none."
        )


def _grouped_by_file(clips: Sequence[Clip]) -> list[Clip]:
    """Clips of one file that have no group become one: a recording is not cut into train and test."""
    times = Counter(clip.path for clip in clips)
    first = {clip.path: clip.id for clip in sorted(clips, key=lambda clip: clip.id, reverse=True)}
    return [
        replace(clip, group=first[clip.path]) if clip.group is None and times[clip.path] > 1 else clip
        for clip in clips
    ]
