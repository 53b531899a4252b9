"""Misses and false alarms, counted and compared, and the long audio that they are counted in."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from lightning_audio.data import long_audio as module
from lightning_audio.data.long_audio import SpokenWord, bed, long_audio
from lightning_audio.metrics.detection import (
    OperatingPoint,
    det_curve,
    fewest_errors,
    fewest_misses,
    operating_point,
    per_hour,
)

RATE = 8000


def word(start: float, label: str = "yes") -> SpokenWord:
    return SpokenWord(start, start + 1.0, label, 0)


def point(misses: int, false_alarms: int, threshold: float = 0.5, words: int = 10) -> OperatingPoint:
    return OperatingPoint(threshold, np.arange(words) >= misses, false_alarms)


@pytest.mark.parametrize(
    ("detections", "hits", "false_alarms"),
    [
        ([], [False, False], 0),
        ([(1.8, "yes"), (5.2, "no")], [True, True], 0),
        ([(1.0, "yes"), (2.5, "yes")], [True, False], 1),  # the second one of the same word
        ([(0.99, "yes"), (2.51, "yes")], [False, False], 2),  # before it, and too late
        ([(1.5, "no"), (5.5, "yes")], [False, False], 2),  # the wrong word
        ([(2.5, "yes"), (6.5, "no")], [True, True], 0),  # as late as may be
        ([(3.0, "yes"), (1.5, "yes")], [True, False], 1),  # in any order
    ],
)
def test_hits_and_false_alarms_by_hand(
    detections: list[tuple[float, str]], hits: list[bool], false_alarms: int
) -> None:
    found = operating_point(0.5, [word(1.0, "yes"), word(5.0, "no")], detections)
    assert (found.hits.tolist(), found.false_alarms) == (hits, false_alarms)
    assert found.miss_rate == 1 - sum(hits) / 2


def test_as_many_hits_as_any_matching_has() -> None:
    """Words so close that a detection may be of one or the other, against a maximum matching."""
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(300):
        labels = ["yes", "no"]
        words = [word(rng.uniform(0, 6), labels[rng.integers(2)]) for _ in range(rng.integers(1, 7))]
        detections = [(rng.uniform(0, 8), labels[rng.integers(2)]) for _ in range(rng.integers(1, 9))]
        fits = [[w.label == d[1] and w.start <= d[0] <= w.end + 0.5 for d in detections] for w in words]
        matching = maximum_bipartite_matching(csr_array(np.array(fits, dtype=int)), perm_type="column")
        found = operating_point(0.5, words, detections)
        sizes.append(int((matching >= 0).sum()))
        assert found.hits.sum() == sizes[-1]
        assert found.false_alarms == len(detections) - sizes[-1]
    assert min(sizes) == 0
    assert max(sizes) >= 4


@pytest.mark.parametrize(("events", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39)])
def test_poisson_interval_is_that_of_the_tables(events: int, low: float, high: float) -> None:
    score = per_hour(events, 1.0)
    assert (score.value, score.n) == (events, events)
    assert score.low == pytest.approx(low, rel=1e-3)
    assert score.high == pytest.approx(high, rel=1e-3)


def test_rates_are_over_the_hours() -> None:
    score = per_hour(10, 0.25)
    assert (score.value, score.low, score.high) == pytest.approx((40, 4 * 4.795, 4 * 18.39), rel=1e-3)


def test_det_curve_keeps_what_no_other_point_beats() -> None:
    rng = np.random.default_rng(1)
    misses = [int(rng.integers(max(9 - i // 3, 0), 11)) for i in range(30)]
    points = [point(missed, int(rng.integers(i, 30)), i / 30) for i, missed in enumerate(misses)]
    curve = det_curve(points)
    for fewer, more in pairwise(curve):
        assert fewer.false_alarms < more.false_alarms
        assert fewer.misses > more.misses
    for left_out in points:
        assert any(
            kept.misses <= left_out.misses and kept.false_alarms <= left_out.false_alarms for kept in curve
        )
    assert len(curve) > 2


def test_threshold_with_the_fewest_errors_is_the_middle_of_equal_ones() -> None:
    points = [point(1, 5, 0.2), point(1, 2, 0.3), point(2, 1, 0.4), point(3, 0, 0.7), point(9, 0, 0.9)]
    assert fewest_errors(points[::-1]).threshold == 0.4


def test_threshold_with_the_fewest_misses_keeps_to_its_false_alarms() -> None:
    points = [point(1, 5, 0.2), point(1, 2, 0.3), point(1, 2, 0.35), point(1, 2, 0.38), point(3, 1, 0.7)]
    assert fewest_misses(points[::-1], 2.9).threshold == 0.35
    assert fewest_misses(points, 1.9).threshold == 0.7
    assert fewest_misses(points, 100).threshold == 0.35  # no false alarm more than it needs
    assert fewest_misses(points, 0).threshold == 0.7  # the fewest that there are


def tones(frequencies: list[float], seconds: float = 1.0) -> list[tuple[str, np.ndarray]]:
    time = np.arange(round(seconds * RATE)) / RATE
    levels = 500 * 2.0 ** np.arange(len(frequencies))
    return [
        (f"{f:g}", (level * np.sin(2 * np.pi * f * time)).astype(np.int16))
        for f, level in zip(frequencies, levels, strict=True)
    ]


def noises() -> list[np.ndarray]:
    """Half seconds of very different levels, one of them silent."""
    rng = np.random.default_rng(2)
    return [(level * rng.standard_normal(RATE // 2)).astype(np.int16) for level in (30, 3000, 300, 0)]


@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_words_stand_where_they_are_said_to_at_their_snr(
    monkeypatch: pytest.MonkeyPatch, snr_db: float
) -> None:
    monkeypatch.setattr(module, "WORD_FADE", 0.0)
    clips = tones([500, 800, 1300, 2100, 3400])
    samples, words = long_audio(clips, noises(), RATE, seed=3, snr_db=(snr_db, snr_db))
    assert sorted(word.clip for word in words) == [0, 1, 2, 3, 4]
    for planted in words:
        first, last = round(planted.start * RATE), round(planted.end * RATE)
        inside, tone = samples[first:last] / 1.0, clips[planted.clip][1] / 1.0
        assert planted.label == clips[planted.clip][0]
        assert np.abs(np.fft.rfft(inside)).argmax() == float(planted.label)  # a second: bins are Hz
        # What of it is the tone, by least squares, and what is left.
        heard = tone * (inside @ tone) / (tone @ tone)
        assert 10 * np.log10(np.sum(heard**2) / np.sum((inside - heard) ** 2)) == pytest.approx(
            snr_db, abs=0.1
        )


def test_gaps_hold_noise_alone_and_are_as_long_as_asked_for() -> None:
    samples, words = long_audio(tones([500, 800, 1300]), noises(), RATE, seed=4, gap=(0.5, 0.7))
    edges = [0.0, *(time for word in words for time in (word.start, word.end)), len(samples) / RATE]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    assert len(gaps) == 4
    levels = []
    for start, end in gaps:
        assert end - start + 1e-9 >= 0.5
        assert end - start <= 0.7 + 1e-3
        levels.append(np.std(samples[round(start * RATE) : round(end * RATE)]))
    assert max(levels) / min(levels) == pytest.approx(1.0, abs=0.1)


def test_long_audio_is_a_function_of_its_seed_and_never_clipped() -> None:
    loud = [
        (label, (30 * samples.clip(-1000, 1000)).astype(np.int16)) for label, samples in tones([500, 800])
    ]
    first, words = long_audio(loud, noises(), RATE, seed=5, snr_db=(0.0, 40.0))
    again, same = long_audio(loud, noises(), RATE, seed=5, snr_db=(0.0, 40.0))
    other, _ = long_audio(loud, noises(), RATE, seed=6, snr_db=(0.0, 40.0))
    assert first.dtype == np.int16
    assert words == same
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:RATE], other[:RATE])
    assert np.abs(first.astype(int)).max() < 2**15 - 1


@pytest.mark.parametrize("pieces", [noises(), []])
def test_bed_is_of_one_power_throughout(pieces: list[np.ndarray]) -> None:
    noise = bed(pieces, 10 * RATE, 400, np.random.default_rng(7))
    assert noise.shape == (10 * RATE,)
    powers = np.square(noise).reshape(40, -1).mean(1)
    assert np.abs(powers - 1).max() < 0.15
