"""Networks that hear chunks: a stream in pieces of any size gives the logits of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import after_some_training
from torch import Tensor

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.bilstm import BiLSTM
from lightning_audio.networks.chunks import ChunkedNetwork
from lightning_audio.networks.conformer import Conformer

BINS, OUTPUTS = 20, 7
SMALL: dict[str, Any] = {"width": 24, "heads": 4, "feedforward": 32, "layers": 3, "kernel": 9, "channels": 4}
LSTM: dict[str, Any] = {"channels": 4, "hidden": 8, "layers": 2}
MADE: dict[str, Callable[[], ChunkedNetwork]] = {
    "bilstm": lambda: BiLSTM((1, BINS), OUTPUTS, **LSTM, chunk=4),
    "bilstm, a row at a time": lambda: BiLSTM((1, BINS), OUTPUTS, **LSTM, chunk=1),
    "bilstm, stacked": lambda: BiLSTM((1, BINS), OUTPUTS, **LSTM, chunk=3, stack=2),
    "bilstm, three channels, one stride": lambda: BiLSTM((3, BINS), OUTPUTS, **LSTM, chunk=4, strides=[3]),
    "conformer": lambda: Conformer((1, BINS), OUTPUTS, **SMALL, chunk=4, left_chunks=2),
    "conformer, a wide kernel": lambda: Conformer((1, BINS), OUTPUTS, **SMALL | {"kernel": 31}, chunk=2),
    "conformer, nothing left of it": lambda: Conformer((1, BINS), OUTPUTS, **SMALL, chunk=8, left_chunks=0),
}


def built(name: str) -> ChunkedNetwork:
    """In eval mode, with statistics and biases as after some training."""
    torch.manual_seed(0)
    return after_some_training(MADE[name](), (batch(name, [60, 40, 64, 50], seed) for seed in range(3)))


def batch(name: str, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), *[3] * ("three" in name), BINS, max(lengths))
    return mask_frames(torch.randn(*shape, generator=generator), torch.tensor(lengths)), torch.tensor(lengths)


def streamed(network: ChunkedNetwork, pieces: tuple[Tensor, ...]) -> list[Tensor]:
    state: Any = None
    found = []
    for piece in pieces:
        logits, state = network.step(piece, state)
        found.append(logits)
    last = network.finish(state)
    return found if last is None else [*found, last]


@pytest.mark.parametrize("name", MADE)
@torch.no_grad()
def test_a_stream_gives_the_logits_of_the_whole_and_of_the_whole_in_a_batch(name: str) -> None:
    network, lengths = built(name), [203, 1, 32, 33, 64, 150]
    x, sizes = batch(name, lengths)
    logits, counts = network(x, sizes)
    for row, length in enumerate(lengths):
        for size in (1, 7, 32, 300):
            pieces = x[row : row + 1, ..., :length].split(size, -1)
            found = torch.cat(streamed(network, pieces), 1)[0]
            assert len(found) == int(counts[row])
            torch.testing.assert_close(found, logits[row, : len(found)], rtol=1e-5, atol=1e-5)
    assert float(logits[0].std(0).min()) > 1e-2  # the logits say something of the frames


@pytest.mark.parametrize("name", MADE)
@torch.no_grad()
def test_a_chunk_is_said_with_its_last_frame_and_looks_no_further(name: str) -> None:
    network = built(name)
    rows = network.chunk or 0
    frames = rows * network.frames_a_row
    x, lengths = batch(name, [3 * frames])
    assert [part.shape[1] for part in streamed(network, x.split(frames, -1))] == [rows] * 3
    assert streamed(network, x.split(frames - 1, -1))[0].shape[1] == 0
    expected, _ = network(x, lengths)
    x[..., 2 * frames :] += 1.0
    found, _ = network(x, lengths)
    torch.testing.assert_close(found[:, : 2 * rows], expected[:, : 2 * rows], rtol=0, atol=1e-6)
    assert not torch.allclose(found[:, 2 * rows :], expected[:, 2 * rows :], atol=1e-3)
    # Within a chunk its first row knows the last frames.
    x, _ = batch(name, [3 * frames])
    x[..., 2 * frames - 3 : 2 * frames] += 1.0
    assert float((network(x, lengths)[0] - expected)[0, rows].abs().max()) > 1e-4


@torch.no_grad()
def test_a_row_of_a_conformer_attends_as_far_back_as_it_may() -> None:
    """Two chunks in each of three layers, and half a kernel in each."""
    network = built("conformer")
    x, lengths = batch("conformer", [16 * 40])
    expected, _ = network(x, lengths)
    x[..., :16] += 5.0
    seen = (network(x, lengths)[0] - expected)[0].abs().amax(-1) > 1e-6
    assert bool(seen[:8].all())  # 4 rows a chunk
    assert not bool(seen[4 * (1 + 3 * 3) :].any())


@pytest.mark.parametrize("name", ["bilstm", "conformer"])
def test_one_chunk_for_all_is_the_network_without_chunks(name: str) -> None:
    chunked, whole = built(name), built(name)
    chunked.chunk, whole.chunk = 100, None
    x, lengths = batch(name, [203, 64, 1])
    (found, counts), (expected, _) = chunked(x, lengths), whole(x, lengths)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(found[row, :count], expected[row, :count], rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(y[0].sum(), [*n.parameters()]) for y, n in ((found, chunked), (expected, whole))
    ]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)


def test_without_chunks_it_does_not_run_on_a_stream() -> None:
    network = BiLSTM((1, BINS), OUTPUTS, **LSTM)
    with pytest.raises(NotImplementedError, match=r"network\.chunk"):
        network.step(torch.zeros(1, BINS, 4), None)


def test_a_convolution_that_looks_beyond_a_chunk_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"network\.strides=\[2, 1\] has a convolution that looks beyond"):
        BiLSTM((1, BINS), OUTPUTS, **LSTM, chunk=4, strides=[2, 1])
