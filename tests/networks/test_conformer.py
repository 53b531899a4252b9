"""The conformer: torchaudio's where there is no padding, and its own answer for each clip where there is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchaudio
from conftest import after_some_training
from torch import Tensor, nn

from lightning_audio import build
from lightning_audio.config import CONF, compose_config
from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import mask_frames
from lightning_audio.networks.conformer import Conformer, Layer

BINS, OUTPUTS = 20, 7
SIZES = {"width": 24, "heads": 4, "feedforward": 32, "layers": 3, "kernel": 9, "channels": 4}


def built(**options: Any) -> Conformer:
    """In eval mode, with statistics and biases as after some training."""
    torch.manual_seed(0)
    network = Conformer((1, BINS), OUTPUTS, **(SIZES | options))
    return after_some_training(network, (batch([60, 40, 64, 50], seed) for seed in range(3)))


def batch(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(len(lengths), BINS, max(lengths), generator=torch.Generator().manual_seed(seed))
    return mask_frames(x, torch.tensor(lengths)), torch.tensor(lengths)


@torch.no_grad()
def test_a_clip_alone_and_in_a_padded_batch_gives_equal_logits() -> None:
    network, lengths = built(), [1, 2, 3, 4, 5, 8, 13, 40, 63, 64, 65, 200]
    x, sizes = batch(lengths)
    logits, frames = network(x, sizes)
    assert frames.tolist() == network.output_lengths(sizes).tolist() == [math.ceil(n / 4) for n in lengths]
    assert logits.shape == (len(lengths), 50, OUTPUTS)
    for row, length in enumerate(lengths):
        expected, count = network(x[row : row + 1, :, :length], sizes[row : row + 1])
        assert int(count) == expected.shape[1] == int(frames[row])
        torch.testing.assert_close(logits[row : row + 1, : int(count)], expected, rtol=1e-5, atol=1e-5)
    assert float(logits[-1].std(0).min()) > 1e-2  # the logits say something of the frames


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter() -> None:
    network, lengths = built(), torch.tensor([40, 23])
    x, _ = batch([40, 23])
    expected, frames = network(x, lengths)
    longer, _ = network(nn.functional.pad(x, (0, 30)), lengths)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(longer[row, :count], expected[row, :count], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_padding_the_layers_answer_as_in_torchaudio() -> None:
    torch.manual_seed(0)
    reference = torchaudio.models.Conformer(24, 4, 32, 3, 9, dropout=0.1).eval()
    x, lengths = torch.randn(3, 17, 24), torch.full((3,), 17)
    expected, _ = reference(x, lengths)
    found = x.transpose(0, 1)
    for layer in reference.conformer_layers:
        found = Layer.forward(layer, found, torch.zeros(3, 17, dtype=torch.bool))
    torch.testing.assert_close(found.transpose(0, 1), expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_torchaudio_alone_would_let_the_padding_leak() -> None:
    """The reason for `Layer`: when this fails, torchaudio's own forward will do."""
    torch.manual_seed(0)
    reference = torchaudio.models.Conformer(24, 4, 32, 3, 9).eval()
    x = torch.randn(1, 17, 24)
    alone, _ = reference(x, torch.tensor([17]))
    padded, _ = reference(nn.functional.pad(x, (0, 0, 0, 8)).repeat(2, 1, 1), torch.tensor([17, 25]))
    assert float((padded[0, :17] - alone[0]).abs().max()) > 1e-3


@torch.no_grad()
def test_a_frame_sees_as_far_as_the_clip_goes() -> None:
    network = built()
    x, lengths = batch([400])
    expected, _ = network(x, lengths)
    x[..., -1] += 5.0
    found, _ = network(x, lengths)
    assert float((found - expected).abs().amax(-1).min()) > 0  # attention reaches the first frame


def test_it_overfits_two_utterances() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"layers": 1, "dropout": 0.0}
    network = Conformer((1, BINS), 4, **(SIZES | options))
    x, lengths = batch([48, 36], seed=5)
    targets = torch.tensor([[1, 2, 2, 3], [3, 1, 3, 0]])
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(80):
        logits, frames = network(x, lengths)
        loss = nn.functional.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), targets, frames, torch.tensor([4, 3])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = [row[:count].argmax(-1).unique_consecutive() for row, count in zip(logits, frames, strict=True)]
    assert [[int(token) for token in row if token] for row in best] == [[1, 2, 2, 3], [3, 1, 3]]


def test_the_configuration_has_the_parameters_of_its_sizes() -> None:
    cfg = compose_config(["network=conformer"])
    assert (CONF / "network" / "conformer.yaml").is_file()
    network = build.instantiate(cfg.network, "network", in_shape=(1, 80), num_outputs=29)
    w, f, k, layers = 144, 576, 31, 8
    feedforward = 2 * (2 * w + (w * f + f) + (f * w + w))
    attention = 2 * w + (3 * w * w + 3 * w) + (w * w + w)
    convolution = 2 * w + (w * 2 * w + 2 * w) + (w * k + w) + 2 * w + (w * w + w)
    front = (32 * 9 + 32) + (32 * 32 * 9 + 32) + (32 * 20 * w + w)
    total = front + layers * (feedforward + attention + convolution + 2 * w) + (w * 29 + 29)
    assert sum(p.numel() for p in network.parameters()) == total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, r"network\.heads=5 do not divide network\.width=24"),
        ({"kernel": 8}, r"network\.kernel=8 has no frame in its middle"),
    ],
)
def test_a_wrong_size_is_one_sentence(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(**options)
