"""The order in which clips are read: a pure function of (seed, epoch), cut into batches and over ranks.

Where training goes back to an earlier state, the clips come in another order from there on; where that was is
kept in checkpoints, so that a resumed run reads what the run that was killed would have read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from lightning_audio.data.threads import in_threads

# Which positions make an epoch: equally many whatever the generator draws.
Draw = Callable[[np.random.Generator], np.ndarray]


def balanced_chances(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """The chance of each clip in a draw in which every label comes up about as often; they add up to 1.

    A clip has the weight of the rarest of its `labels`; one without any weighs as the most frequent.
    """
    counts = Counter(label for clip in labels for label in clip)
    most = max(counts.values(), default=1)
    weights = np.array([1 / min((counts[label] for label in clip), default=most) for clip in labels])
    return weights / weights.sum()


def balanced(labels: Sequence[Sequence[str]], rng: np.random.Generator) -> np.ndarray:
    """As many positions as there are clips, drawn with replacement by `balanced_chances`."""
    return rng.choice(len(labels), size=len(labels), p=balanced_chances(labels))


class Reshuffles:
    """From where on the clips come in another order, and the how-many-eth order it is.

    `marks` are `[epoch, batch, number]`, in the order in which they came about: from this batch of this epoch
    on, in the order of this number. The first order of all has the number 0.
    """

    def __init__(self) -> None:
        self.marks: list[list[int]] = []
        self.due = 0  # the number of an order that begins with the next batch that is read

    @property
    def number(self) -> int:
        """How often training went back."""
        return max([self.due, *(mark[2] for mark in self.marks)])

    def go_back(self) -> None:
        """A new order begins where reading does: at the start, or where a state that is loaded says."""
        self.due, self.marks = self.number + 1, []

    def begin(self, epoch: int, batch: int) -> None:
        """Reading begins with this batch: marks it where a new order is due."""
        if self.due:
            self.marks, self.due = [*self.marks, [epoch, batch, self.due]], 0

    def at_start_of(self, epoch: int) -> int:
        """The number of the order in which an epoch begins."""
        return next((number for at, batch, number in self.marks[::-1] if (at, batch) <= (epoch, 0)), 0)

    def within(self, epoch: int) -> list[tuple[int, int]]:
        """The batches from which on an epoch that has begun continues in another order, and its number."""
        return [(batch, number) for at, batch, number in self.marks if at == epoch and batch > 0]


class BatchSampler(Sampler[list[int]]):
    """Batches of positions 0 .. num_clips - 1, every one once an epoch unless `draw` says otherwise.

    Args:
        num_clips: how many clips there are.
        batch_size: clips in a batch; the last batch of an epoch may hold fewer.
        shuffle: a new order for every epoch, the same for the same (seed, epoch).
        seed: names the order.
        rank, world_size: which share of each epoch this process reads. In shuffled epochs all ranks make
            equally many steps, and each clip counts once (`weights`); in others a rank ends when it ends.
        draw: gives the positions of an epoch, from a generator that depends on (seed, epoch) alone.
        reshuffles: where training went back; of shuffled epochs alone.
        per_step: batches that make one step of all processes, by default one of each. Where there are fewer
            or more processes, which resume a run, they share its clips: order and steps stay as they were.

    Attributes:
        weights: of this rank's batches in the mean over ranks, so that every clip of a step counts the same:
            1 where all ranks have equally many, 0 for one that stands in where there are fewer clips than
            ranks. Of the epoch that is read.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        draw: Draw | None = None,
        reshuffles: Reshuffles | None = None,
        per_step: int | None = None,
    ) -> None:
        self.num_clips, self.batch_size, self.shuffle, self.seed = num_clips, batch_size, shuffle, seed
        self.rank, self.world_size, self.draw = rank, world_size, draw
        self.reshuffles = reshuffles or Reshuffles()
        self.per_step = per_step or world_size
        self.weights: list[float] = []
        self.epoch = 0
        self.first_batch = 0
        self._length: int | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def generator(self) -> np.random.Generator:
        """What all that is drawn for this epoch is drawn from."""
        # A trailing 0, as long as training never went back, draws what the other two alone would draw.
        return np.random.default_rng((self.seed, self.epoch, self.reshuffles.at_start_of(self.epoch)))

    def drawn_anew(self, per_batch: int) -> Iterator[tuple[int, np.random.Generator]]:
        """The places, batch by batch, from which on the rest of this epoch is shuffled again, and by what."""
        for batch, number in self.reshuffles.within(self.epoch):
            yield batch * per_batch, np.random.default_rng((self.seed, self.epoch, number))

    def shuffled(self, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions in a random order."""
        return rng.permutation(positions)

    def unshuffled(self, positions: np.ndarray) -> np.ndarray:
        """Positions in the order in which they are read best where none is asked for."""
        return positions

    def positions(self, rng: np.random.Generator) -> np.ndarray:
        """The positions that make this epoch, in no order of their own."""
        return np.arange(self.num_clips, dtype=np.int32) if self.draw is None else self.draw(rng)

    def steps(self) -> list[list[np.ndarray]]:
        """The batches of each step of a shuffled epoch; of the last some may be short, or have no clips."""
        rng = self.generator()
        positions = self.shuffled(self.positions(rng), rng)
        size = self.batch_size * self.per_step
        for first, again in self.drawn_anew(size):
            positions[first:] = self.shuffled(positions[first:], again)
        whole = (positions[start : start + size] for start in range(0, len(positions), size))
        return [[step[one :: self.per_step] for one in range(self.per_step)] for step in whole]

    def num_steps(self) -> int:
        """How many `steps` there are, without putting clips in order."""
        return -(-len(self.positions(self.generator())) // (self.batch_size * self.per_step))

    def batches_in_order(self) -> list[np.ndarray]:
        """The batches that this rank reads in an epoch that is not shuffled."""
        order = self.unshuffled(self.positions(self.generator()))[self.rank :: self.world_size]
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def batches(self) -> list[np.ndarray]:
        """The batches of positions that this rank reads in this epoch, in their order."""
        if not self.shuffle:
            return self.batches_in_order()
        batches, self.weights = [], []
        for step in self.steps():
            clips = np.concatenate(step)
            own = clips[self.rank :: self.world_size]
            if self.per_step == self.world_size:
                own = step[self.rank] if self.rank < len(step) else clips[:0]
            batches.append(own if len(own) else clips[:1])
            self.weights.append(len(own) * self.world_size / len(clips))
        return batches

    def __len__(self) -> int:
        if self._length is None:  # the same in every epoch, and a draw may take its time
            self._length = self.num_steps() if self.shuffle else len(self.batches_in_order())
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches()[self.first_batch :]:
            yield batch.tolist()


class BatchLoader(DataLoader):
    """A DataLoader over whole batches that knows where it stands, so that a run killed in the middle of an
    epoch resumes with the next batch. Lightning saves and restores what `state_dict` returns.

    Args:
        dataset: gives a batch for a list of positions.
        sampler: gives these lists.
        threads: that gather batches ahead; 0: each is gathered when it is asked for.
        patience: seconds after which a thread that gives no batch ends the run; 0: never.
        options: of DataLoader.

    Attributes:
        asked: when the latest batch was asked for, by time.perf_counter(); an epoch's first one waits for
            its order.
    """

    sampler: BatchSampler
    asked = 0.0

    def __init__(
        self, dataset: Any, sampler: BatchSampler, threads: int = 0, patience: float = 0, **options: Any
    ) -> None:
        super().__init__(dataset, sampler=sampler, batch_size=None, **options)
        self.threads, self.patience = threads, patience
        self._batches = 0
        self._resume_at: tuple[int | None, int] = (None, 0)  # in this epoch (None: any), with this batch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.asked = time.perf_counter()
        (epoch, batch), self._resume_at = self._resume_at, (None, 0)
        # A state saved behind the last batch belongs to an epoch that is over; that batch may be one before
        # the sampler's last, where the trainer is told to take fewer.
        first = batch % max(len(self), 1) if epoch in (None, self.sampler.epoch) else 0
        self._batches = first
        self.sampler.reshuffles.begin(self.sampler.epoch, first)
        iterator = self._loaded() if first == 0 else self._resumed(first)
        for batch in iterator:
            self._batches += 1
            yield batch
            self.asked = time.perf_counter()

    def _loaded(self) -> Iterator[Any]:
        if not self.threads:
            return super().__iter__()
        return in_threads(self._gathered, iter(self.sampler), self.threads, patience=self.patience or None)

    def _gathered(self, positions: list[int]) -> Any:
        batch = self.collate_fn(self.dataset[positions])
        return batch.pin_memory() if self.pin_memory else batch

    def _resumed(self, first: int) -> Iterator[Any]:
        # The sampler is read lazily, so the mark has to stand for as long as this one iterator lives.
        self.sampler.first_batch = first
        try:
            yield from self._loaded()
        finally:
            self.sampler.first_batch = 0

    def state_dict(self) -> dict[str, int]:
        return {"batches": self._batches, "epoch": self.sampler.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = state.get("epoch"), state["batches"]
