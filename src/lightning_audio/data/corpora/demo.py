"""The demo corpus: ten everyday-like sounds, synthesised here and now."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator

import numpy as np
import soundfile
from filelock import FileLock

from lightning_audio.data.clip import Clip, split_by_fold
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.synthesis import SOUNDS, SYNTHESIS_VERSION, render
from lightning_audio.errors import UserError


class Demo(Corpus):
    """Ten classes in five folds, the same clips wherever they are made; nothing has to be there before.

    Every clip has its own random numbers, which depend on its seed, class, fold and number alone, so that a
    corpus of more clips holds the smaller one.

    Args:
        cache: folder in which the clips are written, as 16-bit WAV files.
        sample_rate: in Hz, 16000 at least.
        fold: the fold of 1 to 5 that is tested on.
        clips_per_class: the clips of each class in each fold.
        seconds: duration of a clip, 0.5 at least.
        min_snr_db: signal-to-noise ratio over the clip of the hardest clips, of which there are few.
        max_snr_db: signal-to-noise ratio of the easiest clips.
        seed: another seed makes other clips.

    Raises:
        UserError: an argument is out of its range.
    """

    labels = tuple(SOUNDS)
    folds = (1, 2, 3, 4, 5)
    fold: int

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        fold: int = 1,
        clips_per_class: int = 16,
        seconds: float = 2.0,
        min_snr_db: float = -8.0,
        max_snr_db: float = 25.0,
        seed: int = 0,
    ) -> None:
        super().__init__(root=cache, cache=cache, sample_rate=sample_rate)
        self.fold, self.clips_per_class, self.seconds, self.seed = fold, clips_per_class, seconds, seed
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self._refuse_bad_arguments()
        self.root = self.cache / f"demo-{self._hash()}"

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
        for label, fold, number in self._rows():
            samples = self._samples(label, fold, number)
            path = partial / f"{_name(label, fold, number)}.wav"
            soundfile.write(path, samples, self.sample_rate, subtype="PCM_16")
        partial.rename(self.root)

    def clips(self) -> list[Clip]:
        """All clips; those of `fold` are the test split.

        Raises:
            UserError: `prepare` was not called.
        """
        if not self.root.is_dir():
            raise UserError(f"The demo clips are not in {self.root}: call prepare() to make them.")
        return split_by_fold((self._clip(*row) for row in self._rows()), self.fold)

    def _rows(self) -> Iterator[tuple[str, int, int]]:
        for fold in self.folds:
            for label in self.labels:
                for number in range(self.clips_per_class):
                    yield label, fold, number

    def _clip(self, label: str, fold: int, number: int) -> Clip:
        name = _name(label, fold, number)
        path = str(self.root / f"{name}.wav")
        return Clip(id=name, path=path, duration=self.seconds, labels=(label,), fold=fold)

    def _samples(self, label: str, fold: int, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, self.labels.index(label), fold, number])
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        return render(SOUNDS[label], rng, time, self.min_snr_db, self.max_snr_db)

    def _hash(self) -> str:
        snr = (self.min_snr_db, self.max_snr_db)
        made_of = (SYNTHESIS_VERSION, self.sample_rate, self.clips_per_class, self.seconds, snr, self.seed)
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:12]

    def _refuse_bad_arguments(self) -> None:
        if self.fold not in self.folds:
            raise UserError(
                f"There is no fold {self.fold!r} of the demo: set data.fold to one of {self.folds}."
            )
        lowest = {"sample_rate": 16000, "clips_per_class": 1, "seconds": 0.5, "seed": 0}
        for key, least in lowest.items():
            if getattr(self, key) < least:
                raise UserError(f"data.{key} is {getattr(self, key)}: set it to {least} at least.")
        if self.min_snr_db > self.max_snr_db:
            raise UserError(
                f"data.min_snr_db {self.min_snr_db} is above data.max_snr_db {self.max_snr_db}: swap them."
            )


def _name(label: str, fold: int, number: int) -> str:
    return f"f{fold}-{label}-{number:03d}"
