"""Free Spoken Digit Dataset, FSDD: ten digits said 50 times by each speaker, at 8 kHz (Z. Jackson et al.)."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus, audio_in
from lightning_audio.errors import UserError, counted, did_you_mean

ADDRESS = "https://github.com/Jakobovski/free-spoken-digit-dataset"
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<take>\d+)")
TESTED_TAKES = range(5)
SPLITTINGS = ("official", "speaker")


class SpokenDigits(Corpus):
    """`recordings/DIGIT_SPEAKER_TAKE.wav`, 3,000 clips of six speakers; the labels are "0" to "9". The files
    may be in any format that is read.

    official: takes 0 to 4 of every digit and speaker are the test split, so that every speaker was heard in
    training. speaker: all clips of one speaker are the test split; each speaker is a fold, in the order of
    their names, and the mean over all of them tells how well the digits of a stranger are known.

    Args:
        root: folder with `recordings/`; from the address above, by `git clone`.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the clips are to be read; the release has 8,000.
        split: `official` or `speaker`.
        speaker: name of the speaker that is held out.
        fold: his number instead, from 1 on; without either it is the first. Only `speaker` reads the two.

    Raises:
        UserError: there is no such split.
    """

    labels = tuple(map(str, range(10)))

    licence = "CC BY-SA 4.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 8000,
        split: str = "official",
        speaker: str | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__(root, cache, sample_rate)
        if split not in SPLITTINGS:
            raise UserError(
                f"There is no split {split!r} of the digits: set data.split to official or speaker."
            )
        self.split, self._speaker, self._fold = split, speaker, fold

    @cached_property
    def folds(self) -> tuple[int, ...]:  # type: ignore[override]  # known once the folder is read
        """One for each speaker, where one of them is held out."""
        return tuple(range(1, len(self.speakers) + 1)) if self.split == "speaker" else ()

    @cached_property
    def fold(self) -> int:  # type: ignore[override]
        """The number of the speaker that is held out.

        Raises:
            UserError: there is no such speaker, or `speaker` and `fold` name two.
        """
        if self._speaker is not None and self._speaker not in self.speakers:
            raise UserError(
                f"There is no speaker {self._speaker!r}{did_you_mean(self._speaker, self.speakers)}: set "
                f"data.speaker to one of {', '.join(self.speakers)}."
            )
        named = None if self._speaker is None else self.speakers.index(self._speaker) + 1
        fold = self._fold or named or 1
        if fold not in self.folds:
            raise UserError(
                f"There is no fold {fold!r} of the speakers: set data.fold to one of {self.folds}."
            )
        if named not in (None, fold):
            raise UserError(
                f"data.speaker={self._speaker} is fold {named}, but data.fold is {fold}: set one of the two."
            )
        return fold

    @cached_property
    def speakers(self) -> tuple[str, ...]:
        """Their names by the alphabet."""
        return tuple(sorted({match["speaker"] for match in self._recordings}))

    def clips(self) -> list[Clip]:
        """All clips; `group` is the speaker who is held out or not, or officially the clip alone.

        Raises:
            UserError: the recordings are not there, or one has another name.
        """
        by_speaker = self.split == "speaker"
        held_out = self.speakers[self.fold - 1] if by_speaker else None
        return [
            Clip(
                id=match.string,
                path=str(path),
                labels=(match["digit"],),
                split="test" if self._is_tested(match, held_out) else "train",
                fold=self.speakers.index(match["speaker"]) + 1 if by_speaker else None,
                group=match["speaker"] if by_speaker else match.string,
            )
            for match, path in self._recordings.items()
        ]

    @staticmethod
    def _is_tested(match: re.Match[str], held_out: str | None) -> bool:
        return int(match["take"]) in TESTED_TAKES if held_out is None else match["speaker"] == held_out

    @cached_property
    def _recordings(self) -> dict[re.Match[str], Path]:
        """The files by what their names say, in the order of these."""
        folder = self.root / "recordings"
        names = audio_in(folder)
        if not names:
            raise UserError(
                f"There are no recordings in {folder}: clone {ADDRESS} as {self.root}, or set "
                "LIGHTNING_AUDIO_DATA to the folder that holds free-spoken-digit-dataset."
            )
        if other := sorted(names[stem][0] for stem in names if not NAME.fullmatch(stem)):
            raise UserError(
                f"{counted(len(other), 'files')} in {folder} not named DIGIT_SPEAKER_TAKE.wav, such as "
                f"{other[0]}: move them away."
            )
        found = ((NAME.fullmatch(stem), folder / names[stem][0]) for stem in sorted(names))
        return {match: path for match, path in found if match}
