"""Digit strings: utterances of several digits, joined from the recordings of FSDD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.corpora.spoken_digits import ADDRESS, TESTED_TAKES, SpokenDigits
from lightning_audio.data.corpora.synthesis import SYNTHESIS_VERSION, rms
from lightning_audio.data.corpora.synthesised import (
    MadeUtterances,
    Utterance,
    Word,
    in_noise,
    refuse_below,
    refuse_swapped,
    utterance_counts,
)
from lightning_audio.data.decode import AudioError, decode
from lightning_audio.errors import UserError

VERSION = 1  # part of the name of what was written: raise it when any utterance changes
RATE = 8000  # Hz, of the recordings
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VALIDATED_TAKES = range(5, 9)
LEVEL_DB = 3.0  # so far the level of a digit may be from that of the others
FRAME = RATE // 100
QUIET_DB = 30.0  # so far below the loudest 10 ms nothing is heard any more


@dataclass(frozen=True)
class Recording:
    """A digit as it was recorded, from the first sample to the last.

    `samples` `(T,)` have an rms of 1 where they are audible, which is from sample `start` to `end`.
    """

    name: str
    word: str
    samples: np.ndarray
    start: int
    end: int


class DigitStrings(MadeUtterances, SpokenDigits):
    """Three to seven digits of one speaker, with gaps; the transcript is in words, "three five five zero".

    Digits are drawn evenly and with replacement, each as one of the speaker's takes. A recording is pasted
    whole, as loud as the others within 3 dB; the utterance has a level and a low noise of its own.

    official: test utterances are made of takes 0 to 4, validation utterances of 5 to 8, training utterances
    of the others, so that no recording is in two splits, and every speaker in all of them. Clips have no
    `group` then: by the speaker every split would leak.

    speaker: one speaker says all test utterances, made of all his takes; he is their `group`. The others
    train, without takes 5 to 8, of which the validation utterances are made: a validation speaker would be as
    strange as the tested one, but would take a fifth of the voices away from training. The folds share one
    folder of the cache, in which everybody says utterances of every split.

    Args:
        root, cache, sample_rate, split, speaker, fold: as of `SpokenDigits`; the files have 8,000 Hz.
        train_utterances, val_utterances, test_utterances: how many, spread evenly over the speakers.
        min_digits, max_digits: digits of an utterance.
        min_gap, max_gap: seconds before, between and behind the recordings.
        min_snr_db, max_snr_db: of the noise that is added, over the utterance; the recordings have theirs.
        seed: another seed makes other utterances. A corpus of more utterances holds the smaller one.

    Raises:
        UserError: an option is out of its range.
    """

    kind = "digit_strings"
    labels = ()
    written_rate = RATE

    licence = SpokenDigits.licence

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = RATE,
        split: str = "official",
        speaker: str | None = None,
        fold: int | None = None,
        train_utterances: int = 2000,
        val_utterances: int = 200,
        test_utterances: int = 300,
        min_digits: int = 3,
        max_digits: int = 7,
        min_gap: float = 0.05,
        max_gap: float = 0.4,
        min_snr_db: float = 30.0,
        max_snr_db: float = 50.0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, cache, sample_rate, split, speaker, fold)
        self.counts = utterance_counts(train_utterances, val_utterances, test_utterances)
        self.digits, self.gaps = (min_digits, max_digits), (min_gap, max_gap)
        self.snr_db, self.seed = (min_snr_db, max_snr_db), seed
        given = {"min_digits": min_digits, "min_gap": min_gap, "seed": seed}
        refuse_below(given, {"min_digits": 1, "min_gap": 0, "seed": 0})
        refuse_swapped(digits=self.digits, gap=self.gaps, snr_db=self.snr_db)

    def made_of(self) -> Sequence[Any]:
        stats = [(path.name, path.stat()) for path in self._recordings.values()]
        sources = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
        options = (self.split, self.counts, self.digits, self.gaps, self.snr_db, self.seed)
        return (VERSION, SYNTHESIS_VERSION, LEVEL_DB, QUIET_DB, *options, sources)

    def clips(self) -> list[Clip]:
        """The utterances of the chosen split.

        Raises:
            UserError: the recordings are not there, or `prepare` was not called.
        """
        held_out = self.speakers[self.fold - 1] if self.split == "speaker" else None
        shares = {split: self._shares(split, held_out) for split in SPLITS}
        return [
            self.clip(
                row,
                split=row["split"],
                fold=self.speakers.index(row["speaker"]) + 1 if held_out else None,
                group=held_out if row["split"] == "test" else None,
            )
            for row in self.rows()
            if row["number"] < shares[row["split"]].get(row["speaker"], 0)
        ]

    def boundaries(self, audible: bool = False) -> dict[str, list[Word]]:
        """The digits of every utterance with their true start and end in seconds, by the clip's id.

        They are those of the recordings, of which some begin or end with a silence; `audible` leaves that
        out: what is more than 30 dB below the loudest 10 ms of the recording.
        """
        key = "audible" if audible else "words"
        return {row["id"]: [(word, start, end) for word, start, end in row[key]] for row in self.rows()}

    def utterances(self) -> Iterator[Utterance]:
        """Those of every speaker, each from random numbers of its own."""
        for speaker_number, speaker in enumerate(self.speakers):
            takes = self._takes(speaker)
            for split_number, split in enumerate(SPLITS):
                pools = self._pools(speaker, takes, split)
                for number in range(self._most(split)):
                    rng = np.random.default_rng([self.seed, split_number, speaker_number, number])
                    facts = {"split": split, "speaker": speaker, "number": number}
                    yield self._utterance(f"{split}-{speaker}-{number:04d}", pools, rng, facts)

    def _shares(self, split: str, held_out: str | None) -> dict[str, int]:
        """How many utterances of a split each of its speakers says; the first of them say one more."""
        names = [n for n in self.speakers if held_out is None or (n == held_out) == (split == "test")]
        if not names:
            raise UserError(f"{self.root} has one speaker, and none to train on: set data.split=official.")
        each, more = divmod(self.counts[split], len(names))
        return {name: each + (place < more) for place, name in enumerate(names)}

    def _most(self, split: str) -> int:
        """The utterances of a split that a speaker says in any fold."""
        if self.split == "official":
            return max(self._shares(split, None).values())
        return max(self._shares(split, self.speakers[0]).values())

    def _may_say(self, split: str, take: int) -> bool:
        if split == "val":
            return take in VALIDATED_TAKES
        if self.split == "official":
            return (take in TESTED_TAKES) == (split == "test") and take not in VALIDATED_TAKES
        return split == "test" or take not in VALIDATED_TAKES

    def _takes(self, speaker: str) -> dict[tuple[int, int], Recording]:
        """All recordings of a speaker by digit and take."""
        return {
            (int(found["digit"]), int(found["take"])): recorded(path, int(found["digit"]))
            for found, path in self._recordings.items()
            if found["speaker"] == speaker
        }

    def _pools(
        self, speaker: str, takes: Mapping[tuple[int, int], Recording], split: str
    ) -> list[list[Recording]]:
        """Of each digit, the recordings that a speaker's utterances of a split are made of."""
        pools: list[list[Recording]] = [[] for _ in WORDS]
        for (digit, take), recording in takes.items():
            if self._may_say(split, take):
                pools[digit].append(recording)
        if lacking := [str(digit) for digit, pool in enumerate(pools) if not pool]:
            raise UserError(
                f"{self.root / 'recordings'} has no recording by {speaker} of {', '.join(lacking)} for "
                f"{split} utterances: complete the clone of {ADDRESS}."
            )
        return pools

    def _utterance(
        self, name: str, pools: Sequence[Sequence[Recording]], rng: np.random.Generator, facts: dict[str, Any]
    ) -> Utterance:
        digits = rng.integers(len(WORDS), size=rng.integers(self.digits[0], self.digits[1] + 1))
        said = [pools[digit][int(rng.integers(len(pools[digit])))] for digit in digits]
        gaps = np.round(rng.uniform(*self.gaps, size=len(said) + 1) * RATE).astype(int)
        levels = 10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB, size=len(said)) / 20)
        joined, starts = join(said, gaps, levels)
        samples = in_noise(joined, RATE, rng, self.snr_db)
        pasted = list(zip(said, starts, strict=True))
        audible = [(one.word, (at + one.start) / RATE, (at + one.end) / RATE) for one, at in pasted]
        facts = {"audible": audible, "recordings": [one.name for one in said], **facts}
        words = [(one.word, at / RATE, (at + len(one.samples)) / RATE) for one, at in pasted]
        return Utterance(name, samples, words, facts)


def recorded(path: Path, digit: int) -> Recording:
    """The recording in a file, at a level of 1.

    Raises:
        UserError: the file can't be decoded, or is silent.
    """
    samples = decode(path, RATE) / INT16_SCALE
    if not samples.any():
        raise AudioError(path, "it is silent")
    start, end = audible_part(samples)
    return Recording(path.stem, WORDS[digit], samples / rms(samples[start:end]), start, end)


def audible_part(samples: np.ndarray) -> tuple[int, int]:
    """Where `(T,)` begins and ends to be heard, in samples, by the energy of frames of 10 ms."""
    frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    energy = np.square(frames).sum(axis=1)
    heard = np.flatnonzero(energy >= energy.max() * 10 ** (-QUIET_DB / 10))
    return int(heard[0]) * FRAME, min((int(heard[-1]) + 1) * FRAME, len(samples))


def join(
    recordings: Sequence[Recording], gaps: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """The recordings `(N,)` one after another at their levels, and where each starts, in samples.

    `gaps` `(N + 1,)` are zeros before, between and behind them, in samples.
    """
    parts, starts, at = [np.zeros(gaps[0])], [], gaps[0]
    for one, level, gap in zip(recordings, levels, gaps[1:], strict=True):
        parts += [one.samples * level, np.zeros(gap)]
        starts.append(int(at))
        at += len(one.samples) + gap
    return np.concatenate(parts), starts
