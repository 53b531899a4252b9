"""Multilingual LibriSpeech: audiobooks in eight languages (V. Pratap et al., Interspeech 2020)."""

from __future__ import annotations

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.errors import UserError

SPLITS = {"train": "train", "dev": "val", "test": "test"}
LIMITED = "train/limited_supervision"


class MultilingualLibriSpeech(SpeechCorpus):
    """`mls_LANGUAGE/SPLIT/transcripts.txt` and `audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac` (or `.opus`).

    The splits are those of the release, which share no speaker; `group` is the speaker. Transcripts are in
    lower case without punctuation.

    Args:
        root: folder in which the languages lie.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the utterances are to be read.
        language: `german`, `dutch`, `french`, `spanish`, `italian`, `portuguese`, `polish` or `english`.
        limited: train on the ten hours of `limited_supervision` alone.
    """

    title = "Multilingual LibriSpeech"
    licence = "CC BY 4.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        language: str = "german",
        limited: bool = False,
    ) -> None:
        super().__init__(root, cache, sample_rate)
        self.language, self.limited = language, limited

    def utterances(self) -> list[Clip]:
        """The utterances of the three tables; the id is the name of the file.

        Raises:
            UserError: there is no such language, or a table is missing or damaged.
        """
        tables = [f"mls_{{}}{form}/train/transcripts.txt" for form in ("", "_opus")]
        folder = self.of_language(self.language, *tables).parents[1]
        lists = sorted(folder.glob(f"{LIMITED}/*/handles.txt")) + sorted(
            folder.glob(f"{LIMITED}/*/*/handles.txt")
        )
        if self.limited and not lists:
            raise UserError(f"{folder / LIMITED} has no handles.txt: unpack the release anew.")
        handles = {name for path in lists if self.limited for name in self.table(path)}
        clips = []
        for name, split in SPLITS.items():
            table = folder / name / "transcripts.txt"
            for number, (utterance, text) in enumerate(
                self.columns(table, ("id", "text"), ("id", "text")), 1
            ):
                speaker, _, book = utterance.rpartition("_")[0].partition("_")
                if not book:
                    raise self.damaged(table, number, "SPEAKER_BOOK_NUMBER TEXT")
                path = folder / name / "audio" / speaker / book / f"{utterance}.flac"
                if not handles or split != "train" or utterance in handles:
                    clips.append(Clip(utterance, str(path), text=text, split=split, group=speaker))
        return clips
