"""Balanced draws by strata: chances are kept, and all epochs have as many batches within the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_audio.data.duration_sampler import DurationSampler
from lightning_audio.data.sampler import BatchSampler, balanced_chances
from lightning_audio.data.shards.sampler import POOL, ShardDurationSampler
from lightning_audio.data.strata import Strata, apportioned

RNG = np.random.default_rng(0)
SECONDS = RNG.lognormal(0.8, 0.6, 900)
# The rare label is that of long clips: how many of them a draw has decides how many batches it fills.
LABELS = [("long",) if time > 5 else ("short",) for time in SECONDS]
CHANCES = balanced_chances(LABELS)
SHARDS = RNG.integers(0, 3 * POOL, len(SECONDS))
BUDGET = 30.0


class Source:
    def plan(self, rows: np.ndarray) -> None:
        pass


def sampler(strata: Strata | None, sharded: bool, rng_draw: Any, **options: Any) -> DurationSampler:
    given = {
        "batch_size": 64,
        "max_batch_duration": BUDGET,
        "shuffle": True,
        "draw": rng_draw,
        "strata": strata,
    }
    if not sharded:
        return DurationSampler(SECONDS, **(given | options))
    return ShardDurationSampler(Source(), np.arange(len(SECONDS)), SHARDS, SECONDS, **(given | options))


def epoch_of(one: BatchSampler, epoch: int) -> list[list[int]]:
    one.set_epoch(epoch)
    return [*one]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_all_epochs_have_as_many_steps_on_all_ranks_and_keep_the_budget(sharded: bool, jitter: float) -> None:
    strata = Strata(CHANCES, SECONDS, SHARDS // POOL if sharded else None)
    ranks = [
        sampler(strata, sharded, strata.draw, jitter=jitter, rank=rank, world_size=2) for rank in range(2)
    ]
    counts = set()
    for epoch in range(15):
        batches = [epoch_of(one, epoch) for one in ranks]
        counts |= {len(found) for found in batches}
        for batch in (batch for found in batches for batch in found):
            assert len(batch) * SECONDS[batch].max() <= BUDGET
    assert counts == {len(ranks[0])} == {len(ranks[1])}


def test_without_strata_the_number_of_steps_differs() -> None:
    """So that the test above tests something."""
    free = sampler(None, False, lambda rng: rng.choice(len(SECONDS), len(SECONDS), p=CHANCES))
    assert len({len(epoch_of(free, epoch)) for epoch in range(15)}) > 1


@pytest.mark.parametrize("pools", [None, SHARDS // POOL])
def test_each_clip_comes_up_by_its_chance(pools: np.ndarray | None) -> None:
    strata, times = Strata(CHANCES, SECONDS, pools), 400
    draws = [strata.draw(np.random.default_rng(seed)) for seed in range(times)]
    assert {len(drawn) for drawn in draws} == {len(SECONDS)}
    counts = np.bincount(np.concatenate(draws), minlength=len(SECONDS)) / times
    expected = CHANCES * len(SECONDS)
    # The variance of one draw is at most a quarter for each stratum that a clip is in.
    np.testing.assert_allclose(counts, expected, atol=6 * np.sqrt(0.5 / times))
    assert abs(counts[[label == ("long",) for label in LABELS]].sum() / len(SECONDS) - 0.5) < 0.01
    for drawn in draws[:20]:
        for pool, longest in strata.longest.items():
            here = drawn if pools is None else drawn[pools[drawn] == pool]
            assert (np.sort(SECONDS[here]) <= longest).all()
            assert (np.diff(longest) >= 0).all()


def test_equal_chances_of_as_many_clips_draw_each_once() -> None:
    strata = Strata(np.full(7, 1 / 7), np.arange(7.0)[::-1])
    for seed in range(20):
        assert sorted(strata.draw(np.random.default_rng(seed)).tolist()) == [*range(7)]
    assert strata.longest[0].tolist() == [*range(7)]


def test_apportioned_by_the_largest_remainders() -> None:
    assert apportioned(np.array([0.5, 0.25, 0.25]), 10).tolist() == [5, 3, 2]
    assert apportioned(np.array([0.01, 0.99]), 3).tolist() == [0, 3]
    assert apportioned(np.array([1.0]), 4).tolist() == [4]
