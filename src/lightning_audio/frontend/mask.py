"""Which frames, or samples, of a padded batch lie within their clips."""

from __future__ import annotations

import torch
from torch import Tensor


def in_graph() -> bool:
    """Whether a graph is being made, which has one way for all batches: no value may be asked for."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_export() -> bool:
    """Whether the graph is made for other programs: for ONNX, or by `torch.export`."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """`(B, frames)`, True where a frame lies within its clip; of samples the same."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def mask_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Zeros behind the end of every clip, `x` itself where there is nothing behind; `x` is `(B, ..., T)`."""
    # On a GPU the question would have to wait for the device.
    if x.device.type == "cpu" and not in_graph() and int(lengths.min()) >= x.shape[-1]:
        return x
    mask = frame_mask(lengths, x.shape[-1]).to(x.dtype)
    return x * mask.view(x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])


def mean_over_time(x: Tensor, lengths: Tensor) -> Tensor:
    """`(B, ...)`: the mean of `x` `(B, ..., T)` over the frames of each clip, padding left out."""
    return mask_frames(x, lengths).sum(-1) / lengths.view(-1, *[1] * (x.dim() - 2))
