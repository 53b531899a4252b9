"""Decoders with attention: token by token as all at once, padding, and what they attend to."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.errors import UserError
from lightning_audio.tasks.decoders import AttentionDecoder, LSTMDecoder, TransformerDecoder

DECODERS = [LSTMDecoder, TransformerDecoder]


def built(kind: type[AttentionDecoder], layers: int = 2) -> AttentionDecoder:
    torch.manual_seed(0)
    return kind(6, 5, hidden=8, layers=layers, heads=2).eval()


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_token_by_token_it_says_what_it_says_of_all_at_once(kind: type[AttentionDecoder]) -> None:
    decoder, lengths = built(kind), torch.tensor([7, 4, 1])
    states, inputs = torch.randn(3, 7, 6), torch.tensor([[0, 1, 2, 3], [0, 4, 4, 1], [0, 1, 1, 1]])
    logits, weights = decoder(states, lengths, inputs)
    memory = decoder.memory(states, lengths)
    state = decoder.start(memory)
    for u in range(4):
        found, state = decoder.step(inputs[:, u], memory, state)
        torch.testing.assert_close(found, logits[:, u], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state["weights"].mean(1), weights[:, u], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_padding_changes_nothing_and_is_not_attended_to(kind: type[AttentionDecoder]) -> None:
    decoder, lengths = built(kind), torch.tensor([7, 4, 1])
    states, inputs = torch.randn(3, 7, 6), torch.tensor([[0, 1, 2], [0, 4, 4], [0, 1, 1]])
    logits, weights = decoder(states, lengths, inputs)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 3), atol=1e-6)
    for row, length in enumerate(lengths.tolist()):
        assert not weights[row, :, length:].any()
        alone, _ = decoder(states[row : row + 1, :length], lengths[row : row + 1], inputs[row : row + 1])
        torch.testing.assert_close(alone[0], logits[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
@torch.no_grad()
def test_what_follows_a_token_does_not_change_what_is_said_before(kind: type[AttentionDecoder]) -> None:
    decoder, states, lengths = built(kind), torch.randn(1, 7, 6), torch.tensor([7])
    one, _ = decoder(states, lengths, torch.tensor([[0, 1, 2]]))
    other, _ = decoder(states, lengths, torch.tensor([[0, 1, 4]]))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


@pytest.mark.parametrize("kind", DECODERS)
def test_every_parameter_learns(kind: type[AttentionDecoder]) -> None:
    decoder = built(kind).train()
    logits, _ = decoder(
        torch.randn(2, 7, 6), torch.tensor([7, 4]), torch.tensor([[0, 1, 2, 3], [0, 4, 4, 1]])
    )
    (logits * torch.randn(logits.shape)).sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_attention_that_knows_where_it_has_been_tells_equal_frames_apart() -> None:
    """Of frames that are all alike, only the place differs."""
    decoder = built(LSTMDecoder)
    _, weights = decoder(torch.ones(1, 9, 6), torch.tensor([9]), torch.tensor([[0, 1, 2]]))
    assert torch.allclose(weights[0, 0], weights[0, 0].flip(0), atol=1e-6) or weights[0, 0].std() < 1e-3
    assert weights[0, 2].std() > 1e-5


@torch.no_grad()
def test_each_token_is_expected_so_many_frames_behind_the_one_before() -> None:
    """Of frames that say nothing the weights are the prior's: a sum of geometric distributions."""
    decoder = LSTMDecoder(6, 5, hidden=8, heads=2, ahead=4.0).eval()
    decoder.energy.zero_()
    inputs, lengths = torch.zeros(2, 3, dtype=torch.long), torch.tensor([200, 120])
    weights = decoder(torch.randn(2, 200, 6), lengths, inputs)[1]
    centres = weights @ torch.arange(200.0)
    # Less than 4 frames each, since the distribution ends at 24.
    torch.testing.assert_close(centres, torch.tensor([[3.9, 7.8, 11.7]] * 2), rtol=0.02, atol=0.0)
    assert weights[0, 0, 0].item() == pytest.approx(0.2, rel=0.01)
    assert not weights[1, :, 120:].any()


@torch.no_grad()
def test_what_is_expected_is_the_same_token_by_token_and_behind_padding() -> None:
    torch.manual_seed(0)
    decoder, states = LSTMDecoder(6, 5, hidden=8, heads=2, ahead=2.0).eval(), torch.randn(1, 7, 6)
    inputs, lengths = torch.tensor([[0, 1, 2]]), torch.tensor([7])
    logits, _ = decoder(torch.cat([states, torch.randn(1, 5, 6)], 1), lengths, inputs)
    memory = decoder.memory(states, lengths)
    state = decoder.start(memory)
    for u in range(3):
        found, state = decoder.step(inputs[:, u], memory, state)
        torch.testing.assert_close(found, logits[:, u], rtol=1e-5, atol=1e-5)


def test_frames_ahead_below_0_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.decoder\.ahead=-1 are no frames"):
        LSTMDecoder(6, 5, hidden=8, heads=2, ahead=-1)


def test_heads_that_do_not_divide_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.decoder\.heads=3 do not divide task\.decoder\.hidden=8"):
        LSTMDecoder(6, 5, hidden=8, heads=3)
