"""TIMIT: read sentences with the time of every phone (J. Garofolo et al. 1993, LDC93S1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import groupby
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import audio_in
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.data.folders import files_below
from lightning_audio.errors import UserError

RATE = 16000  # of the sample numbers in .PHN files
PHONES = """
    aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh
    k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh
"""
# What others become of the 61 phones among the 48 that are trained, and of these among the 39 that are
# scored; the glottal stop goes (K.-F. Lee and H.-W. Hon, IEEE Trans. ASSP 37(11), 1989).
AMONG_48 = {
    **{"ax-h": "ax", "axr": "er", "em": "m", "nx": "n", "eng": "ng", "hv": "hh", "ux": "uw", "q": ""},
    **{
        "pcl": "cl",
        "tcl": "cl",
        "kcl": "cl",
        "bcl": "vcl",
        "dcl": "vcl",
        "gcl": "vcl",
        "h#": "sil",
        "pau": "sil",
    },
}
AMONG_39 = {
    **{"ao": "aa", "ax": "ah", "ix": "ih", "el": "l", "en": "n", "zh": "sh"},
    **{"cl": "sil", "vcl": "sil", "epi": "sil"},
}
TO_48 = {phone: AMONG_48.get(phone, phone) for phone in PHONES.split()}
TO_39 = {phone: AMONG_39.get(among, among) for phone, among in TO_48.items()}
TO_39 |= {among: AMONG_39.get(among, among) for among in {*TO_48.values()} - {""}}
CORE_TEST = """
    mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0
    mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0
"""
# The 50 of the test folder that are usually validated on (A. Halberstadt 1998; Kaldi's dev_spk.list).
VALIDATION = """
    faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0
    mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0
    mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1
"""
TRAINED = 462  # speakers
SPLIT_OF = dict.fromkeys(CORE_TEST.split(), "test") | dict.fromkeys(VALIDATION.split(), "val")


class Timit(SpeechCorpus):
    """`TRAIN/DR1/FCJF0/SX37.PHN` and `.WAV` (NIST's sphere) beside it, in capitals or not, at any depth of
    `root`; mirrors hold the audio in any format, also as `SX37.WAV.wav`.

    The usual protocol: the two sentences that everybody reads (SA) are left out; 462 speakers and 3,696
    sentences to train on, 50 speakers of the test folder and 400 to validate on, its 24 of the core test and
    192 to test on; the others are in no split. A transcript is the phones, each as a word; whatever was
    trained on is scored as the 39 classes of Lee and Hon (`scored_as`), silence among them. `group` is the
    speaker.

    Args:
        root: folder of the release, or one above it.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the sentences are to be read; the release has 16,000.
        phones: 48 of Lee and Hon to train on, or the 61 of the release, as Graves did.

    Raises:
        UserError: another number of phones.
    """

    title = "TIMIT"
    scored_as = TO_39

    def __init__(self, root: str, cache: str, sample_rate: int = RATE, phones: int = 48) -> None:
        super().__init__(root, cache, sample_rate)
        if phones not in (48, 61):
            raise UserError(f"TIMIT is trained on 48 or on 61 phones, not {phones}: set data.phones to one.")
        self.folding = TO_48 if phones == 48 else {phone: phone for phone in PHONES.split()}

    @cached_property
    def _tables(self) -> dict[str, Path]:
        """The tables of phones by `SPEAKER-SENTENCE`, of the speakers that are in a split."""
        found = {}
        for path in files_below(self.root) if self.root.is_dir() else ():
            folder, _, speaker, name = (part.lower() for part in ("", "", "", *path.parts)[-4:])
            in_split = folder == "train" or (folder == "test" and speaker in SPLIT_OF)
            if name.endswith(".phn") and not name.startswith("sa") and in_split:
                found[f"{speaker}-{name.removesuffix('.phn')}"] = path
        if not found:
            raise UserError(
                f"There is no TRAIN/DR1/SPEAKER/SENTENCE.PHN in {self.root}: TIMIT is had from "
                "https://catalog.ldc.upenn.edu/LDC93S1 alone; put it there, or set data.root to it."
            )
        there = {name.partition("-")[0] for name in found}
        if absent := [speaker for speaker in SPLIT_OF if speaker not in there]:
            raise UserError(
                f"TEST of TIMIT in {self.root} lacks {len(absent)} of the 74 speakers that are validated or "
                f"tested on, such as {absent[0].upper()}: the release is not whole, unpack it anew."
            )
        return dict(sorted(found.items()))

    def utterances(self) -> list[Clip]:
        """The sentences, each with its phones as text."""
        phones, clips = self.boundaries(), []
        for folder, tables in groupby(self._tables.items(), lambda named: named[1].parent):
            # A mirror may hold SX37.WAV and SX37.WAV.wav, which are the same.
            stems = sorted(audio_in(folder).items(), reverse=True)
            audio = {stem.partition(".")[0].lower(): names[0] for stem, names in stems}
            for name, table in tables:
                speaker, _, sentence = name.partition("-")
                path = table.with_name(audio.get(sentence, f"{table.stem}.WAV"))
                text = " ".join(phone for phone, *_ in phones[name])
                split = SPLIT_OF.get(speaker, "train")
                clips.append(Clip(name, str(path), text=text, split=split, group=speaker))
        return clips

    def boundaries(self) -> dict[str, list[tuple[str, float, float]]]:
        """The phones of every sentence with their start and end in seconds, by the clip's id.

        Raises:
            UserError: a table is damaged, or names a phone that is none of the 61.
        """
        return {name: [*self._phones(table)] for name, table in self._tables.items()}

    def _phones(self, table: Path) -> Iterator[tuple[str, float, float]]:
        for number, line in enumerate(self.table(table), start=1):
            cells = line.split()
            if not cells:
                continue
            if len(cells) != 3 or not (cells[0].isdecimal() and cells[1].isdecimal()):
                raise self.damaged(table, number, "START END PHONE")
            if cells[2] not in self.folding:
                raise UserError(
                    f"{table} names the phone {cells[2]!r} in line {number}, which is none of TIMIT's 61: "
                    "put the file of the release there."
                )
            if phone := self.folding[cells[2]]:
                yield phone, int(cells[0]) / RATE, int(cells[1]) / RATE

    def remarks(self) -> list[str]:
        """What part of the training speakers is there."""
        there = len({name.partition("-")[0] for name in self._tables} - SPLIT_OF.keys())
        return [] if there == TRAINED else [f"TIMIT has {TRAINED} training speakers, and {there} are there."]
