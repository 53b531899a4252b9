"""What a front end is.

Every front end is `forward(waveforms (B, T), lengths (B,)) -> (features, lengths in frames)` with features
`(B, F, T)`, or `(B, C, F, T)` where it has several channels. `shape` is `(channels, features per frame)`, and
`output_lengths` tells the frames of so many samples.
A clip's frames do not depend on what else is in its batch.

A front end that can run on a stream says how many samples a frame takes (`n_fft`) and how many it is from one
to the next (`hop_length`), and computes `frames`; its `top_db` is None where it does not need the whole clip.
"""

from __future__ import annotations

import inspect
import math
from typing import cast

from torch import nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import in_export


def shape_of(frontend: nn.Module) -> tuple[int, int]:
    """`(channels, features per frame)` of a front end."""
    return cast(tuple[int, int], frontend.shape)


def options_repr(module: nn.Module) -> str:
    """`name=value` of the arguments that a module keeps under their own names: for its `extra_repr`."""
    known = vars(module)
    return ", ".join(
        f"{name}={known[name]!r}" for name in inspect.signature(type(module)).parameters if name in known
    )


def refuse_graph(frontend: nn.Module) -> None:
    """Raises UserError where a graph for other runtimes is being made."""
    if in_export():
        raise UserError(
            f"{type(frontend).__name__} runs in torch alone: to export, train with frontend=log_mel or mfcc."
        )


def fast_size(size: int) -> int:
    """The smallest number from `size` on that is a power of two times 8, 9, 10, 12 or 15, which Fourier
    transforms are fast for."""
    return min(m << max(math.ceil(math.log2(size / m)), 0) for m in (8, 9, 10, 12, 15))
