"""Your own recordings in folders: ROOT/LABEL/FILE, or ROOT/SPLIT/LABEL/FILE."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_audio.data.clip import SPLIT_NAMES, Clip, clean_label
from lightning_audio.data.corpora.user_recordings import OwnRecordings
from lightning_audio.data.decode import AUDIO_SUFFIXES, UNREADABLE, warn_of_unreadable
from lightning_audio.data.folders import files_below
from lightning_audio.errors import UserError, counted

FOLD = re.compile(r"(fold|part|split|set)[\W_]*\d+")


class AudioFolder(OwnRecordings):
    """Audio files of any format and length, each with the name of its folder as its label.

    Files may lie deeper below their label, links to folders are followed; what is hidden and what is no audio
    is left alone. With `train` and `test` (and `val`) above the labels, these are the split. They may have
    any name that Hugging Face's audiofolder knows: train, training; test, testing, eval, evaluation; val,
    valid, validation, dev; or have it as a word of theirs (`my_train-set`). A clip is named after its path
    below `root`.

    Args:
        root: folder with one folder for each label, or for each split.
        cache, sample_rate: as for every corpus.
        group: which files are not split over train and test: a regular expression that is searched for in
            each path below `root` (with `/`), whose first group, or else the whole match, names the group;
            `folder`, the folder within that of the label; or None, each file is a group.
        options: `channel`, `test_share`, `num_folds`, `fold` and `split_seed` of OwnRecordings.

    Raises:
        UserError: `group` is no regular expression, or an argument is out of its range.
    """

    def __init__(
        self, root: str, cache: str, sample_rate: int = 16000, group: str | None = None, **options: Any
    ) -> None:
        super().__init__(root, cache, sample_rate, **options)
        self.group = group
        try:
            self._pattern = re.compile(group) if group and group != "folder" else None
        except re.error as error:
            raise UserError(f"data.group={group} is no regular expression ({error}): mend it.") from error

    def rows(self) -> list[Clip]:
        """All clips.

        Raises:
            UserError: there is no root or no label, a label without audio, a split that is not whole or
                stands below the labels, or a file that `group` does not match.
        """
        splits = self._splits()
        labels = {split: _folders(folder) for split, folder in splits.items()}
        if not any(labels.values()):
            raise UserError(f"{self.root} holds no folders of labels: put the audio into {self.root}/LABEL/.")
        others: list[Path] = []
        files = {
            (split, folder): _audio_below(folder, others)
            for split, folders in labels.items()
            for folder in folders
        }
        self._look_below_labels(files)
        self._note_loose_files({self.root, *splits.values()})
        warn_of_unreadable(others, self.root)
        stems = Counter(file.with_suffix("") for found in files.values() for file in found)
        if twice := [stem.relative_to(self.root).as_posix() for stem, n in stems.items() if n > 1]:
            self.notes.append(
                f"{counted(len(twice), 'recordings are')} there in two formats, such as {twice[0]}, and "
                "count twice: leave out one of each."
            )
        return [
            Clip(
                id=file.relative_to(self.root).as_posix(),
                path=str(file),
                labels=(clean_label(folder.name),),
                split=split,
                group=self._group(file, folder) or (str(stem) if stems[stem] > 1 else None),
            )
            for (split, folder), found in files.items()
            for file, stem in ((file, file.with_suffix("")) for file in found)
        ]

    def _splits(self) -> dict[str | None, Path]:
        """The folders above the labels: those of the splits, or `root` itself."""
        if not self.root.is_dir():
            raise UserError(f"There is no folder {self.root}: set data.root to one that holds LABEL/FILE.")
        folders = _folders(self.root)
        named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
        strangers = [folder.name for folder in folders if folder not in named]
        splits: dict[str | None, Path] = {SPLIT_NAMES[folder.name.lower()]: folder for folder in named}
        if strangers and not {"train", "test"} <= splits.keys() and (by_word := _splits_by_word(folders)):
            return by_word
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

    def _look_below_labels(self, files: Mapping[tuple[str | None, Path], Sequence[Path]]) -> None:
        """Whether `root` is one level too high, or what stands below the labels should stand above them.

        Raises:
            UserError: `root` holds nothing but the folder with the labels, or each label a train and a test.
        """
        below: dict[Path, list[str]] = {}  # folders below each label
        with_own: set[Path] = set()  # labels with audio of their own
        for (_, label), found in files.items():
            parts = [file.relative_to(label).parts for file in found]
            below[label] = sorted({part[0] for part in parts if len(part) > 1})
            with_own |= {label} if any(len(part) == 1 for part in parts) else set()
        for label, within in below.items():
            splits = {SPLIT_NAMES.get(name.lower()) for name in within}
            if {"train", "test"} <= splits <= {"train", "val", "test"}:
                raise UserError(
                    f"The label folder {label} holds {', '.join(within)}: put these above the labels, as "
                    f"{within[0]}/{label.name}/, since they are the split."
                )
            if named := [name for name in within if name.lower() in SPLIT_NAMES]:
                self.notes.append(
                    f"The label folder {label} holds {named[0]}/, taken for a part of {label.name}: if it "
                    f"is a split, it belongs above the labels, as {named[0]}/{label.name}/."
                )
            beside = {other.name for other in with_own if other.parent == label.parent}
            if within and label not in with_own and beside.issuperset(within):
                raise UserError(
                    f"The folder {label} holds {', '.join(within)}, which are labels beside it: put its "
                    "audio into these, or, if it is a split, all labels below train/ and test/."
                )
        names = sorted({label.name for label in below})
        if len(names) > 1 and all(FOLD.fullmatch(name.lower()) for name in names):
            mend = "if they are, give a manifest with path, label and fold (data=manifest)"
            self.notes.append(f"The labels {', '.join(names[:3])} read like folds: {mend}.")
        label, within = next(iter(below.items()))
        if with_own or self.group is not None:
            return
        if len(below) == 1 and len(within) > 1:
            raise UserError(
                f"{self.root} holds one folder, {label.name}/, and that {', '.join(within[:3])}: set "
                f"data.root={label} if these are the labels or the splits, otherwise add a second label."
            )
        if len(below) > 1 and sum(map(len, below.values())) > len(below):
            alike = "the same folders" if len(set(map(tuple, below.values()))) == 1 else "folders"
            self.notes.append(
                f"All labels in {self.root} hold {alike}, such as {label.name}/{within[0]}/: if these are "
                f"the labels, and {label.name}/ is a split, call it train/ or test/, or set data.root to it; "
                "if they are speakers or sessions, set data.group=folder, or the split cuts them apart."
            )

    def _note_loose_files(self, folders: Iterable[Path]) -> None:
        loose = [
            file
            for folder in sorted(folders)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
        if loose:
            self.notes.append(
                f"{counted(len(loose), 'files')} beside the folders of labels in {self.root} left out, such "
                f"as {loose[0].relative_to(self.root)}: put audio into the folder of its label."
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


def _splits_by_word(folders: Sequence[Path]) -> dict[str | None, Path] | None:
    """The folders by the split that a word of their names says; None unless all of them have another one,
    train and test among them: a label may be called `train_horn`."""
    words = [re.split(r"[\W_\d]+", folder.name.lower()) for folder in folders]
    splits = [{SPLIT_NAMES.get(word.removesuffix("set")) for word in found} - {None} for found in words]
    named: dict[str | None, Path] = {
        next(iter(found)): folder for found, folder in zip(splits, folders, strict=True) if len(found) == 1
    }
    return named if len(named) == len(folders) and {"train", "test"} <= named.keys() else None


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _audio_below(label: Path, others: list[Path]) -> list[Path]:
    """The audio files below the folder of a label; what is no audio is appended to `others`."""
    files = [*files_below(label)]
    audio = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
    others += [file for file in files if file.suffix.lower() not in AUDIO_SUFFIXES]
    if not audio:
        kinds = sorted({path.suffix or path.name for path in files})
        seen = f" (only {', '.join(kinds[:5])})" if kinds else ""
        mend = "convert it to WAV or FLAC" if UNREADABLE.intersection(kinds) else "put some there"
        raise UserError(
            f"The label folder {label} holds no audio that can be read{seen}: {mend}, or remove the folder."
        )
    return audio
