"""Decoders with attention: token by token as all at once, padding, and what they attend to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_audio.errors import UserError
from lightning_audio.tasks.decoders import AttentionDecoder, LSTMDecoder, TransformerDecoder


class Pooling(LSTMDecoder):
    """One that attends to pairs of frames."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"pool": 2})


DECODERS = [LSTMDecoder, TransformerDecoder, Pooling]


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
        attended = decoder.attended(memory, state)
        torch.testing.assert_close(attended, weights[:, u], rtol=1e-5, atol=1e-6)


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
def test_frames_that_are_pooled_are_heard_as_their_mean_and_share_what_it_gets() -> None:
    torch.manual_seed(0)
    plain = LSTMDecoder(6, 5, hidden=8, heads=2).eval()
    pooling = LSTMDecoder(6, 5, hidden=8, heads=2, pool=3).eval()
    pooling.load_state_dict(plain.state_dict())
    states, lengths = torch.randn(2, 8, 6), torch.tensor([8, 5])
    groups = torch.stack([states[:, :3].mean(1), states[:, 3:6].mean(1), states[:, 6:].mean(1)], 1)
    groups[1, 1] = states[1, 3:5].mean(0)
    inputs = torch.tensor([[0, 1, 2], [0, 4, 4]])
    logits, weights = plain(groups, torch.tensor([3, 2]), inputs)
    found, attended = pooling(states, lengths, inputs)
    torch.testing.assert_close(found, logits)
    first, second = weights[0, 2], weights[1, 2]
    torch.testing.assert_close(
        attended[0, 2], torch.cat([first[:2].repeat_interleave(3) / 3, first[2:].repeat(2) / 2])
    )
    torch.testing.assert_close(
        attended[1, 2, :5], torch.cat([second[:1].repeat(3) / 3, second[1:2].repeat(2) / 2])
    )
    assert not attended[1, :, 5:].any()


@pytest.mark.parametrize("pool", [1, 2])
@torch.no_grad()
def test_each_token_is_expected_so_many_frames_behind_the_one_before(pool: int) -> None:
    """Of frames that say nothing the weights are the prior's: a sum of geometric distributions."""
    decoder = LSTMDecoder(6, 5, hidden=8, heads=2, ahead=4.0, pool=pool).eval()
    decoder.energy.zero_()
    inputs, lengths = torch.zeros(2, 3, dtype=torch.long), torch.tensor([200, 120])
    weights = decoder(torch.randn(2, 200, 6), lengths, inputs)[1]
    centres = weights @ torch.arange(200.0) - (pool - 1) / 2
    # Less than 4 frames each, since the distribution ends at 24.
    torch.testing.assert_close(centres, torch.tensor([[3.9, 7.8, 11.7]] * 2), rtol=0.02, atol=0.0)
    assert weights[0, 0, 0].item() == pytest.approx(1 / (4 + pool), rel=0.01)
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


def test_numbers_of_frames_out_of_range_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.decoder\.ahead=-1 are no frames"):
        LSTMDecoder(6, 5, hidden=8, heads=2, ahead=-1)
    with pytest.raises(UserError, match=r"task\.decoder\.pool=0 frames are none"):
        LSTMDecoder(6, 5, hidden=8, heads=2, pool=0)


def test_heads_that_do_not_divide_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.decoder\.heads=3 do not divide task\.decoder\.hidden=8"):
        LSTMDecoder(6, 5, hidden=8, heads=3)
