"""TED-LIUM 3: 452 hours of talks in English (F. Hernandez et al., SPECOM 2018, openslr.org/51)."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.speech import SpeechCorpus

PARTS = {"train": "data", "val": "legacy/dev", "test": "legacy/test"}
LINE = re.compile(r"(\S+) \S+ (\S+) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?) (?:<[^>]*>)?(.*)")
LEFT_OUT = "ignore_time_segment_in_scoring"


class TedLium3(SpeechCorpus):
    """`data/stm/TALK.stm` and `data/sph/TALK.sph` to train on, the same below `legacy/dev` and `legacy/test`.

    The protocol is the one that the paper calls legacy: 8 talks to choose and 11 to test on, as in earlier
    releases. An utterance is a segment of a talk; those that the release marks as not to be scored are left
    out. Transcripts are in lower case; suffixes that stand apart in them (`it 's`) are joined to their word,
    as Kaldi's recipe does, and `<unk>` is for the normaliser. `group` is the talk.

    Args:
        root: folder of the release.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the talks are to be read.
    """

    title = "TED-LIUM 3"
    licence = "CC BY-NC-ND 3.0"

    def __init__(self, root: str, cache: str, sample_rate: int = 16000) -> None:
        super().__init__(root, cache, sample_rate)

    def utterances(self) -> list[Clip]:
        """The segments; the id is the talk and the start in hundredths of a second.

        Raises:
            UserError: a part is missing, or a table is damaged.
        """
        clips = []
        for split, part in PARTS.items():
            folder = self.root / part
            tables = sorted(folder.glob("stm/*.stm"))
            if not tables:
                raise self.missing(folder / "stm" / "TALK.stm")
            clips += [clip for table in tables for clip in self._segments(table, folder / "sph", split)]
        return clips

    def _segments(self, table: Path, audio: Path, split: str) -> list[Clip]:
        clips = []
        for number, line in enumerate(self.table(table), start=1):
            if not line.strip() or line.startswith(";;"):
                continue
            match = LINE.fullmatch(line.strip())
            if match is None or float(match[3]) >= float(match[4]):
                raise self.damaged(table, number, "TALK CHANNEL SPEAKER START END <LABEL> TEXT")
            talk, _, start, end, text = match.groups()
            if text.strip() != LEFT_OUT:
                clips.append(
                    Clip(
                        id=f"{talk}-{round(100 * float(start)):07d}",
                        path=str(audio / f"{talk}.sph"),
                        start=float(start),
                        duration=round(float(end) - float(start), 3),
                        text=text.strip().replace(" '", "'"),
                        split=split,
                        group=talk,
                    )
                )
        return clips
