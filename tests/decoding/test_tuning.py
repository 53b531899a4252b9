"""The weights of a language model: planted ones are found, and those that help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lightning_audio.decoding import Greedy, Hypothesis, LMDecoder
from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.ngram import NGramModel
from lightning_audio.decoding.tuning import tune
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import Characters

AB = Characters("ab ")


class Planted:
    """Right at one weight and bonus, and the more wrong words the further away."""

    def __init__(self, weight: float, bonus: float, best: tuple[float, float]) -> None:
        self.wrong = round(4 * (abs(weight - best[0]) + abs(bonus - best[1])))

    def __call__(self, log_probs: Rows) -> list[Hypothesis]:
        words = ["b"] * min(self.wrong, 30) + ["a"] * (30 - min(self.wrong, 30))
        return [Hypothesis((), " ".join(words), 0.0, 0.0)]

    def score_of(self, log_probs: Rows, tokens: Sequence[int]) -> Hypothesis:
        raise NotImplementedError


@pytest.mark.parametrize("best", [(0.5, 1.0), (0.75, 1.5), (1.25, 2.25), (0.0, 0.0)])
def test_tuning_finds_the_planted_weights(best: tuple[float, float]) -> None:
    rows, references = [torch.zeros(1, 4)] * 2, ["a " * 30] * 2
    weight, bonus, table = tune(rows, references, lambda w, b: Planted(w, b, best))
    assert abs(weight - best[0]) + abs(bonus - best[1]) <= 0.25
    assert min(row["wer"] for row in table) == 0.0
    assert {"lm_weight": weight, "word_bonus": bonus, "wer": 0.0, "cer": 0.0} in table
    assert len({(row["lm_weight"], row["word_bonus"]) for row in table}) == len(table)
    assert min(row["lm_weight"] for row in table) == 0.0
    assert tune(rows, references, lambda w, b: Planted(w, b, best)) == (weight, bonus, table)


def test_tuning_finds_that_the_model_helps(tmp_path: Path) -> None:
    """`ab` and `aa` sound alike; the text has the one and never the other."""
    pytest.importorskip("kenlm", reason="pip install 'lightning-audio[speech]'")
    path = tmp_path / "lm.arpa"
    path.write_text(NGramModel([["ab"], ["a", "ab"]], 2).arpa())
    rows = torch.tensor([[0.0, 0.9, 0.1, 0.0], [1.0, 0, 0, 0], [0.0, 0.51, 0.49, 0.0]]).log()
    decoder = LMDecoder(AB, path, unit="words")
    weight, _, table = tune([rows], ["ab"], decoder.weighted, rounds=0)
    assert weight > 0
    assert {"lm_weight": 0.0, "word_bonus": 0.0, "wer": 1.0, "cer": 0.5} in table


def test_tuning_counts_what_the_score_counts() -> None:
    """Every word is wrong, and scored as the one that was said."""
    rows, references = [torch.zeros(1, 4)], ["a " * 30]

    def make(weight: float, bonus: float) -> Planted:
        return Planted(30.0, 30.0, (0.0, 0.0))

    weight, bonus, table = tune(rows, references, make, as_scored=lambda text: text.replace("b", "a"))
    assert (weight, bonus) == (0.0, 0.0)  # where nothing helps, nothing is added
    assert {(row["wer"], row["cer"]) for row in table} == {(0.0, 0.0)}


def test_tuning_needs_words() -> None:
    with pytest.raises(UserError, match="no words to tune"):
        tune([torch.zeros(1, 4)], [""], lambda weight, bonus: Greedy(AB))
