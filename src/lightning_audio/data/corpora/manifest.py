"""Your own recordings in a manifest: a JSONL or CSV file with one clip a row, or one file for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.clip_table import ClipTable, Column
from lightning_audio.data.corpora.user_recordings import OwnRecordings
from lightning_audio.data.manifest_cache import remembered
from lightning_audio.data.manifests import GROUP, describe_unused, read_manifests, refuse_absent_group
from lightning_audio.errors import UserError, counted


class Manifest(OwnRecordings):
    """Clips with labels or transcripts as `read_manifests` understands them.

    Without files for splits, and without a `split` or a `fold` in the rows, the split is made here. Rows that
    have `split` and `fold` go by `split`.

    Args:
        cache, sample_rate: as for every corpus.
        file: one manifest for all splits.
        train, val, test: one manifest for each, instead of `file`; `val` may be left out.
        audio: folder that relative audio paths are taken from; by default that of each manifest.
        group: columns of which the first that a row has names its group, which is not split over train and
            test; none for rows that stand for themselves. One group that all rows share, such as the only
            speaker of a corpus, divides nothing and counts as none.
        separator: between several labels in one CSV cell; by default a semicolon or a vertical bar.
        options: `channel`, `test_share`, `num_folds`, `fold` and `split_seed` of OwnRecordings.

    Raises:
        UserError: the files do not fit each other, or an argument is out of its range.
    """

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        file: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        audio: str | None = None,
        group: Sequence[str] | str | None = GROUP,
        separator: str | None = None,
        **options: Any,
    ) -> None:
        given = {"train": train, "val": val, "test": test}
        by_split = [(Path(path).expanduser(), name) for name, path in given.items() if path]
        if bool(file) == bool(by_split) or (by_split and not (train and test)):
            raise UserError(
                "The manifests have to be data.file=FILE alone, or data.train=FILE and data.test=FILE, with "
                "or without data.val=FILE: set these."
            )
        self.files: list[tuple[Path, str | None]] = (
            [*by_split] if not file else [(Path(file).expanduser(), None)]
        )
        super().__init__(audio or str(self.files[0][0].parent), cache, sample_rate, **options)
        self.audio = self.root if audio else None
        self.group = (group,) if isinstance(group, str) else tuple(group or ())
        self.separator = separator

    def rows(self) -> ClipTable:
        """All clips.

        Raises:
            UserError: a manifest is missing, no row has a group that was asked for, or rows are bad; all of
                them are listed with file and line.
        """
        paths = [path for path, _ in self.files]
        if self.group and self.group != GROUP:
            refuse_absent_group(paths, self.group)
        options = (self.audio, self.group, self.separator)
        clips = remembered(
            paths,
            [[split for _, split in self.files], str(self.audio), *options[1:]],
            self.cache,
            lambda: read_manifests(self.files, *options),
        )
        self.notes += filter(None, (describe_unused(path, self.group) for path in paths))
        labels = clips.column("labels")
        joined = np.flatnonzero(labels.mapped(lambda those: any("," in label for label in those), bool))
        if len(joined) and self.separator is None:
            self.notes.append(
                f"{counted(len(joined), 'clips have')} a comma in a label, such as "
                f"{labels[joined[0]][0]!r}: if these are several, call the column `labels` and set "
                "data.separator=','."
            )
        groups = clips.column("group")
        if len(groups.used()) == 1 and not groups.lacks().any():
            return clips.replaced("group", Column.constant(None, len(clips)))
        return clips
