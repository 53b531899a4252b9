"""ESC-50 and its subset ESC-10: environmental sounds in five folds (K. J. Piczak, ACM Multimedia 2015)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, located, read_csv
from lightning_audio.data.download import Release
from lightning_audio.data.splits import split_by_fold, without_tested_groups
from lightning_audio.errors import UserError

COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
RELEASE = Release(
    f"https://github.com/karolpiczak/ESC-50/archive/{COMMIT}.zip",
    "661183a6f53ef04f12c9bd618fed0ddc1713280d6c94a5a5431e844ba6f6a21f",
    645_832_161,
    folder="ESC-50",
    sign="meta/esc50.csv",
    archive=f"ESC-50-{COMMIT[:7]}.zip",
    members=("audio", "meta", "LICENSE", "README.md"),
    strip=1,
)

TABLE = Path("meta", "esc50.csv")
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
CATEGORIES = {"esc50": 50, "esc10": 10}


class ESC50(Corpus):
    """2,000 clips of 5 s in 50 categories, or the 400 in 10 of ESC-10; one fold is the test split.

    `download` fetches the official archive into the cache and unpacks it as `root`, or as `ESC-50` in the
    cache where the folder above `root` cannot be written to. A release in `root` comes before that one.

    Args:
        root: folder with the release's `meta/esc50.csv` and `audio/`; the files may be in any format.
        cache: folder for the download.
        sample_rate: the rate in Hz at which the clips are to be read; the release has 44,100.
        download: fetch the release where it is not there.
        subset: `esc50` or `esc10`.
        fold: the test fold.

    Raises:
        UserError: there is no such subset or fold.
    """

    licence = "CC BY-NC 3.0; of the ESC-10 clips CC BY 3.0"
    folds = (1, 2, 3, 4, 5)

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 44100,
        download: bool = False,
        subset: str = "esc50",
        fold: int = 1,
    ) -> None:
        super().__init__(root, cache, sample_rate, download)
        if subset not in CATEGORIES:
            raise UserError(f"There is no subset {subset!r} of ESC-50: set data.subset to esc50 or esc10.")
        if fold not in self.folds:
            raise UserError(f"There is no fold {fold!r} of ESC-50: set data.fold to one of {self.folds}.")
        self.subset, self.fold, self.release = subset, fold, RELEASE

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the table is read
        """The categories in the order of their number in the release."""
        return tuple(
            dict(sorted({int(row["target"]): row["category"] for row in self._rows}.items())).values()
        )

    def clips(self) -> list[Clip]:
        """All clips of the subset; `group` is the Freesound recording that a clip was cut from.

        Four recordings of ESC-50 (131943, 134049, 209698, 234879; none within ESC-10) were cut for two
        categories that stand in different folds. The test fold stays as released; what else was cut from
        its recordings is in no split, which takes at most 3 of the 1,600 training clips.

        Raises:
            UserError: the table or some of its files are missing, or it holds less than the subset.
        """
        audio = self.folder / "audio"
        clips = [
            Clip(
                id=Path(row["filename"]).stem,
                path=str(audio / row["filename"]),
                labels=(row["category"],),
                fold=int(row["fold"]),
                group=row["src_file"],
            )
            for row in self._rows
        ]
        return without_tested_groups(split_by_fold(located(clips, str(TABLE)), self.fold))

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        table = self.folder / TABLE
        if not table.is_file():
            raise UserError(
                f"There is no {table}: put meta/ and audio/ of the ESC-50 release into {self.root}, fetch it "
                "with data.download=true, or set LIGHTNING_AUDIO_DATA to the folder that holds ESC-50."
            )
        rows = read_csv(table, COLUMNS, ("fold", "target"))
        if self.subset == "esc10":
            rows = [row for row in rows if row["esc10"] == "True"]
        found = len({row["category"] for row in rows})
        if self.subset == "esc50" and found == CATEGORIES["esc10"]:
            raise UserError(
                f"{self.root} holds only ESC-10: set data.subset=esc10, or set data.root to another folder "
                "and data.download=true for the full release."
            )
        if found < CATEGORIES[self.subset]:
            raise UserError(
                f"{table} has {found} of the {CATEGORIES[self.subset]} categories of {self.subset}: "
                "put the release's own table there."
            )
        return rows
