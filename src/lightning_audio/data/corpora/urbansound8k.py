"""UrbanSound8K: sounds of the city in ten folds (J. Salamon, C. Jacoby, J. P. Bello, ACM Multimedia 2014)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, located, read_csv
from lightning_audio.data.splits import split_by_fold, without_tested_groups
from lightning_audio.errors import UserError

TABLE = Path("metadata", "UrbanSound8K.csv")
COLUMNS = ("slice_file_name", "fsID", "fold", "classID", "class")
NUMBERS = ("fsID", "fold", "classID")


class UrbanSound8K(Corpus):
    """8,732 clips of up to 4 s in ten classes: `metadata/UrbanSound8K.csv` and `audio/foldN/`.

    The protocol: the mean accuracy over the ten folds as released, never a random split, which puts slices of
    one recording on both sides. `group` is the Freesound recording that a clip was cut from; what trains and
    is of a tested recording is in no split.

    Args:
        root: folder of the release; the files may be in any format.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the clips are to be read; the release has many, most 44,100.
        fold: the test fold.

    Raises:
        UserError: there is no such fold.
    """

    title = "UrbanSound8K"
    licence = "CC BY-NC 3.0"
    folds = tuple(range(1, 11))

    def __init__(self, root: str, cache: str, sample_rate: int = 22050, fold: int = 1) -> None:
        super().__init__(root, cache, sample_rate)
        if fold not in self.folds:
            raise UserError(f"There is no fold {fold!r} of UrbanSound8K: set data.fold to one of 1 to 10.")
        self.fold = fold

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        table = self.root / TABLE
        if not table.is_file():
            raise self.missing(table)
        return read_csv(table, COLUMNS, NUMBERS)

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the table is read
        """The classes in the order of their number in the release."""
        return tuple(dict(sorted((int(row["classID"]), row["class"]) for row in self._rows)).values())

    def clips(self) -> list[Clip]:
        """All clips; the id is the name of the file.

        Raises:
            UserError: the table or some of its files are missing, or it is damaged.
        """
        clips = [
            Clip(
                id=Path(row["slice_file_name"]).stem,
                path=str(self.root / "audio" / f"fold{row['fold']}" / row["slice_file_name"]),
                labels=(row["class"],),
                fold=int(row["fold"]),
                group=row["fsID"],
            )
            for row in self._rows
        ]
        return without_tested_groups(split_by_fold(located(clips, str(TABLE)), self.fold))
