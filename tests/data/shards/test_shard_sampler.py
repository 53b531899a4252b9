"""The order of clips from shards: every one once, within the window, and as in a shuffle by its labels."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from lightning_audio.data.sampler import BatchLoader, Reshuffles
from lightning_audio.data.shards.sampler import WINDOW, ShardDurationSampler, ShardSampler, rising

CLIPS, SHARDS, SIZE = 6000, 100, 32


class Plans:
    """Remembers what was planned, and answers a list of positions with it."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def plan(self, rows: np.ndarray) -> None:
        self.rows = rows.tolist()

    def __getitem__(self, positions: list[int]) -> list[int]:
        return positions


def shards(seed: int = 0) -> np.ndarray:
    """Clips in the order of their ids, each in the shard that a digest would have put it."""
    return np.random.default_rng(seed).permutation(np.arange(CLIPS) * SHARDS // CLIPS)


def sampler(source: Plans | None = None, **options: Any) -> ShardSampler:
    return ShardSampler(
        source or Plans(),
        np.arange(CLIPS) + 7,
        shards(),
        CLIPS,
        SIZE,
        **{"shuffle": True, "seed": 1} | options,
    )


def by_duration(**options: Any) -> ShardDurationSampler:
    seconds = np.random.default_rng(5).uniform(1, 16, CLIPS)
    given = {"shuffle": True, "seed": 1} | options
    return ShardDurationSampler(Plans(), np.arange(CLIPS), shards(), seconds, SIZE, 120.0, **given)


def order_of(one: Any, epoch: int = 0) -> np.ndarray:
    one.set_epoch(epoch)
    return np.concatenate([*one])


@pytest.mark.parametrize("make", [sampler, by_duration])
def test_every_clip_once_by_seed_and_epoch(make: Any) -> None:
    orders = {(s, e): order_of(make(seed=s), e) for s in (1, 2) for e in (0, 1)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(CLIPS))
    assert len({order.tobytes() for order in orders.values()}) == 4
    used = make(seed=1)
    for epoch in (5, 1, 0):  # whatever was read before
        last = order_of(used, epoch)
    np.testing.assert_array_equal(last, orders[1, 0])


@pytest.mark.parametrize("make", [sampler, by_duration])
@pytest.mark.parametrize("epoch", range(3))
def test_no_more_shards_are_open_than_the_window(make: Any, epoch: int) -> None:
    order = shards()[order_of(make(), epoch)]
    first, last = np.full(SHARDS, CLIPS), np.zeros(SHARDS, int)
    np.minimum.at(first, order, np.arange(CLIPS))
    np.maximum.at(last, order, np.arange(CLIPS))
    open_ = [int(((first <= place) & (last >= place)).sum()) for place in range(0, CLIPS, 10)]
    assert max(open_) <= WINDOW + 1
    assert np.mean(open_) > 0.6 * WINDOW


@pytest.mark.parametrize("epoch", range(4))
def test_labels_come_as_in_a_shuffle_of_all_clips(epoch: int) -> None:
    """The test of order: of a corpus sorted by ten labels, counts in batches spread as in a draw without
    replacement (chi-squared over all batches within 3 deviations), and a label says nothing of the next 64
    (their correlations too); and an epoch nothing of the next one."""
    labels = np.arange(CLIPS) * 10 // CLIPS
    one = sampler()
    order = order_of(one, epoch)
    drawn = labels[order][: CLIPS // SIZE * SIZE].reshape(-1, SIZE)
    counts = np.stack([(drawn == label).sum(1) for label in range(10)], 1)
    spread = (counts - SIZE / 10) ** 2 / (SIZE / 10) * (CLIPS - 1) / (CLIPS - SIZE)
    freedom = 9 * len(drawn)
    assert abs(spread.sum() - freedom) < 3 * np.sqrt(2 * freedom)
    centred = labels[order] - labels.mean()
    lags = [np.mean(centred[lag:] * centred[:-lag]) / centred.var() for lag in range(1, 65)]
    assert abs(np.mean(np.square(lags)) * CLIPS - 1) < 3 * np.sqrt(2 / len(lags))
    place, other = np.argsort(order), np.argsort(order_of(one, epoch + 1))
    # Clips of a shard stay together: the places of shards are 100 numbers, not 6,000.
    assert abs(np.corrcoef(place, other)[0, 1]) < 3 / np.sqrt(SHARDS)


@pytest.mark.parametrize("make", [sampler, by_duration])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_is_resumed_with_the_next_batch(make: Any, world_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        whole = BatchLoader(Plans(), make(rank=rank, world_size=world_size))
        whole.sampler.set_epoch(3)
        expected = [*whole]
        again = BatchLoader(Plans(), make(rank=rank, world_size=world_size))
        again.sampler.set_epoch(3)
        iterator = iter(again)
        begun = [next(iterator) for _ in range(40)]
        state = again.state_dict()
        resumed = BatchLoader(Plans(), make(rank=rank, world_size=world_size))
        resumed.load_state_dict(state)
        resumed.sampler.set_epoch(3)
        assert [*begun, *resumed] == expected
        seen += [position for batch in expected for position in batch]
    assert {*seen} == {*range(CLIPS)}
    assert len(seen) <= CLIPS + SIZE * world_size


def test_what_is_planned_is_what_is_read() -> None:
    plans = Plans()
    one = sampler(plans)
    one.first_batch = 20
    assert len(one) == -(-CLIPS // SIZE)
    assert plans.rows == []
    assert [position + 7 for batch in one for position in batch] == plans.rows
    assert len(plans.rows) == CLIPS - 20 * SIZE


def test_shards_follow_each_other_where_nothing_is_shuffled() -> None:
    order = shards()[order_of(sampler(shuffle=False))]
    assert (np.diff(order) >= 0).all()


def test_training_that_went_back_reads_the_rest_in_another_order_within_the_window() -> None:
    reshuffles = Reshuffles()
    before = order_of(sampler())
    reshuffles.due = 1
    reshuffles.begin(0, 50)
    after = order_of(sampler(reshuffles=reshuffles))
    np.testing.assert_array_equal(after[: 50 * SIZE], before[: 50 * SIZE])
    assert (after[50 * SIZE :] != before[50 * SIZE :]).mean() > 0.9
    np.testing.assert_array_equal(np.sort(after), np.arange(CLIPS))


def test_batches_by_duration_hold_the_budget_and_are_as_many_in_every_epoch() -> None:
    one = by_duration()
    counts, padding = [], []
    for epoch in range(4):
        one.set_epoch(epoch)
        batches = [*one]
        counts.append(len(batches))
        for batch in batches:
            seconds = one.seconds[batch]
            assert len(batch) <= SIZE
            assert len(batch) == 1 or len(batch) * seconds.max() <= 120
            padding.append(1 - seconds.sum() / (len(batch) * seconds.max()))
    assert len({*counts}) == 1
    assert np.mean(padding) < 0.1


def test_places_in_their_order_are_made_in_the_memory_of_the_numbers() -> None:
    numbers = np.random.default_rng(0).random(100_000) * 16
    expected = np.argsort(numbers)
    tracemalloc.start()
    order = rising(numbers)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert order.tolist() == expected.tolist()
    assert most < 0.6 * order.nbytes, "no second array of the kind"
    assert rising(np.zeros(0)).tolist() == []
    assert rising(np.array([2.0, 0.0, 2.0, 1.0])).tolist() == [1, 3, 0, 2]
