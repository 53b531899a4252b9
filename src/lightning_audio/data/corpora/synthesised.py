"""Corpora whose clips are made here and now: written once to the cache, the same everywhere."""

from __future__ import annotations

import hashlib
import io
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.fft import next_fast_len

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.corpora.synthesis import SOUNDS, SYNTHESIS_VERSION, overlapping, render
from lightning_audio.data.decode import to_int16
from lightning_audio.data.splits import split_by_fold
from lightning_audio.errors import UserError
from lightning_audio.io import build_once

BOUNDARIES = "boundaries.jsonl"

Word = tuple[str, float, float]  # the word, its start and its end in seconds


def write_wav(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes `(T,)` as 16 bits.

    By way of memory: soundfile waits for the disk at the end of every file that it writes, and has no OSError
    for a full one.
    """
    wav = io.BytesIO()
    soundfile.write(wav, samples, sample_rate, "PCM_16", format="WAV")
    path.write_bytes(wav.getvalue())


class MadeCorpus(Corpus):
    """Audio that is written once to the cache, into a folder that is named after all it depends on.

    A subclass names the `kind` of its folder, says what the files are `made_of`, and how to `write` them.
    """

    licence = "made by this project, free of rights"
    kind: str

    @abstractmethod
    def made_of(self) -> Sequence[Any]:
        """All that the files depend on, as JSON can hold it."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Writes all files into a folder that is there and empty."""

    @cached_property
    def folder(self) -> Path:
        """Where the files are once they are made."""
        digest = hashlib.sha256(json.dumps(self.made_of()).encode()).hexdigest()
        return self.cache / f"{self.kind}-{digest[:12]}"

    def prepare(self) -> None:
        """Writes the files where they are not there yet; of two processes that start together, one does.

        Raises:
            UserError: the cache can't be written to, or its disk is full.
        """
        if not self.folder.is_dir():
            build_once(self.folder, self.folder.is_dir, self.write, f"clips of {self.kind}")

    def _refuse_unprepared(self) -> None:
        if not self.folder.is_dir():
            raise UserError(
                f"The clips of {self.kind} are not in {self.folder}: call prepare() to make them."
            )


@dataclass(frozen=True)
class Utterance:
    """What is said, and when: `words` with true boundaries, `samples` `(T,)` in [-1, 1].

    `facts` stand in its row of `boundaries.jsonl` beside `id`, `duration` and `words`.
    """

    name: str
    samples: np.ndarray
    words: Sequence[Word]
    facts: Mapping[str, Any]


class MadeUtterances(MadeCorpus):
    """Utterances whose words have known boundaries, kept as `boundaries.jsonl` beside the WAV files."""

    labels = ()
    written_rate: int  # in Hz, of the files

    @abstractmethod
    def utterances(self) -> Iterator[Utterance]:
        """All of them, made one after another."""

    def write(self, folder: Path) -> None:
        with (folder / BOUNDARIES).open("w", encoding="utf-8") as file:
            for made in self.utterances():
                write_wav(folder / f"{made.name}.wav", to_int16(made.samples), self.written_rate)
                seconds = len(made.samples) / self.written_rate
                row = {"id": made.name, "duration": seconds, "words": made.words, **made.facts}
                file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `boundaries.jsonl`: `id`, `duration`, `words` and what the corpus knows besides.

        Raises:
            UserError: `prepare` was not called.
        """
        self._refuse_unprepared()
        lines = (self.folder / BOUNDARIES).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def boundaries(self) -> dict[str, list[Word]]:
        """The words of every utterance with their true start and end in seconds, by the clip's id."""
        return {row["id"]: [(word, start, end) for word, start, end in row["words"]] for row in self.rows()}

    def clip(self, row: Mapping[str, Any], **known: Any) -> Clip:
        """The clip of a row, and what is `known` of it besides; its text is the words, one space between."""
        path, text = str(self.folder / f"{row['id']}.wav"), " ".join(word for word, *_ in row["words"])
        return Clip(id=row["id"], path=path, duration=row["duration"], text=text, **known)


def utterance_counts(train: int, val: int, test: int) -> dict[str, int]:
    """The utterances of each split; raises UserError where one would have none."""
    counts = {"train": train, "val": val, "test": test}
    refuse_below(
        {f"{split}_utterances": count for split, count in counts.items()},
        dict.fromkeys([f"{split}_utterances" for split in counts], 1),
    )
    return counts


def in_noise(
    clean: np.ndarray, sample_rate: int, rng: np.random.Generator, snr_db: tuple[float, float]
) -> np.ndarray:
    """`(T,)` as `render` gives a sound back: in coloured noise, at a random level and SNR."""
    # Noise is made by an FFT, which takes ten times as long where T has a large prime factor.
    longer = np.pad(clean, (0, next_fast_len(len(clean)) - len(clean)))
    time = np.arange(len(longer)) / sample_rate
    return render(lambda rng, time: longer, rng, time, *snr_db)[: len(clean)]


def refuse_below(given: Mapping[str, float], lowest: Mapping[str, float]) -> None:
    """Raises UserError for the first option of `lowest` whose value is under the least that it may have."""
    for key, least in lowest.items():
        if given[key] < least:
            raise UserError(f"data.{key} is {given[key]}: set it to {least} at least.")


def refuse_swapped(**ranges: tuple[float, float]) -> None:
    """Raises UserError where of the options min_NAME and max_NAME the first is the larger."""
    for name, (low, high) in ranges.items():
        if low > high:
            raise UserError(f"data.min_{name} {low} is above data.max_{name} {high}: swap them.")


@dataclass(frozen=True)
class SyntheticClip:
    """A clip to make: `labels` are its sounds, `key` and the corpus' seed name its random numbers."""

    name: str
    fold: int
    labels: tuple[str, ...]
    key: tuple[int, ...]


class SynthesisedCorpus(MadeCorpus):
    """Clips of the sounds of `data.synthesis` in five folds; nothing has to be there before.

    A subclass names the `kind` of its folder, and takes `clips_per_class` or says `rows`. Every clip has
    random numbers of its own, so that a corpus of more clips holds the smaller one.

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
        self.root = self.folder

    def rows(self) -> Iterator[SyntheticClip]:
        """What clips there are: `clips_per_class` of each label in each fold, each drawn from its own key."""
        for fold in self.folds:
            for index, label in enumerate(self.labels):
                for number in range(self.counts["clips_per_class"]):
                    yield SyntheticClip(
                        f"f{fold}-{label}-{number:03d}", fold, (label,), (index, fold, number)
                    )

    def write(self, folder: Path) -> None:
        for row in self.rows():
            write_wav(folder / f"{row.name}.wav", self._samples(row), self.sample_rate)

    def clips(self) -> Sequence[Clip]:
        """All clips; those of `fold` are the test split.

        Raises:
            UserError: `prepare` was not called.
        """
        self._refuse_unprepared()
        return split_by_fold((self._clip(row) for row in self.rows()), self.fold)

    def _clip(self, row: SyntheticClip) -> Clip:
        path = str(self.root / f"{row.name}.wav")
        return Clip(id=row.name, path=path, duration=self.seconds, labels=row.labels, fold=row.fold)

    def _samples(self, row: SyntheticClip) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *row.key])
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        sound = overlapping([SOUNDS[label] for label in row.labels])
        return render(sound, rng, time, self.min_snr_db, self.max_snr_db)

    def made_of(self) -> Sequence[Any]:
        snr, counts = (self.min_snr_db, self.max_snr_db), self.counts.values()
        return (SYNTHESIS_VERSION, self.sample_rate, *counts, self.seconds, snr, self.seed)

    def _refuse_bad_arguments(self) -> None:
        if self.fold not in self.folds:
            raise UserError(
                f"There is no fold {self.fold!r} of the demo: set data.fold to one of {self.folds}."
            )
        given = {"sample_rate": self.sample_rate, "seconds": self.seconds, "seed": self.seed, **self.counts}
        refuse_below(
            given, {"sample_rate": 16000, "seconds": 0.5, "seed": 0, **dict.fromkeys(self.counts, 1)}
        )
        refuse_swapped(snr_db=(self.min_snr_db, self.max_snr_db))
