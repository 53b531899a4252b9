"""Windows over recordings: they cover everything, end where it ends, and overlap as told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice, pairwise

import numpy as np
import pytest

from lightning_audio.errors import UserError
from lightning_audio.inference.windows import (
    BATCHES_AHEAD,
    REST,
    SLACK,
    answered_in_batches,
    batches_of,
    windows,
)


@pytest.mark.parametrize(
    ("size", "hop"), [(size, hop) for size in (1, 2, 7, 20) for hop in (1, 2, 5, 7, 20) if hop <= size]
)
def test_windows_cover_a_recording_of_any_length(size: int, hop: int) -> None:
    for length in range(80):
        samples = np.arange(length)
        found = windows(samples, size, hop)
        assert all(np.array_equal(part, samples[start : start + len(part)]) for start, part in found)
        starts = [start for start, _ in found]
        assert starts[0] == 0
        assert found[-1][0] + len(found[-1][1]) == length
        if length <= SLACK * size:
            assert len(found) == 1
        else:
            assert {len(part) for _, part in found[:-1]} == {size}
            assert size <= len(found[-1][1]) <= size + REST * hop
            strides = [second - first for first, second in pairwise(starts)]
            assert set(strides[:-1]) <= {hop}
            assert 0 < strides[-1] <= hop


def test_windows_worked_out_by_hand() -> None:
    starts = [start for start, _ in windows(np.zeros(100), 40, 25)]
    assert starts == [0, 25, 50, 60]
    assert [start for start, _ in windows(np.zeros(90), 40, 25)] == [0, 25, 50]


def test_a_little_longer_than_a_window_is_one_piece() -> None:
    assert [len(part) for _, part in windows(np.zeros(125), 100, 50)] == [125]
    assert [start for start, _ in windows(np.zeros(126), 100, 50)] == [0, 26]
    assert [len(part) for _, part in windows(np.zeros(3), 100, 50)] == [3]


def test_a_few_samples_more_make_no_window_more() -> None:
    """Another window would weigh the end twice."""
    regular = [(0, 100), (50, 100), (100, 100)]
    assert [(start, len(part)) for start, part in windows(np.zeros(200), 100, 50)] == regular
    assert [(start, len(part)) for start, part in windows(np.zeros(203), 100, 50)] == [
        *regular[:2],
        (100, 103),
    ]
    assert [start for start, _ in windows(np.zeros(213), 100, 50)] == [0, 50, 100, 113]


def test_whole_up_to_the_longest_training_clip() -> None:
    assert [len(part) for _, part in windows(np.zeros(300), 100, 50, whole=300)] == [300]
    assert [len(part) for _, part in windows(np.zeros(301), 100, 100, whole=300)] == [100, 100, 101]
    assert [len(part) for _, part in windows(np.zeros(101), 100, 100, whole=100)] == [101]


@pytest.mark.parametrize(("size", "hop"), [(10, 0), (10, -1), (10, 11), (0, 0)])
def test_a_hop_that_leaves_gaps_or_never_ends_is_refused(size: int, hop: int) -> None:
    with pytest.raises(UserError, match=rf"A hop of {hop} samples .* up to {size}"):
        windows(np.zeros(100), size, hop)


def test_batches_hold_everything_in_order_and_are_read_as_asked_for() -> None:
    assert list(batches_of(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches_of([], 3)) == []
    assert list(islice(batches_of(count(), 2), 2)) == [[0, 1], [2, 3]]


def test_pieces_of_like_length_run_together_and_are_answered_in_their_order() -> None:
    batches: list[list[str]] = []

    def answer(batch: Sequence[str]) -> list[str]:
        batches.append([*batch])
        return [piece.upper() for piece in batch]

    pieces = ["a", "bbbb", "cc", "dddd", "e", "fff", "g"]
    assert list(answered_in_batches(answer, pieces, 2, len)) == [piece.upper() for piece in pieces]
    assert batches == [["a", "e"], ["g", "cc"], ["fff", "bbbb"], ["dddd"]]


def test_no_more_pieces_are_read_ahead_than_some_batches() -> None:
    read = count()
    answered = answered_in_batches(lambda batch: batch, read, 3, lambda piece: -piece)
    assert list(islice(answered, 2)) == [0, 1]
    assert next(read) == 3 * BATCHES_AHEAD
