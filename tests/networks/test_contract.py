"""What every network in conf/network promises, and what the timm backbones add to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from lightning_audio import build, onnx_file
from lightning_audio.config import CONF
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.export.onnx import is_ragged, onnx_graph
from lightning_audio.export.program import exported_program, least_samples
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.networks.base import Network
from lightning_audio.networks.layers import PaddedLSTM
from lightning_audio.networks.timm import Timm
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.finetuning import FineTuning

BINS, OUTPUTS = 32, 5
BACKBONE = "test_resnet"
# Options that make a network small, or keep it from fetching weights; most networks are taken as they are.
SMALL: dict[str, dict[str, Any]] = {
    "bc_resnet": {"sub_bands": 4},
    "bilstm": {"channels": 8, "hidden": 16},
    "conformer": {"width": 16, "feedforward": 32, "layers": 2},
    "crnn": {"widths": [8, 8, 16], "hidden": 8, "layers": 1},
    "cnn2d": {"widths": [8, 16, 24]},
    "m18": {"filters": 8, "widths": [8, 8, 16, 16], "blocks": [2, 2, 2, 2]},
    "m34_res": {"filters": 8, "widths": [8, 8, 16, 16], "blocks": [1, 2, 1, 1]},
    "res15": {"maps": 8},
    "timm": {"backbone": BACKBONE, "weights": None, "models": "models"},
}
HEADS = {"attentive", "linear", "mlp", "prototypes", "weighted_layers"}  # of a stage or two
NOT_HERE = {
    "pretrained",
    "neighbours",
}  # of waveforms, and nothing before it has seen clips
NETWORKS = sorted({path.stem for path in (CONF / "network").glob("*.yaml")} - NOT_HERE)
CHANNELS = (1, 3)


def config_of(name: str) -> dict[str, Any]:
    options = OmegaConf.to_container(OmegaConf.load(CONF / "network" / f"{name}.yaml"))
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items()} | SMALL.get(name, {})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(lengths: list[int], channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch as `Normalize` gives it: noise, and zeros behind the end of each clip."""
    x = noise(len(lengths), *[channels] * (channels > 1), BINS, max(lengths), seed=seed)
    for row, length in zip(x, lengths, strict=True):
        row[..., length:] = 0
    return x, torch.tensor(lengths)


def unsettle(module: nn.Module) -> None:
    """Biases and norms that are not those of the start, so that what becomes of padding would show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


@cache
def network(name: str, channels: int) -> Network:
    """In eval mode, with statistics and biases as after some training."""
    torch.manual_seed(0)
    built = build.instantiate(config_of(name), "network", in_shape=(channels, BINS), num_outputs=OUTPUTS)
    unsettle(built)
    for module in built.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5  # the statistics of so few batches would else be those of the start
    for seed in range(3):
        built(*features([60, 40, 64, 50], channels, seed))
    return built.eval()


@cache
def task(name: str) -> AudioTask:
    torch.manual_seed(0)
    answering = {
        "frontend": {"_target_": "lightning_audio.frontend.log_mel.LogMel", "n_mels": BINS},
        "normalize": "corpus",
        "network": config_of(name),
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    built = build.assemble(answering, DataInfo(tuple("abcde"), 16000, 1.0))
    unsettle(built)
    built.normalize.mean.fill_(-20.0)
    built.normalize.std.fill_(15.0)
    built(noise(8, 16000), torch.full((8,), 16000))
    return built.eval()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_clip_alone_and_in_a_padded_batch_gives_equal_logits(name: str, channels: int) -> None:
    lengths = [*range(1, 10), 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65]
    x, sizes = features(lengths, channels)
    logits, frames = network(name, channels)(x, sizes)
    assert logits.shape[0] == len(lengths)
    assert logits.shape[-1] == OUTPUTS
    for row, length in enumerate(lengths):
        expected, count = network(name, channels)(x[row : row + 1, ..., :length], sizes[row : row + 1])
        assert int(count) == int(frames[row])
        found = logits[row : row + 1] if logits.dim() == 2 else logits[row : row + 1, : int(count)]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (
        float((logits if logits.dim() == 2 else logits[:, 0]).std(0).min()) > 1e-3
    )  # the logits say something of the clips


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_logits_do_not_depend_on_the_other_clips(name: str, channels: int) -> None:
    x, lengths = features([30, 64, 17, 30, 50], channels)
    others, _ = features([30, 64, 17, 30, 50], channels, seed=1)
    others[0] = x[0]
    expected, _ = network(name, channels)(x, lengths)
    found, _ = network(name, channels)(others, lengths)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[1:], expected[1:], atol=1e-3)
    order = torch.tensor([4, 2, 0, 1, 3])
    found, _ = network(name, channels)(x[order], lengths[order])
    torch.testing.assert_close(found, expected[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_from_the_waveform_on_padding_does_not_change_an_answer(name: str) -> None:
    sizes = [16000, 12345, 319, 320, 1, 8000]
    waveforms = torch.zeros(len(sizes), 20000)
    for row, size in enumerate(sizes):
        waveforms[row, :size] = 0.1 * noise(size, seed=row)
    logits, frames = task(name)(waveforms, torch.tensor(sizes))
    for row, size in enumerate(sizes):
        expected, _ = task(name)(waveforms[row : row + 1, :size], torch.tensor([size]))
        found = logits[row : row + 1] if logits.dim() == 2 else logits[row : row + 1, : int(frames[row])]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def onnx(name: str) -> Callable[[Tensor, list[int]], Tensor]:
    pytest.importorskip("onnxruntime", reason="pip install 'lightning-audio[export]'")
    session = onnx_file.session(onnx_graph(task(name)), name, threads=1)

    def found(waveforms: Tensor, lengths: list[int]) -> Tensor:
        feeds = {"waveforms": waveforms.numpy(), "lengths": np.array(lengths)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return found


def torch_export(name: str) -> Callable[[Tensor, list[int]], Tensor]:
    """Filled up to as many samples as it takes at least, where that changes nothing."""
    module = torch.export.load(io.BytesIO(exported_program(task(name)))).module()

    def found(waveforms: Tensor, lengths: list[int]) -> Tensor:
        missing = max(least_samples(task(name)) - waveforms.shape[1], 0)
        return module(nn.functional.pad(waveforms, (0, missing)), torch.tensor(lengths))[0]

    return found


@pytest.mark.parametrize("exported", [onnx, pytest.param(torch_export, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_in_a_graph_it_says_the_same_of_clips_alone_and_in_padded_batches(
    name: str, exported: Callable[[str], Callable[[Tensor, list[int]], Tensor]]
) -> None:
    """Of other numbers of clips, and other lengths, than it was made with."""
    found = exported(name)

    sizes = [16000, 12345, 319, 320, 1, 8000] if is_ragged(task(name)) else [17000] * 2
    waveforms = torch.zeros(len(sizes), 20000 if len(sizes) > 2 else sizes[0])
    for row, size in enumerate(sizes):
        waveforms[row, :size] = 0.1 * noise(size, seed=row)
    together = found(waveforms, sizes)
    (expected,) = task(name).answer(waveforms, torch.tensor(sizes))
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)
    for row, size in enumerate(sizes):
        alone = found(waveforms[row : row + 1, :size], [size])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str, channels: int) -> None:
    torch.manual_seed(0)
    built = build.instantiate(config_of(name), "network", in_shape=(channels, BINS), num_outputs=OUTPUTS)
    unsettle(built)  # a norm that starts at 0 lets nothing through at first
    logits, _ = built(*features([64, 40, 20, 51], channels))
    (logits * noise(*logits.shape, seed=3)).sum().backward()
    still = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_go_from_the_features_to_the_logits_and_hold_every_module_once(name: str) -> None:
    """In the order in which gradients reach them from the logits, the other way round."""
    torch.manual_seed(0)
    built = build.instantiate(config_of(name), "network", in_shape=(1, BINS), num_outputs=OUTPUTS)
    unsettle(built)  # a norm that starts at 0 lets nothing through at first
    stages = built.named_stages()
    assert len(stages) > 2 or name in HEADS
    parts = [part for modules in stages.values() for part in modules]
    held = [parameter for part in parts for parameter in part.parameters()]
    assert len(held) == len({id(parameter) for parameter in held})
    if name != "timm":
        assert {id(parameter) for parameter in held} == {id(parameter) for parameter in built.parameters()}
    reached: list[str] = []
    for stage, modules in stages.items():
        weights = max((p for part in modules for p in part.parameters()), key=lambda p: p.ndim)
        weights.register_post_accumulate_grad_hook(lambda _, stage=stage: reached.append(stage))
    built(*features([64, 40], 1))[0].sum().backward()
    assert reached == list(stages)[::-1]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_in_one_group_and_only_weights_are_decayed(name: str) -> None:
    built = network(name, 1)
    groups = FineTuning([built], built.named_stages()).groups(1e-3, 0.05)
    found = [(id(p), group["weight_decay"]) for group in groups for p in group["params"]]
    assert sorted(number for number, _ in found) == sorted(id(p) for p in built.parameters())
    decay = dict(found)
    assert {decay[id(p)] for p in built.parameters() if p.dim() == 1} == {0.0}
    assert {decay[id(p)] for p in built.parameters() if p.dim() > 1} == {0.05}


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_groups_are_those_of_timm_whatever_the_decay(weight_decay: float) -> None:
    built = nn.Sequential(network("bc_resnet", 1), nn.Conv2d(2, 2, 1))
    expected = param_groups_weight_decay(built, 0.05)
    groups = FineTuning([built], {"all": [built]}).groups(1e-3, weight_decay)
    assert [group["weight_decay"] for group in groups] == [0.0, weight_decay]
    for group, other in zip(groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]


# What timm adds.


def backbone(channels: int = 1, **options: Any) -> Timm:
    torch.manual_seed(0)
    settings = {"backbone": BACKBONE, "weights": None} | options
    return Timm((channels, BINS), OUTPUTS, **settings)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("test_resnet", (1, 1)),
        ("test_vit", (1, 1)),
        ("test_convnext", (32, 1)),
        ("vit_tiny_patch16_224", (1, 1)),
        ("levit_128s", None),
    ],
)
def test_backbones_of_all_kinds_take_clips_of_any_length(name: str, taken: tuple[int, int] | None) -> None:
    if taken is None:
        with pytest.raises(UserError, match=rf"{name} takes no spectrograms of 32 .* network\.img_size=\["):
            backbone(backbone=name)
    size: dict[str, Any] = {} if taken else {"img_size": [224, 224]}
    built = backbone(backbone=name, **size)
    if taken:
        assert (built.least, built.multiple) == taken
    x, lengths = features([3, 50, 1, 37], 1)
    logits, _ = built.train()(x, lengths)
    assert logits.shape == (4, OUTPUTS)
    logits, _ = built.eval()(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, _ = built(x[row : row + 1, :, :length], lengths[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_two_ways_to_set_the_input_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"network\.sizes and network\.img_size"):
        backbone(sizes=[[0.0, 0.5]], img_size=[64, 64])
    with pytest.raises(UserError, match=r"takes no network\.img_size=\[3, 3\]"):
        backbone(backbone="test_convnext", img_size=[3, 3])


@pytest.mark.parametrize("name", [BACKBONE, "test_vit", "test_convnext", "tf_efficientnet_lite0"])
def test_rates_by_depth_are_those_of_timm(name: str) -> None:
    built = backbone(backbone=name)
    groups = FineTuning([built], built.named_stages(), lr_decay=0.5).groups(1.0, 0.05)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    theirs = param_groups_layer_decay(built.backbone, 0.05, layer_decay=0.5)
    assert found == {id(p): (g["lr_scale"], g["weight_decay"]) for g in theirs for p in g["params"]}


def test_progressive_sizes_are_those_of_their_epochs() -> None:
    built = backbone(sizes=[[0.0, 0.5], [0.5, 0.75], [0.75, 1.0]])
    seen: list[tuple[int, ...]] = []
    built.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    x, lengths = features([64, 64], 1)
    for epoch in range(8):
        built.start_epoch(epoch, 8)
        built.train()(x, lengths)
    assert seen == [(16, 32)] * 4 + [(24, 48)] * 2 + [(32, 64)] * 2
    built.start_epoch(0, 8)
    built.eval()(x, lengths)
    assert seen[-1] == (32, 64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with a weight file of the backbone, with the channels and classes of timm's hub."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("models")
    save_file(timm.create_model(BACKBONE).state_dict(), folder / f"{BACKBONE}.safetensors")
    return folder


def source_of(weights: Path) -> dict[str, Tensor]:
    return timm.models.load_state_dict(str(weights / f"{BACKBONE}.safetensors"))


@pytest.mark.parametrize("by", ["file", "folder"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_weights_come_from_a_file(weights: Path, by: str, channels: int) -> None:
    options = (
        {"weights": str(weights / f"{BACKBONE}.safetensors")} if by == "file" else {"models": str(weights)}
    )
    built = backbone(channels, **({"weights": "pretrained"} | options)).backbone
    source, found = source_of(weights), built.state_dict()
    first = f"{built.pretrained_cfg['first_conv']}.weight"
    rest = [name for name in found if name != first and not name.startswith("fc.")]
    assert len(rest) > 20
    assert all(torch.equal(found[name], source[name]) for name in rest)
    assert built.num_classes == OUTPUTS
    expected = {
        1: source[first].sum(1, keepdim=True),
        2: source[first][:, :2] * 3 / 2,
        3: source[first],
    }[channels]
    torch.testing.assert_close(found[first], expected)


def test_one_channel_answers_as_the_same_picture_in_all_three(weights: Path) -> None:
    file = str(weights / f"{BACKBONE}.safetensors")
    one, three = backbone(1, weights=file).eval(), backbone(3, weights=file).eval()
    three.backbone.get_classifier().load_state_dict(one.backbone.get_classifier().state_dict())
    x, lengths = features([64, 64], 1)
    expected, _ = three(x[:, None].expand(-1, 3, -1, -1), lengths)
    torch.testing.assert_close(one(x, lengths)[0], expected, rtol=1e-4, atol=1e-5)


def test_no_weight_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no weight file .*none\.safetensors: set network\.weights"):
        backbone(weights=str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("content", ["another model", "half of it", "no weights"])
def test_a_file_of_something_else_is_one_sentence(content: str, weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    source = source_of(weights)
    if content == "no weights":
        file.write_text("not a weight file")
    elif content == "another model":
        save_file(timm.create_model("test_vit").state_dict(), file)
    else:
        save_file({name: w for name, w in source.items() if not name.startswith("layer3")}, file)
    with pytest.raises(UserError, match=rf"other\.safetensors does not hold weights of {BACKBONE}"):
        backbone(weights=str(file))


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnett18", "resnet18"), ("resnet18.a1_in1q", "resnet18.a1_in1k")]
)
def test_an_unknown_backbone_is_one_sentence_with_the_nearest(name: str, nearest: str) -> None:
    for from_where in (None, "pretrained"):
        with pytest.raises(UserError, match=rf"no backbone '{name}' \(did you mean '{nearest}'\?\)"):
            backbone(backbone=name, weights=from_where)


def test_a_hub_that_is_not_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError) as error:
        backbone(weights="pretrained", models=str(tmp_path))
    message = str(error.value)
    assert str(tmp_path / f"{BACKBONE}.safetensors") in message
    assert "network.weights=FILE" in message
    assert "network.weights=null" in message


def test_the_front_end_says_how_many_channels_the_first_layer_has() -> None:
    frontend = LogMel(16000, n_fft=1024, win_length=[400, 800, 1024], n_mels=BINS)
    normalize = Normalize(frontend.shape)
    x, lengths = normalize(*frontend(0.1 * noise(2, 16000), torch.tensor([16000, 8000])))
    logits, _ = backbone(frontend.shape[0]).eval()(x, lengths)
    assert logits.shape == (2, OUTPUTS)


def test_a_padded_lstm_reads_as_a_packed_one_does() -> None:
    lengths = torch.tensor([7, 1, 12, 4])
    layer = PaddedLSTM(5, 6)
    x = noise(4, 12, 5).requires_grad_()
    answers, gradients = [], []
    for way in (layer.reversed, layer.packed):
        y = way(x, lengths)
        y = y * (torch.arange(12) < lengths[:, None])[:, :, None]
        answers.append(y)
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)
    for own, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(own, packed, rtol=1e-4, atol=1e-5)
    assert gradients[0][0][1, 1:].abs().max() == 0  # what is padding has no say
