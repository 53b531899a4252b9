"""FSD50K: 51,197 sounds of Freesound with 200 labels of AudioSet (E. Fonseca et al., TASLP 2022)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, located, read_csv
from lightning_audio.errors import UserError

TABLES = Path("FSD50K.ground_truth")
PARTS = {"dev": ("fname", "labels", "split"), "eval": ("fname", "labels")}


class FSD50K(Corpus):
    """`FSD50K.ground_truth/` with `dev.csv`, `eval.csv` and `vocabulary.csv`; `FSD50K.dev_audio/ID.wav` and
    `FSD50K.eval_audio/ID.wav`, 0.3 to 30 s.

    The protocol: train on the part `train` of dev and choose on its part `val`, which the table names and
    which keeps uploaders apart; test on eval; mean average precision over the 200 labels. Labels hold their
    parents, as in the release. For task=multilabel.

    Args:
        root: folder of the release; the files may be in any format.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the clips are to be read; the release has 44,100.
    """

    title = "FSD50K"
    licence = "CC BY 4.0 of the set; each clip has one of its own"

    def __init__(self, root: str, cache: str, sample_rate: int = 22050) -> None:
        super().__init__(root, cache, sample_rate)

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the table is read
        """Those of vocabulary.csv, in its order."""
        table = self.root / TABLES / "vocabulary.csv"
        if not table.is_file():
            raise self.missing(table)
        rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines() if line]
        if bad := [number for number, row in enumerate(rows, 1) if len(row) != 3]:
            raise UserError(f"{table} is damaged at line {bad[0]}: put the release's own table there.")
        return tuple(row[1] for row in rows)

    def clips(self) -> list[Clip]:
        """All clips of both parts; the id is the number of the sound at Freesound.

        Raises:
            UserError: a table or some of its files are missing, it is damaged, or has an unknown label.
        """
        clips, known = [], set(self.labels)
        for part, columns in PARTS.items():
            table = self.root / TABLES / f"{part}.csv"
            if not table.is_file():
                raise self.missing(table)
            for row in read_csv(table, columns, ("fname",)):
                labels = tuple(row["labels"].split(","))
                split = row["split"] if part == "dev" else "test"
                if unknown := set(labels) - known:
                    raise UserError(
                        f"{table} has the label {min(unknown)!r} of {row['fname']}, which is not in "
                        "vocabulary.csv: put the release's own tables there."
                    )
                path = self.root / f"FSD50K.{part}_audio" / f"{row['fname']}.wav"
                clips.append(Clip(row["fname"], str(path), labels=labels, split=split))
        return located(clips, f"{TABLES} of FSD50K")
