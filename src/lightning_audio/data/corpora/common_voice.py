"""Common Voice: sentences that volunteers read, in many languages (R. Ardila et al., LREC 2020)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.errors import UserError

TABLES = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
COLUMNS = ("client_id", "path", "sentence")
RELEASES = "cv-corpus-*"
ADDRESS = "https://commonvoice.mozilla.org/datasets"


class CommonVoice(SpeechCorpus):
    """`cv-corpus-VERSION/LANGUAGE/` with `train.tsv`, `dev.tsv`, `test.tsv` and `clips/*.mp3`.

    The three tables are the official split, which keeps the clips of a voice together; `group` is the voice
    (`client_id`). Sentences are as written, with capitals and punctuation.

    Args:
        root: folder in which the releases lie.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the clips are to be read.
        language: its code, such as `en`; the name of a folder of the release.
        release: name of the release's folder; by default the only one in `root`.
    """

    title = "Common Voice"
    licence = "CC0 1.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        language: str = "en",
        release: str | None = None,
    ) -> None:
        super().__init__(root, cache, sample_rate)
        self.language, self.version = language, release

    @cached_property
    def folder(self) -> Path:  # looked for once
        """Where the tables of the language are.

        Raises:
            UserError: there is no such release or language, or there are several releases.
        """
        found = sorted(path.name for path in self.root.glob(self.version or RELEASES) if path.is_dir())
        if not found:
            raise UserError(
                f"There is no {self.version or RELEASES} in {self.root}: Common Voice cannot be fetched "
                f"without an account, so get it at {ADDRESS} and unpack it there."
            )
        if len(found) > 1:
            raise UserError(f"{self.root} holds {', '.join(found)}: set data.release to one of them.")
        release = self.root / found[0]
        languages = sorted(path.parent.name for path in release.glob(f"*/{TABLES['train']}"))
        if self.language not in languages:
            raise UserError(
                f"{release} has no {TABLES['train']} of the language {self.language!r}: set data.language to "
                f"one of {', '.join(languages) or 'those that you unpack there'}."
            )
        return release / self.language

    def utterances(self) -> list[Clip]:
        """The clips of the three tables; the id is the name of the file."""
        return [
            Clip(Path(name).stem, str(self.folder / "clips" / name), text=text, split=split, group=voice)
            for split, table in TABLES.items()
            for voice, name, text in self.columns(self.folder / table, COLUMNS)
        ]
