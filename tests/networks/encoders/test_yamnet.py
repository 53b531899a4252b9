"""YAMNet against an implementation of its own in NumPy, its padding, and predictions without any training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lightning_audio
from lightning_audio.cli.predict import main
from lightning_audio.errors import UserError
from lightning_audio.networks.encoders.yamnet import SOUNDS, YAMNet, YAMNetTagger

Weights = dict[str, np.ndarray]


@pytest.fixture
def models() -> Path:
    """The folder of the real weights; the test skips where they are not there."""
    folder = Path(os.environ.get("LIGHTNING_AUDIO_MODELS", "models"))
    if not (folder / "yamnet.safetensors").is_file():
        pytest.skip(f"yamnet.safetensors is not in {folder} (set LIGHTNING_AUDIO_MODELS to its folder)")
    return folder


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tagger() -> YAMNetTagger:
    """Weights as they are drawn, louder, so that differences are seen behind fourteen layers."""
    torch.manual_seed(0)
    built = YAMNetTagger((1, 1), SOUNDS).eval()
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(2.5)
    return built


# What YAMNet is, told once more: sums and loops over what the published code says.


def mel_of(frequency: float) -> float:
    return 1127.0 * float(np.log(1 + frequency / 700))


def reference_patches(waveform: np.ndarray) -> np.ndarray:
    """`(patches, 96, 64)` of a whole number of patches, a discrete Fourier transform as a product."""
    time, bins = np.arange(400), np.arange(257)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / 400)
    transform = np.exp(-2j * np.pi * np.outer(bins, time) / 512)
    edges = np.linspace(mel_of(125), mel_of(7500), 66)
    filters = np.zeros((257, 64))
    for k in range(1, 257):
        mel = mel_of(k * 16000 / 512)
        for band in range(64):
            low, middle, high = edges[band : band + 3]
            filters[k, band] = max(0, min((mel - low) / (middle - low), (high - mel) / (high - middle)))
    count = 1 + int(np.ceil(max(len(waveform) - 15600, 0) / 7680))
    padded = np.zeros(15600 + (count - 1) * 7680)
    padded[: len(waveform)] = waveform
    frames = [padded[start : start + 400] * window for start in range(0, len(padded) - 399, 160)]
    log_mel = np.log(np.abs(np.array(frames) @ transform.T) @ filters + 0.001)
    return np.stack([log_mel[48 * n : 48 * n + 96] for n in range(count)])


def reference_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """`(C, H, W)` by loops over the 3x3 places of a filter; SAME padding puts the odd zero behind."""
    depthwise = weight.shape[1] == 1 and len(x) > 1
    heights, widths = (-(-size // stride) for size in x.shape[1:])
    before = [
        max((n - 1) * stride + 3 - size, 0) // 2
        for n, size in zip((heights, widths), x.shape[1:], strict=True)
    ]
    padded = np.zeros((len(x), x.shape[1] + 3, x.shape[2] + 3))
    padded[:, before[0] : before[0] + x.shape[1], before[1] : before[1] + x.shape[2]] = x
    y = np.zeros((len(weight), heights, widths)) + bias[:, None, None]
    for row in range(3):
        for column in range(3):
            seen = padded[
                :, row : row + heights * stride : stride, column : column + widths * stride : stride
            ]
            seen = seen[:, :heights, :widths]
            tap = weight[:, :, row, column]
            y += tap[:, 0, None, None] * seen if depthwise else np.einsum("oc,chw->ohw", tap, seen)
    return np.maximum(y, 0)


def reference_logits(waveform: np.ndarray, weights: Weights) -> np.ndarray:
    """`(patches, 521)`."""
    rows = []
    for patch in reference_patches(waveform):
        x = reference_convolution(patch[None], weights["layer1.conv.weight"], weights["layer1.conv.bias"], 2)
        for number in range(2, 15):
            stride = 2 if number in (3, 5, 7, 13) else 1
            name = f"layer{number}.depthwise"
            x = reference_convolution(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)
            name = f"layer{number}.pointwise"
            x = np.einsum("oc,chw->ohw", weights[f"{name}.weight"][:, :, 0, 0], x)
            x = np.maximum(x + weights[f"{name}.bias"][:, None, None], 0)
        rows.append(weights["classifier.weight"] @ x.mean((1, 2)) + weights["classifier.bias"])
    return np.array(rows)


@pytest.mark.parametrize("size", [16000, 400])
@torch.no_grad()
def test_logits_are_those_of_an_implementation_in_numpy(tagger: YAMNetTagger, size: int) -> None:
    waveform = 0.2 * noise(size)
    weights = {name.removeprefix("encoder."): t.double().numpy() for name, t in tagger.state_dict().items()}
    expected = reference_logits(waveform.double().numpy(), weights)
    logits, counts = tagger(waveform[None, None], torch.tensor([size]))
    assert counts.tolist() == [len(expected)]
    assert expected.std(0).max() > 1e-3 or len(expected) == 1  # the patches differ
    np.testing.assert_allclose(logits[0].numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@torch.no_grad()
def test_padding_does_not_change_an_answer(tagger: YAMNetTagger) -> None:
    sizes = [1, 400, 15600, 15601, 23280, 30000]
    waveforms = noise(len(sizes), 1, 40000)  # noise behind the clips, too
    states, counts = tagger.encoder(waveforms[:, 0], torch.tensor(sizes))
    assert counts.tolist() == [1, 1, 1, 2, 2, 3]
    for row, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True)):
        alone, _ = tagger.encoder(waveforms[row, :, :size], torch.tensor([size]))
        assert alone.shape == (1, 1024, count)
        torch.testing.assert_close(states[row, :, :count], alone[0], rtol=1e-4, atol=1e-3)
        assert not states[row, :, count:].any()


def test_a_file_of_other_weights_is_told_in_a_sentence(tmp_path: Path, tagger: YAMNetTagger) -> None:
    with pytest.raises(UserError, match=r"no weight file .*missing\.safetensors: put the weights of YAMNet"):
        YAMNet(str(tmp_path / "missing.safetensors"))
    other = dict(tagger.encoder.state_dict())
    other["layer15.conv.weight"] = other.pop("layer9.depthwise.weight")
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"does not hold the weights of YAMNet: layer15.conv.weight"):
        YAMNet(str(tmp_path / "other.safetensors"))
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(UserError, match="no safetensors file"):
        YAMNet(str(tmp_path / "text.safetensors"))
    with pytest.raises(UserError, match="521 sounds"):
        YAMNetTagger((1, 64), SOUNDS)


def sounds(folder: Path, data: Path) -> Path:
    """Silence, a dog somewhere between 2.0 and 7.0 s, silence."""
    rows = (data / "ESC-50/meta/esc50.csv").read_text().splitlines()[1:]
    dog = next(row.split(",")[0] for row in rows if ",dog," in row)
    audio, rate = soundfile.read(data / "ESC-50/audio" / dog)
    silence = np.zeros(2 * rate)
    soundfile.write(folder / "dog.wav", np.concatenate([silence, audio, silence]), rate)
    return folder / "dog.wav"


def test_sounds_are_named_without_training(models: Path, real_data, tmp_path: Path, capsys) -> None:
    file = sounds(tmp_path, real_data("ESC-50"))
    main(["yamnet", str(file), "--events", "--format", "jsonl"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    barks = [event for event in rows if event["label"] in ("Dog", "Bark")]
    assert barks
    assert all(1.5 < event["start"] < event["end"] < 7.5 for event in barks)
    task = lightning_audio.load("yamnet")
    assert len(task.labels) == SOUNDS
    answer = task.predict(file)[0]
    assert max(answer.scores, key=lambda label: answer.scores[label]) in (
        "Animal",
        "Dog",
        "Bark",
        "Domestic animals, pets",
        "Silence",
    )


def test_real_weights_fill_the_encoder(models: Path) -> None:
    built, file = YAMNet(str(models / "yamnet.safetensors")), load_file(models / "yamnet.safetensors")
    for name, weight in built.state_dict().items():
        assert torch.equal(weight, file[name].float())


def test_missing_weights_of_a_named_network_are_one_sentence(monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("LIGHTNING_AUDIO_MODELS", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["yamnet", str(tmp_path / "a.wav")])
    assert "a.wav" in capsys.readouterr().err
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    with pytest.raises(SystemExit):
        main(["yamnet", str(tmp_path / "a.wav")])
    error = capsys.readouterr().err
    assert error.startswith("error: There is no file of labels")
    assert error.count("\n") == 1
