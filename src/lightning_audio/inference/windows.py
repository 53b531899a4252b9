"""Recordings of any length as windows of the length that a network learned from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

from lightning_audio.errors import UserError

T = TypeVar("T")
# A recording up to this much longer than a window is one piece: a second window would be mostly the first.
SLACK = 1.25


def windows(samples: np.ndarray, size: int, hop: int) -> list[tuple[int, np.ndarray]]:
    """`(first sample, samples)` of windows that cover a recording; the last ends where the recording does.

    Args:
        samples: `(T,)`.
        size: samples in a window; a shorter recording is one window of its own length.
        hop: samples from one window to the next.
    """
    if not 0 < hop <= size:
        raise UserError(f"A hop of {hop} samples leaves gaps or never ends: set it above 0 and up to {size}.")
    if len(samples) <= SLACK * size:
        return [(0, samples)]
    starts = [*range(0, len(samples) - size, hop), len(samples) - size]
    return [(start, samples[start : start + size]) for start in starts]


def batches_of(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items, in their order, read only as they are asked for."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
