"""What released corpora of transcribed speech have in common: they are fetched, read and held to be whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, located
from lightning_audio.data.splits import deal_out, leaks
from lightning_audio.errors import UserError


class SpeechCorpus(Corpus):
    """A release in its own layout, with the transcript of every utterance as its authors wrote it.

    A subclass sets its `title` and says its `utterances`.
    """

    def __init__(self, root: str, cache: str, sample_rate: int = 16000, download: bool = False) -> None:
        super().__init__(root, cache, sample_rate, download)

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
        return located(self.utterances(), self.title)

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

    def columns(
        self, path: Path, wanted: Sequence[str], names: Sequence[str] | None = None
    ) -> list[list[str]]:
        """The cells of these columns of a table with tabs between them, row by row.

        No CSV: a quotation mark is one of the sentence. `names` are those of all columns where there is no
        header.

        Raises:
            UserError: there is no such table, it lacks a column, or a row has more or fewer cells.
        """
        lines, first = self.table(path), 1
        if names is None:
            names, lines, first = lines[0].split("\t"), lines[1:], 2
        if absent := [column for column in wanted if column not in names]:
            raise UserError(f"{path} has no column {', '.join(absent)}: put the table of the release there.")
        places, rows = [names.index(column) for column in wanted], []
        for number, line in enumerate(lines, start=first):
            cells = line.split("\t")
            if line and len(cells) != len(names):
                raise self.damaged(path, number, " ".join(names))
            rows += [[cells[place] for place in places]] if line else []
        return rows

    def of_language(self, language: str, *patterns: str) -> Path:
        """The first of these files below `root` that is there; `{}` stands for the language.

        Raises:
            UserError: there is none, with the languages that there are.
        """
        for pattern in patterns:
            if (path := self.root / pattern.format(language)).is_file():
                return path
        found = {
            str(path.relative_to(self.root)).removeprefix(before).removesuffix(behind)
            for before, behind in (pattern.split("{}") for pattern in patterns)
            for path in self.root.glob(f"{before}*{behind}")
        }
        if found:
            raise UserError(
                f"{self.root} has no {language!r} of {self.title}: set data.language to one of "
                f"{', '.join(sorted(found))}."
            )
        raise self.missing(self.root / patterns[0].format(language))

    def damaged(self, path: Path, line: int, expected: str) -> UserError:
        """The sentence for a line of a table that does not look as it should."""
        return UserError(
            f"{path} is damaged at line {line}, which is not `{expected}`: put the file of the release there."
        )


def part_groups(clips: Iterable[Clip]) -> list[Clip]:
    """The clips of a release whose splits stay as they are: a group that stands in several is one of each."""
    clips = list(clips)
    parted = leaks(clips).keys()
    return [
        replace(clip, group=f"{clip.group} ({clip.split})") if clip.group in parted else clip
        for clip in clips
    ]


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
