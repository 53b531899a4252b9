"""The demo of speech recognition: the tones of telephone keys in noise, and the keys as their transcript."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.corpora.digit_strings import WORDS
from lightning_audio.data.corpora.synthesis import SYNTHESIS_VERSION
from lightning_audio.data.corpora.synthesised import (
    MadeUtterances,
    Utterance,
    in_noise,
    refuse_below,
    refuse_swapped,
    utterance_counts,
)

VERSION = 1  # part of the name of what was written: raise it when any utterance changes
# ITU-T Q.23, in Hz; its fourth column, of the keys A to D, is on no telephone.
ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)
KEYS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "star", "0", "pound")
# What a receiver has to take, by ITU-T Q.24: frequencies 1.5 % off, the column 8 dB weaker to 4 dB stronger.
DEVIATION, TWIST_DB = 0.015, (-8.0, 4.0)
RAMP = 0.003  # seconds in which a tone comes and goes
# Seconds of an utterance for each letter at least, digits spelled out: CTC needs more frames than tokens, and
# this is enough for frames of 40 ms.
LETTER = 0.05
LETTERS = {str(digit): len(word) for digit, word in enumerate(WORDS)}


class DemoDtmf(MadeUtterances):
    """Three to ten of the twelve keys, drawn evenly and with replacement: "5 5 star 0 pound".

    Every utterance is of another telephone, whose seven frequencies are off by up to 1.5 % each and whose two
    groups of frequencies differ in level; its noise is anything from white to brown.

    Args:
        cache: folder in which the utterances are written, as 16-bit WAV files.
        sample_rate: in Hz, 8000 at least.
        train_utterances, val_utterances, test_utterances: how many; the splits are fixed.
        min_keys, max_keys: keys of an utterance.
        min_tone, max_tone: seconds that a key is held.
        min_gap, max_gap: seconds before, between and behind the tones.
        min_snr_db, max_snr_db: signal-to-noise ratio over the utterance, of the hardest, of which there are
            few, and of the easiest.
        seed: another seed makes other utterances. A corpus of more utterances holds the smaller one.

    Raises:
        UserError: an option is out of its range.
    """

    kind = "demo_dtmf"

    def __init__(
        self,
        cache: str,
        sample_rate: int = 8000,
        train_utterances: int = 600,
        val_utterances: int = 100,
        test_utterances: int = 200,
        min_keys: int = 3,
        max_keys: int = 10,
        min_tone: float = 0.06,
        max_tone: float = 0.2,
        min_gap: float = 0.08,
        max_gap: float = 0.3,
        min_snr_db: float = 0.0,
        max_snr_db: float = 25.0,
        seed: int = 0,
    ) -> None:
        super().__init__(root=cache, cache=cache, sample_rate=sample_rate)
        self.counts = utterance_counts(train_utterances, val_utterances, test_utterances)
        self.keys, self.tones, self.gaps = (min_keys, max_keys), (min_tone, max_tone), (min_gap, max_gap)
        self.snr_db, self.seed = (min_snr_db, max_snr_db), seed
        given = {"sample_rate": sample_rate, "min_keys": min_keys, "min_tone": min_tone, "min_gap": min_gap}
        lowest = {"sample_rate": 8000, "min_keys": 1, "min_tone": 0.02, "min_gap": 0, "seed": 0}
        refuse_below({**given, "seed": seed}, lowest)
        refuse_swapped(keys=self.keys, tone=self.tones, gap=self.gaps, snr_db=self.snr_db)
        self.written_rate, self.root = sample_rate, self.folder

    def made_of(self) -> Sequence[Any]:
        options = (self.counts, self.keys, self.tones, self.gaps, self.snr_db, self.seed)
        return (VERSION, SYNTHESIS_VERSION, DEVIATION, TWIST_DB, RAMP, self.sample_rate, *options)

    def clips(self) -> list[Clip]:
        """All utterances; each stands for itself.

        Raises:
            UserError: `prepare` was not called.
        """
        return [self.clip(row, split=row["split"]) for row in self.rows()]

    def utterances(self) -> Iterator[Utterance]:
        """Those of all splits, each from random numbers of its own."""
        for split_number, split in enumerate(SPLITS):
            for number in range(self.counts[split]):
                rng = np.random.default_rng([self.seed, split_number, number])
                yield self._utterance(f"{split}-{number:04d}", split, rng)

    def _utterance(self, name: str, split: str, rng: np.random.Generator) -> Utterance:
        pressed = rng.integers(len(KEYS), size=rng.integers(self.keys[0], self.keys[1] + 1))
        held = rng.uniform(*self.tones, size=len(pressed))
        gaps = rng.uniform(*self.gaps, size=len(pressed) + 1)
        starts = np.cumsum(gaps[:-1] + np.append(0, held[:-1]))
        words = [
            (KEYS[key], float(start), float(start + seconds))
            for key, start, seconds in zip(pressed, starts, held, strict=True)
        ]
        spelled = sum(LETTERS.get(word, len(word)) + 1 for word, *_ in words)
        seconds = max(words[-1][2] + gaps[-1], LETTER * spelled)
        time = np.arange(round(seconds * self.sample_rate)) / self.sample_rate
        clean = Telephone(rng).tones(time, pressed, starts, held)
        return Utterance(name, in_noise(clean, self.sample_rate, rng, self.snr_db), words, {"split": split})


class Telephone:
    """The keypad of one telephone, which is never quite by the standard."""

    def __init__(self, rng: np.random.Generator) -> None:
        off = 1 + rng.uniform(-DEVIATION, DEVIATION, size=len(ROWS) + len(COLUMNS))
        self.rows, self.columns = np.split(np.array(ROWS + COLUMNS) * off, [len(ROWS)])
        self.twist = 10 ** (rng.uniform(*TWIST_DB) / 20)  # amplitude of the column over that of the row
        self.phases = rng.uniform(0, 2 * np.pi, size=2)

    def tones(self, time: np.ndarray, keys: np.ndarray, starts: np.ndarray, held: np.ndarray) -> np.ndarray:
        """`(T,)`: each key, as its place in KEYS, from its start for the seconds that it is held."""
        sounding = np.zeros_like(time)
        for key, start, seconds in zip(keys, starts, held, strict=True):
            first, last = np.searchsorted(time, (start, start + seconds))
            since = time[first:last] - start
            row, column = self.rows[key // len(COLUMNS)], self.columns[key % len(COLUMNS)]
            tone = np.sin(2 * np.pi * row * since + self.phases[0])
            tone += self.twist * np.sin(2 * np.pi * column * since + self.phases[1])
            sounding[first:last] = tone * np.minimum(1.0, np.minimum(since, seconds - since) / RAMP)
        return sounding
