"""A neural language model: its probabilities by brute force, fused and rescored exactly on small lattices."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio import build
from lightning_audio.data.batch import Batch
from lightning_audio.data.info import DataInfo
from lightning_audio.data.targets import PAD
from lightning_audio.decoding import Beam, LanguageModel, ctc_log_probs
from lightning_audio.decoding.neural import NeuralModel
from lightning_audio.decoding.ngram import NGramModel
from lightning_audio.decoding.transducer import Joiner, TransducerBeam, TransducerModel
from lightning_audio.errors import UserError
from lightning_audio.tasks.language_model import LanguageModel as Task
from lightning_audio.tasks.predictors import PREDICTORS, LSTMPredictor
from lightning_audio.text.tokenizers import Characters, fit_tokenizer

AB = Characters("ab")
KINDS = sorted(PREDICTORS)


def model_of(kind: str = "lstm") -> NeuralModel:
    torch.manual_seed(3)
    predictor = PREDICTORS[kind](3, 3, hidden=5).eval().requires_grad_(False)
    predictor.projection.weight.mul_(6)
    return NeuralModel(predictor, Path("lm.ckpt"))


def by_hand(model: NeuralModel, tokens: tuple[int, ...]) -> float:
    """The log-probability of the tokens and the end, by the predictor on all of them at once."""
    said = torch.tensor([tokens], dtype=torch.int64) + 1
    log_probs = model.predictor(said)[0].log_softmax(-1)
    following = [*(token + 1 for token in tokens), 0]
    return float(log_probs[torch.arange(len(following)), torch.tensor(following)].sum())


def texts(longest: int) -> list[tuple[int, ...]]:
    return [text for n in range(longest + 1) for text in itertools.product((0, 1), repeat=n)]


def frames(seed: int = 0) -> Tensor:
    return (2 * torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_is_that_of_the_whole_text_and_sums_to_one(kind: str) -> None:
    model, beam = model_of(kind), Beam(AB, model=model_of(kind))
    for text in texts(4):
        assert beam._lm(text) == pytest.approx(by_hand(model, text), abs=1e-5)
        state = model.start()
        for token in text:
            state, _ = model.step(state, token)
        likely = [model.end(state), *(model.step(state, token)[1] for token in (0, 1))]
        assert sum(map(math.exp, likely)) == pytest.approx(1)


@pytest.mark.parametrize("rescore", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_fusion_by_ctc_finds_the_best_of_all_texts(seed: int, rescore: bool) -> None:
    model, rows = model_of(), frames(seed)
    options: dict[str, Any] = {"beam": 64, "nbest": 5, "prune": -math.inf, "lm_weight": 0.7}
    found = Beam(AB, model=model, rescore=rescore, **options)(rows)
    scored = {text: ctc_log_probs(rows, [text])[0] + 0.7 * by_hand(model, text) for text in texts(4)}
    best = sorted(scored.items(), key=lambda pair: -pair[1])[:5]
    assert [one.tokens for one in found] == [text for text, _ in best]
    assert [one.score for one in found] == pytest.approx([score for _, score in best], abs=1e-5)


def test_fusion_by_a_transducer_finds_the_best_of_all_texts() -> None:
    torch.manual_seed(0)
    transducer = TransducerModel(
        LSTMPredictor(3, 6, hidden=5).eval().requires_grad_(False), Joiner(6, 3).requires_grad_(False)
    )
    model, rows = model_of(), 2 * torch.randn(3, 6)
    beam = TransducerBeam(AB, transducer, 2, beam=200, nbest=4, prune=-math.inf, model=model, lm_weight=0.7)
    said = [text for text in texts(6) if len(text) <= 6]
    total = zip(said, beam.acoustics(rows, said), strict=True)
    scored = {text: acoustic + 0.7 * by_hand(model, text) for text, acoustic in total}
    best = sorted(scored, key=lambda text: -scored[text])[:4]
    found = beam(rows)
    assert [one.tokens for one in found] == best
    assert [one.score for one in found] == pytest.approx([scored[text] for text in best], abs=1e-5)


def test_rescoring_leaves_the_search_alone() -> None:
    """With one prefix kept it is the text without a model, with its score by both."""
    model, plain = model_of(), Beam(AB, beam=1)
    for seed in range(5):
        rows = frames(seed)
        (found,) = Beam(AB, beam=1, model=model, lm_weight=2.0, rescore=True)(rows)
        (expected,) = plain(rows)
        assert found.tokens == expected.tokens
        assert found.score == pytest.approx(expected.score + 2 * by_hand(model, found.tokens), abs=1e-5)


def test_rescoring_wants_a_model_over_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes a language model over tokens"):
        Beam(AB, rescore=True)
    pytest.importorskip("kenlm", reason="pip install 'lightning-audio[speech]'")
    (tmp_path / "words.arpa").write_text(NGramModel([["ab", "a"]], 2).arpa(), encoding="utf-8")
    words = LanguageModel(AB, tmp_path / "words.arpa", unit="words")
    with pytest.raises(UserError, match="takes a language model over tokens"):
        Beam(AB, model=words, rescore=True)


def test_a_model_of_its_own_text_may_lack_tokens_that_bpe_merges_away(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="pip install 'lightning-audio[speech]'")
    tokenizer = fit_tokenizer(["aab aab aab"], kind="bpe", size=6)
    names = [tokenizer.vocabulary[token] for token in tokenizer.encode("aab aab aab")]
    assert "▁" in tokenizer.vocabulary
    assert "▁" not in names
    (tmp_path / "own.arpa").write_text(NGramModel([names], 2).arpa(), encoding="utf-8")
    fusion = LanguageModel(tokenizer, tmp_path / "own.arpa").fusion
    likely = [math.exp(fusion.step(fusion.start(), token)[1]) for token in range(6)]  # type: ignore[index]
    assert max(likely) == likely[tokenizer.encode("aab")[0]]
    for foreign in (["aab", "baa", "a", "b"], ["x", "y"]):
        (tmp_path / "words.arpa").write_text(NGramModel([foreign], 2).arpa(), encoding="utf-8")
        with pytest.raises(UserError, match="is no language model over tokens"):
            LanguageModel(tokenizer, tmp_path / "words.arpa")


def task_of(**options: Any) -> Task:
    torch.manual_seed(0)
    answering = {
        "frontend": {"_target_": "lightning_audio.frontend.log_mel.LogMel", "n_mels": 8},
        "normalize": "none",
        "network": {"_target_": "lightning_audio.networks.heads.LinearHead"},
        "task": {
            "_target_": "lightning_audio.tasks.language_model.LanguageModel",
            "text": {"steps": ["lower"], "tokenizer": {"kind": "characters"}},
            "predictor": {"hidden": 5},
            **options,
        },
    }
    state = fit_tokenizer(["ab"]).state()
    task = build.assemble(answering, DataInfo(("a", "b"), 8000, 1.0, encoding={"vocabulary": state})).eval()
    assert isinstance(task, Task)
    return task


def test_lines_of_a_file_are_learned_beside_the_transcripts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("AB\n\nbab\nabc\n", encoding="utf-8")
    task = task_of(corpus=str(path), lines_per_clip=50)
    task.on_fit_start()
    assert [line.tolist() for line in task.lines] == [[1, 2], [2, 1, 2]]
    assert "line 4" in caplog.text
    silence, targets = torch.zeros(2, 80, dtype=torch.int16), torch.tensor([[1, PAD, PAD, PAD], [2, 2, 2, 2]])
    batch = Batch(silence, torch.full((2,), 80), targets, ids=("x", "y"))
    logits, lengths, learned = task.training_logits(batch)
    assert torch.equal(learned[:2], targets)
    assert {tuple(row) for row in learned[2:].tolist()} == {(1, 2, PAD, PAD), (2, 1, 2, PAD)}
    assert lengths.tolist() == ((learned != PAD).sum(1) + 1).tolist()
    assert logits.shape == (102, 5, 3)
    for text, told in (
        ("xyz\n", "no line that can be learned: 1 transcripts"),
        ("\n", "no line that can be"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=told):
            task.on_fit_start()
    path.unlink()
    with pytest.raises(UserError, match=r"task\.corpus=.* can't be read .*: name a text file in UTF-8"):
        task.on_fit_start()


def test_loss_and_perplexity_are_those_of_brute_force() -> None:
    task = task_of()
    assert {id(p) for p in task.parameters() if p.requires_grad} == {*map(id, task.predictor.parameters())}
    targets = torch.tensor([[1, 2, 2], [2, PAD, PAD], [1, 1, PAD]])
    silence = torch.zeros(3, 80, dtype=torch.int16)
    batch = Batch(silence, torch.full((3,), 80), targets, ids=("x", "y", "z"))
    model = NeuralModel(task.predictor, Path())
    expected = [-by_hand(model, text) for text in ((0, 1, 1), (1,), (0, 0))]
    with torch.no_grad():
        logits, lengths, same = task.training_logits(batch)
        assert float(task.loss(logits, lengths, same)) == pytest.approx(sum(expected) / 9, rel=1e-5)
        task.observe("test", logits, lengths, batch)
    assert task.summarise("test") == {"perplexity": pytest.approx(math.exp(sum(expected) / 9), rel=1e-5)}
    assert [row["reference"] for row in task.rows] == ["abb", "b", "aa"]
    assert [row["loss"] for row in task.rows] == pytest.approx(expected, rel=1e-5)
    score = task.scores(())["perplexity"]
    assert (score.n, score.better, score.unit) == (9, "min", "per token")
    with pytest.raises(UserError, match="hears nothing"):
        task.predict([silence[0].numpy()], 8000)
