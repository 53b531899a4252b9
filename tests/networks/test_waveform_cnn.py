"""M5 against the same layers in one dimension, as torch has them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.networks.norm import BatchNorm
from lightning_audio.networks.waveform_cnn import WaveformCNN


def in_one_dimension(network: WaveformCNN, x: Tensor) -> Tensor:
    def normed(x: Tensor, norm: BatchNorm) -> Tensor:
        return functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True)

    x = functional.conv1d(functional.pad(x, (39, 40)), network.filters.weight, None, 4)
    x = functional.relu(functional.max_pool1d(normed(x, network.norm), 4, ceil_mode=True))
    for stage in network.stages:
        layer, norm = stage[0].convolution  # type: ignore[index]
        x = functional.relu(normed(functional.conv1d(x, layer.weight, None, padding=1), norm))
        x = functional.max_pool1d(x, 4, ceil_mode=True)
    return network.head(x.mean(-1))


def test_answers_and_gradients_are_those_of_one_dimension() -> None:
    torch.manual_seed(0)
    network, x = WaveformCNN((1, 1), 12).train(), torch.randn(6, 1, 3001)
    answers = [network(x, torch.full((6,), 3001))[0], in_one_dimension(network, x)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)
    weights = [value for name, value in network.named_parameters() if name.endswith("weight")]
    mine, theirs = (torch.autograd.grad(one.square().mean(), weights) for one in answers)
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_maps_keep_the_channels_of_a_frame_side_by_side_on_a_cpu() -> None:
    """Behind the first filters, too, where one channel has no layout of its own."""
    network, seen = WaveformCNN((1, 1), 12).train(), []
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_hook(lambda _, given, found: seen.append(found))
    for precise in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            network(torch.randn(2, 1, 3001), torch.tensor([3001, 700]))
    assert len(seen) == 8
    assert all(one.stride(1) == 1 for one in seen)
