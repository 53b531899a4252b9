"""What released corpora of transcribed speech have in common: they are fetched, read and held to be whole."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.decode import AUDIO_SUFFIXES
from lightning_audio.data.download import Release
from lightning_audio.data.splits import deal_out
from lightning_audio.errors import UserError


class SpeechCorpus(Corpus):
    """A release in its own layout, with the transcript of every utterance as its authors wrote it.

    A subclass sets `title` and, where it can be fetched, `release`, and says its `utterances`.
    """

    title: str
    release: Release | None = None

    def __init__(self, root: str, cache: str, sample_rate: int = 16000, download: bool = False) -> None:
        super().__init__(root, cache, sample_rate, download)

    def prepare(self) -> None:
        """Fetches the release, if that is wanted and it is not there."""
        if self.wants_download and self.release:
            self.release.fetch(self.root, self.cache)

    @property
    def folder(self) -> Path:
        """Where the release is: `root`, or what was fetched into the cache."""
        return self.release.find(self.root, self.cache) if self.release else self.root

    @abstractmethod
    def utterances(self) -> list[Clip]:
        """What the tables of the release list, each with `text`, `split` and `group`; audio is not looked at.

        Raises:
            UserError: a table is missing or damaged.
        """

    def clips(self) -> list[Clip]:
        """All utterances, in whatever format their audio is there: mirrors convert it.

        Raises:
            UserError: the release is not there, a table is damaged, or audio files that it lists are missing.
        """
        clips, missing = self.utterances(), []
        # Each folder is listed once: to ask for each of 100,000 files takes minutes on a network drive.
        folders = {folder: audio_in(folder) for folder in sorted({Path(clip.path).parent for clip in clips})}
        found = []
        for clip in clips:
            path = Path(clip.path)
            names = folders[path.parent].get(path.stem, ())
            missing += [] if names else [path]
            found.append(
                clip if path.name in names or not names else replace(clip, path=str(path.with_name(names[0])))
            )
        if missing:
            raise UserError(
                f"{len(missing)} of {len(clips)} audio files that {self.title} lists are not there, such as "
                f"{', '.join(map(str, sorted(missing)[:3]))}: the release is not whole, unpack it anew."
            )
        return found

    def table(self, path: Path) -> list[str]:
        """The lines of a table of the release, without their ends.

        Raises:
            UserError: there is no such file, or it is not UTF-8.
        """
        if not path.is_file():
            raise self.missing(path)
        try:
            # Not splitlines, which also breaks at what Unicode takes for the end of a line.
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8: put the file of the release there.") from None
        return [line.removesuffix("\r") for line in lines]

    def missing(self, path: Path) -> UserError:
        """The sentence for a part of the release that is not there, with what may be done about it."""
        fetched = "fetch it with data.download=true, " if self.release else ""
        return UserError(
            f"There is no {path}: put the release of {self.title} into {self.root}, {fetched}or set "
            f"LIGHTNING_AUDIO_DATA to the folder that holds {self.root.name}."
        )

    def damaged(self, path: Path, line: int, expected: str) -> UserError:
        """The sentence for a line of a table that does not look as it should."""
        return UserError(
            f"{path} is damaged at line {line}, which is not `{expected}`: put the file of the release there."
        )


def audio_in(folder: Path) -> dict[str, list[str]]:
    """The audio files of a folder by their name without its suffix; the format that reads best first."""
    found: dict[str, list[str]] = defaultdict(list)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    for suffix in AUDIO_SUFFIXES:
        for name in names:
            if Path(name).suffix.lower() == suffix and not name.startswith("."):
                found[Path(name).stem].append(name)
    return found


def split_by_seed(clips: Sequence[Clip], val_share: float, test_share: float, seed: int) -> list[Clip]:
    """All clips in a split that depends on the seed and the groups alone, for a release that has none.

    Raises:
        UserError: the shares leave a split empty, or are none.
    """
    for key, share in {"val_share": val_share, "test_share": test_share}.items():
        if not 0 < share < 1 or val_share + test_share >= 1:
            raise UserError(
                f"data.{key}={share} leaves a split empty: set both shares above 0, together below 1."
            )
    train = [replace(clip, split="train") for clip in clips]
    split = deal_out(deal_out(train, test_share, seed, "test"), val_share / (1 - test_share), seed)
    for key in ("val", "test"):
        if not any(clip.split == key for clip in split):
            raise UserError(
                f"data.{key}_share is less than one group of the {len(clips)} utterances: raise it."
            )
    return split
