"""Beam search for decoders with attention, against brute force over all texts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.decoding import ctc_log_probs
from lightning_audio.decoding.alignment import monotonic_peaks
from lightning_audio.decoding.attention import AttentionBeam
from lightning_audio.decoding.attention_search import repetitions
from lightning_audio.errors import UserError
from lightning_audio.tasks.decoders import AttentionDecoder, LSTMDecoder, TransformerDecoder
from lightning_audio.text.tokenizers import fit_tokenizer

TOKENIZER = fit_tokenizer([" ab"])
OUTPUTS, WIDTH = 4, 6


class Pooling(LSTMDecoder):
    """One that attends to pairs of frames."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"pool": 2})


DECODERS = [LSTMDecoder, TransformerDecoder, Pooling]


class Bigrams:
    """A language model of which every score is known: b after a is good, and it ends behind b alone."""

    def start(self) -> int:
        return -1

    def step(self, state: int, token: int) -> tuple[int, float]:
        return token, -0.1 if (state, token) == (1, 2) else -1.5

    def ahead(self, state: int) -> float:
        return 0.0

    def end(self, state: int) -> float:
        return -0.2 if state == 2 else -math.inf

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens


class Model:
    fusion = Bigrams()


def decoder_of(kind: type[AttentionDecoder], sharpness: float = 4.0) -> AttentionDecoder:
    """One that is sure of itself, so that texts differ in what they are worth."""
    torch.manual_seed(3)
    built = kind(WIDTH, OUTPUTS, hidden=8, layers=2, heads=2).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(sharpness if parameter.dim() > 1 else 1.0)
    return built


def utterance(frames: int, seed: int = 0, with_ctc: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(frames, OUTPUTS, generator=generator)).log_softmax(-1)
    states = torch.randn(frames, WIDTH, generator=generator)
    return torch.cat([log_probs, states], 1) if with_ctc else states


def search(kind: type[AttentionDecoder], **options: Any) -> AttentionBeam:
    return AttentionBeam(TOKENIZER, decoder=decoder_of(kind), with_ctc=True, **options)


def every_text(frames: int) -> list[tuple[int, ...]]:
    return [text for n in range(frames) for text in itertools.product(range(3), repeat=n)]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ctc_weight": 0.4},
        {"ctc_weight": 0.3, "coverage": 0.7},
        {"ctc_weight": 0.3, "word_bonus": 0.8, "length_norm": 0.5},
        {"ctc_weight": 0.3, "model": Model(), "lm_weight": 0.6},
    ],
)
def test_a_wide_beam_finds_the_best_of_all_texts(
    kind: type[AttentionDecoder], options: dict[str, Any]
) -> None:
    rows, found = utterance(5), search(kind, beam=400, nbest=5, **options)
    everything = found.hypotheses(rows, every_text(5))
    assert [(one.tokens, one.score) for one in found(rows)] == [
        (one.tokens, pytest.approx(one.score, abs=1e-6)) for one in found.ranked(everything)
    ]


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_scores_are_those_of_their_parts(kind: type[AttentionDecoder]) -> None:
    rows, text = utterance(6), (1, 2, 0)
    built = search(kind, ctc_weight=0.25, coverage=2.0)
    logits, weights = built.decoder(rows[None, :, OUTPUTS:], torch.tensor([6]), torch.tensor([[0, 2, 3, 1]]))
    attention = float(logits[0].log_softmax(-1)[range(4), [2, 3, 1, 0]].sum())
    heard = int((weights[0].sum(0) > 0.5).sum())
    assert heard > 0
    expected = 0.75 * attention + 0.25 * ctc_log_probs(rows[:, :OUTPUTS], [text])[0] + 2.0 * heard
    assert built.score_of(rows, text).score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("beam", [1, 3])
def test_utterances_alone_and_together_give_the_same(kind: type[AttentionDecoder], beam: int) -> None:
    built = search(kind, beam=beam, nbest=beam, ctc_weight=0.3)
    several = [utterance(frames, seed) for seed, frames in enumerate([9, 4, 12, 1, 7])]
    for rows, together in zip(several, built.many(several), strict=True):
        alone = built(rows)
        assert [one.tokens for one in alone] == [one.tokens for one in together]
        assert [one.score for one in alone] == pytest.approx([one.score for one in together], abs=1e-5)


def test_without_ctc_rows_are_states_alone() -> None:
    built = AttentionBeam(TOKENIZER, decoder=decoder_of(LSTMDecoder), beam=400)
    rows = utterance(4, with_ctc=False)
    best = max(built.hypotheses(rows, every_text(4)), key=lambda one: one.score)
    assert built(rows)[0].tokens == best.tokens
    spans = built.token_frames(rows, (0, 1, 2))
    assert len(spans) == 3
    starts = [span.start for span in spans]
    assert starts == sorted(starts)


class Planted(torch.nn.Module):
    """A decoder that attends to what it is told to: frame `places[u]` for token u."""

    def __init__(self, places: list[int]) -> None:
        super().__init__()
        self.places, self.weight = places, torch.nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, lengths: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        count = inputs.shape[1]
        weights = torch.zeros(len(inputs), count, states.shape[1])
        for u in range(count):
            weights[:, u, self.places[min(u, len(self.places) - 1)]] = 1.0
        return torch.zeros(len(inputs), count, OUTPUTS), weights


def planted(places: list[int]) -> AttentionBeam:
    decoder: Any = Planted(places)
    return AttentionBeam(TOKENIZER, decoder=decoder)


def odd(search: AttentionBeam, rows: Tensor, *said: tuple[int, ...]) -> list[dict[str, bool]]:
    return search.odd([rows] * len(said), said)


def test_the_same_words_later_are_no_loop_and_at_the_same_frames_they_are() -> None:
    rows, said = utterance(20, with_ctc=False), (1, 0, 1, 0, 1, 0, 1)
    assert not odd(planted([0, 2, 4, 6, 8, 10, 12, 14]), rows, said)[0]["loops"]
    assert odd(planted([3, 4, 3, 4, 3, 4, 3, 4]), rows, said)[0]["loops"]
    assert not odd(planted([3] * 8), rows, (1, 0, 2, 0))[0]["loops"]
    assert [own["unended"] for own in odd(planted([0]), rows, (1,) * 20, (1,) * 19)] == [True, False]


def test_an_end_is_too_early_where_ctc_still_says_three_tokens() -> None:
    decoder: Any = Planted([1, 4, 5, 6])
    search = AttentionBeam(TOKENIZER, decoder=decoder, with_ctc=True)
    path = torch.tensor([0, 1, 1, 0, 2, 3, 0, 0, 2, 2, 0, 3, 0, 0, 1, 1, 0, 0, 0, 0])
    rows = torch.cat([torch.eye(OUTPUTS)[path].log().clamp(min=-20), torch.zeros(20, WIDTH)], 1)
    found = odd(search, rows, (0, 1, 2), ())  # up to frame 5, and three more tokens behind it; nothing at all
    assert [own["early"] for own in found] == [True, True]
    assert not odd(search, rows[:14], (0, 1, 2))[0]["early"]
    assert search.remarks(rows, (0, 1, 2)) == ["ends before the speech does"]
    assert search.remarks(rows[:0], ()) == []
    plain = AttentionBeam(TOKENIZER, decoder=decoder)  # it has no other word for the frames
    assert not odd(plain, rows[:, OUTPUTS:], (0, 1, 2))[0]["early"]


@pytest.mark.parametrize("kind", DECODERS)
def test_what_is_odd_about_utterances_and_their_scores_are_the_same_alone_and_together(
    kind: type[AttentionDecoder],
) -> None:
    built = search(kind, ctc_weight=0.3)
    several = [utterance(frames, seed) for seed, frames in enumerate([9, 14, 5, 20])]
    said = [(1, 0, 1, 0, 1, 0), (), (2, 2, 2, 2, 2), (0, 1, 2)]
    everything = zip(several, said, built.odd(several, said), built.scores_of(several, said), strict=True)
    for rows, own, found, together in everything:
        assert [found] == built.odd([rows], [own])
        alone = built.score_of(rows, own)
        assert (together.tokens, together.text) == (alone.tokens, alone.text)
        assert together.score == pytest.approx(alone.score, abs=1e-4)  # float32 of processors rounds by 1e-5


def test_repetitions_are_found_with_their_place_size_and_number() -> None:
    assert list(repetitions((5, 1, 1, 1, 1, 2))) == [(1, 1, 4)]
    assert (0, 2, 3) in list(repetitions((1, 2, 1, 2, 1, 2, 3)))
    assert list(repetitions((1, 2, 1, 2, 3))) == []


def test_frames_of_tokens_never_go_back() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights = torch.rand(4, 5, generator=generator).softmax(-1)
        best = max(
            (path for path in itertools.product(range(5), repeat=4) if list(path) == sorted(path)),
            key=lambda path: math.prod(float(weights[u, t]) for u, t in enumerate(path)),
        )
        assert monotonic_peaks(weights) == list(best)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ctc_weight": 1.0, "with_ctc": True}, "ctc_weight=1.0 is no share below 1"),
        ({"ctc_weight": 0.3}, "weighs what was not trained"),
        ({"coverage": -1.0}, "coverage=-1.0 does not fit"),
    ],
)
def test_options_out_of_range_are_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AttentionBeam(TOKENIZER, decoder=decoder_of(LSTMDecoder), **options)
