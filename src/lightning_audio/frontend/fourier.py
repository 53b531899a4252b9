"""Mel powers by products of matrices, for graphs, which fix neither the length nor the number of clips.

A Fourier transform of N = A B samples is A of B and B of A with turns between them (Cooley and Tukey 1965).
As products of small matrices, of which a graph makes many at once, that takes less time than ONNX's own STFT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def mel_powers(
    waveforms: Tensor, window: Tensor, hop: int, filters: Tensor, magnitudes: bool = False
) -> Tensor:
    """Mel powers `(B, k, F)` of the frames that lie wholly within waveforms `(B, n)`.

    Args:
        window: `(N,)`, as long as the transform.
        hop: samples from one frame to the next.
        filters: `(N // 2 + 1, F)`.
        magnitudes: weigh the roots of the powers instead.
    """
    size, weights = len(window), filters.detach().cpu().numpy()
    spectrum, real, imaginary, mixed = map(torch.from_numpy, _matrices(size, weights))
    outputs, _, columns = real.shape
    frames = framed(waveforms, size, hop) * window
    x = spectrum @ frames.reshape(-1, size // columns, columns)
    # A step of its own for each output, with the turns in it: runtimes read the transposed as it lies.
    x = x.reshape(-1, outputs, 2 * columns).transpose(0, 1)
    powers = (x @ real).square() + (x @ imaginary).square()
    powers = powers.transpose(0, 1).reshape(waveforms.shape[0], -1, outputs * columns)
    return (powers.sqrt() if magnitudes else powers) @ mixed


def framed(waveforms: Tensor, size: int, hop: int) -> Tensor:
    """`(B, k, size)` of waveforms `(B, n)`, a frame every `hop` samples, from copies of whole hops."""
    count = (waveforms.shape[1] - size) // hop + 1
    before, rest = max(hop - size, 0), size % hop
    if before:
        waveforms = functional.pad(waveforms, (before, 0))

    def hops(first: int) -> Tensor:
        return waveforms[:, first : first + count * hop].reshape(waveforms.shape[0], -1, hop)

    parts = [hops(first) for first in range(0, size - hop + 1, hop)]
    # The last part of a frame is the end of a hop that ends with it, so that there is one behind no waveform.
    return torch.cat([*parts, hops(size - hop + before)[..., hop - rest :]] if rest else parts, -1)


def _matrices(size: int, filters: np.ndarray) -> tuple[Any, ...]:
    """What `mel_powers` multiplies with: the first step, the second step's real and imaginary parts, filters.

    Of sample B a + b the first step sums over a, for half of the outputs c since samples are real: of each
    the real part, then the imaginary one. The second sums over b, turned by b c. Its output `(c, d)` is bin
    c + A d, or the mirror image of one.
    """
    rows = min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: _products(size, n))
    c, d = np.arange(rows // 2 + 1), np.arange(size // rows)
    turn = 2 * np.pi / rows * (c[:, None] * np.arange(rows) % rows)
    spectrum = np.stack([np.cos(turn), -np.sin(turn)], 1).reshape(-1, rows)
    number = c[:, None] + rows * d
    turn = 2 * np.pi / size * (d[:, None] * number[:, None] % size)
    cosine, sine = np.cos(turn), np.sin(turn)
    real, imaginary = np.concatenate([cosine, sine], 1), np.concatenate([-sine, cosine], 1)
    # Where c is its own mirror image, both a bin and its image are there: the second one counts for nothing.
    image = number > size // 2
    mixed = filters[np.where(image, size - number, number)]
    mixed[image & (2 * c % rows == 0)[:, None]] = 0
    mixed = mixed.reshape(-1, filters.shape[1])
    return tuple(matrix.astype(np.float32) for matrix in (spectrum, real, imaginary, mixed))


def _products(size: int, rows: int) -> int:
    """How many products both steps take for a frame, where the first sums over so many rows: processors make
    16 at once."""
    columns = size // rows
    return ((rows + 2) * rows + (rows // 2 + 1) * 4 * columns) * -(-columns // 16) * 16
