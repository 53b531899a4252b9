"""Batches by seconds of audio: clips of like duration together, so that little of a batch is padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_audio.data.sampler import BatchSampler
from lightning_audio.data.strata import Strata


class DurationSampler(BatchSampler):
    """Batches that hold as many clips of like duration as fit into a number of seconds, padding included.

    The clips of an epoch are put in order by duration, each taken for longer or shorter by a random factor,
    and this order is cut into batches. Where it is cut depends on the durations alone, so that every epoch
    has the same number of batches; which clips meet in them, and the order of the batches, is drawn anew.

    Args:
        seconds: `(N,)` durations of all clips.
        batch_size: the most clips in a batch.
        max_batch_duration: the most seconds in a batch: the longest clip times their number. A clip that is
            longer makes a batch of its own.
        strata: that `draw` draws by, so that the durations of every epoch are about the same, and all epochs
            have the same number of batches; without it that holds only where every epoch has the same clips.
        jitter: the logarithm of the greatest random factor; more of it mixes the clips better and pads them
            more.
        curriculum_epochs: so many epochs read the batches from the shortest clips to the longest.
        shared: `shuffle`, `seed`, `rank`, `world_size`, `draw`, `reshuffles` of BatchSampler. Without
            `shuffle` nothing is drawn, and the shortest clips come first.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        batch_size: int,
        max_batch_duration: float = math.inf,
        jitter: float = 0.05,
        curriculum_epochs: int = 0,
        strata: Strata | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(len(seconds), batch_size, **shared)
        self.seconds, self.max_batch_duration = np.asarray(seconds, dtype=float), max_batch_duration
        self.jitter, self.curriculum_epochs, self.strata = jitter, curriculum_epochs, strata

    def steps(self) -> list[list[np.ndarray]]:
        rng = self.generator()
        batches = self.bucketed(self.positions(rng), rng)
        if self.epoch >= self.curriculum_epochs:
            batches = self.mixed(batches, rng)
        # In an epoch that has begun the batches stay: others might be more or fewer than are left.
        for first, again in self.drawn_anew(self.per_step):
            batches[first:] = self.mixed(batches[first:], again)
        return [batches[start : start + self.per_step] for start in range(0, len(batches), self.per_step)]

    def num_steps(self) -> int:
        return len(self.steps())

    def batches_in_order(self) -> list[np.ndarray]:
        rng = self.generator()
        return self.bucketed(self.positions(rng), rng)[self.rank :: self.world_size]

    def bucketed(self, positions: np.ndarray, rng: np.random.Generator, pool: int = 0) -> list[np.ndarray]:
        """The batches of these positions, all those of a pool, from the shortest clips to the longest."""
        seconds, jitter = self.seconds[positions % len(self.seconds)], self.jitter if self.shuffle else 0.0
        order = np.argsort(np.log(seconds) + rng.uniform(-jitter, jitter, len(seconds)), kind="stable")
        # What comes k-th is at most this much longer than the k-th shortest, however the factors fall.
        known = np.sort(seconds) if self.strata is None else self.strata.longest[pool]
        longest = known * math.exp(2 * jitter)
        return [positions[part] for part in np.split(order, self._cuts(longest))]

    def mixed(self, batches: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Batches in a random order."""
        return [batches[i] for i in rng.permutation(len(batches))]

    def _cuts(self, longest: np.ndarray) -> list[int]:
        """Where a batch begins, but for the first one; `longest` is rising."""
        cuts, start = [], 0
        for place, seconds in enumerate(longest.tolist()):
            count = place - start + 1
            if count > 1 and (count > self.batch_size or count * seconds > self.max_batch_duration):
                cuts.append(place)
                start = place
        return cuts
