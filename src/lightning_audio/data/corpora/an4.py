"""AN4, the census of CMU: names, addresses and numbers, spelled and said (A. Acero 1993; CMU, 1991)."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import audio_in
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.data.download import Release
from lightning_audio.errors import UserError

SPLITS = ("train", "test")
# Test lines have no <s> and </s>; both end with the name of the utterance.
LINE = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<name>[^()\s]+)\)\s*")


class AN4(SpeechCorpus):
    """948 utterances of 74 speakers to train on and 130 of 10 others to test on, at 16 kHz.

    `etc/an4_SPLIT.transcription` has a line for each utterance and `etc/an4_SPLIT.fileids` its path below
    `wav/`, without a suffix. The release is in NIST's sphere files; those of a converted one may be in any
    format. It has no validation split: `loader.val_fraction` takes one. `group` is the speaker.

    Args:
        root: folder of the release, with `etc/` and `wav/`.
        cache: folder for the download.
        sample_rate: the rate in Hz at which the utterances are to be read.
        download: fetch the release where it is not there.
    """

    title = "AN4"
    release = Release(
        # A copy: the server of CMU is often down.
        "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
        "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
        64_327_561,
        folder="an4",
        sign="etc/an4_train.transcription",
        strip=1,
    )

    def utterances(self) -> list[Clip]:
        """The utterances of both splits; the id is the name of the file.

        Raises:
            UserError: a table is missing or damaged, they do not fit, or the audio has no headers (`.raw`).
        """
        raw = next(Path(self.folder, "wav").glob("*/*/*.raw"), None)
        if raw and not audio_in(raw.parent):
            raise UserError(
                f"{self.folder / 'wav'} holds AN4 as .raw files, which have no headers and cannot be read: "
                "put the release in sphere format (an4_sphere.tar.gz) there."
            )
        clips = []
        for split in SPLITS:
            paths = {PurePosixPath(row).name: row for row in self._rows(f"an4_{split}.fileids")}
            texts = self._texts(f"an4_{split}.transcription")
            if unlisted := sorted(texts.keys() ^ paths.keys()):
                raise UserError(
                    f"The fileids and the transcription of an4_{split} in {self.folder / 'etc'} differ, such "
                    f"as in {unlisted[0]}: put the files of the release there."
                )
            for name, text in texts.items():
                path = self.folder / "wav" / f"{paths[name]}.sph"
                clips.append(Clip(name, str(path), text=text, split=split, group=path.parent.name))
        return clips

    def _rows(self, name: str) -> list[str]:
        rows = [line.strip() for line in self.table(self.folder / "etc" / name)]
        return [row for row in rows if row]

    def _texts(self, name: str) -> dict[str, str]:
        texts = {}
        for number, row in enumerate(self._rows(name), start=1):
            match = LINE.fullmatch(row)
            if match is None:
                raise self.damaged(self.folder / "etc" / name, number, "<s> TRANSCRIPT </s> (NAME)")
            texts[match["name"]] = match["text"].strip()
        return texts
