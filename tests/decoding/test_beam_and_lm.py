"""Decoders against exhaustive search, language models against their own probabilities, and their mistakes."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_audio.decoding import Beam, Decoder, Greedy, Hypothesis, LMDecoder, ctc_log_probs
from lightning_audio.decoding.lm import token_name
from lightning_audio.decoding.ngram import NGramModel
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import BPE, Characters, Tokenizer

AB = Characters("ab ")
WIDE = 3000
TEXTS = ["a", "ab", "a ab", "ab a", "ba a", "a ba ab", "a a", "ab ab a"]
LEXICON = ["a", "ab", "ba"]
# Pieces of words: "b" and "a" go on with a word that the marked ones begin.
PIECES = BPE(["▁", "a", "b", "▁a", "▁ab"], [("▁", "a"), ("▁a", "b")])

Score = Callable[[tuple[int, ...]], float]
Models = dict[str, tuple[NGramModel, Path]]


def random_rows(seed: int, frames: int, outputs: int) -> Tensor:
    return (2 * torch.randn(frames, outputs, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def peaked(path: Sequence[int], outputs: int, sure: float = 0.9) -> Tensor:
    """Log-probabilities `(T, C)` of a network that takes this path."""
    rows = torch.full((len(path), outputs), (1 - sure) / (outputs - 1))
    rows[range(len(path)), path] = sure
    return rows.log()


def collapse(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(output - 1 for output, _ in itertools.groupby(path) if output)


def by_paths(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability of every token sequence: all alignments, one after another."""
    total: dict[tuple[int, ...], float] = {}
    rows = log_probs.double().exp().tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        probability = math.prod(row[output] for row, output in zip(rows, path, strict=True))
        total[collapse(path)] = total.get(collapse(path), 0.0) + probability
    return {tokens: math.log(p) for tokens, p in total.items() if p > 0}


def exhaustive(log_probs: Tensor, worth: Score, norm: float = 0.0) -> list[tuple[float, tuple[int, ...]]]:
    """Scores and tokens of all that can be said, the best first."""
    scored = [
        ((acoustic + worth(tokens)) / max(len(tokens), 1) ** norm, tokens)
        for tokens, acoustic in by_paths(log_probs).items()
    ]
    return sorted((pair for pair in scored if pair[0] > -math.inf), reverse=True)


def assert_exact(decoder: Beam, log_probs: Tensor, worth: Score, norm: float = 0.0) -> None:
    """All hypotheses that the decoder gives are the best there are of their words, with their scores."""
    found = decoder(log_probs)
    best_of: dict[tuple[str, ...], tuple[float, tuple[int, ...]]] = {}
    for score, tokens in exhaustive(log_probs, worth, norm):
        best_of.setdefault(tuple(words_of(tokens, decoder.tokenizer)), (score, tokens))
    best = [*best_of.values()][: len(found)]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for score, _ in best], abs=1e-4)
    assert [hypothesis.tokens for hypothesis in found] == [tokens for _, tokens in best]


def words_of(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    return tokenizer.decode(tokens).split()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Of `words`, `characters` and `pieces`: the model, and its ARPA file."""
    pytest.importorskip("kenlm", reason="pip install 'lightning-audio[speech]'")
    parts: dict[str, Callable[[str], list[str]]] = {
        "words": str.split,
        "characters": lambda text: [token_name(character) for character in text],
        "pieces": lambda text: [PIECES.vocabulary[token] for token in spelled(text)],
    }
    folder, made = tmp_path_factory.mktemp("models"), {}
    for name, split in parts.items():
        model = NGramModel([split(text) for text in TEXTS], 3)
        (folder / f"{name}.arpa").write_text(model.arpa(), encoding="utf-8")
        made[name] = model, folder / f"{name}.arpa"
    return made


def spelled(text: str) -> list[int]:
    """Ids of the pieces of a text, by hand: `▁ab`, or `▁a` or `▁`, and the letters that are left."""
    ids = []
    for word in text.split():
        head = next(piece for piece in ("▁ab", "▁a", "▁") if f"▁{word}".startswith(piece))
        ids += [PIECES.ids[head], *(PIECES.ids[letter] for letter in f"▁{word}"[len(head) :])]
    return ids


# Log-probabilities of sequences.


@pytest.mark.parametrize("seed", range(4))
def test_sequences_have_the_probability_of_all_their_alignments(seed: int) -> None:
    rows = random_rows(seed, 5, 3)
    rows[2, 1] = -math.inf
    truth = by_paths(rows)
    sequences = [s for n in range(7) for s in itertools.product(range(2), repeat=n)]
    wanted = [truth.get(sequence, -math.inf) for sequence in sequences]
    assert ctc_log_probs(rows, sequences) == pytest.approx(wanted, abs=1e-5)


def test_no_frames_hold_nothing_but_the_empty_sequence() -> None:
    assert ctc_log_probs(torch.zeros(0, 3), [(), (0,)]) == [0.0, -math.inf]


# The best path.


def test_the_best_path_merges_repeats_and_keeps_what_a_blank_parts() -> None:
    (found,) = Greedy(AB)(peaked([1, 1, 0, 1, 3, 3, 2, 0], 4))
    assert (found.text, found.tokens) == ("aa b", (0, 0, 2, 1))


def test_the_score_of_the_best_path_is_that_of_its_text() -> None:
    rows = random_rows(0, 5, 4)
    (found,) = Greedy(AB)(rows)
    assert found.score == found.acoustic == pytest.approx(by_paths(rows)[found.tokens], abs=1e-5)
    assert Greedy(AB).score_of(rows, found.tokens) == found


# Beam search.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("bonus", "norm"), [(0.0, 0.0), (1.5, 0.0), (-2.0, 0.0), (0.0, 0.7), (0.8, 0.5)])
def test_a_wide_beam_finds_the_best_of_all(seed: int, bonus: float, norm: float) -> None:
    decoder = Beam(AB, WIDE, nbest=10, word_bonus=bonus, length_norm=norm, prune=-math.inf)
    assert_exact(decoder, random_rows(seed, 5, 4), lambda s: bonus * len(words_of(s, AB)), norm)


@pytest.mark.parametrize("seed", range(3))
def test_words_of_pieces_are_counted_at_their_mark(seed: int) -> None:
    """Also where a mark stands alone, or the first piece has none."""
    decoder = Beam(PIECES, WIDE, nbest=10, word_bonus=1.0, prune=-math.inf)
    assert_exact(decoder, random_rows(seed, 4, 6), lambda s: float(len(words_of(s, PIECES))))


def test_many_alignments_win_over_the_best_path() -> None:
    """The best path is blank, blank (0.36); `a` has three alignments with 0.64 together."""
    rows = torch.tensor([[0.6, 0.4, 0.0, 0.0]] * 2).log()
    assert Greedy(AB)(rows)[0].text == ""
    (found,) = Beam(AB, 2)(rows)
    assert (found.text, found.score) == ("a", pytest.approx(math.log(0.64), abs=1e-6))


def plain_search(log_probs: Tensor, beam: int, rank: Callable[[float, tuple[int, ...]], float]) -> list:
    """Prefix beam search with nothing left out: prefixes and their log-probabilities in a table."""
    live: dict[tuple[int, ...], tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # ending in a blank, and in the last token
    for blank, *row in log_probs.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(tokens: tuple[int, ...], *gains: float, grown: dict = grown) -> None:
            grown[tokens] = tuple(np.logaddexp(grown.get(tokens, (-math.inf, -math.inf)), gains))

        for tokens, (silent, voiced) in live.items():
            total = float(np.logaddexp(silent, voiced))
            add(tokens, total + blank, voiced + row[tokens[-1]] if tokens else -math.inf)
            for token, value in enumerate(row):
                add((*tokens, token), -math.inf, (silent if tokens[-1:] == (token,) else total) + value)
        best = sorted(grown, key=lambda tokens: -rank(float(np.logaddexp(*grown[tokens])), tokens))[:beam]
        live = {tokens: grown[tokens] for tokens in best}
    return [*live]


@pytest.mark.parametrize("beam", [1, 2, 5, 16])
@pytest.mark.parametrize(("bonus", "norm"), [(0.0, 0.0), (2.0, 0.0), (-1.0, 0.5)])
def test_a_narrow_beam_keeps_what_a_plain_search_keeps(beam: int, bonus: float, norm: float) -> None:
    decoder = Beam(AB, beam, nbest=beam, word_bonus=bonus, length_norm=norm, prune=-math.inf)

    def rank(total: float, tokens: tuple[int, ...]) -> float:
        return (total + bonus * len(words_of(tokens, AB))) / max(len(tokens), 1) ** norm

    for seed in range(4):
        rows = random_rows(seed, 12, 4)
        found = {tuple(hypothesis.text.split()) for hypothesis in decoder(rows)}
        assert found == {tuple(words_of(tokens, AB)) for tokens in plain_search(rows, beam, rank)}


@pytest.mark.parametrize("beam", [1, 3, 16])
def test_a_narrow_beam_with_a_model_too(models: Models, beam: int) -> None:
    model, path = models["characters"]
    decoder = LMDecoder(AB, path, beam=beam, nbest=beam, lm_weight=0.6, prune=-math.inf)

    def rank(total: float, tokens: tuple[int, ...]) -> float:
        names = ["<s>", *(token_name(character) for character in AB.decode(tokens))]
        chances = (model.probability(names[i], names[:i]) for i in range(1, len(names)))
        return total + 0.6 * sum(map(math.log, chances))

    for seed in range(4):
        rows = random_rows(seed, 12, 4)
        found = {tuple(hypothesis.text.split()) for hypothesis in decoder(rows)}
        assert found == {tuple(words_of(tokens, AB)) for tokens in plain_search(rows, beam, rank)}


def test_a_wider_beam_is_no_worse() -> None:
    rows = [random_rows(seed, 12, 4) for seed in range(10)]
    means = [sum(Beam(AB, beam)(row)[0].score for row in rows) / len(rows) for beam in (1, 4, 16)]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_lists_are_sorted_and_name_each_text_once() -> None:
    """Also where texts differ in spaces only, or in the tokens that spell them."""
    found = Beam(AB, 32, nbest=8)(random_rows(1, 12, 4))
    assert len({" ".join(hypothesis.text.split()) for hypothesis in found}) == 8
    spaced = Beam(AB, 32, nbest=8)(peaked([1, 3, 0, 3, 2], 4, sure=0.5))
    assert len({" ".join(hypothesis.text.split()) for hypothesis in spaced}) == len(spaced)
    pieces = Beam(PIECES, 32, nbest=8)(random_rows(1, 8, 6))
    assert len({hypothesis.text for hypothesis in pieces}) == len(pieces)
    scores = [hypothesis.score for hypothesis in found]
    assert scores == sorted(scores, reverse=True)


def test_hypotheses_and_references_are_scored_alike() -> None:
    """Also where the search has lost alignments: the beam of 2 leaves most of them out."""
    decoder, rows = Beam(AB, 2, word_bonus=0.5, length_norm=0.3), random_rows(3, 10, 4)
    (found,) = decoder(rows)
    assert decoder.score_of(rows, found.tokens) == found
    (loss,) = ctc_log_probs(rows, [found.tokens])
    assert found.acoustic == loss


@pytest.mark.parametrize("decoder", [Greedy(AB), Beam(AB)])
def test_nothing_heard_is_an_answer(decoder: Decoder) -> None:
    nothing = Hypothesis((), "", 0.0, 0.0)
    assert decoder(torch.zeros(0, 4)) == [nothing]
    (silent,) = decoder(peaked([0, 0, 0], 4, sure=1.0))
    assert (silent.tokens, silent.score) == ((), 0.0)


@pytest.mark.parametrize("decoder", [Greedy(AB), Beam(AB)])
def test_what_is_no_number_is_refused(decoder: Decoder) -> None:
    rows = random_rows(0, 3, 4)
    rows[1, 1] = math.nan
    with pytest.raises(UserError, match="training has diverged"):
        decoder(rows)
    with pytest.raises(ValueError, match=r"are not \(T, 4\)"):
        decoder(rows[:, :3])


@pytest.mark.parametrize(
    "options", [{"beam": 0}, {"beam": 1_000_000}, {"nbest": 0}, {"beam": 4, "nbest": 5}, {"prune": 1.0}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Beam(AB, **options)


# Language models.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("weight", "bonus"), [(1.0, 0.0), (0.4, 1.0), (0.0, 0.0)])
def test_a_model_over_characters_is_followed(models: Models, seed: int, weight: float, bonus: float) -> None:
    model, path = models["characters"]
    decoder = LMDecoder(AB, path, beam=WIDE, nbest=8, prune=-math.inf).weighted(weight, bonus)

    def worth(tokens: tuple[int, ...]) -> float:
        log_prob = model.log_prob([token_name(character) for character in AB.decode(tokens)])
        return weight * log_prob + bonus * len(words_of(tokens, AB))

    assert_exact(decoder, random_rows(seed, 5, 4), worth)


@pytest.mark.parametrize("seed", range(3))
def test_a_model_over_pieces_is_followed(models: Models, seed: int) -> None:
    model, path = models["pieces"]
    decoder = LMDecoder(PIECES, path, beam=WIDE, nbest=8, lm_weight=0.7, prune=-math.inf)
    names = PIECES.vocabulary
    assert_exact(
        decoder, random_rows(seed, 4, 6), lambda s: 0.7 * model.log_prob([names[token] for token in s])
    )


@pytest.mark.parametrize("lexicon", [LEXICON, None])
@pytest.mark.parametrize("seed", range(5))
def test_a_model_over_words_is_followed(models: Models, seed: int, lexicon: list[str] | None) -> None:
    model, path = models["words"]
    decoder = LMDecoder(
        AB, path, lexicon, "words", WIDE, nbest=8, lm_weight=0.8, word_bonus=0.6, prune=-math.inf
    )

    def worth(tokens: tuple[int, ...]) -> float:
        text = AB.decode(tokens)
        spaced = text == " ".join(text.split())
        if not spaced or (lexicon and not set(text.split()) <= set(lexicon)):
            return -math.inf
        return 0.8 * model.log_prob(text.split()) + 0.6 * len(text.split())

    assert_exact(decoder, random_rows(seed, 5, 4), worth)


@pytest.mark.parametrize("seed", range(3))
def test_words_may_be_spelled_in_any_pieces(
    models: Models, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ab` as ▁ab, ▁a b or ▁ a b: the network may have learned any of them."""
    monkeypatch.setattr(BPE, "encode", lambda self, text: spelled(text))
    model, path = models["words"]
    decoder = LMDecoder(PIECES, path, LEXICON, beam=WIDE, nbest=4, lm_weight=0.8, prune=-math.inf)

    def worth(tokens: tuple[int, ...]) -> float:
        words = words_of(tokens, PIECES)
        text = "".join(PIECES.vocabulary[token] for token in tokens)
        allowed = set(words) <= set(LEXICON) and text == "".join(f"▁{word}" for word in words)
        return 0.8 * model.log_prob(words) if allowed else -math.inf

    assert_exact(decoder, random_rows(seed, 5, 6), worth)


def test_every_spelling_of_a_word_is_found(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BPE, "encode", lambda self, text: spelled(text))
    decoder = LMDecoder(PIECES, models["words"][1], ["ab"], lm_weight=0.1)
    for pieces in (["▁ab"], ["▁a", "b"], ["▁", "a", "b"]):
        path = [output for piece in pieces for output in (1 + PIECES.vocabulary.index(piece), 0)]
        best = decoder(peaked(path, 6))[0]
        assert (best.text, best.tokens) == ("ab", tuple(PIECES.vocabulary.index(piece) for piece in pieces))


def test_the_model_decides_where_the_sound_does_not(models: Models) -> None:
    """`ab` and `aa` sound alike; the texts have the one and never the other."""
    rows = torch.tensor([[0.0, 0.9, 0.1, 0.0], [1.0, 0, 0, 0], [0.0, 0.51, 0.49, 0.0]]).log()
    assert Beam(AB)(rows)[0].text == "aa"
    for unit, lexicon in (("characters", None), ("words", LEXICON)):
        found = LMDecoder(AB, models[unit][1], lexicon, lm_weight=0.5)(rows)
        assert found[0].text == "ab"


def test_what_the_lexicon_lacks_cannot_be_said(models: Models) -> None:
    decoder = LMDecoder(AB, models["words"][1], LEXICON, lm_weight=0.0)
    rows = peaked([2, 0, 2, 0], 4)
    assert decoder.score_of(rows, AB.encode("bb")).score == -math.inf
    found = decoder(rows)
    assert set(found[0].text.split()) <= set(LEXICON)
    assert found[0].score > -math.inf


def test_a_word_that_is_not_finished_is_left_out(models: Models) -> None:
    """The sound breaks off within `ba`: nothing but a blank may follow."""
    rows = peaked([1, 3, 2], 4, sure=1.0)
    assert LMDecoder(AB, models["words"][1], ["a", "ba"])(rows)[0].text == "a"


def test_weights_change_and_the_model_stays(models: Models) -> None:
    decoder = LMDecoder(AB, models["words"][1], LEXICON, lm_weight=0.5)
    other = decoder.weighted(2.0, 1.0)
    assert (other.lm_weight, other.word_bonus, other.fusion) == (2.0, 1.0, decoder.fusion)
    assert (decoder.lm_weight, decoder.word_bonus) == (0.5, 0.0)
    rows = random_rows(0, 6, 4)
    tokens = AB.encode("a ab")
    one, two = decoder.score_of(rows, tokens), other.score_of(rows, tokens)
    assert two.lm == one.lm
    assert two.score - one.score == pytest.approx(1.5 * one.lm + 2 * 1.0)


def test_a_lexicon_may_be_a_file(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "lexicon.txt"
    file.write_text("ab a b |\n\na a |\nab a b |\n", encoding="utf-8")
    rows = random_rows(5, 6, 4)
    path = models["words"][1]
    assert LMDecoder(AB, path, file)(rows) == LMDecoder(AB, path, ["ab", "a"])(rows)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("missing", {}, "There is no language model"),
        ("empty", {}, "KenLM cannot read"),
        ("binary", {}, "KenLM cannot read"),
        ("words", {}, "no language model over tokens .* --characters"),
        ("characters", {"unit": "tokens", "lexicon": LEXICON}, "unit=tokens does not fit"),
        ("words", {"unit": "syllables"}, "unit=syllables does not fit"),
        ("words", {"lexicon": LEXICON, "lm_weight": -1.0}, "lm_weight=-1.0 turns"),
        ("words", {"lexicon": ["ab", "cab", "dab"]}, r"2 words .*'cab' \('c'\), 'dab' \('d'\)"),
        ("words", {"lexicon": ["A", "AB"]}, "knows no word of the lexicon, such as 'A'"),
        ("words", {"lexicon": []}, "The lexicon has no words"),
        ("words", {"lexicon": "no/such/file"}, "The lexicon no/such/file cannot be read"),
    ],
)
def test_mistakes_end_in_a_sentence(
    name: str, options: dict, sentence: str, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "empty.arpa").write_text("")
    (tmp_path / "binary.arpa").write_bytes(bytes(range(256)))
    path = models[name][1] if name in models else tmp_path / f"{name}.arpa"
    with pytest.raises(UserError, match=sentence):
        LMDecoder(AB, path, **options)


def test_an_order_that_is_too_high_is_named(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    path = tmp_path / "seven.arpa"
    path.write_text(NGramModel([["a"] * 9], 7).arpa())
    with pytest.raises(UserError, match=r"order 7 .* order 2 to 6"):
        LMDecoder(AB, path)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-audio\[speech\]'"):
        LMDecoder(AB, tmp_path / "lm.arpa")
