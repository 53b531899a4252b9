"""The order of clips that are read from shards: each shard once an epoch, its clips among those of others.

The shards of an epoch are put in a random order. A clip of the shard in place p gets the number p + W u, with
W the window and u uniform in [0, 1), and clips are read in the order of these numbers. So at any time W + 1
shards are open, one comes and one goes at a time, and an epoch is a pure function of (seed, epoch). Where a
shard is a random sample of its split, as `lightning-audio shard` makes it, labels come as in a shuffle of all
clips; clips of one shard stay within W shards of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from lightning_audio.data.clip_table import CHUNK, distinct
from lightning_audio.data.duration_sampler import DurationSampler
from lightning_audio.data.sampler import BatchSampler

WINDOW = 16  # shards that are open at a time
POOL = 4  # shards of which clips of like duration are put together


class Planned(Protocol):
    """What is told which rows will be read, in their order."""

    def plan(self, rows: np.ndarray, /) -> None: ...


class _InShards(BatchSampler):
    """What both samplers have in common.

    Args:
        source: tells the store what comes.
        rows: `(N,)` of the clips in the store.
        shards: `(N,)`, the shard that each clip is in.
    """

    def __init__(
        self, source: Planned, rows: np.ndarray, shards: np.ndarray, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.source, self.rows, self.shards = source, rows, shards

    def numbers(self, shards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the clips, or batches, of these shards are put in order by."""
        different = distinct(shards)
        place = np.zeros(shards.max(initial=0) + 1)
        place[different] = rng.permutation(len(different))
        numbers = rng.random(len(shards))
        numbers *= WINDOW
        if len(different) > WINDOW:  # so few are all open at once
            for start in range(0, len(shards), CHUNK):
                numbers[start : start + CHUNK] += place[shards[start : start + CHUNK]]
        return numbers

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches()[self.first_batch :]
        if batches:
            self.source.plan(self.rows[np.concatenate(batches)])
        yield from (batch.tolist() for batch in batches)


class ShardSampler(_InShards):
    """BatchSampler within a window of shards; without `shuffle` shard by shard."""

    def shuffled(self, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return positions[rising(self.numbers(self.shards[positions], rng))]

    def unshuffled(self, positions: np.ndarray) -> np.ndarray:
        return positions[np.argsort(self.shards[positions], kind="stable")]


def rising(numbers: np.ndarray) -> np.ndarray:
    """The places of numbers >= 0 in their order, `(N,)`, made in their own memory, which argsort takes twice
    more. The last bits of a number make room for its place."""
    places = numbers.view(np.int64)  # of such doubles rises as they do
    mask = (1 << len(places).bit_length()) - 1
    places &= ~mask
    places += np.arange(len(places), dtype=np.int32)
    places.sort()
    places &= mask
    return places


class ShardDurationSampler(_InShards, DurationSampler):
    """DurationSampler within a window of pools of shards: each pool is cut into batches by itself."""

    def bucketed(self, positions: np.ndarray, rng: np.random.Generator, pool: int = 0) -> list[np.ndarray]:
        pools = self.shards[positions] // POOL
        return [
            batch
            for pool in np.unique(pools).tolist()
            for batch in super(ShardDurationSampler, self).bucketed(positions[pools == pool], rng, pool)
        ]

    def mixed(self, batches: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        pools = np.array([self.shards[batch[0]] // POOL for batch in batches])
        window = WINDOW // POOL - 1  # so that as many shards are open
        different, inverse = np.unique(pools, return_inverse=True)
        places = rng.permutation(len(different))[inverse]
        return [batches[i] for i in np.argsort(rng.random(len(batches)) * window + places, kind="stable")]
