"""Forced alignment: planted paths are recovered, the best of all paths is found, words get sensible times."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import forced_align, merge_tokens

from lightning_audio.decoding import ctc_log_probs
from lightning_audio.decoding.alignment import (
    FRAMES_ALONE,
    BoundaryRule,
    TimedText,
    align,
    boundary_errors,
    fit_boundary_rule,
    from_parts,
    token_frames,
    widened,
)
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import BPE, Characters

LETTERS = Characters(" abc")
FRAME = 0.04


def along(path: Sequence[int], outputs: int, share: float = 0.9) -> Tensor:
    """Log-probabilities `(T, outputs)` that give `share` to each output of the path."""
    rows = torch.full((len(path), outputs), (1 - share) / (outputs - 1))
    rows[torch.arange(len(path)), torch.tensor(path)] = share
    return rows.log()


def path_of(text: str) -> list[int]:
    """Outputs of frames as written: `_` is the blank, `-` the space."""
    return [0 if letter == "_" else 1 + " abc".index(letter.replace("-", " ")) for letter in text]


def times(spans: Sequence[TimedText]) -> list[tuple[str, float, float]]:
    return [(span.text, round(span.start, 6), round(span.end, 6)) for span in spans]


def test_a_planted_path_is_recovered() -> None:
    frames = token_frames(along(path_of("__aab_-_cc_"), 5), LETTERS.encode("ab c"))
    assert [(one.start, one.end) for one in frames] == [(2, 4), (4, 5), (6, 7), (8, 10)]
    assert [one.score for one in frames] == pytest.approx([math.log(0.9)] * 4)


def test_words_and_characters_of_a_planted_path() -> None:
    words = align(
        along(path_of("__a_b____-___cc__a__"), 5), LETTERS.encode("ab ca"), LETTERS, FRAME, rule=FRAMES_ALONE
    )
    # Row t is centred on t * FRAME: frames 2 to 4 reach from 1.5 to 4.5 of them.
    assert times(words) == [("ab", 0.06, 0.18), ("ca", 0.5, 0.7)]
    assert times(words[0].parts) == [("a", 0.06, 0.12), ("b", 0.12, 0.18)]
    assert times(words[1].parts) == [("c", 0.5, 0.62), ("a", 0.62, 0.7)]
    assert [word.score for word in words] == pytest.approx([0.9, 0.9])


def test_an_offset_moves_all_times() -> None:
    rows, tokens = along(path_of("__a_b____-___cc__a__"), 5), LETTERS.encode("ab ca")
    plain, later = align(rows, tokens, LETTERS, FRAME), align(rows, tokens, LETTERS, FRAME, offset=100.0)
    for one, other in zip(plain, later, strict=True):
        assert (other.start, other.end) == pytest.approx((one.start + 100, one.end + 100))
        for part, later_part in zip(one.parts, other.parts, strict=True):
            assert later_part.start == pytest.approx(part.start + 100)


@pytest.mark.parametrize("shift", [-0.5, -0.06, 0.0, 0.06, 0.1, 0.5])
@pytest.mark.parametrize("text", ["_a-b_-cc", "a-b-c", "__ab--_-b-a", "a"])
def test_every_word_keeps_a_frame(text: str, shift: float) -> None:
    """Also the last word, where it ends with the audio, and words that the shift moves out of it."""
    rows, spelled = (
        along(path_of(text), 5),
        " ".join("".join(text.replace("_", "")).replace("-", " ").split()),
    )
    tokens = LETTERS.encode(spelled.replace("cc", "c"))
    for reach in (0.0, 0.045):
        words = align(rows, tokens, LETTERS, FRAME, rule=BoundaryRule(shift, reach))
        seconds = max(len(rows) - 1, 0.5) * FRAME
        kept = min(FRAME, seconds / len(words))
        assert all(word.end - word.start >= kept - 1e-9 for word in words)
        assert all(part.end > part.start for word in words for part in word.parts)
        assert all(one.end <= other.start + 1e-9 for one, other in itertools.pairwise(words))
        assert words[0].start >= 0
        assert words[-1].end <= seconds + 1e-9


def test_tokens_that_are_alike_have_a_blank_between_them() -> None:
    frames = token_frames(along(path_of("aaaaa"), 5), LETTERS.encode("aa"))
    assert len(frames) == 2
    assert frames[0].end < frames[1].start


def paths_that_spell(target: Sequence[int], frames: int, outputs: int) -> list[tuple[int, ...]]:
    return [
        path
        for path in itertools.product(range(outputs), repeat=frames)
        if [o for o, _ in itertools.groupby(path) if o] == list(target)
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_the_path_is_the_best_of_all_even_among_ties(ties: bool) -> None:
    """Whole numbers make many partial paths exactly as good."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        frames = int(torch.randint(2, 6, (), generator=generator))
        count = int(torch.randint(1, 4, (), generator=generator))
        tokens = torch.randint(0, 3, (count,), generator=generator).tolist()
        rows = -torch.randint(0, 3, (frames, 4), generator=generator).float()
        if not ties:
            rows = rows - torch.rand(frames, 4, generator=generator)
        valid = paths_that_spell([token + 1 for token in tokens], frames, 4)
        if not valid:
            continue
        best = max(sum(float(rows[t, output]) for t, output in enumerate(path)) for path in valid)
        found, path = token_frames(rows, tokens), [0] * frames
        for one, token in zip(found, tokens, strict=True):
            path[one.start : one.end] = [token + 1] * (one.end - one.start)
        assert tuple(path) in valid
        assert sum(float(rows[t, output]) for t, output in enumerate(path)) == pytest.approx(best, abs=1e-4)


def test_what_the_network_holds_for_impossible_is_aligned_all_the_same() -> None:
    rows = along(path_of("_b_"), 5)
    rows[:, 2] = -math.inf
    (word,) = align(rows, LETTERS.encode("ab"), LETTERS, FRAME)
    assert word.text == "ab"
    assert [part.text for part in word.parts] == ["a", "b"]
    assert word.score == pytest.approx(0, abs=1e-9)


def test_words_of_pieces_begin_at_their_marker() -> None:
    tokenizer = BPE(["▁", "a", "b", "▁ab"], [("▁", "a")])
    words = align(along([0, 4, 0, 2, 0, 1, 0, 3, 0], 5), [3, 1, 0, 2], tokenizer, FRAME, rule=FRAMES_ALONE)
    assert [(word.text, [part.text for part in word.parts]) for word in words] == [
        ("aba", ["ab", "a"]),
        ("b", ["b"]),
    ]
    assert times(words)[1] == ("b", 0.26, 0.3)


def test_nothing_said_has_no_words() -> None:
    assert align(along(path_of("___"), 5), [], LETTERS, FRAME) == []
    assert align(torch.zeros(0, 5), [], LETTERS, FRAME) == []
    assert align(along(path_of("_-_"), 5), LETTERS.encode(" "), LETTERS, FRAME) == []


@pytest.mark.parametrize(
    ("text", "frames", "needed"), [("abc", 2, 3), ("aa", 2, 3), ("a", 0, 1), ("aab", 3, 4)]
)
def test_too_few_frames_are_a_sentence_with_the_utterance(text: str, frames: int, needed: int) -> None:
    rows = torch.zeros(frames, 5).log_softmax(-1)
    sentence = f"tokens of take-7 need {needed} frames and its audio gives {frames}"
    with pytest.raises(UserError, match=sentence):
        align(rows, LETTERS.encode(text), LETTERS, FRAME, name="take-7")


def test_words_reach_beyond_their_frames_but_not_over_the_middle_between_them() -> None:
    bare = [(0.5, 0.7), (0.8, 1.0), (2.0, 2.1)]
    assert widened(bare, BoundaryRule(0.0, 0.2), 3.0) == [
        pytest.approx((0.3, 0.75)),
        pytest.approx((0.75, 1.2)),
        pytest.approx((1.8, 2.3)),
    ]
    assert widened(bare, BoundaryRule(0.1, 0.02), 3.0)[0] == pytest.approx((0.58, 0.82))


def test_words_stay_within_the_recording() -> None:
    assert widened([(-0.02, 0.1), (0.9, 1.0)], BoundaryRule(0.0, 0.3), 1.0) == [
        pytest.approx((0.0, 0.4)),
        pytest.approx((0.6, 1.0)),
    ]
    assert widened([(0.9, 1.0)], BoundaryRule(0.5, 0.3), 1.0) == [pytest.approx((1.0, 1.0))]


def test_words_are_in_order_and_do_not_overlap_whatever_the_posteriors() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        rows = torch.randn(40, 5, generator=generator).log_softmax(-1)
        words = align(rows, LETTERS.encode("ab a cab b"), LETTERS, FRAME, rule=BoundaryRule(0.05, 0.1))
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= 39 * FRAME
        for word in words:
            inner = [edge for part in word.parts for edge in (part.start, part.end)]
            assert inner == sorted(inner)
            assert (inner[0], inner[-1]) == (word.start, word.end)


def test_a_planted_extent_is_fitted() -> None:
    """Frames from 70 ms behind a start to 110 ms before an end: 90 ms on both sides, 20 ms later."""
    generator = torch.Generator().manual_seed(2)
    pairs = []
    for start in torch.arange(0, 50, 1.5).tolist():
        end = start + 0.4 + 0.3 * float(torch.rand((), generator=generator))
        wrong = 0.01 * torch.randn(2, generator=generator)
        found = TimedText("x", start + 0.07 + float(wrong[0]), end - 0.11 + float(wrong[1]), 1.0)
        pairs.append((found, (start, end)))
    fitted = fit_boundary_rule(pairs)
    assert fitted.reach == pytest.approx(0.09, abs=0.005)
    assert fitted.shift == pytest.approx(0.02, abs=0.005)
    edges = widened([(found.start, found.end) for found, _ in pairs], fitted, 60.0)
    moved = [TimedText("x", *edge, 1.0) for edge in edges]
    errors = boundary_errors((span, truth) for span, (_, truth) in zip(moved, pairs, strict=True))
    assert sorted(errors)[len(errors) // 2] < 0.01


def test_no_extent_without_a_word() -> None:
    with pytest.raises(ValueError, match="one word at least"):
        fit_boundary_rule([])


def test_boundary_errors_are_those_of_starts_and_ends() -> None:
    pairs = [(TimedText("a", 0.1, 0.5, 1.0), (0.0, 0.5)), (TimedText("b", 0.5, 0.9, 1.0), (0.55, 0.8))]
    assert boundary_errors(pairs) == pytest.approx([0.1, 0.0, 0.05, 0.1])


def test_the_score_is_the_geometric_mean_over_tokens_and_not_over_words() -> None:
    long = from_parts("abc", [TimedText(letter, i, i + 1, 0.5) for i, letter in enumerate("abc")])
    short = from_parts("a", [TimedText("a", 4, 5, 1.0)])
    assert from_parts("abc a", [long, short]).score == pytest.approx(0.5 ** (3 / 4))
    assert (from_parts("abc a", [long, short]).start, from_parts("abc a", [long, short]).end) == (0, 5)


def test_long_utterances_are_aligned_and_scored_as_torchaudio_and_torch_do() -> None:
    generator = torch.Generator().manual_seed(0)
    for frames, count in ((400, 150), (200, 99), (30, 1)):
        rows = (3 * torch.randn(frames, 5, generator=generator)).log_softmax(-1)
        tokens = torch.randint(0, 4, (count,), generator=generator).tolist()
        targets = torch.tensor([[token + 1 for token in tokens]])
        path, scores = forced_align(rows[None], targets, blank=0)
        expected = merge_tokens(path[0], scores[0], blank=0)
        found = token_frames(rows.numpy(), tokens)
        assert [(one.start, one.end) for one in found] == [(one.start, one.end) for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-5)
        loss = functional.ctc_loss(
            rows.double()[:, None], targets, torch.tensor([frames]), torch.tensor([count]), 0, "none"
        )
        assert ctc_log_probs(rows.numpy(), [tokens, tokens[:1]])[0] == pytest.approx(-float(loss), rel=1e-12)
