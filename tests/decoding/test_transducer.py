"""Decoding of transducers: the lattice against all paths, searches against all texts, batches against one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_audio.decoding.transducer import (
    Joiner,
    TransducerBeam,
    TransducerGreedy,
    TransducerModel,
    best_path,
)
from lightning_audio.errors import UserError
from lightning_audio.tasks.predictors import PREDICTORS
from lightning_audio.text.tokenizers import Characters

AB, WIDTH = Characters("ab"), 6
KINDS = sorted(PREDICTORS)


def model_of(kind: str = "lstm", outputs: int = 3, seed: int = 0) -> TransducerModel:
    torch.manual_seed(seed)
    predictor = PREDICTORS[kind](outputs, WIDTH, hidden=5).eval()
    joiner = Joiner(WIDTH, outputs).requires_grad_(False)
    joiner.output.bias.zero_()  # it begins with blanks
    return TransducerModel(predictor.requires_grad_(False), joiner)


def frames_of(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(lengths), max(lengths), WIDTH, generator=generator), torch.tensor(lengths)


def by_paths(model: TransducerModel, frames: Tensor, said: Sequence[int]) -> dict[tuple[int, ...], Tensor]:
    """For each choice of the frames `(T, width)` in which the outputs are said, its log-probability."""
    predicted = model.predictor(torch.tensor([said], dtype=torch.int64))[0]
    weight, bias = (parameter.double() for parameter in model.joiner.output.parameters())
    joined = (frames.double()[:, None] + predicted).tanh() @ weight.T + bias
    places = joined.log_softmax(-1)
    found = {}
    for chosen in itertools.combinations_with_replacement(range(len(frames)), len(said)):
        steps, u = [], 0
        for t, row in enumerate(places):
            for _ in range(chosen.count(t)):
                steps.append(row[u][said[u]])
                u += 1
            steps.append(row[u][0])
        found[chosen] = torch.stack(steps).sum()
    return found


def total(model: TransducerModel, frames: Tensor, said: Sequence[int]) -> Tensor:
    return torch.stack([*by_paths(model, frames, said).values()]).logsumexp(0)


SAID = torch.tensor([[1, 2, 2], [2, 1, 1], [1, 1, 2]])
COUNTS = torch.tensor([3, 1, 2])


@pytest.mark.parametrize("most", [2**24, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_that_of_all_paths_in_whatever_parts(kind: str, most: int) -> None:
    model, (frames, lengths) = model_of(kind), frames_of(4, 3, 1)
    losses = model.losses(frames.requires_grad_(), lengths, SAID, COUNTS, most)
    rows = zip(frames.detach(), lengths.tolist(), SAID.tolist(), COUNTS.tolist(), strict=True)
    expected = [-float(total(model, row[:t], said[:u])) for row, t, said, u in rows]
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("most", [2**24, 1])
def test_gradient_agrees_with_finite_differences(most: int) -> None:
    model, (frames, lengths) = model_of(), frames_of(3, 2)
    frames.requires_grad_()
    model.losses(frames, lengths, SAID[:2], COUNTS[:2], most).sum().backward()
    assert frames.grad is not None
    plain, step = frames.detach().double(), 1e-5
    for i, t, d in [(0, 0, 1), (0, 2, 5), (1, 0, 3), (1, 1, 0)]:
        values = []
        for sign in (1, -1):
            moved = plain.clone()
            moved[i, t, d] += sign * step
            values.append(-float(total(model, moved[i, : lengths[i]], SAID[i, : COUNTS[i]].tolist())))
        assert float(frames.grad[i, t, d]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)
    assert not frames.grad[1, 2].any(), "behind an utterance there is no gradient"


def test_gradients_in_parts_are_those_of_the_whole() -> None:
    found = []
    for most in (2**24, 1):
        model, (frames, lengths) = model_of(), frames_of(4, 3, 1)
        modules: tuple[Any, ...] = (model.predictor, model.joiner)
        for module in modules:
            module.requires_grad_()
        model.losses(frames, lengths, SAID, COUNTS, most).sum().backward()
        found.append([p.grad for module in modules for p in module.parameters()])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_step_by_step_says_what_it_says_at_once(kind: str) -> None:
    model, state, last = model_of(kind), None, torch.zeros(3, dtype=torch.int64)
    whole = model.predictor(SAID)
    for u in range(4):
        said, state = model.predictor.step(last, state)
        torch.testing.assert_close(said, whole[:, u])
        last = SAID[:, min(u, 2)]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_is_the_best_of_all(seed: int) -> None:
    model, (frames, _) = model_of(seed=seed), frames_of(5, seed=seed)
    said = [1, 2, 2]
    best = max(by_paths(model, frames[0], said).items(), key=lambda pair: float(pair[1]))[0]
    decoder = TransducerGreedy(AB, model, 3)
    spans = decoder.token_frames(frames[0], [output - 1 for output in said], "it")
    assert tuple(span.start for span in spans) == best
    assert [span.end - span.start for span in spans] == [1, 1, 1]
    assert all(span.score < 0 for span in spans)


def test_a_path_with_impossible_steps_goes_round_them() -> None:
    blank, token = torch.full((3, 2), -1.0).double(), torch.full((3, 2), -9.0).double()
    token[0, 0] = -1e4
    token[2, 0] = -0.1
    assert best_path(blank.numpy(), token.numpy()) == [2]


def test_too_many_tokens_for_the_frames_are_told() -> None:
    decoder = TransducerGreedy(AB, model_of(), max_symbols=2)
    with pytest.raises(UserError, match=r"The 5 tokens of it need 3 frames and its audio gives 2"):
        decoder.token_frames(frames_of(2)[0][0], [0, 1, 0, 1, 0], "it")


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_takes_the_best_output_of_each_place(kind: str, most: int) -> None:
    """One by one, as Graves 2012 says it, against batches of utterances of other lengths."""
    model, (frames, lengths) = model_of(kind, seed=3), frames_of(9, 4, 7)
    utterances = [row[:t] for row, t in zip(frames, lengths.tolist(), strict=True)]
    expected = []
    for rows in utterances:
        said: list[int] = []
        for frame in rows:
            for _ in range(most):
                predicted = model.predictor(torch.tensor([said], dtype=torch.int64))[0, -1]
                output = int(model.joiner(frame, predicted).argmax())
                if not output:
                    break
                said.append(output)
        expected.append(tuple(output - 1 for output in said))
    assert len(set(expected)) == 3
    decoder = TransducerGreedy(AB, model, most)
    together = decoder.many(utterances)
    assert [found[0].tokens for found in together] == expected
    for rows, (one,) in zip(utterances, together, strict=True):
        (alone,) = decoder(rows)
        assert alone.tokens == one.tokens
        assert alone.score == pytest.approx(one.score, abs=1e-5)
        assert one.score == pytest.approx(decoder.score_of(rows, one.tokens).score, abs=1e-5)


class Bigram:
    """A language model in which a token after itself is rare, and the end after "a" is."""

    def start(self) -> int:
        return -1

    def step(self, state: int, token: int) -> tuple[int, float]:
        return token, math.log(0.1 if token == state else 0.6)

    def ahead(self, state: int) -> float:
        return 0.0

    def end(self, state: int) -> float:
        return math.log(0.2 if state == 0 else 0.7)

    def cut(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tokens

    def of(self, tokens: Sequence[int]) -> float:
        steps = zip((-1, *tokens), tokens, strict=False)
        return sum(self.step(*pair)[1] for pair in steps) + self.end(tokens[-1] if tokens else -1)


class Fused:
    fusion = Bigram()
    path = unit = lexicon = None


@pytest.mark.parametrize("weight", [0.0, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_finds_the_best_of_all_texts(kind: str, weight: float) -> None:
    model, (frames, _) = model_of(kind, seed=1), frames_of(3, seed=2)
    rows = frames[0]
    options = {"model": Fused(), "lm_weight": weight} if weight else {}
    decoder = TransducerBeam(AB, model, 3, beam=2000, nbest=8, length_norm=0.2, prune=-math.inf, **options)
    found = decoder(rows)
    texts = [said for count in range(6) for said in itertools.product((1, 2), repeat=count)]
    scored = []
    for said in texts:
        tokens = tuple(output - 1 for output in said)
        lm = weight * Bigram().of(tokens) if weight else 0.0
        scored.append(((float(total(model, rows, said)) + lm) / max(len(tokens), 1) ** 0.2, tokens))
    best = sorted(scored, reverse=True)[:8]
    assert [one.score for one in found] == pytest.approx([score for score, _ in best], abs=1e-4)
    assert [one.tokens for one in found] == [tokens for _, tokens in best]


def test_paths_of_equal_tokens_are_added_up() -> None:
    """So that without pruning the search itself knows the probability of each text that fits a frame."""
    model, (frames, _) = model_of(seed=4), frames_of(3, seed=4)
    decoder = TransducerBeam(AB, model, 3, beam=5000, prune=-math.inf)
    (live,) = decoder.search([frames[0]])
    few = {node.tokens(): value for node, value in live.items() if node.length <= 3}
    assert len(few) == 1 + 2 + 4 + 8
    for tokens, value in few.items():
        assert value == pytest.approx(decoder.score_of(frames[0], tokens).acoustic, abs=1e-4)


def test_one_symbol_a_frame_says_no_more_than_there_are_frames() -> None:
    model, (frames, _) = model_of(seed=4), frames_of(3, seed=4)
    decoder = TransducerBeam(AB, model, 1, beam=500, nbest=20, prune=-math.inf)
    assert {len(node.tokens()) for node in decoder.search([frames[0]])[0]} == {0, 1, 2, 3}


def test_a_narrow_beam_and_pruning_find_what_is_sure() -> None:
    model, (frames, _) = model_of(seed=6), frames_of(12, seed=6)
    wide, narrow = (TransducerBeam(AB, model, 2, beam=beam) for beam in (64, 4))
    greedy = TransducerGreedy(AB, model, 2)(frames[0])[0]
    assert greedy.score - 1e-4 <= narrow(frames[0])[0].score <= wide(frames[0])[0].score + 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_utterances_together_find_what_each_finds_alone(kind: str) -> None:
    model, (frames, lengths) = model_of(kind, seed=3), frames_of(9, 1, 0, 7)
    utterances = [row[:t] for row, t in zip(frames, lengths.tolist(), strict=True)]
    decoder = TransducerBeam(AB, model, 3, beam=4, nbest=4, model=Fused(), lm_weight=0.5)
    together = decoder.many(utterances)
    assert len({tuple(one.tokens for one in found) for found in together}) == 3
    for rows, found in zip(utterances, together, strict=True):
        alone = decoder(rows)
        assert [one.tokens for one in found] == [one.tokens for one in alone]
        assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-4)
    assert decoder.many([]) == []


def test_silence_is_the_blank_behind_nothing() -> None:
    model, (frames, _) = model_of(), frames_of(4)
    start = model.predictor(torch.zeros(1, 0, dtype=torch.int64))[0, 0]
    expected = torch.stack([model.joiner(frame, start)[0] for frame in frames[0]])
    found = TransducerGreedy(AB, model, 2).silence(frames[0].numpy())
    torch.testing.assert_close(torch.as_tensor(found), expected)


def test_nothing_said_has_a_score() -> None:
    model, (frames, _) = model_of(), frames_of(4)
    decoder = TransducerGreedy(AB, model, 2)
    assert decoder.score_of(frames[0], []).score == pytest.approx(
        float(total(model, frames[0], [])), abs=1e-5
    )
    assert decoder.score_of(frames[0][:0], []).score == 0
    assert decoder.score_of(frames[0][:0], [1]).score == -math.inf


def test_scores_of_several_are_those_of_each() -> None:
    model, (frames, _) = model_of(), frames_of(4)
    decoder, utterances, said = TransducerGreedy(AB, model, 2), [frames[0], frames[0][:2]], [[1, 0], [1]]
    for rows, own, found in zip(utterances, said, decoder.scores_of(utterances, said), strict=True):
        assert found.tokens == tuple(own)
        assert found.score == pytest.approx(decoder.score_of(rows, own).score, abs=1e-5)


def test_what_is_no_number_is_told() -> None:
    rows = torch.full((3, WIDTH), math.nan)
    for decoder in (TransducerGreedy(AB, model_of(), 2), TransducerBeam(AB, model_of(), 2)):
        with pytest.raises(UserError, match="training has diverged"):
            decoder(rows)
