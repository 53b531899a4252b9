"""BatchNorm against a reference in double precision, whatever the mean and the scale of the features are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_audio.networks.norm import BatchNorm


@pytest.mark.parametrize("deviation", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 5.0, 30.0, 1000.0])
def test_statistics_hold_where_the_mean_is_far_larger_than_the_deviation(
    ratio: float, deviation: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = deviation * (torch.randn(8, 6, 500, generator=generator) + ratio)
    norm, exact = BatchNorm(6).train(), nn.BatchNorm1d(6).double().train()
    y, expected = norm(x), exact(x.double())
    assert norm.running_var is not None
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        norm.running_mean.double(), exact.running_mean, rtol=1e-5, atol=1e-6 * deviation
    )
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5 + 1e-6 * ratio)


def test_a_channel_that_never_changes_is_zero() -> None:
    x = torch.randn(4, 2, 100)
    x[:, 1] = 7.0
    y = BatchNorm(2).train()(x)
    assert float(y[:, 1].detach().abs().max()) == pytest.approx(0, abs=1e-3)
    assert float(y[:, 0].detach().std()) == pytest.approx(1, abs=0.01)


def test_gradients_are_those_of_torch() -> None:
    x = (torch.randn(4, 3, 50) + 200).requires_grad_()
    weights = torch.randn(4, 3, 50)
    gradients = []
    for norm, inputs in ((BatchNorm(3), x), (nn.BatchNorm1d(3).double(), x.double())):
        y = norm.train()(inputs)
        gradients.append(torch.autograd.grad((y * weights).sum(), x)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)
