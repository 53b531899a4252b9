"""Corpus: what a corpus has to say. One file beside this one for each."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.decode import AUDIO_SUFFIXES
from lightning_audio.data.download import Release
from lightning_audio.data.splits import deal_out, validate_by_fold
from lightning_audio.errors import UserError


class Corpus(ABC):
    """Where the audio of a corpus is and what its official split is; no audio is read here.

    A subclass sets `labels` in the order of the class indices and, where it can be fetched, its `release`.
    Where the protocol is cross-validation it also sets `folds` and takes `fold`, the one that is tested on.

    Args:
        root: folder of the release, in the release's own layout; it may be read-only.
        cache: folder that may be written to, for what is made or fetched.
        sample_rate: the rate in Hz at which the clips are to be read.
        download: fetch the release where it is not there.
    """

    title: str = ""  # its name, as errors tell it
    licence: str = ""  # that of its audio, as its release says it
    release: Release | None = None
    labels: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    fold: int = 0  # the test fold, where there are folds
    validation_fold: int | str | None = None  # the fold that is validation: data.validation_fold, by build.py
    split_from_table = (
        False  # whether it splits the clips of shards itself: `shard_rows`, which it is given then
    )
    shard_rows: Sequence[Clip] | None = None
    # What every word of its transcripts is scored as, where that is not the word itself; "" for nothing.
    scored_as: Mapping[str, str] = {}

    def __init__(self, root: str, cache: str, sample_rate: int, download: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.cache = Path(cache).expanduser()
        if not isinstance(sample_rate, int) or sample_rate < 1:
            raise UserError(f"data.sample_rate={sample_rate} is no rate: set it to a whole number of Hz.")
        self.sample_rate = sample_rate
        self.wants_download = download

    @property
    def name(self) -> str:
        """What a reader of results knows it by."""
        return type(self).__name__

    def prepare(self) -> None:
        """Makes or fetches what is not there yet; called once, by one process, before `clips`."""
        if self.wants_download and self.release:
            self.release.fetch(self.root, self.cache)

    @property
    def folder(self) -> Path:
        """Where the release is: `root`, or what was fetched into the cache."""
        return self.release.find(self.root, self.cache) if self.release else self.root

    @abstractmethod
    def clips(self) -> Sequence[Clip]:
        """All clips, each with its split, in any order.

        Raises:
            UserError: the release is not where it should be, or is not whole.
        """

    def missing(self, path: Path) -> UserError:
        """The sentence for a part of the release that is not there, with what may be done about it."""
        fetched = "fetch it with data.download=true, " if self.release else ""
        return UserError(
            f"There is no {path}: put the release of {self.title} into {self.root}, {fetched}or set "
            f"LIGHTNING_AUDIO_DATA to the folder that holds {self.root.name}."
        )

    def draw_validation(self, clips: Sequence[Clip], share: float, seed: int) -> Sequence[Clip]:
        """The clips with this share of those of training, whole groups, in the split `val`."""
        return deal_out(clips, share, seed)

    def with_validation(self, clips: Sequence[Clip], val_fraction: float, seed: int) -> ClipTable:
        """The clips with a share of those of training moved to val, where there is none; or a whole fold.

        Raises:
            UserError: the share is less than any group of clips; or there is no such fold beside the test.
        """
        if self.validation_fold is not None:
            if val_fraction:
                raise UserError("data.validation_fold and loader.val_fraction both hold out: leave one out.")
            return ClipTable.of(validate_by_fold(clips, self.validation_fold, self.fold))
        clips = ClipTable.of(clips)
        if not val_fraction or clips.column("split").equals("val").any():
            return clips
        clips = ClipTable.of(self.draw_validation(clips, val_fraction, seed))
        if not clips.column("split").equals("val").any():
            raise UserError(
                f"loader.val_fraction={val_fraction} is less than one clip (or group of clips) of any label: "
                "raise it, or set it to 0."
            )
        return clips

    def remarks(self) -> list[str]:
        """What a user should know of the tables or folders that the clips come from, a sentence each."""
        return []

    def draw(self, clips: Sequence[Clip], rng: np.random.Generator) -> np.ndarray:
        """The positions in `clips`, those of the training split, that make one epoch, in any order.

        All of them, unless a corpus draws a part afresh; then it is one of equal size in every epoch.
        """
        return np.arange(len(clips), dtype=np.int32)


def read_csv(table: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table of a release, which is there.

    Raises:
        UserError: it lacks one of these columns, or a row a cell, or one of `numbers` is no whole number.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8: put the release's own table there.") from None
    if absent := [column for column in columns if column not in (reader.fieldnames or ())]:
        raise UserError(f"{table} has no column {', '.join(absent)}: put the release's own table there.")
    for line, row in enumerate(rows, start=2):
        if None in row.values() or not all(row[column].isdecimal() for column in numbers):
            raise UserError(f"{table} is damaged at line {line}: put the release's own table there.")
    return rows


def located(clips: Sequence[Clip], title: str) -> list[Clip]:
    """The clips of a release with the path of their audio in whatever format it is there: mirrors convert it.

    Raises:
        UserError: files are missing.
    """
    # Each folder is listed once: to ask for each of 100,000 files takes minutes on a network drive.
    folders = {folder: audio_in(folder) for folder in sorted({Path(clip.path).parent for clip in clips})}
    found, missing = [], []
    for clip in clips:
        path = Path(clip.path)
        names = folders[path.parent].get(path.stem, [])
        missing += [] if names else [path]
        is_there = path.name in names or not names
        found.append(clip if is_there else replace(clip, path=str(path.with_name(names[0]))))
    if missing:
        raise UserError(
            f"{len(missing)} of {len(clips)} audio files that {title} lists are not there, such as "
            f"{', '.join(map(str, sorted(missing)[:3]))}: the release is not whole, unpack it anew."
        )
    return found


def audio_in(folder: Path) -> dict[str, list[str]]:
    """The audio files of a folder by their name without its suffix; the format that reads best first."""
    found: dict[str, list[str]] = defaultdict(list)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for suffix in AUDIO_SUFFIXES:
        for name in names:
            if Path(name).suffix.lower() == suffix and not name.startswith("."):
                found[Path(name).stem].append(name)
    return found
