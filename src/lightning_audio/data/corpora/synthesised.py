"""Corpora whose clips are synthesised here and now: written once to the cache, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
from filelock import FileLock

from lightning_audio.data.clip import Clip, split_by_fold
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.synthesis import SOUNDS, SYNTHESIS_VERSION, overlapping, render
from lightning_audio.errors import UserError


@dataclass(frozen=True)
class Row:
    """A clip to make: `labels` are its sounds, `key` and the corpus' seed name its random numbers."""

    name: str
    fold: int
    labels: tuple[str, ...]
    key: tuple[int, ...]


class SynthesisedCorpus(Corpus):
    """Clips of the sounds of `data.synthesis` in five folds; nothing has to be there before.

    A subclass names the `kind` of its folder and says `rows`. Every clip has random numbers of its own, so
    that a corpus of more clips holds the smaller one.

    Args:
        cache: folder in which the clips are written, as 16-bit WAV files.
        sample_rate: in Hz, 16000 at least.
        fold: the fold of 1 to 5 that is tested on.
        seconds: duration of a clip, 0.5 at least.
        min_snr_db: signal-to-noise ratio over the clip of the hardest clips, of which there are few.
        max_snr_db: signal-to-noise ratio of the easiest clips.
        seed: another seed makes other clips.
        counts: options of the subclass that count something, 1 at least.

    Raises:
        UserError: an argument is out of its range.
    """

    kind: str
    labels = tuple(SOUNDS)
    folds = (1, 2, 3, 4, 5)
    fold: int

    def __init__(
        self,
        cache: str,
        sample_rate: int,
        fold: int,
        seconds: float,
        min_snr_db: float,
        max_snr_db: float,
        seed: int,
        **counts: int,
    ) -> None:
        super().__init__(root=cache, cache=cache, sample_rate=sample_rate)
        self.fold, self.seconds, self.seed, self.counts = fold, seconds, seed, counts
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self._refuse_bad_arguments()
        self.root = self.cache / f"{self.kind}-{self._hash()}"

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """What clips there are."""

    def prepare(self) -> None:
        """Writes the clips where they are not there yet; of two processes that start together, one does.

        Raises:
            UserError: the cache can't be written to.
        """
        if self.root.is_dir():
            return
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root.with_suffix(".lock")):
                if not self.root.is_dir():
                    self._write()
        except OSError as error:
            raise UserError(
                f"The demo clips can't be written to {self.cache} ({error.strerror}): set paths.cache to a "
                "folder that can be written to."
            ) from error

    def _write(self) -> None:
        # Whoever holds the lock is alone: a partial folder is what a killed process left.
        partial = self.root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for row in self.rows():
            soundfile.write(
                partial / f"{row.name}.wav", self._samples(row), self.sample_rate, subtype="PCM_16"
            )
        partial.rename(self.root)

    def clips(self) -> list[Clip]:
        """All clips; those of `fold` are the test split.

        Raises:
            UserError: `prepare` was not called.
        """
        if not self.root.is_dir():
            raise UserError(f"The demo clips are not in {self.root}: call prepare() to make them.")
        return split_by_fold((self._clip(row) for row in self.rows()), self.fold)

    def _clip(self, row: Row) -> Clip:
        path = str(self.root / f"{row.name}.wav")
        return Clip(id=row.name, path=path, duration=self.seconds, labels=row.labels, fold=row.fold)

    def _samples(self, row: Row) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *row.key])
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        sound = overlapping([SOUNDS[label] for label in row.labels])
        return render(sound, rng, time, self.min_snr_db, self.max_snr_db)

    def _hash(self) -> str:
        snr, counts = (self.min_snr_db, self.max_snr_db), self.counts.values()
        made_of = (SYNTHESIS_VERSION, self.sample_rate, *counts, self.seconds, snr, self.seed)
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]

    def _refuse_bad_arguments(self) -> None:
        if self.fold not in self.folds:
            raise UserError(
                f"There is no fold {self.fold!r} of the demo: set data.fold to one of {self.folds}."
            )
        given = {"sample_rate": self.sample_rate, "seconds": self.seconds, "seed": self.seed, **self.counts}
        lowest = {"sample_rate": 16000, "seconds": 0.5, "seed": 0, **dict.fromkeys(self.counts, 1)}
        for key, least in lowest.items():
            if given[key] < least:
                raise UserError(f"data.{key} is {given[key]}: set it to {least} at least.")
        if self.min_snr_db > self.max_snr_db:
            raise UserError(
                f"data.min_snr_db {self.min_snr_db} is above data.max_snr_db {self.max_snr_db}: swap them."
            )
