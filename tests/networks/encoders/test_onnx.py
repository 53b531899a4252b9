"""ONNX files as encoders: steps found by trying, padding, streams, checkpoints; the real speech embedding."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_audio import build
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.export.onnx import onnx_graph
from lightning_audio.frontend.frozen import Frozen
from lightning_audio.inference.stream import Stream
from lightning_audio.networks.encoders.onnx import Onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

KERNEL, HOP, WIDTH = 50, 20, 3
WEIGHT = np.random.default_rng(0).standard_normal((WIDTH, 1, KERNEL)).astype(np.float32)


def save(graph: Any, path: Path) -> str:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


def value(name: str, shape: list[Any]) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def convolution(path: Path) -> str:
    """Samples `(1, 1, T)` -> frames `(1, frames, 3)` of 50 samples every 20."""
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["y"], strides=[HOP]),
        node("Transpose", ["y"], ["z"], perm=[0, 2, 1]),
    ]
    weights = [onnx.numpy_helper.from_array(WEIGHT, "w")]
    graph = onnx.helper.make_graph(
        nodes, "frames", [value("x", [1, 1, "T"])], [value("z", [1, "F", WIDTH])], weights
    )
    return save(graph, path)


def sums(path: Path, window: int) -> str:
    """Windows `(N, window, 3, 1)` -> `(N, 1, 3)`: the sum over the frames."""
    axes = onnx.numpy_helper.from_array(np.array([1, 3]), "axes")
    nodes = [
        onnx.helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0),
        onnx.helper.make_node("Unsqueeze", ["y", "one"], ["z"]),
    ]
    one = onnx.numpy_helper.from_array(np.array([1]), "one")
    inputs, outputs = [value("x", ["N", window, WIDTH, 1])], [value("z", ["N", 1, WIDTH])]
    return save(onnx.helper.make_graph(nodes, "sums", inputs, outputs, [axes, one]), path)


def frames_of(samples: Tensor) -> Tensor:
    """`(frames, 3)`."""
    return samples.unfold(-1, KERNEL, HOP) @ torch.from_numpy(WEIGHT[:, 0]).T


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_states_of_a_whole_clip_and_padding(tmp_path: Path) -> None:
    encoder = Onnx(convolution(tmp_path / "x.onnx"), scale=2.0)
    assert (encoder.n_fft, encoder.hop_length, encoder.shape) == (KERNEL, HOP, (1, WIDTH))
    x, lengths = noise(4, 400), torch.tensor([400, 69, 70, 10])
    states, counts = encoder(x, lengths)
    assert counts.tolist() == encoder.output_lengths(lengths).tolist() == [18, 1, 2, 1]
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        clip = torch.nn.functional.pad(x[row, :length], (0, max(KERNEL - length, 0)))
        torch.testing.assert_close(states[row, :, :count].T, frames_of(2 * clip), rtol=1e-5, atol=1e-5)
        assert not states[row, :, count:].any()


def pair(tmp_path: Path, **options: Any) -> Onnx:
    files = [convolution(tmp_path / "frames.onnx"), sums(tmp_path / "sums.onnx", 6)]
    return Onnx(files, frames=(0.1, 2.0), window=6, hop=2, **options)


def test_two_files_and_windows_of_frames(tmp_path: Path) -> None:
    encoder = pair(tmp_path)
    assert (encoder.n_fft, encoder.hop_length) == (KERNEL + 5 * HOP, 2 * HOP)
    x = noise(1, 1000)
    frames = 0.1 * frames_of(x[0]) + 2.0
    expected = frames.unfold(0, 6, 2).sum(-1)
    states, counts = encoder(x, torch.tensor([1000]))
    assert counts.tolist() == [len(expected)]
    torch.testing.assert_close(states[0].T, expected, rtol=1e-5, atol=1e-4)


def task(tmp_path: Path) -> Any:
    answering = {
        "frontend": {
            "_target_": "lightning_audio.frontend.frozen.Frozen",
            "encoder": {
                "_target_": "lightning_audio.networks.encoders.onnx.Onnx",
                "file": [convolution(tmp_path / "frames.onnx"), sums(tmp_path / "sums.onnx", 6)],
                "window": 6,
                "hop": 2,
                "center": True,
            },
        },
        "normalize": "corpus",
        "network": {"_target_": "lightning_audio.networks.heads.MLPHead", "hidden": 4},
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    return build.assemble(answering, DataInfo(("a", "b"), 16000, 1.0)).eval()


@torch.no_grad()
def test_a_stream_hears_what_the_whole_clip_says(tmp_path: Path) -> None:
    built, x = task(tmp_path), noise(2000)
    logits, counts = built.network(*built.normalize(*built.frontend(x[None], torch.tensor([2000]))))
    stream = Stream(built)
    assert stream.frame_seconds == 2 * HOP / 16000
    pieces = [stream.push(piece.numpy()) for piece in x.split(37)]
    scores = torch.cat([*pieces, stream.finish()])
    torch.testing.assert_close(scores[: int(counts)], logits[0].softmax(-1), rtol=1e-4, atol=1e-5)


def test_a_file_does_not_go_into_another_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not go into another one: export a run with another encoder"):
        onnx_graph(task(tmp_path))


def test_a_checkpoint_brings_the_content_of_the_files(tmp_path: Path) -> None:
    built, x = task(tmp_path), noise(1, 3000)
    described = build.without_weights(built.description["config"])
    assert described["frontend"]["encoder"]["file"] is None
    again = build.assemble(described, DataInfo(("a", "b"), 16000, 1.0)).eval()
    again.load_state_dict(built.state_dict())
    lengths = torch.tensor([3000])
    with torch.no_grad():
        torch.testing.assert_close(again(x, lengths), built(x, lengths))
        for copied in (copy.deepcopy(built.frontend), pickle.loads(pickle.dumps(built.frontend.encoder))):
            frozen = copied if isinstance(copied, Frozen) else Frozen(16000, copied)
            torch.testing.assert_close(frozen(x, lengths), built.frontend(x, lengths))
    assert again.frontend.digest == built.frontend.digest


def test_a_detector_of_words_is_built_before_its_checkpoint_brings_the_files(tmp_path: Path) -> None:
    """It runs a stream to see whether it can."""
    answering = {
        "frontend": {
            "_target_": "lightning_audio.frontend.frozen.Frozen",
            "encoder": {
                "_target_": "lightning_audio.networks.encoders.onnx.Onnx",
                "file": convolution(tmp_path / "x.onnx"),
                "center": True,
            },
        },
        "normalize": "none",
        "network": {"_target_": "lightning_audio.networks.heads.LinearHead"},
        "task": {"_target_": "lightning_audio.tasks.trigger.Trigger", "background": ["other"]},
    }
    info = DataInfo(("word", "other"), 16000, 1.0)
    task = build.assemble(answering, info)
    again = build.assemble(build.without_weights(task.description["config"]), info)
    again.load_state_dict(task.state_dict())
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy()
    expected, found = (Stream(built.eval()) for built in (task, again))
    scores = found.push(x)
    assert len(scores) > 10
    torch.testing.assert_close(scores, expected.push(x))


def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(UserError, match=r"text\.onnx is no ONNX file"):
        Onnx(str(tmp_path / "text.onnx"))
    with pytest.raises(UserError, match=r"no ONNX file .*missing\.onnx"):
        Onnx(str(tmp_path / "missing.onnx"))
    with pytest.raises(UserError, match="go together"):
        Onnx(str(tmp_path / "text.onnx"), window=5)
    with pytest.raises(UserError, match="gives no states of samples"):
        Onnx(sums(tmp_path / "sums.onnx", 6), window=7, hop=1)


@pytest.fixture
def embedding() -> Onnx:
    folder = Path(os.environ.get("LIGHTNING_AUDIO_MODELS", "models"))
    if not (folder / "speech_embedding.onnx").is_file():
        pytest.skip(f"speech_embedding.onnx is not in {folder} (set LIGHTNING_AUDIO_MODELS to its folder)")
    files = [str(folder / name) for name in ("speech_embedding_mel.onnx", "speech_embedding.onnx")]
    return Onnx(files, scale=32768, frames=(0.1, 2.0), window=76, hop=8, center=True)


def test_the_speech_embedding_gives_96_numbers_every_80_ms(embedding: Onnx) -> None:
    assert embedding.shape == (1, 96)
    assert embedding.hop_length == 1280
    x, lengths = 0.1 * noise(2, 16000), torch.tensor([16000, 8000])
    states, counts = embedding(x, lengths)
    assert counts.tolist() == [13, 7]
    alone, _ = embedding(x[1:, :8000], lengths[1:])
    torch.testing.assert_close(states[1:, :, :7], alone, rtol=1e-4, atol=1e-4)
    padded = torch.nn.functional.pad(x[:1], (embedding.n_fft // 2, embedding.n_fft // 2))
    torch.testing.assert_close(embedding.frames(padded)[..., :13], states[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        embedding.frames(padded[:, 3 * 1280 : 3 * 1280 + embedding.n_fft])[0, :, 0],
        states[0, :, 3],
        rtol=1e-3,
        atol=1e-3,
    )
