"""The order of clips: every one once an epoch, named by (seed, epoch), resumed where it stopped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from torch.utils.data import Dataset

from lightning_audio.data.duration_sampler import DurationSampler
from lightning_audio.data.sampler import BatchLoader, BatchSampler, Reshuffles, balanced

SIZES = [(1, 1), (1, 8), (10, 3), (12, 4), (100, 7), (37, 37), (37, 50)]


class Positions(Dataset):
    """Answers a list of positions with that list."""

    def __getitem__(self, positions: list[int]) -> list[int]:
        return positions


def epoch_of(sampler: BatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def flat(batches: list[list[int]]) -> list[int]:
    return [position for batch in batches for position in batch]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("clips", "size"), SIZES)
def test_every_clip_stands_once_in_every_epoch(clips: int, size: int, shuffle: bool) -> None:
    sampler = BatchSampler(clips, size, shuffle, seed=3)
    for epoch in range(4):
        batches = epoch_of(sampler, epoch)
        assert sorted(flat(batches)) == list(range(clips))
        assert len(sampler) == len(batches)
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= size


def test_unshuffled_clips_stand_in_their_order() -> None:
    assert epoch_of(BatchSampler(7, 3), 5) == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_order_is_named_by_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(flat(epoch_of(BatchSampler(100, 7, True, seed), epoch)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    sampler = BatchSampler(100, 7, True, seed=2)
    for epoch in (2, 0, 1, 1):  # whatever was read before
        assert tuple(flat(epoch_of(sampler, epoch))) == orders[2, epoch]


def test_the_order_does_not_depend_on_the_batch_size() -> None:
    assert flat(epoch_of(BatchSampler(100, 7, True), 1)) == flat(epoch_of(BatchSampler(100, 10, True), 1))


def test_positions_are_shuffled_evenly() -> None:
    sampler = BatchSampler(10, 10, True)
    first = Counter(epoch_of(sampler, epoch)[0][0] for epoch in range(2000))
    assert sorted(first) == list(range(10))
    assert all(140 < times < 260 for times in first.values())  # 200 expected, deviation 13


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize(("clips", "size"), [*SIZES, (5, 2)])
def test_unshuffled_ranks_are_disjoint_and_whole(clips: int, size: int, world: int) -> None:
    ranks = [epoch_of(BatchSampler(clips, size, False, 0, rank, world), 0) for rank in range(world)]
    assert sorted(position for rank in ranks for position in flat(rank)) == list(range(clips))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize(("clips", "size"), [*SIZES, (5, 2)])
def test_shuffled_ranks_make_equal_steps_in_which_each_clip_counts_once(
    clips: int, size: int, world: int
) -> None:
    samplers = [BatchSampler(clips, size, True, 1, rank, world) for rank in range(world)]
    for epoch in range(3):
        ranks = [epoch_of(sampler, epoch) for sampler in samplers]
        assert len({len(rank) for rank in ranks} | {len(sampler) for sampler in samplers}) == 1
        alone = epoch_of(BatchSampler(clips, size * world, True, 1), epoch)
        for step, whole in enumerate(alone):
            counted: dict[int, float] = defaultdict(float)
            for sampler, rank in zip(samplers, ranks, strict=True):
                for position in rank[step]:  # the mean over ranks of weighted means over their clips
                    counted[position] += sampler.weights[step] / len(rank[step]) / world
            assert {p: c for p, c in counted.items() if c} == pytest.approx(
                dict.fromkeys(whole, 1 / len(whole))
            )


@pytest.mark.parametrize("seconds", [None, 12.0])
def test_other_numbers_of_processes_go_on_with_the_clips_that_are_left(seconds: float | None) -> None:
    """1 -> 2 -> 3 -> 1 within one epoch: every step has the clips that it would have had."""

    def of(rank: int, world: int) -> BatchSampler:
        ranks: dict[str, Any] = {"shuffle": True, "seed": 4, "rank": rank, "world_size": world, "per_step": 2}
        if seconds is None:
            return BatchSampler(75, 5, **ranks)
        durations = np.random.default_rng(0).uniform(1, 4, 75)
        return DurationSampler(durations, 5, seconds, 0.2, **ranks)

    steps = [sorted(flat([b.tolist() for b in step])) for step in of(0, 2).steps()]
    read: list[int] = []
    for number, whole in enumerate(steps):
        world = (1, 2, 3, 1)[min(number // 2, 3)]
        shares = [(one := of(rank, world), epoch_of(one, 0)[number]) for rank in range(world)]
        counted = [p for one, share in shares for p in share if one.weights[number] > 0]
        assert sorted(counted) == whole
        assert sum(one.weights[number] for one, _ in shares) == pytest.approx(world)
        read += counted
    assert sorted(read) == list(range(75))


def loader(workers: int = 0) -> BatchLoader:
    sampler = BatchSampler(23, 4, True, seed=5)
    return BatchLoader(Positions(), sampler, threads=workers)


def read(source: BatchLoader, epoch: int) -> list[list[int]]:
    assert isinstance(source.sampler, BatchSampler)
    source.sampler.set_epoch(epoch)
    return list(source)


def test_a_loader_has_the_batches_of_its_sampler() -> None:
    source = loader()
    assert len(source) == 6
    for epoch in range(2):
        assert read(source, epoch) == epoch_of(BatchSampler(23, 4, True, seed=5), epoch)


@pytest.mark.parametrize("stop", range(7))
def test_a_resumed_loader_reads_the_rest_and_then_whole_epochs(stop: int) -> None:
    source, resumed = loader(), loader()
    expected = [read(source, epoch) for epoch in range(4)]
    source.sampler.set_epoch(1)
    iterator = iter(source)
    assert list(islice(iterator, stop)) == expected[1][:stop]
    state = source.state_dict()
    resumed.load_state_dict(state)
    # A state taken behind the last batch belongs to an epoch that is over.
    rest = expected[1][stop:] or expected[1]
    assert read(resumed, 1) == rest
    assert [read(resumed, epoch) for epoch in (2, 3)] == expected[2:]
    assert len(resumed) == 6


def test_an_epoch_that_ended_before_its_last_batch_is_over_too() -> None:
    source, resumed = loader(), loader()  # trainer.limit_train_batches=2
    source.sampler.set_epoch(1)
    list(islice(source, 2))
    resumed.load_state_dict(source.state_dict())
    assert [read(resumed, epoch) for epoch in (2, 3)] == [read(source, epoch) for epoch in (2, 3)]


def test_a_resumed_loader_can_be_saved_again() -> None:
    source = loader()
    expected = read(source, 0)
    for stop, following in pairwise([0, 2, 3, 5]):
        resumed = loader()
        resumed.load_state_dict({"batches": stop})
        iterator = iter(resumed)
        assert list(islice(iterator, following - stop)) == expected[stop:following]
        assert resumed.state_dict() == {"batches": following, "epoch": 0}


def test_what_workers_read_ahead_does_not_count_as_read() -> None:
    source = loader(workers=1)
    expected = read(source, 0)
    source.sampler.set_epoch(1)
    iterator = iter(source)
    seen = [next(iterator), next(iterator)]
    resumed = loader(workers=1)
    resumed.load_state_dict(source.state_dict())
    rest = read(resumed, 1)
    assert seen + rest == epoch_of(BatchSampler(23, 4, True, seed=5), 1)
    assert read(resumed, 0) == expected


def frequencies(labels: Sequence[Sequence[str]], epochs: int = 200) -> np.ndarray:
    """How often each clip is drawn in an epoch, on average."""
    drawn = [balanced(labels, np.random.default_rng(seed)) for seed in range(epochs)]
    assert all(len(epoch) == len(labels) for epoch in drawn)
    return np.bincount(np.concatenate(drawn), minlength=len(labels)) / epochs


def test_balanced_labels_come_up_equally_often() -> None:
    labels = [("dog",)] * 80 + [("rain",)] * 15 + [("bell",)] * 5
    often = frequencies(labels)
    # A third of 100 draws for each label: a deviation of 0.34 over 200 epochs.
    sums = [often[:80].sum(), often[80:95].sum(), often[95:].sum()]
    assert sums == pytest.approx([100 / 3] * 3, abs=1.4)
    assert often[95:] == pytest.approx([100 / 15] * 5, abs=0.8)


def test_a_clip_of_several_labels_is_drawn_as_its_rarest() -> None:
    # Counts: dog 60, rain 30, bell 10, and 10 clips of no label, which weigh as those of dog.
    labels = [("dog",)] * 40 + [("dog", "rain")] * 20 + [("rain", "bell")] * 10 + [()] * 10
    weights = np.array([1 / 60] * 40 + [1 / 30] * 20 + [1 / 10] * 10 + [1 / 60] * 10)
    assert frequencies(labels) == pytest.approx(80 * weights / weights.sum(), abs=0.75)
    sums = np.add.reduceat(frequencies(labels), [0, 40, 60, 70])
    expected = np.add.reduceat(80 * weights / weights.sum(), [0, 40, 60, 70])
    assert sums == pytest.approx(expected, abs=1.4)


def test_clips_without_any_label_are_drawn_evenly() -> None:
    assert frequencies([()] * 20) == pytest.approx([1.0] * 20, abs=0.35)


def test_what_is_drawn_is_named_by_seed_and_epoch_and_shared_by_ranks() -> None:
    labels = [("dog",)] * 30 + [("rain",)] * 10

    def draw(rng: np.random.Generator) -> np.ndarray:
        return balanced(labels, rng)

    whole = BatchSampler(40, 8, True, seed=1, draw=draw)
    orders = [flat(epoch_of(whole, epoch)) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    ranks = [flat(epoch_of(BatchSampler(40, 8, True, 1, rank, 2, draw), 0)) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == sorted(orders[0])


def test_an_epoch_is_as_long_as_what_is_drawn() -> None:
    sampler = BatchSampler(40, 8, True, draw=lambda rng: rng.choice(40, size=20, replace=False))
    for epoch in range(3):
        positions = flat(epoch_of(sampler, epoch))
        assert len(set(positions)) == len(positions) == 20
    assert len(sampler) == 3


# Where training went back: order 1 from the start of epoch 2, order 2 from the fourth batch of epoch 4.
MARKS = [[2, 0, 1], [4, 3, 2]]


def marked(marks: list[list[int]]) -> Reshuffles:
    reshuffles = Reshuffles()
    reshuffles.marks = marks
    return reshuffles


def plain(marks: list[list[int]], **ranks: Any) -> BatchSampler:
    return BatchSampler(50, 4, True, seed=5, reshuffles=marked(marks), **ranks)


def bucketed(marks: list[list[int]], **ranks: Any) -> BatchSampler:
    seconds = np.random.default_rng(0).uniform(1, 4, 50)
    return DurationSampler(seconds, 4, 12.0, 0.2, shuffle=True, seed=5, reshuffles=marked(marks), **ranks)


@pytest.mark.parametrize("sampler", [plain, bucketed])
def test_after_going_back_the_clips_come_in_another_order(sampler: Callable[..., BatchSampler]) -> None:
    before, after = sampler([]), sampler(MARKS)
    for epoch in range(7):
        batches, usual = epoch_of(after, epoch), epoch_of(before, epoch)
        assert sorted(flat(batches)) == list(range(50)), "each clip once an epoch all the same"
        assert len(batches) == len(usual)
        assert (batches == usual) == (epoch < 2)
    one = sampler(MARKS[:1])
    assert epoch_of(one, 3) == epoch_of(after, 3)
    was, is_now = epoch_of(one, 4), epoch_of(after, 4)
    assert is_now[:3] == was[:3], "what was read before stays read"
    assert is_now[3:] != was[3:]
    assert epoch_of(one, 5) != epoch_of(after, 5)


@pytest.mark.parametrize("sampler", [plain, bucketed])
def test_after_going_back_ranks_still_share_nothing(sampler: Callable[..., BatchSampler]) -> None:
    ranks = [sampler(MARKS, rank=rank, world_size=2) for rank in range(2)]
    for epoch in (2, 4):
        one, other = (epoch_of(rank, epoch) for rank in ranks)
        twice = Counter(flat(one) + flat(other))
        assert set(twice) == set(range(50))
        assert len(one) == len(other)
        # Only what stands in at the end, and counts for nothing, comes twice.
        assert sum(twice.values()) - 50 <= 1


def test_the_mark_is_made_where_reading_goes_on() -> None:
    source = BatchLoader(Positions(), plain([[1, 0, 1]]))
    reshuffles = source.sampler.reshuffles
    reshuffles.go_back()
    assert (reshuffles.number, reshuffles.marks) == (2, [])
    reshuffles.go_back()  # again, without a checkpoint in between
    assert reshuffles.number == 3
    reshuffles.marks = [[1, 0, 1]]  # out of the checkpoint that training goes back to
    source.sampler.set_epoch(4)
    source.load_state_dict({"batches": 3})
    batches = list(source)
    assert reshuffles.marks == [[1, 0, 1], [4, 3, 3]]
    assert batches == epoch_of(plain([[1, 0, 1], [4, 3, 3]]), 4)[3:]
    list(source)
    assert len(reshuffles.marks) == 2, "made once"
