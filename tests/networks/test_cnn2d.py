"""The residual CNN: in bfloat16, and narrow, where PyTorch's strided 1x1 convolution breaks memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import ended, start
from torch import nn

from lightning_audio.networks.cnn2d import CNN2d


def gradients_agree(width: int, frames: int) -> None:
    torch.manual_seed(0)
    x, lengths = torch.randn(10, 64, frames), torch.full((10,), frames)
    found = []
    for form in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = CNN2d((1, 64), 2, widths=[width, 2 * width]).to(memory_format=form).eval()
        for _ in range(5):
            network.zero_grad()
            network(x, lengths)[0].sum().backward()
        found.append(network.stem.weight.grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("width", "frames"), [(4, 51), (8, 51)])
def test_channels_last_gives_the_gradient_of_narrow_networks(width: int, frames: int, tmp_path: Path) -> None:
    """In a process of its own: a gradient that is written past its memory ends it."""
    status = ended(start(gradients_agree, width, frames, output=tmp_path / "out"))
    assert (status, (tmp_path / "out.err").read_text()) == (0, "")


def test_maps_stay_in_half_the_bytes_where_a_training_runs_in_bfloat16() -> None:
    network, seen = CNN2d((1, 64), 10).train(), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module is not network.stem:
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 64, 50), torch.tensor([50, 20]))
    assert set(seen) == {torch.bfloat16}
