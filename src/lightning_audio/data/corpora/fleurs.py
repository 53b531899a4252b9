"""FLEURS: 2,000 sentences of Wikipedia read in each of 102 languages (A. Conneau et al., SLT 2022)."""

from __future__ import annotations

from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.errors import UserError

SPLITS = {"train": "train", "dev": "val", "test": "test"}
NAMES = ("id", "file_name", "raw_transcription", "transcription", "characters", "num_samples", "gender")
TEXTS = {"written": "raw_transcription", "normalised": "transcription"}


class Fleurs(SpeechCorpus):
    """`LANGUAGE/SPLIT.tsv`, seven columns without a header, and `LANGUAGE/audio/SPLIT/FILE.wav`.

    The splits are those of the release. Nothing names the speakers; `group` is the sentence, which several
    people read.

    Args:
        root: folder in which the languages lie.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the sentences are to be read.
        language: its code in the release, such as `de_de` or `en_us`.
        text: `normalised`, in lower case without punctuation, or `written`.

    Raises:
        UserError: there is no such text.
    """

    title = "FLEURS"
    licence = "CC BY 4.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        language: str = "en_us",
        text: str = "normalised",
    ) -> None:
        super().__init__(root, cache, sample_rate)
        if text not in TEXTS:
            raise UserError(
                f"There is no text {text!r} in FLEURS: set data.text to one of {', '.join(TEXTS)}."
            )
        self.language, self.wanted = language, ("id", "file_name", TEXTS[text])

    def utterances(self) -> list[Clip]:
        """The sentences of the three tables; the id is the split and the name of the file.

        Raises:
            UserError: there is no such language, or a table is missing or damaged.
        """
        folder = self.of_language(self.language, "{}/train.tsv", "data/{}/train.tsv").parent
        return [
            Clip(
                id=f"{name}-{Path(file).stem}",
                path=str(folder / "audio" / name / file),
                text=text,
                split=split,
                group=sentence,
            )
            for name, split in SPLITS.items()
            for sentence, file, text in self.columns(folder / f"{name}.tsv", self.wanted, NAMES)
        ]
