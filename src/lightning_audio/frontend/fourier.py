"""Mel powers by products of matrices, for graphs, which fix neither the length nor the number of clips.

A Fourier transform of N = A B samples is A of B and B of A with turns between them (Cooley and Tukey 1965).
As products of small matrices, of which a graph makes many at once, that takes less time than ONNX's own STFT.
"""

from __future__ import annotations

import math
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
    columns, *matrices = _matrices(size, weights)
    spectrum, cosines, sines, transform, mixed = map(torch.from_numpy, matrices)
    frames = framed(waveforms, size, hop) * window
    count = frames.shape[1]
    x = (spectrum @ frames.reshape(-1, size // columns, columns)).reshape(-1, len(cosines), 2, columns)
    real, imaginary = x[:, :, 0], x[:, :, 1]
    turned = torch.cat([real * cosines + imaginary * sines, imaginary * cosines - real * sines], -1)
    squares = (turned @ transform).square()
    powers = (squares[..., :columns] + squares[..., columns:]).reshape(-1, count, mixed.shape[0])
    return (powers.sqrt() if magnitudes else powers) @ mixed


def framed(waveforms: Tensor, size: int, hop: int) -> Tensor:
    """`(B, k, size)` of waveforms `(B, n)`, a frame every `hop` samples, from copies of whole hops."""
    count = (waveforms.shape[1] - size) // hop + 1
    padded = functional.pad(waveforms, (0, -waveforms.shape[1] % hop + hop))
    hops = padded.reshape(waveforms.shape[0], -1, hop)
    parts = [hops[:, i : i + count, : size - i * hop] for i in range(math.ceil(size / hop))]
    return torch.cat(parts, -1)


def _matrices(size: int, filters: np.ndarray) -> tuple[Any, ...]:
    """B, and what `mel_powers` multiplies with: the first step, cosines and sines, the second step, filters.

    Of sample B a + b the first step sums over a, for half of the outputs since samples are real; the second
    sums over b. Its output `(c, d)` is bin c + A d, or the mirror image of one.
    """
    rows = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    columns = size // rows
    c, d = np.arange(rows // 2 + 1), np.arange(columns)
    turn = 2 * np.pi / rows * (c[:, None] * np.arange(rows) % rows)
    spectrum = np.stack([np.cos(turn), -np.sin(turn)], 1).reshape(-1, rows)
    between = 2 * np.pi / size * c[:, None] * d
    turn = 2 * np.pi / columns * (d[:, None] * d % columns)
    transform = np.block([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # Where c is its own mirror image, both a bin and its image are there: the second one counts for nothing.
    number = c[:, None] + rows * d
    image = number > size // 2
    mixed = filters[np.where(image, size - number, number)]
    mixed[image & (2 * c % rows == 0)[:, None]] = 0
    matrices = (spectrum, np.cos(between), np.sin(between), transform, mixed.reshape(-1, filters.shape[1]))
    return columns, *(matrix.astype(np.float32) for matrix in matrices)
