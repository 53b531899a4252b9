"""YesNo: one man says yes and no in Hebrew, eight words an utterance (the Kaldi project, openslr.org/1)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import audio_in
from lightning_audio.data.corpora.speech import SpeechCorpus, split_by_seed
from lightning_audio.data.download import Release
from lightning_audio.errors import UserError

NAME = re.compile(r"[01](_[01])*")


class YesNo(SpeechCorpus):
    """`0_0_1_1_0_0_1_0.wav`, 60 utterances at 8 kHz; in the name 0 stands for no and 1 for yes.

    There is no official split: one is made here, which depends on `split_seed` alone.

    Args:
        root: folder of the release, with the audio itself.
        cache: folder for the download.
        sample_rate: the rate in Hz at which the utterances are to be read; the release has 8,000.
        download: fetch the release where it is not there.
        words: how no and yes are written; as they are said, `[LO, KEN]`.
        val_share, test_share: of the utterances, to choose a checkpoint on and to test on.
        split_seed: another seed makes another split.

    Raises:
        UserError: there are not two words.
    """

    title = "YesNo"
    release = Release(
        "https://www.openslr.org/resources/1/waves_yesno.tar.gz",
        "c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
        4_703_754,
        folder="waves_yesno",
        sign=".",
        strip=1,
    )

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 8000,
        download: bool = False,
        words: Sequence[str] = ("NO", "YES"),
        val_share: float = 0.1,
        test_share: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, cache, sample_rate, download)
        if len(words) != 2 or not all(isinstance(word, str) and word for word in words):
            raise UserError(
                f'data.words={words} are not two words: set it to how no and yes are written, ["NO", "YES"].'
            )
        self.words = tuple(words)
        self.split = (val_share, test_share, split_seed)

    def utterances(self) -> list[Clip]:
        """All utterances; the id is the name of the file."""
        names = sorted(name for name in audio_in(self.folder) if NAME.fullmatch(name))
        if not names:
            raise self.missing(self.folder / "0_0_0_0_1_1_1_1.wav")
        clips = [
            Clip(
                name,
                str(self.folder / f"{name}.wav"),
                text=" ".join(self.words[int(n)] for n in name.split("_")),
            )
            for name in names
        ]
        return split_by_seed(clips, *self.split)
