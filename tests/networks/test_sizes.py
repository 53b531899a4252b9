"""What the networks of papers promise beyond tests/test_networks.py: sizes, frames, layouts, streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio import build
from lightning_audio.config import CONF
from lightning_audio.errors import UserError
from lightning_audio.networks.base import Network
from lightning_audio.networks.bc_resnet import BCResNet, Block, Norm
from lightning_audio.networks.gru import GRU
from lightning_audio.networks.norm import BatchNorm
from lightning_audio.networks.waveform_cnn import WaveformCNN

WAVEFORM = (1, 1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def from_yaml(name: str, in_shape: tuple[int, int], num_outputs: int, **options: Any) -> Network:
    torch.manual_seed(0)
    node = OmegaConf.merge(OmegaConf.load(CONF / "network" / f"{name}.yaml"), options)
    return build.instantiate(node, "network", in_shape=in_shape, num_outputs=num_outputs)


@pytest.mark.parametrize(
    ("name", "in_shape", "classes", "options", "parameters"),
    [
        # Dai et al. 2017, table 1, with 10 classes: 0.5 M (cut off, not rounded), 1.8 M, 3.7 M, 4 M.
        ("m5", WAVEFORM, 10, {}, 558_090),
        ("m11", WAVEFORM, 10, {}, 1_784_202),
        ("m18", WAVEFORM, 10, {}, 3_679_882),
        ("m34_res", WAVEFORM, 10, {}, 4_070_890),
        # Kim et al. 2021, table 1, with 12 classes: 9.2 k, 27.3 k, 54.2 k, 188 k, 321 k; 17.2 k as released.
        ("bc_resnet", (1, 40), 12, {"tau": 1}, 9_232),
        ("bc_resnet", (1, 40), 12, {"tau": 1.5}, 17_154),
        ("bc_resnet", (1, 40), 12, {"tau": 2}, 27_284),
        ("bc_resnet", (1, 40), 12, {"tau": 3}, 54_168),
        ("bc_resnet", (1, 40), 12, {"tau": 6}, 187_812),
        ("bc_resnet", (1, 40), 12, {"tau": 8}, 321_068),
        # Tang & Lin 2018, table 2: 238 k, and 42.6 k for res15-narrow.
        ("res15", (1, 40), 12, {}, 237_882),
        ("res15", (1, 40), 12, {"maps": 19}, 42_648),
        # Majumdar & Ginsburg 2020, with the 30 classes of v1: 77 k (3x1x64) and 93 k (3x2x64).
        ("matchboxnet", (1, 64), 30, {"repeat": 1}, 77_214),
        ("matchboxnet", (1, 64), 30, {}, 92_766),
        ("matchboxnet", (1, 64), 35, {}, 93_411),
    ],
)
def test_networks_are_as_large_as_in_their_papers(
    name: str, in_shape: tuple[int, int], classes: int, options: dict[str, Any], parameters: int
) -> None:
    built = from_yaml(name, in_shape, classes, **options)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters


# Batch normalisation.


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 6, 50), (3, 6, 5, 40), (1, 6, 700)])
def test_batch_norm_trains_as_that_of_torch(shape: tuple[int, ...], affine: bool) -> None:
    own = BatchNorm(6, affine=affine)
    theirs = nn.BatchNorm2d(6, affine=affine)
    with torch.no_grad():
        for weight in own.parameters():
            weight.copy_(noise(6, seed=2))
    theirs.load_state_dict(own.state_dict())
    for step in range(3):
        x = (
            3 + noise(*shape, seed=step) * torch.arange(1, 7).view(6, *[1] * (len(shape) - 2))
        ).requires_grad_()
        again = x.detach().clone().requires_grad_()
        y = own(x)
        expected = theirs(again.view(*shape[:2], -1, shape[-1])).view(shape)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        (y * noise(*shape, seed=9)).sum().backward()
        (expected * noise(*shape, seed=9)).sum().backward()
        torch.testing.assert_close(x.grad, again.grad, rtol=1e-3, atol=1e-5)
    for (name, found), value in zip(own.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5, msg=name)
    for found, value in zip(own.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found.grad, value.grad, rtol=1e-4, atol=1e-4)
    own.eval()
    theirs.eval()
    torch.testing.assert_close(own(x), theirs(x.view(*shape[:2], -1, shape[-1])).view(shape))


# Waveforms.


@pytest.mark.parametrize("name", ["m5", "m11", "m34_res"])
def test_a_clip_has_one_frame_for_every_1024_samples_that_are_begun(name: str) -> None:
    widths = {"filters": 4, "widths": [4, 4, 4, 4][: 3 if name == "m5" else 4]}
    built = from_yaml(name, WAVEFORM, 3, **widths).eval()
    assert isinstance(built, WaveformCNN)
    for samples in (1, 2, 1024, 1025, 5000):
        x, lengths = built.embed(noise(1, 1, samples), torch.tensor([samples]))
        # The stride of the first layer, then four poolings by 4.
        assert x.shape[-1] == int(lengths) == -(-samples // 1024)


def test_the_first_filters_fit_the_rate() -> None:
    small = {"filters": 3, "widths": [4], "blocks": [1], "pool_last": False}
    for kernel, stride in ((80, 4), (160, 8), (441, 22), (5, 7)):
        built = from_yaml("m5", WAVEFORM, 2, kernel=kernel, stride=stride, **small).eval()
        assert isinstance(built, WaveformCNN)
        assert built.filters.weight.shape == (3, 1, kernel)
        for samples in (1, stride, stride + 1, 1000):
            x, lengths = built.embed(noise(1, 1, samples), torch.tensor([samples]))
            frames = -(-samples // stride)
            assert x.shape[-1] == int(lengths) == -(-frames // 4)


@pytest.mark.parametrize("name", ["m5", "m11", "m18", "m34_res"])
@torch.no_grad()
def test_padding_does_not_change_the_answer_to_a_waveform(name: str) -> None:
    widths = {"filters": 8, "widths": [8, 8, 8, 8][: 3 if name == "m5" else 4]}
    built = from_yaml(name, WAVEFORM, 3, **widths)
    sizes = [1, 2, 39, 80, 255, 256, 257, 4000, 7999]
    x = torch.zeros(len(sizes), 1, 8000)
    for row, size in enumerate(sizes):
        x[row, 0, :size] = noise(size, seed=row)
    for module in built.modules():
        if isinstance(module, BatchNorm):
            nn.init.normal_(module.bias)  # what padding becomes would show
    for _ in range(15):
        built(x[-2:], torch.tensor(sizes[-2:]))
    logits, _ = built.eval()(x, torch.tensor(sizes))
    for row, size in enumerate(sizes):
        alone, _ = built(x[row : row + 1, :, :size], torch.tensor([size]))
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    assert float(logits.std(0).min()) > 1e-3


def test_stages_that_do_not_match_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"widths=\[8, 8\] and network.blocks=\[1\] .* one number each"):
        from_yaml("m5", WAVEFORM, 2, widths=[8, 8], blocks=[1])


# BC-ResNet.


def normalised(norm: Norm, x: Tensor) -> Tensor:
    """Sub-spectral normalisation of `(B, C, F, T)` as its paper writes it."""
    batch, channels, features, frames = x.shape
    bands = norm.norm.num_features // channels
    y = functional.batch_norm(
        x.view(batch, channels * bands, features // bands, frames),
        None,
        None,
        norm.norm.weight,
        norm.norm.bias,
        training=True,
    )
    return y.view(x.shape)


def plain_block(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """A block on `(B, C, F, T)` in depthwise convolutions, as its paper writes it."""
    y = x
    if block.widen is not None:
        y = functional.relu(normalised(block.widen_norm, block.widen(x)))
    y = normalised(block.frequency_norm, block.frequency(y))
    z = y.mean(2, keepdim=True) * mask[:, None, None]
    weight, dilation = block.time.weight[:, :, None], block.dilation
    z = functional.conv2d(z, weight, None, 1, (0, dilation), (1, dilation), len(weight))
    z = functional.conv2d(functional.silu(normalised(block.time_norm, z)), block.mix.weight[:, :, None])
    return functional.relu(y + z + (x if block.widen is None else 0))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels_in", [6, 4])
@pytest.mark.parametrize("dilation", [1, 4])
def test_a_block_is_what_depthwise_convolutions_make(channels_in: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    block = Block(channels_in, 6, 20, 5, stride, dilation, dropout=0.0)
    if stride == 2:
        block.widen = block.widen or nn.Conv2d(channels_in, 6, 1, bias=False)  # bands differ: no shortcut
        block.widen_norm = Norm(6)
    x = noise(3, channels_in, 20, 17).requires_grad_()
    mask = (torch.arange(17) < torch.tensor([[17], [9], [1]])).float()
    found = block(x.permute(1, 2, 0, 3), mask).permute(2, 0, 1, 3)
    (found * noise(*found.shape, seed=1)).sum().backward()
    grads = [x.grad, *(parameter.grad for parameter in block.parameters())]
    x.grad = None
    block.zero_grad()
    expected = plain_block(block, x, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (expected * noise(*found.shape, seed=1)).sum().backward()
    for grad, value in zip(grads, [x.grad, *(p.grad for p in block.parameters())], strict=True):
        torch.testing.assert_close(grad, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("features", "sub_bands"), [(40, 5), (80, 10), (64, 8), (32, 4), (64, 4)])
def test_sub_bands_that_divide_every_stage_are_taken(features: int, sub_bands: int) -> None:
    built = BCResNet((1, features), 12, 1.0, sub_bands).eval()
    logits, _ = built(noise(2, features, 9), torch.tensor([9, 3]))
    assert logits.shape == (2, 12)


@pytest.mark.parametrize(("features", "sub_bands", "near"), [(32, 5, 4), (40, 4, 5), (64, 5, 4), (40, 0, 1)])
def test_sub_bands_that_do_not_fit_are_one_sentence(features: int, sub_bands: int, near: int) -> None:
    with pytest.raises(UserError, match=rf"network.sub_bands={sub_bands} .* set it to {near}, or"):
        BCResNet((1, features), 12, sub_bands=sub_bands)
    BCResNet((1, features), 12, 1.0, near)


# Streams.

STREAMS: list[dict[str, Any]] = [
    {},
    {"stem": 0},
    {"kernel": 1, "stride": 3},
    {"kernel": 4, "stride": 1, "layers": 1},
    {"kernel": 3, "stride": 5, "layers": 3},
]


def stream(**options: Any) -> GRU:
    small = {"stem": 6, "hidden": 8, "per_frame": True} | options
    built = from_yaml("gru", (1, 7), 3, **small)
    assert isinstance(built, GRU)
    return built.eval()


@pytest.mark.parametrize("options", STREAMS)
@torch.no_grad()
def test_pieces_of_a_stream_give_what_the_whole_gives(options: dict[str, Any]) -> None:
    built = stream(**options)
    x = noise(2, 7, 60)
    whole, lengths = built(x, torch.tensor([60, 60]))
    assert whole.shape == (2, -(-60 // built.stride), 3)
    assert lengths.tolist() == [whole.shape[1]] * 2
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        longest = (1, 2, 3, 7, 20, 60)[seed]
        pieces, state, at = [], None, 0
        while at < 60:
            size = 1 if longest == 1 else int(torch.randint(0, longest + 1, (), generator=generator))
            logits, state = built.step(x[..., at : at + size], state)
            at = min(at + size, 60)
            pieces.append(logits)
            # A frame comes out as soon as the first of those that it stands for is there.
            assert sum(piece.shape[1] for piece in pieces) == -(-at // built.stride)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", STREAMS)
@torch.no_grad()
def test_no_frame_of_a_stream_sees_a_later_one(options: dict[str, Any]) -> None:
    built = stream(**options)
    x, lengths = noise(1, 7, 40), torch.tensor([40])
    changed = x.clone()
    changed[..., 21:] = noise(1, 7, 19, seed=1)
    before, after = built(x, lengths)[0], built(changed, lengths)[0]
    same = 20 // built.stride + 1  # the frames that stand for input up to frame 20
    torch.testing.assert_close(before[:, :same], after[:, :same], rtol=1e-6, atol=1e-6)
    assert float((before[:, same:] - after[:, same:]).abs().amax(-1).min()) > 1e-4


@pytest.mark.parametrize("options", [*STREAMS, {"bidirectional": True, "per_frame": False}])
@torch.no_grad()
def test_padding_does_not_change_what_a_gru_answers(options: dict[str, Any]) -> None:
    built = stream(**options)
    sizes = [1, 2, 5, 20, 29]
    x = torch.zeros(5, 7, 30)
    for row, size in enumerate(sizes):
        x[row, :, :size] = noise(7, size, seed=row)
    logits, lengths = built(x, torch.tensor(sizes))
    for row, size in enumerate(sizes):
        alone, frames = built(x[row : row + 1, :, :size], torch.tensor([size]))
        assert int(frames) == int(lengths[row])
        found = logits[row : row + 1, : int(frames)] if built.per_frame else logits[row : row + 1]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_what_looks_ahead_is_no_stream() -> None:
    with pytest.raises(NotImplementedError, match="BCResNet does not run on a stream"):
        BCResNet((1, 40), 2, 1.0).step(noise(1, 40, 5), None)
    for options in ({"per_frame": False}, {"per_frame": False, "bidirectional": True}):
        with pytest.raises(NotImplementedError, match="per_frame=true"):
            stream(**options).step(noise(1, 7, 5), None)
    with pytest.raises(UserError, match=r"set network\.bidirectional=false"):
        stream(bidirectional=True)
