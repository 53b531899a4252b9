"""Long recordings in pieces: planted pauses are recovered, windows are joined, an hour stays small."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_audio.data.decode import to_int16
from lightning_audio.decoding import Decoder, Greedy
from lightning_audio.decoding.alignment import BoundaryRule
from lightning_audio.errors import UserError
from lightning_audio.inference.segments import segments, sounding, windows_over
from lightning_audio.inference.transcribe import Transcript, joined_windows, posteriors, transcribe
from lightning_audio.text.tokenizers import Characters, Tokenizer

RATE = 8000


def recording(parts: Sequence[tuple[float, bool]], noise_db: float = -60.0, seed: int = 0) -> np.ndarray:
    """int16 samples of `(seconds, whether there is sound)`: noise that swells like syllables, on a floor."""
    rng = np.random.default_rng(seed)
    pieces = []
    for seconds, sound in parts:
        count = round(seconds * RATE)
        time = np.arange(count) / RATE
        swell = (0.55 - 0.45 * np.cos(2 * np.pi * 4 * time)) * 0.2
        pieces.append(rng.standard_normal(count) * (swell if sound else 0.0))
    whole = np.concatenate(pieces)
    return to_int16(whole + 10 ** (noise_db / 20) * rng.standard_normal(len(whole)))


def planted(parts: Sequence[tuple[float, bool]]) -> list[tuple[float, float]]:
    """The stretches of sound in seconds."""
    edges = np.cumsum([0.0, *(seconds for seconds, _ in parts)])
    return [(edges[i], edges[i + 1]) for i, (_, sound) in enumerate(parts) if sound]


def speech(seed: int, words: int, pauses: tuple[float, float] = (0.3, 0.9)) -> list[tuple[float, bool]]:
    rng = np.random.default_rng(seed)
    parts: list[tuple[float, bool]] = [(0.5, False)]
    for _ in range(words):
        parts += [(float(rng.uniform(0.5, 2.5)), True), (float(rng.uniform(*pauses)), False)]
    return parts


@pytest.mark.parametrize("noise_db", [-200.0, -60.0, -45.0, -36.0])
def test_planted_sound_is_recovered(noise_db: float) -> None:
    parts = speech(0, 20)
    found = np.array(sounding(recording(parts, noise_db), RATE)) / RATE
    truth = np.array(planted(parts))
    assert found.shape == truth.shape
    assert np.abs(found - truth).max() < 0.08


def test_an_uneven_floor_is_no_sound() -> None:
    """Background that is a few decibels louder in one half."""
    samples = np.concatenate([recording(speech(1, 10), -50.0), recording(speech(2, 10), -46.0)])
    found, truth = sounding(samples, RATE), [*planted(speech(1, 10)), *planted(speech(2, 10))]
    assert len(found) == len(truth)


@pytest.mark.parametrize("seed", range(8))
def test_no_word_is_cut_and_no_piece_too_long_where_pauses_are(seed: int) -> None:
    parts = speech(seed, 60)
    samples = recording(parts, seed=seed)
    pieces = [(start / RATE, end / RATE) for start, end in segments(samples, RATE, longest=10.0)]
    assert all(0 < end - start <= 10.0 for start, end in pieces)
    assert all(one[1] <= other[0] for one, other in pairwise(pieces))
    for start, end in planted(parts):
        holding = [piece for piece in pieces if piece[0] <= start + 0.05 and end - 0.05 <= piece[1]]
        assert len(holding) == 1
    # Not in crumbs either: pauses under a second are cut at only where it has to be.
    assert len(pieces) <= 2.5 * len(samples) / RATE / 10.0


def test_a_short_recording_is_one_piece_as_it_is() -> None:
    parts = [(0.5, False), (1.0, True), (3.0, False), (1.0, True), (0.5, False)]
    samples = recording(parts)
    assert segments(samples, RATE, longest=6.0) == [(0, len(samples))]
    assert segments(np.zeros(RATE, np.int16), RATE) == [(0, RATE)]


def test_long_pauses_are_cut_at_and_left_out() -> None:
    parts = [(5.0, False), (2.0, True), (3.0, False), (2.0, True), (0.5, False), (2.0, True), (4.0, False)]
    pieces = np.array(segments(recording(parts), RATE, longest=8.0)) / RATE
    assert pieces == pytest.approx(np.array([[4.7, 7.3], [9.7, 14.8]]), abs=0.08)


def test_the_longest_pause_is_cut_at_first_and_of_equal_ones_the_middle() -> None:
    uneven = [(2.0, True), (0.3, False), (2.0, True), (0.8, False), (2.0, True), (0.3, False), (2.0, True)]
    pieces = np.array(segments(recording(uneven), RATE, longest=7.0)) / RATE
    assert pieces == pytest.approx(np.array([[0.0, 4.6], [4.8, 9.4]]), abs=0.08)
    even = [(1.0, True), (0.5, False)] * 8
    pieces = np.array(segments(recording(even), RATE, longest=7.0)) / RATE
    assert pieces == pytest.approx(np.array([[0.0, 5.75], [5.75, 11.8]]), abs=0.08)


@pytest.mark.parametrize("quiet_db", [-30.0, -40.0])
@pytest.mark.parametrize("noise_db", [-200.0, -85.0])
@pytest.mark.parametrize("loud", [[(5.0, 0.01)], [(5.0, 0.01), (20.0, 0.05), (33.0, 0.01)], [(5.0, 1.0)]])
def test_quiet_speech_beside_a_loud_sound_is_kept(
    quiet_db: float, noise_db: float, loud: list[tuple[float, float]]
) -> None:
    """Speech of 0.1 RMS lowered by so much, 50 dB and more below full scale; the loud ones reach it."""
    parts = speech(0, 20)
    rng = np.random.default_rng(1)
    quiet = recording(parts, noise_db=-200.0) / 2**15 * 10 ** (quiet_db / 20)
    quiet += 10 ** (noise_db / 20) * rng.standard_normal(len(quiet))
    for at, seconds in loud:
        first = round(at * RATE)
        quiet[first : first + round(seconds * RATE)] = 0.99
    found = sounding(to_int16(quiet), RATE)
    for start, end in planted(parts):
        kept = sum(max(0, min(end * RATE, stop) - max(start * RATE, first)) for first, stop in found)
        assert kept > 0.9 * (end - start) * RATE


@pytest.mark.parametrize("level", [0, 1])
def test_silence_has_no_pieces(level: int) -> None:
    noise = np.random.default_rng(0).integers(-level, level + 1, size=30 * RATE).astype(np.int16)
    assert segments(noise, RATE) == []


def test_a_single_word_in_long_silence_is_found() -> None:
    parts = [(90.0, False), (0.6, True), (90.0, False)]
    ((start, end),) = segments(recording(parts), RATE)
    assert (start / RATE, end / RATE) == (pytest.approx(89.7, abs=0.08), pytest.approx(90.9, abs=0.08))


def test_steady_sound_is_all_taken_in_windows() -> None:
    tone = to_int16(0.1 * np.random.default_rng(0).standard_normal(61 * RATE))
    pieces = segments(tone, RATE, longest=20.0)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(tone)
    assert len(pieces) == 4
    for one, other in pairwise(pieces):
        assert one[1] - other[0] >= 2 * RATE - 1


@pytest.mark.parametrize(
    ("last", "size", "grid"), [(2000, 500, 1), (1999, 500, 32), (501, 500, 32), (777, 130, 32)]
)
def test_windows_cover_within_their_size_and_on_the_grid(last: int, size: int, grid: int) -> None:
    windows = windows_over(100, 100 + last, size, 100, grid)
    assert windows[0][0] == 100
    assert windows[-1][1] == 100 + last
    assert all(end - start <= size for start, end in windows)
    assert all((start - 100) % grid == 0 for start, _ in windows)
    overlaps = [one[1] - other[0] for one, other in pairwise(windows)]
    assert min(overlaps) >= min(200, size // 4) - grid


def test_a_piece_has_to_hold_something() -> None:
    with pytest.raises(UserError, match="hold no speech"):
        segments(np.zeros(RATE, np.int16), RATE, longest=0.0)
    with pytest.raises(UserError, match="hold no speech"):
        segments(np.zeros(RATE, np.int16), RATE, longest=0.1, grid=320)


def test_an_hour_takes_little_memory_beyond_itself() -> None:
    minute = recording(speech(3, 30))[: 50 * RATE]
    hour = np.tile(minute, 72)
    tracemalloc.start()
    pieces = segments(hour, RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < hour.nbytes
    assert max(end - start for start, end in pieces) <= 20 * RATE
    covered = sum(end - start for start, end in pieces) / len(hour)
    assert 0.75 < covered <= 1.0


# Transcripts of pieces, by a network whose answer is known: every 40 ms it hears what the level says.

LETTERS = Characters(" abc")
ROW = 320


class Hearing:
    """Row t holds the output that the sample at its centre names, in thousands; a neighbourhood blurs it.

    Near either end of what it is given it hears nothing, as a network without context might.
    """

    sample_rate = RATE
    tokenizer: Tokenizer = LETTERS
    decoder: Decoder = Greedy(LETTERS)
    frame_seconds = ROW / RATE
    DEAF = 5  # rows

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def frame_outputs(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.shapes.append((len(clips), max(map(len, clips))))
        found = []
        for samples in clips:
            count = len(samples) // ROW + 1
            log_probs = torch.full((count, 5), -9.0)
            for row in range(count):
                heard = 0
                if self.DEAF <= row < count - self.DEAF:
                    heard = int(samples[min(row * ROW, len(samples) - 1)]) // 1000
                log_probs[row, heard] = 0.0
            found.append(log_probs.log_softmax(-1).numpy())
        return found


def telling(text: str, rows: int = 6) -> np.ndarray:
    """Samples that a `Hearing` network hears as the text, a letter in the middle of so many rows."""
    samples = np.zeros(len(text) * rows * ROW, np.int16)
    for i, letter in enumerate(text):
        at = (i * rows + rows // 2) * ROW
        samples[at - ROW // 2 : at + ROW // 2] = 1000 * (1 + " abc".index(letter))
    return samples


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.int16)


def test_windows_give_what_the_whole_gives() -> None:
    text = "abc ab  cab bca cc a abba cab " * 3
    padding = silence(0.4)
    samples = np.concatenate([padding, telling(text), padding])
    whole = posteriors(Hearing(), samples, longest=1000.0)
    network = Hearing()
    windows = posteriors(network, samples, longest=5.0)
    assert len(network.shapes) > 4
    assert max(shape[1] for shape in network.shapes) <= 5 * RATE
    assert np.array_equal(windows, whole)
    assert LETTERS.decode(Greedy(LETTERS)(windows)[0].tokens) == text


def test_a_seam_is_where_both_windows_are_sure_of_the_blank() -> None:
    blank, letter = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.1, 0.9]).log()
    first = torch.stack([blank] * 4 + [blank, blank, letter, letter, blank, blank, blank, blank])
    # The other window hears the same letter a row later.
    second = torch.stack([blank, blank, blank, letter, letter, blank, blank, blank] + [letter] * 2)
    ((start, rows),) = joined_windows([((0, 12), first.numpy()), ((4, 14), second.numpy())], grid=1)
    assert start == 0
    assert len(rows) == 14
    path = rows.argmax(-1).tolist()
    assert path in ([0] * 6 + [1, 1] + [0] * 4 + [1, 1], [0] * 7 + [1, 1] + [0] * 3 + [1, 1])


def test_pieces_that_do_not_overlap_stay_apart() -> None:
    rows = [np.full((3, 2), float(i)) for i in range(3)]
    found = list(joined_windows([((0, 3), rows[0]), ((3, 6), rows[1]), ((9, 12), rows[2])], grid=1))
    assert [start for start, _ in found] == [0, 3, 9]


def transcripts(recordings: Sequence[np.ndarray], **options: float) -> list[Transcript]:
    named = [(f"r{i}", samples) for i, samples in enumerate(recordings)]
    return list(transcribe(Hearing(), named, **options))  # type: ignore[arg-type]


def test_segments_have_the_words_and_times_of_their_pieces() -> None:
    parts = [silence(2), telling("ab cab"), silence(3), telling("cc a"), silence(5)]
    (found,) = transcripts([np.concatenate(parts)], longest=4.0)
    assert [segment.text for segment in found.segments] == ["ab cab", "cc a"]
    assert found.text == "ab cab cc a"
    assert found.seconds == pytest.approx(sum(map(len, parts)) / RATE)
    words = found.words
    assert [word.text for word in words] == ["ab", "cab", "cc", "a"]
    # A letter every six rows of 40 ms, heard in the fourth of them; pieces begin between two rows.
    heard = [2 + 3 * 0.04, 2 + 21 * 0.04, 6.44 + 3 * 0.04, 6.44 + 21 * 0.04]
    begins = [time - 0.02 - BoundaryRule().reach + BoundaryRule().shift for time in heard]
    assert [word.start for word in words] == pytest.approx(begins, abs=0.021)
    assert found.segments[1].end == words[-1].end


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_recordings_share_batches_and_come_in_their_order(batch_size: int) -> None:
    quiet = np.concatenate([silence(1), telling("b"), silence(1)])
    several = np.concatenate([silence(1), telling("a"), silence(9), telling("c"), silence(1)])
    found = transcripts([quiet, several, silence(30), silence(1), quiet], batch_size=batch_size, longest=4.0)
    assert [one.id for one in found] == ["r0", "r1", "r2", "r3", "r4"]
    assert [one.text for one in found] == ["b", "a c", "", "", "b"]
    assert [one.seconds for one in found] == pytest.approx([2.24, 11.48, 30, 1, 2.24])
    assert found[2].segments == found[3].segments == ()
