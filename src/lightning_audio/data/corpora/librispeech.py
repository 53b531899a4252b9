"""LibriSpeech: 1,000 hours of English audiobooks (V. Panayotov et al., ICASSP 2015, openslr.org/12)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import audio_in
from lightning_audio.data.corpora.speech import SpeechCorpus
from lightning_audio.data.download import Release
from lightning_audio.errors import UserError, did_you_mean

# SHA-256 and bytes of SUBSET.tar.gz.
ARCHIVES = {
    "train-clean-100": ("d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 6_387_309_499),
    "train-clean-360": ("146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf", 23_049_477_885),
    "train-other-500": ("ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2", 30_593_501_606),
    "dev-clean": ("76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 337_926_286),
    "dev-other": ("12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365", 314_305_928),
    "test-clean": ("39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 346_663_984),
    "test-other": ("d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29", 328_757_843),
}
# An archive holds LibriSpeech/SUBSET and a few texts. Unpacking ends with a rename: a folder is a whole one.
SUBSETS = {
    name: Release(
        f"https://www.openslr.org/resources/12/{name}.tar.gz",
        *archive,
        folder=f"LibriSpeech/{name}",
        sign=".",
        strip=2,
    )
    for name, archive in ARCHIVES.items()
}
MINI = (
    "train-clean-5",
    "dev-clean-2",
)  # Mini LibriSpeech (openslr.org/31): parts of the first and of dev-clean
SUFFIX = ".trans.txt"


class LibriSpeech(SpeechCorpus):
    """`SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`, with `SPEAKER-CHAPTER.trans.txt` beside; 16 kHz.
    As of all corpora of speech, the audio may be in any format that is read. Mini LibriSpeech lies in folders
    of the same kind.

    Transcripts are capitals without punctuation. No speaker stands in two subsets; `group` is the speaker.
    `download` fetches only the subsets that are named, each into `root`, or into `LibriSpeech` in the cache
    where `root` cannot be written to.

    Args:
        root: folder of the release, with a folder for each subset.
        cache: folder for the downloads.
        sample_rate: the rate in Hz at which the utterances are to be read.
        download: fetch the subsets that are not there.
        train: the subsets that are trained on.
        val: the subset that a checkpoint is chosen on; None for none of the release's.
        test: the subset that is tested on; scores on clean and on other are never mixed.

    Raises:
        UserError: there is no such subset, or one is named twice.
    """

    title = "LibriSpeech"
    licence = "CC BY 4.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        download: bool = False,
        train: Sequence[str] = ("train-clean-100",),
        val: str | None = "dev-clean",
        test: str = "test-clean",
    ) -> None:
        super().__init__(root, cache, sample_rate, download)
        chosen = [(name, "train") for name in ([train] if isinstance(train, str) else train)]
        chosen += [(name, split) for name, split in ((val, "val"), (test, "test")) if name]
        for name, split in chosen:
            if name not in (known := (*SUBSETS, *MINI)):
                raise UserError(
                    f"There is no subset {name!r} of LibriSpeech{did_you_mean(name, known)}: set "
                    f"data.{split} to one of {', '.join(known)}."
                )
        self.subsets = dict(chosen)
        if len(self.subsets) < len(chosen):
            raise UserError(
                "One subset of LibriSpeech is named twice: set data.train, data.val and data.test to others."
            )

    def prepare(self) -> None:
        """Fetches the subsets that are not there, if that is wanted."""
        if self.wants_download:
            for name in self.subsets.keys() & SUBSETS.keys():
                SUBSETS[name].fetch(self.root / name, self.cache)

    def utterances(self) -> list[Clip]:
        """The utterances of the subsets; the id is the name of the file."""
        return [
            Clip(name, str(chapter / f"{name}.flac"), text=text, split=split, group=name.split("-")[0])
            for subset, split in self.subsets.items()
            for chapter in self._chapters(subset)
            for name, text in self._transcripts(chapter)
        ]

    def _chapters(self, subset: str) -> list[Path]:
        folder = self.root / subset
        if subset in SUBSETS:
            folder = SUBSETS[subset].find(folder, self.cache)
        # Speakers and chapters are numbers: nothing else that lies there is meant.
        chapters = [path for path in folder.glob("[0-9]*/[0-9]*") if path.is_dir()]
        if not chapters:
            way = "fetch it with data.download=true" if subset in SUBSETS else "from openslr.org/31"
            raise UserError(
                f"There are no speakers in {folder}: put {subset} of LibriSpeech there, {way}, or set "
                f"LIGHTNING_AUDIO_DATA to the folder that holds {self.root.name}."
            )
        return sorted(chapters)

    def _transcripts(self, chapter: Path) -> list[tuple[str, str]]:
        """Name and text of each utterance of a chapter; all audio must have one."""
        prefix = f"{chapter.parent.name}-{chapter.name}"
        table = chapter / f"{prefix}{SUFFIX}"
        audio = {name for name in audio_in(chapter) if name.startswith(f"{prefix}-")}
        if not table.is_file():
            raise UserError(
                f"{chapter} has no {table.name}: {chapter.parents[1].name} is not whole, unpack it anew."
            )
        rows = []
        for number, line in enumerate(self.table(table), start=1):
            name, _, text = line.partition(" ")
            if line and not (text and name.startswith(f"{prefix}-")):
                raise self.damaged(table, number, f"{prefix}-NNNN TRANSCRIPT")
            rows += [(name, text)] if line else []
        if untold := sorted(audio - {name for name, _ in rows}):
            raise UserError(f"{table} has no transcript of {untold[0]}: put the file of the release there.")
        return rows
