"""Hotwords: what each text gains, and that searches find what is the best with them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_audio.decoding import Beam, Hotwords
from lightning_audio.decoding.transducer import Joiner, TransducerBeam, TransducerModel
from lightning_audio.errors import UserError
from lightning_audio.tasks.predictors import LSTMPredictor
from lightning_audio.text.tokenizers import BPE, Characters, Tokenizer

AB = Characters("ab ")
PIECES = BPE(["▁", "a", "b", "▁a", "▁ab"], [("▁", "a"), ("▁a", "b")])
WORDS = ["ab", "aba"]


def counted(text: str, words: list[str], boost: float) -> float:
    return boost * sum(word in words for word in text.split())


@pytest.mark.parametrize("tokenizer", [AB, PIECES])
def test_every_text_gains_the_boost_for_each_of_its_words(tokenizer: Tokenizer) -> None:
    """Whatever was given on the way is taken back, also of words that begin alike, and in any tokens."""
    hot = Hotwords(WORDS, tokenizer, 2.0)
    for length in range(7):
        for tokens in itertools.product(range(len(tokenizer.vocabulary)), repeat=min(length, 6)):
            expected = counted(tokenizer.decode(tokens), WORDS, 2.0)
            assert hot.total(tokens) == pytest.approx(expected), tokenizer.decode(tokens)
        if len(tokenizer.vocabulary) ** length > 10_000:
            break


def test_a_word_is_given_more_the_more_of_it_is_spelled() -> None:
    hot = Hotwords(["abab"], AB, 4.0)
    state, given = hot.start(), []
    for token in AB.encode("abab"):
        state, gained = hot.step(state, token)
        given.append(gained)
    assert given == pytest.approx([1.0] * 4)
    assert hot.step(state, AB.ids["a"]) == (None, pytest.approx(-4.0))


def exhaustive(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability by CTC of every token sequence."""
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        tokens = tuple(output - 1 for output, _ in itertools.groupby(path) if output)
        probability = math.exp(sum(float(log_probs[t, output]) for t, output in enumerate(path)))
        total[tokens] = total.get(tokens, 0.0) + probability
    return {tokens: math.log(probability) for tokens, probability in total.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_by_ctc_finds_the_best_with_them(seed: int) -> None:
    rows = (2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    decoder = Beam(AB, beam=3000, prune=-math.inf, hotwords=Hotwords(["ab"], AB, 2.5))
    scored = [
        (value + counted(AB.decode(tokens), ["ab"], 2.5), tokens)
        for tokens, value in exhaustive(rows).items()
    ]
    (found,) = decoder(rows)
    assert (found.score, found.tokens) == (pytest.approx(max(scored)[0], abs=1e-4), max(scored)[1])
    assert decoder.score_of(rows, AB.encode("ab")).score == pytest.approx(
        exhaustive(rows)[tuple(AB.encode("ab"))] + 2.5, abs=1e-4
    )


def test_a_transducer_says_a_word_that_is_favoured_enough() -> None:
    torch.manual_seed(0)
    model = TransducerModel(LSTMPredictor(4, 6, hidden=5).eval(), Joiner(6, 4))
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    plain = TransducerBeam(AB, model, 2, beam=500, prune=-math.inf)
    favoured = TransducerBeam(AB, model, 2, beam=500, prune=-math.inf, hotwords=Hotwords(["ab"], AB, 9.0))
    assert "ab" not in plain(rows)[0].text.split()
    found = favoured(rows)[0]
    assert "ab" in found.text.split()
    assert found.score == pytest.approx(found.acoustic + counted(found.text, ["ab"], 9.0))


@pytest.mark.parametrize(
    ("words", "boost", "sentence"),
    [
        ([], 5.0, r"names\.txt has no words"),
        (["ab", "xyz"], 5.0, r"1 words of names\.txt have characters .* such as xyz"),
        (["ab"], 0.0, r"The boost 0 of names\.txt favours nothing"),
    ],
)
def test_words_that_do_not_fit_are_told(words: list[str], boost: float, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Hotwords(words, AB, boost, "names.txt")
