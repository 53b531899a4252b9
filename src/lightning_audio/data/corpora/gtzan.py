"""GTZAN: 1,000 excerpts of music in ten genres (G. Tzanetakis and P. Cook, IEEE TSAP 2002)."""

from __future__ import annotations

from pathlib import Path

from torchaudio.datasets import gtzan

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, located

# The fault-filtered split of C. Kereliuk, B. L. Sturm, J. Larsen (IEEE Trans. Multimedia 17(11), 2015): 443,
# 197 and 290 excerpts. The lists are those that torchaudio has.
LISTS = {"train": gtzan.filtered_train, "val": gtzan.filtered_valid, "test": gtzan.filtered_test}
FOLDERS = ("", "genres", "genres_original", "Data/genres_original")


class GTZAN(Corpus):
    """`GENRE/GENRE.NNNNN.wav` (or `.au`), 30 s each, in `root` or in `genres` or `genres_original` of it.

    The protocol: the fault-filtered split, in which no artist stands in two parts and repeated or distorted
    excerpts are left out (B. L. Sturm 2013, arXiv:1306.1461, lists the faults). A random split scores artists
    and recordings that were trained on: none is offered.

    Args:
        root: folder of the release, or one above it; the files may be in any format.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the excerpts are to be read; the release has 22,050.
    """

    title = "GTZAN"
    labels = tuple(gtzan.gtzan_genres)

    def __init__(self, root: str, cache: str, sample_rate: int = 22050) -> None:
        super().__init__(root, cache, sample_rate)

    def clips(self) -> list[Clip]:
        """The 930 excerpts of the three lists; the id is the name of the file.

        Raises:
            UserError: the release is not there, or some of the files are missing.
        """
        folders = [self.root / name for name in FOLDERS if (self.root / name / self.labels[0]).is_dir()]
        if not folders:
            raise self.missing(self.root / self.labels[0])
        clips = []
        for split, names in LISTS.items():
            for name in names:
                genre = name.partition(".")[0]
                path = Path(folders[0], genre, f"{name}.wav")
                clips.append(Clip(name, str(path), labels=(genre,), split=split))
        return located(clips, "the fault-filtered split of GTZAN")
