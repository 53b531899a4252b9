"""Batches by seconds: every clip once, the budget kept, little padding, ranks that share nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from lightning_audio.data.duration_sampler import DurationSampler
from lightning_audio.data.sampler import BatchLoader

SECONDS = np.random.default_rng(0).lognormal(0.8, 0.6, 400)
BUDGET = 30.0


def sampler(epoch: int = 5, seconds: np.ndarray = SECONDS, **options: Any) -> DurationSampler:
    made = DurationSampler(
        seconds, **({"batch_size": 16, "max_batch_duration": BUDGET, "shuffle": True} | options)
    )
    made.set_epoch(epoch)
    return made


def filled(batch: Sequence[int]) -> float:
    """The seconds of a batch with its padding."""
    return len(batch) * SECONDS[batch].max()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("epoch", [0, 7])
def test_every_clip_comes_once_an_epoch(shuffle: bool, epoch: int) -> None:
    batches = list(sampler(epoch, shuffle=shuffle))
    assert sorted(position for batch in batches for position in batch) == [*range(len(SECONDS))]


@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.3])
def test_the_budget_and_the_number_of_clips_are_never_exceeded(jitter: float) -> None:
    for epoch in range(10):
        for batch in sampler(epoch, jitter=jitter):
            assert len(batch) <= 16
            assert filled(batch) <= BUDGET or len(batch) == 1


def test_a_clip_that_is_longer_than_the_budget_stands_alone() -> None:
    seconds = np.array([1.0, 50.0, 1.0, 60.0])
    batches = list(sampler(seconds=seconds, shuffle=False))
    assert batches == [[0, 2], [1], [3]]


def test_cuts_where_the_next_clip_would_be_too_much() -> None:
    seconds = np.array([4.0, 1.0, 2.0, 5.0, 3.0])
    # 1, 2 and 3 s take 9 s together, with 4 s they would take 16; 4 and 5 s take 10.
    assert list(sampler(seconds=seconds, shuffle=False, max_batch_duration=10.0)) == [[1, 2, 4], [0, 3]]


def test_all_epochs_have_as_many_batches() -> None:
    counts = {len(list(sampler(epoch))) for epoch in range(20)}
    assert counts == {len(sampler())}


def test_little_of_a_batch_is_padding() -> None:
    def padding(batches: list[list[int]]) -> float:
        return 1 - SECONDS.sum() / sum(filled(batch) for batch in batches)

    mixed = np.random.default_rng(1).permutation(len(SECONDS)).reshape(-1, 16).tolist()
    assert padding(list(sampler())) < 0.06
    assert padding(mixed) > 0.5


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    assert list(sampler(3, seed=1)) == list(sampler(3, seed=1))
    assert list(sampler(3, seed=1)) != list(sampler(4, seed=1))
    assert list(sampler(3, seed=1)) != list(sampler(3, seed=2))


def test_clips_meet_others_in_other_epochs() -> None:
    def neighbours(epoch: int) -> set[frozenset[int]]:
        return {frozenset(batch) for batch in sampler(epoch)}

    assert len(neighbours(5) & neighbours(6)) < len(neighbours(5)) / 4


def test_short_clips_come_first_in_the_first_epochs_only() -> None:
    def longest(epoch: int) -> list[float]:
        return [SECONDS[batch].max() for batch in sampler(epoch, curriculum_epochs=2, jitter=0.0)]

    for epoch in (0, 1):
        assert all(a <= b for a, b in pairwise(longest(epoch)))
    assert longest(2) != sorted(longest(2))
    assert sorted(longest(2)) == longest(0)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_nothing_that_counts(world_size: int) -> None:
    whole = list(sampler())
    samplers = [sampler(rank=rank, world_size=world_size) for rank in range(world_size)]
    ranks = [list(one) for one in samplers]
    assert {len(batches) for batches in ranks} == {math.ceil(len(whole) / world_size)}
    for step in range(len(ranks[0])):
        counted = [
            p for one, own in zip(samplers, ranks, strict=True) for p in own[step] if one.weights[step]
        ]
        here = whole[step * world_size : (step + 1) * world_size]
        assert sorted(counted) == sorted(position for batch in here for position in batch)
        for one, own in zip(samplers, ranks, strict=True):
            assert one.weights[step] in (0, pytest.approx(len(own[step]) * world_size / len(counted)))


def test_evaluation_over_ranks_repeats_nothing() -> None:
    ranks = [list(sampler(rank=rank, world_size=3, shuffle=False)) for rank in range(3)]
    positions = [position for batches in ranks for batch in batches for position in batch]
    assert sorted(positions) == [*range(len(SECONDS))]


class Positions:
    """A dataset that gives back what it was asked for."""

    def __len__(self) -> int:
        return len(SECONDS)

    def __getitem__(self, positions: list[int]) -> list[int]:
        return positions


@pytest.mark.parametrize("stop", [1, 9, 30])
def test_a_saved_position_goes_on_with_the_next_batch(stop: int) -> None:
    whole = list(BatchLoader(Positions(), sampler(), collate_fn=None))
    first = BatchLoader(Positions(), sampler(), collate_fn=None)
    iterator = iter(first)
    seen = [next(iterator) for _ in range(stop)]
    second = BatchLoader(Positions(), sampler(), collate_fn=None)
    second.load_state_dict(first.state_dict())
    assert seen + list(second) == whole


def test_draws_of_a_corpus_are_what_is_cut() -> None:
    drawn = sampler(draw=lambda rng: rng.choice(len(SECONDS), 100, replace=False))
    positions = [position for batch in drawn for position in batch]
    assert len(positions) == len(set(positions)) == 100
