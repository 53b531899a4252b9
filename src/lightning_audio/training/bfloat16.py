"""Which convolutions of a model PyTorch gets wrong in bfloat16 on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUNDING = 0.05  # of the norm of a result, ten times what bfloat16 leaves out
PLACES = 64, 4  # that a convolution is tried at: over time, and along other axes


def wrong_convolutions(model: nn.Module) -> list[str]:
    """The names of convolutions that give other numbers, and not only coarser ones, in bfloat16 on this CPU.

    Those of oneDNN 3.12 (PyTorch 2.14) do on processors with AMX where a group has an even number of channels
    below 16, and these times the width of the kernel are a multiple of 32 from 64 on: 8 channels and a kernel
    of 8, for one. Nothing is raised, so that each is tried, on numbers of its own.
    """
    convolutions = ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
    return [name for name, one in convolutions if _error(one) > ROUNDING]


@torch.no_grad()
def _error(one: nn.Conv1d | nn.Conv2d) -> float:
    """How far the result in bfloat16 is from that in float32, as a share of it."""
    generator = torch.Generator().manual_seed(0)  # what a training draws stays as it is
    weight = torch.randn(one.weight.shape, generator=generator)
    places = [*[PLACES[1]] * (weight.dim() - 3), PLACES[0]]
    sizes = [
        dilation * (kernel - 1) + 1 + stride * (count - 1)
        for kernel, stride, dilation, count in zip(
            one.kernel_size, one.stride, one.dilation, places, strict=True
        )
    ]
    x = torch.randn(2, one.in_channels, *sizes, generator=generator)
    convolve = functional.conv1d if isinstance(one, nn.Conv1d) else functional.conv2d

    def result(kind: torch.dtype) -> Tensor:
        given = (x.to(kind), weight.to(kind), None, one.stride, 0, one.dilation, one.groups)
        return convolve(*given).float()

    exact = result(torch.float32)
    return float((result(torch.bfloat16) - exact).norm() / exact.norm())
