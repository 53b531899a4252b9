"""LJ Speech: 24 hours of one woman who reads seven books (K. Ito & L. Johnson 2017, keithito.com)."""

from __future__ import annotations

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus, split_by_seed
from lightning_audio.data.download import Release
from lightning_audio.errors import UserError

COLUMNS = {"written": 1, "normalised": 2}


class LJSpeech(SpeechCorpus):
    """`metadata.csv`, three columns between vertical bars, and `wavs/LJNNN-NNNN.wav`: 13,100 at 22,050 Hz.

    There is no official split: one is made here, which depends on `split_seed` alone. `group` is one of
    the 50 recordings (`LJ001`) that the utterances were cut from: a split holds whole ones.

    Args:
        root: folder of the release.
        cache: folder for the download.
        sample_rate: the rate in Hz at which the utterances are to be read.
        download: fetch the release where it is not there.
        text: the column of the transcript: `normalised`, where numbers and abbreviations are spelled out, or
            `written`.
        val_share, test_share: of the utterances, to choose a checkpoint on and to test on.
        split_seed: another seed makes another split.

    Raises:
        UserError: there is no such column.
    """

    title = "LJ Speech"
    licence = "public domain"
    release = Release(
        "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
        "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
        2_748_572_632,
        folder="LJSpeech-1.1",
        sign="metadata.csv",
        strip=1,
    )

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        download: bool = False,
        text: str = "normalised",
        val_share: float = 0.05,
        test_share: float = 0.05,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, cache, sample_rate, download)
        if text not in COLUMNS:
            raise UserError(
                f"There is no text {text!r} in LJ Speech: set data.text to one of {', '.join(COLUMNS)}."
            )
        self.column = COLUMNS[text]
        self.split = (val_share, test_share, split_seed)

    def utterances(self) -> list[Clip]:
        """All utterances; the id is the name of the file."""
        table = self.folder / "metadata.csv"
        clips = []
        for number, line in enumerate(self.table(table), start=1):
            if not line:
                continue
            cells = line.split("|")  # no CSV: a quotation mark is one that is read out
            if len(cells) != 3:
                raise self.damaged(table, number, "NAME|AS WRITTEN|NORMALISED")
            name, text = cells[0], cells[self.column]
            path = self.folder / "wavs" / f"{name}.wav"
            clips.append(Clip(name, str(path), text=text, group=name.partition("-")[0]))
        return split_by_seed(clips, *self.split)
