"""Dropout by uniform numbers: PyTorch's law, its gradient, and its own where nothing is to be drawn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lightning_audio.networks.layers import Dropout, dropout


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p: float, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(200, 1000, dtype=kind, requires_grad=True)
    y = dropout(x, p, training=True)
    assert y.dtype == kind
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p), dtype=kind).item()}
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    kept = (y != 0).double().mean().item()
    assert abs(kept - (1 - p)) < 4 * deviation
    # By rows and by columns too: nothing follows from what stands beside it.
    for way in (0, 1):
        shares = (y != 0).double().mean(way)
        expected = (p * (1 - p) / x.shape[way]) ** 0.5
        assert shares.std().item() == pytest.approx(expected, rel=0.2)
    y.backward(torch.full_like(y, 2.0))
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * y)


def test_dropout_is_that_of_its_seed_and_another_one_at_each_call() -> None:
    x = torch.ones(50, 50)
    torch.manual_seed(3)
    first, second = (dropout(x, 0.5, training=True) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(first, second)


def test_dropout_is_pytorch_s_where_nothing_is_to_be_drawn() -> None:
    x, module = torch.randn(4, 5), Dropout(0.5)
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)
    assert torch.equal(dropout(x, 1.0, training=True), functional.dropout(x, 1.0, True))
    assert module.state_dict() == {}
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
