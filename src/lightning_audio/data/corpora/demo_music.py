"""The demo of music: chords of synthesised instruments, and their quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from lightning_audio.data.corpora.synthesis import render, rms
from lightning_audio.data.corpora.synthesised import SynthesisedCorpus, SyntheticClip

VERSION = 1  # part of the name of what was written: raise it when any clip changes
# Semitones above the root.
QUALITIES = {
    "major": (0, 4, 7),
    "minor": (0, 3, 7),
    "diminished": (0, 3, 6),
    "augmented": (0, 4, 8),
    "suspended": (0, 5, 7),
    "dominant_seventh": (0, 4, 7, 10),
    "major_seventh": (0, 4, 7, 11),
    "minor_seventh": (0, 3, 7, 10),
}
LOWEST, ROOTS = 110.0, 24  # Hz of the lowest root, and semitones from there on that roots may be
DETUNED = 30.0  # cents by which an instrument is off, at most
SPREAD_DB = 5.0  # by which a note is louder or softer than the others, at most


class DemoMusic(SynthesisedCorpus):
    """Eight qualities of chords in five folds, one chord a clip: what tells them apart is intervals alone.

    Every clip has a root of two octaves, an inversion, an instrument of its own (partials, attack, decay,
    vibrato, tuning) and a way to be played: at once, or note after note.

    Args:
        cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed: as of `SynthesisedCorpus`.
        clips_per_class: the clips of each quality in each fold.
    """

    kind = "demo_music"
    labels = tuple(QUALITIES)

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        fold: int = 1,
        clips_per_class: int = 32,
        seconds: float = 1.5,
        min_snr_db: float = 0.0,
        max_snr_db: float = 30.0,
        seed: int = 0,
    ) -> None:
        counts = {"clips_per_class": clips_per_class}
        super().__init__(cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed, **counts)

    def made_of(self) -> Sequence[Any]:
        return (VERSION, *super().made_of())

    def _samples(self, row: SyntheticClip) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *row.key])
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        intervals = QUALITIES[row.labels[0]]
        snr = self.min_snr_db, self.max_snr_db
        return render(lambda rng, time: chord(rng, time, intervals), rng, time, *snr)


def chord(rng: Generator, time: np.ndarray, intervals: Sequence[int]) -> np.ndarray:
    """`(T,)`: notes at these semitones above a random root, in a random inversion, of one instrument."""
    inversion = int(rng.integers(len(intervals)))
    notes = [*intervals[inversion:], *(note + 12 for note in intervals[:inversion])]
    root = LOWEST * 2 ** ((rng.integers(ROOTS) - notes[0] % 12 + rng.uniform(-1, 1) * DETUNED / 100) / 12)
    instrument = Instrument(rng, time[-1])
    step = rng.choice([0.0, rng.uniform(0.02, 0.12)]) * time[-1]  # from one note to the next
    total = np.zeros_like(time)
    for place, note in enumerate(notes):
        sound = instrument.note(root * 2 ** (note / 12), time - place * step - 0.02 * time[-1])
        total += sound / rms(sound) * 10 ** (rng.uniform(-SPREAD_DB, SPREAD_DB) / 20)
    return total


class Instrument:
    """One instrument: the levels of its partials, how it begins and fades, and its vibrato."""

    def __init__(self, rng: Generator, seconds: float) -> None:
        number = rng.integers(3, 11)
        self.partials = rng.uniform(0.2, 1.0, number) / np.arange(1, number + 1) ** rng.uniform(0.5, 2.0)
        self.attack = seconds * 10 ** rng.uniform(-2.5, -1.0)
        self.decay = seconds * 10 ** rng.uniform(-0.7, 0.7)
        self.vibrato, self.depth = rng.uniform(4.0, 7.0), rng.choice([0.0, rng.uniform(0.0, 0.004)])

    def note(self, hz: float, since: np.ndarray) -> np.ndarray:
        """`(T,)`: a note of this frequency, `since` `(T,)` being the seconds from its start."""
        running = np.maximum(since, 0.0)
        swing = np.cos(2 * np.pi * self.vibrato * running) / (2 * np.pi * self.vibrato)
        turns = hz * (running - self.depth * swing)
        level = np.minimum(running / self.attack, 1.0) * np.exp(-running / self.decay)
        waves = [a * np.sin(2 * np.pi * (n + 1) * turns) for n, a in enumerate(self.partials)]
        return level * np.sum(waves, axis=0)
