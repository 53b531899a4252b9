"""Your own recordings in folders: ROOT/LABEL/FILE, or ROOT/SPLIT/LABEL/FILE."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_audio.data.clip import SPLIT_NAMES, Clip
from lightning_audio.data.corpora.user_recordings import OwnRecordings
from lightning_audio.data.decode import AUDIO_SUFFIXES, warn_of_unreadable
from lightning_audio.errors import UserError


class AudioFolder(OwnRecordings):
    """Audio files of any format and length, each with the name of its folder as its label.

    Files may lie deeper below their label; what is hidden and what is no audio is left alone. With `train`
    and `test` (and `val`, also called `valid`, `validation` or `dev`) above the labels, these are the split.
    A clip is named after its path below `root`.

    Args:
        root: folder with one folder for each label, or for each split.
        cache, sample_rate: as for every corpus.
        group: which files are not split over train and test: a regular expression that is searched for in
            each path below `root` (with `/`), whose first group, or else the whole match, names the group;
            `folder`, the folder within that of the label; or None, each file is a group.
        split: `test_share`, `num_folds`, `fold` and `split_seed` of OwnRecordings.

    Raises:
        UserError: `group` is no regular expression, or an argument is out of its range.
    """

    def __init__(
        self, root: str, cache: str, sample_rate: int = 16000, group: str | None = None, **split: Any
    ) -> None:
        super().__init__(root, cache, sample_rate, **split)
        self.group = group
        try:
            self._pattern = re.compile(group) if group and group != "folder" else None
        except re.error as error:
            raise UserError(f"data.group={group} is no regular expression ({error}): mend it.") from error

    def rows(self) -> list[Clip]:
        """All clips.

        Raises:
            UserError: there is no root, no label or only one, a label without audio, a split that is not
                whole, or a file that `group` does not match.
        """
        splits = self._splits()
        labels = {split: _folders(folder) for split, folder in splits.items()}
        self._refuse_labels(labels)
        others: list[Path] = []
        clips = [
            Clip(
                id=file.relative_to(self.root).as_posix(),
                path=str(file),
                labels=(_label(folder),),
                split=split,
                group=self._group(file, folder),
            )
            for split, folders in labels.items()
            for folder in folders
            for file in _audio_below(folder, others)
        ]
        warn_of_unreadable(others, self.root)
        return clips

    def _splits(self) -> dict[str | None, Path]:
        """The folders above the labels: those of the splits, or `root` itself."""
        if not self.root.is_dir():
            raise UserError(f"There is no folder {self.root}: set data.root to one that holds LABEL/FILE.")
        folders = _folders(self.root)
        named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
        strangers = [folder.name for folder in folders if folder not in named]
        splits: dict[str | None, Path] = {SPLIT_NAMES[folder.name.lower()]: folder for folder in named}
        if not named or (strangers and not {"train", "test"} & splits.keys()):
            return {None: self.root}  # a label may be called `valid`
        if strangers:
            raise UserError(
                f"{self.root} holds {named[0].name}/ beside {strangers[0]}/, which is no split: put the "
                "labels below train/ and test/, or have no folder of these names."
            )
        if len(splits) < len(named):
            names = ", ".join(folder.name for folder in named)
            raise UserError(f"{self.root} has two folders for one split ({names}): put them together.")
        for split in ("train", "test"):
            if split not in splits:
                raise UserError(
                    f"{self.root} has {named[0].name}/ but no {split}/: add it, or move the labels up into "
                    f"{self.root} for a split that is made here."
                )
        return splits

    def _refuse_labels(self, labels: dict[str | None, list[Path]]) -> None:
        names = {split: {_label(folder) for folder in folders} for split, folders in labels.items()}
        every = set().union(*names.values())
        if not every:
            raise UserError(f"{self.root} holds no folders of labels: put the audio into {self.root}/LABEL/.")
        trained = names.get("train", every)
        for split, found in names.items():
            missing = trained - found if split == "test" else set()
            if lone := sorted(found - trained) or sorted(missing):
                there, not_there = ("train", split) if lone[0] in missing else (split, "train")
                raise UserError(
                    f"The label {lone[0]!r} stands in {there}, but not in {not_there} ({len(lone)} such "
                    f"labels in {self.root}): give train and test the same labels."
                )
        if len(every) == 1:
            raise UserError(
                f"{self.root} holds only one label, {every.pop()!r}: there have to be two for a choice."
            )

    def _group(self, file: Path, label: Path) -> str | None:
        if self.group == "folder":
            below = file.relative_to(label).parts
            return below[0] if len(below) > 1 else None
        if self._pattern is None:
            return None
        name = file.relative_to(self.root).as_posix()
        match = self._pattern.search(name)
        found = match and match[1 if self._pattern.groups else 0]
        if not found:
            raise UserError(
                f"data.group={self.group} names no group in {name}: mend it so that it does in every path."
            )
        return found


def _label(folder: Path) -> str:
    """Its name; written on different systems, what looks the same may be different letters."""
    return unicodedata.normalize("NFC", folder.name)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _audio_below(label: Path, others: list[Path]) -> Iterator[Path]:
    """The audio files below the folder of a label, nothing hidden, in the order of their names.

    What is no audio is appended to `others`.
    """
    before, found = len(others), False
    for folder, within, names in os.walk(label, onerror=_refuse_unreadable):
        within[:] = sorted(name for name in within if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            if Path(name).suffix.lower() in AUDIO_SUFFIXES:
                found = True
                yield Path(folder, name)
            else:
                others.append(Path(folder, name))
    if not found:
        kinds = sorted({path.suffix or path.name for path in others[before:]})
        seen = f" (only {', '.join(kinds[:5])})" if kinds else ""
        raise UserError(
            f"The label folder {label} holds no audio{seen}: put {', '.join(AUDIO_SUFFIXES)} files there, or "
            "remove it."
        )


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} can't be read ({error.strerror}): change its rights.")
