"""VoxPopuli: speeches in the European Parliament, transcribed in 16 languages (C. Wang et al., ACL 2021)."""

from __future__ import annotations

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus, part_groups
from lightning_audio.data.folders import files_below
from lightning_audio.errors import UserError

SPLITS = {"train": "train", "dev": "val", "test": "test"}
TEXTS = {"written": "raw_text", "normalised": "normalized_text"}


class VoxPopuli(SpeechCorpus):
    """`LANGUAGE/asr_SPLIT.tsv` in `root`, or in `transcribed_data` or `data` of it, and the audio by its id
    anywhere beside (`YEAR/ID.ogg` by the release's own program).

    The splits are those of the release. `group` is the speaker; one who stands in several splits counts as
    one of each.

    Args:
        root: folder in which the languages lie, or one above it.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the utterances are to be read.
        language: its code, such as `en` or `de`.
        text: `normalised`, in lower case without punctuation, or `written`.

    Raises:
        UserError: there is no such text.
    """

    title = "VoxPopuli"
    licence = "CC0 1.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        language: str = "en",
        text: str = "normalised",
    ) -> None:
        super().__init__(root, cache, sample_rate)
        if text not in TEXTS:
            raise UserError(
                f"There is no text {text!r} in VoxPopuli: set data.text to one of {', '.join(TEXTS)}."
            )
        self.language, self.wanted = language, ("id", TEXTS[text], "speaker_id")

    def utterances(self) -> list[Clip]:
        """The utterances of the three tables, but those without a transcript.

        Raises:
            UserError: there is no such language, or a table is missing or damaged.
        """
        places = [f"{above}{{}}/asr_train.tsv" for above in ("transcribed_data/", "", "data/")]
        folder = self.of_language(self.language, *places).parent
        audio = {path.stem: path for path in files_below(folder)}
        return part_groups(
            Clip(
                id=name,
                path=str(audio.get(name, folder / name[:4] / f"{name}.ogg")),
                text=text,
                split=split,
                group=None if speaker == "None" else speaker or None,
            )
            for part, split in SPLITS.items()
            for name, text, speaker in self.columns(folder / f"asr_{part}.tsv", self.wanted)
            if text.strip()
        )
