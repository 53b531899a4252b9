"""Recordings of any length as windows of the length that a network learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from lightning_audio.errors import UserError

T = TypeVar("T")
A = TypeVar("A")
BATCHES_AHEAD = 8
# A recording up to this much longer than a window is one piece: a second window would be mostly the first.
SLACK = 1.25
REST = 0.25  # of a hop, by which the last window may be longer: one more would weigh the end twice


def windows(
    samples: np.ndarray, size: int, hop: int, whole: int | None = None
) -> list[tuple[int, np.ndarray]]:
    """`(first sample, samples)` of windows that cover a recording; the last ends where the recording does.

    Args:
        samples: `(T,)`.
        size: samples in a window.
        hop: samples from one window to the next.
        whole: samples up to which a recording is one window of its own length; by default `SLACK * size`.
    """
    if not 0 < hop <= size:
        raise UserError(f"A hop of {hop} samples leaves gaps or never ends: set it above 0 and up to {size}.")
    if len(samples) <= (SLACK * size if whole is None else max(whole, size)):
        return [(0, samples)]
    starts = [*range(0, len(samples) - size + 1, hop)]
    rest = len(samples) - size - starts[-1]
    if rest > REST * hop:
        starts.append(len(samples) - size)
    ends = [start + size for start in starts[:-1]] + [len(samples)]
    return [(start, samples[start:end]) for start, end in zip(starts, ends, strict=True)]


def answered_in_batches(
    answer: Callable[[Sequence[T]], Iterable[A]], pieces: Iterable[T], size: int, length: Callable[[T], int]
) -> Iterator[A]:
    """What `answer` says of each piece, in their order, from batches of up to `size` of them.

    Of BATCHES_AHEAD batches pieces of like length run together, so that little is computed for padding.

    Raises:
        UserError: none would be in a batch.
    """
    for ahead in batches_of(batches_of(pieces, size), BATCHES_AHEAD):
        read = list(chain.from_iterable(ahead))
        found: dict[int, A] = {}
        for places in batches_of(sorted(range(len(read)), key=lambda place: length(read[place])), size):
            found.update(zip(places, answer([read[place] for place in places]), strict=True))
        yield from (found.pop(place) for place in range(len(read)))


def batches_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items, in their order, read only as they are asked for.

    Raises:
        UserError: none would be in a list.
    """
    if size < 1:
        raise UserError(f"batch_size={size} is none: set it to 1 or more.")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
