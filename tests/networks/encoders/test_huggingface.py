"""Encoders of transformers from tiny random configurations: what they are fed, padding, layers, folders."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_audio import build
from lightning_audio.augment.features import SpecAugment
from lightning_audio.config import compose_config
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.networks.encoders import inputs
from lightning_audio.networks.encoders.base import Encoder
from lightning_audio.networks.encoders.huggingface import HuggingFace
from lightning_audio.training.trainer import build_trainer

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": [8, 8],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 6,  # with 8, PyTorch 2.14 has it wrong in bfloat16 on some processors
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": 80,
    "max_source_positions": 60,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
}
TINY: dict[str, dict[str, Any]] = {
    "wav2vec2": {"model_type": "wav2vec2", **SMALL, **CONVOLUTIONS},
    "wav2vec2 large": {"model_type": "wav2vec2", **SMALL, **CONVOLUTIONS, **STABLE},
    "hubert": {"model_type": "hubert", **SMALL, **CONVOLUTIONS},
    "wavlm": {"model_type": "wavlm", **SMALL, **CONVOLUTIONS},
    "data2vec-audio": {"model_type": "data2vec-audio", **SMALL, **CONVOLUTIONS, "num_conv_pos_embeddings": 2},
    "sew": {"model_type": "sew", **SMALL, **CONVOLUTIONS, "squeeze_factor": 2},
    "unispeech": {"model_type": "unispeech", **SMALL, **CONVOLUTIONS},
    "unispeech-sat": {"model_type": "unispeech-sat", **SMALL, **CONVOLUTIONS},
    "wav2vec2-conformer": {
        "model_type": "wav2vec2-conformer",
        **SMALL,
        **CONVOLUTIONS,
        "conv_depthwise_kernel_size": 3,
    },
    "wav2vec2-bert": {"model_type": "wav2vec2-bert", **SMALL, "conv_depthwise_kernel_size": 3},
    "moonshine": {
        "model_type": "moonshine",
        **SMALL,
        "encoder_num_hidden_layers": 2,
        "encoder_num_attention_heads": 2,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "vocab_size": 10,
    },
    "audio-spectrogram-transformer": {
        "model_type": "audio-spectrogram-transformer",
        **SMALL,
        "num_mel_bins": 32,
        "max_length": 100,
    },
    "whisper": WHISPER,
}
TINY_TYPES = [name for name in TINY if name != "wav2vec2 large"]


@cache
def encoder(name: str, layer: str | int = "last") -> HuggingFace:
    torch.manual_seed(0)
    built = HuggingFace(config=TINY[name], layer=layer).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():  # biases, so that what becomes of padding shows
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return built


def waveforms(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Noise, with other noise behind the end of each clip."""
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(len(lengths), max(lengths) + 1000, generator=generator), torch.tensor(lengths)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_padding_does_not_change_an_answer(name: str) -> None:
    built, (x, lengths) = encoder(name), waveforms([1, 300, 8000, 7999, 17000, 22000, 8000])
    states, counts = built(x, lengths)
    assert counts.tolist() == built.output_lengths(lengths).tolist()
    assert states.shape[:2] == (7, 16)
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone, one = built(x[row : row + 1, :length], lengths[row : row + 1])
        assert alone.shape[-1] == int(one) == count >= 1
        torch.testing.assert_close(states[row, :, :count], alone[0], rtol=1e-4, atol=1e-5)
        assert not states[row, :, count:].any()
    assert float(states[2, :, :5].std()) > 0.01


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_a_clip_that_is_shorter_than_a_mask_is_learned_from(name: str) -> None:
    built = HuggingFace(config=TINY[name]).train()
    for samples in (60, 4000, 60):
        states, _ = built(*waveforms([samples, samples]))
        assert states.isfinite().all()


@pytest.mark.parametrize("name", TINY)
def test_an_encoder_says_whether_it_leaves_weights_out(name: str) -> None:
    for layer in ("last", 1, 0, -1):
        built = HuggingFace(config=TINY[name] | {"layerdrop": 0.0}, layer=layer).train()
        states, _ = built(*waveforms([9000, 8000]))
        states.square().sum().backward()
        left = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
        assert built.skips or not left
    assert not HuggingFace(config=TINY["whisper"]).skips


def test_processes_look_for_weights_that_an_encoder_leaves_out(tmp_path: Path) -> None:
    options = [f"encoder.config={{{', '.join(f'{k}: {v}' for k, v in TINY['wav2vec2'].items())}}}"]
    options += ["encoder=huggingface", "encoder.layer=1", "network=pretrained", "frontend=waveform"]
    options += ["data=demo", "data.clips_per_class=2", "data.seconds=0.5", "data.sample_rate=16000"]
    options += ["trainer=cpu", "trainer.strategy=ddp", "trainer.devices=1", "logger=none"]
    cfg = compose_config(options)
    data, task = build.data_and_task(cfg)
    trainer = build_trainer(cfg, tmp_path, data, task)
    assert trainer.strategy._ddp_kwargs == {"find_unused_parameters": True}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_states_are_those_of_the_library(name: str) -> None:
    """Of a clip that fills what the library would pad it to."""
    built, size = encoder(name), 2 * 60 * 160 if name == "whisper" else 16240
    x, lengths = waveforms([size])
    x = x[:, :size]
    states, _ = built(x, lengths)
    body: Any = built.body
    fed = {"input_values": body.inputs(x)} if name != "whisper" else {}
    if name == "whisper":
        expected = body.model(body.log_mel(x, lengths)[0]).last_hidden_state
    elif name == "wav2vec2-bert":
        expected = body.model(input_features=fed["input_values"]).last_hidden_state
    elif name == "audio-spectrogram-transformer":
        tokens = body.model(fed["input_values"][:, :100]).last_hidden_state[:, 2:]
        expected, states = tokens.unflatten(1, (2, 9)).mean(1), states[..., :9]
    else:
        expected = body.model(**fed).last_hidden_state
    torch.testing.assert_close(states.mT, expected, rtol=1e-4, atol=1e-5)


def speech(seconds: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(round(16000 * seconds))).astype(np.float32)


def extracted(extractor: Any, **options: Any) -> np.ndarray:
    told = extractor(speech(), sampling_rate=16000, return_tensors="np", **options)
    return np.asarray(next(iter(told.values())))[0]


def test_what_models_are_fed_is_that_of_their_feature_extractors() -> None:
    x, lengths = torch.from_numpy(speech())[None], torch.tensor([16000])
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    expected = extracted(transformers.Wav2Vec2FeatureExtractor(do_normalize=True))
    np.testing.assert_allclose(inputs.standardized(x, lengths)[0], expected, **close)
    for n_mels in (80, 128):
        expected = extracted(transformers.WhisperFeatureExtractor(feature_size=n_mels))
        mel, frames = inputs.WhisperLogMel(n_mels)(x, lengths)
        assert frames.tolist() == [100]
        np.testing.assert_allclose(mel[0], expected[:, :100], **close)
    expected = extracted(transformers.ASTFeatureExtractor())
    fbank = inputs.ast_fbank(x, 128, -4.2677393, 4.5689974)[0]
    np.testing.assert_allclose(fbank, expected[: len(fbank)], **close)
    expected = extracted(transformers.SeamlessM4TFeatureExtractor())
    np.testing.assert_allclose(inputs.seamless_fbank(x)[0], expected[:49], **close)


@torch.no_grad()
def test_two_seconds_of_whisper_cost_two_seconds_and_a_long_clip_is_read_in_pieces() -> None:
    built = encoder("whisper")
    seen: list[int] = []
    handle = built.body.model.layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[1])
    )
    states, counts = built(*waveforms([32000]))
    handle.remove()
    assert counts.tolist() == [100]
    assert seen == [60, 44]  # positions reach 60 states; 33,000 samples with what lies behind the clip
    assert states.shape[-1] >= 100


@torch.no_grad()
def test_padding_that_is_longer_than_positions_reach_changes_nothing() -> None:
    """Such as that of a batch whose longest clip was sped up."""
    built, (x, lengths) = encoder("whisper"), waveforms([15000, 32000])
    states, counts = built(x, lengths.clamp(max=15000))
    alone, _ = built(x[:1, :15000], lengths[:1])
    torch.testing.assert_close(states[0, :, : counts[0]], alone[0], rtol=1e-4, atol=1e-5)
    assert not states[0, :, counts[0] :].any()


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_half_precision_gives_about_the_same_states(name: str) -> None:
    built, batch = encoder(name), waveforms([8000, 22000])
    exact, _ = built(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = built(*batch)
    assert float((states.float() - exact).norm() / exact.norm()) < 0.15


@torch.no_grad()
def test_masks_cover_the_log_mel_of_whisper_while_it_learns() -> None:
    masks = SpecAugment(freq_masks=1, freq_width=30, time_masks=0, time_width=0, max_freq_share=1.0)
    built = HuggingFace(config=WHISPER, masks=masks)
    built.body.load_state_dict(encoder("whisper").body.state_dict())
    batch, seen = waveforms([9000, 4000]), []
    built.body.model.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    built.train()(*batch)
    torch.testing.assert_close(built.eval()(*batch), encoder("whisper")(*batch))
    masked = (seen[0] != seen[1])[:, :, :25]
    assert 0 < int(masked.all(-1).sum()) <= 2 * 30
    assert torch.equal(masked.all(-1), masked.any(-1))
    with pytest.raises(UserError, match="log-mel of Whisper, and hubert has none"):
        HuggingFace(config=TINY["hubert"], masks=masks)


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "audio-spectrogram-transformer"])
@torch.no_grad()
def test_layers_are_chosen_by_number_all_or_weighted(name: str) -> None:
    batch = waveforms([9000, 4000])
    every = encoder(name, "all")(*batch)[0]
    assert encoder(name, "all").shape == (3, 16)
    assert every.shape[:3] == (2, 3, 16)
    torch.testing.assert_close(every[:, 2], encoder(name)(*batch)[0])
    torch.testing.assert_close(every[:, 1], encoder(name, 1)(*batch)[0])
    torch.testing.assert_close(every[:, 0], encoder(name, -3)(*batch)[0])
    weighted = HuggingFace(config=TINY[name], layer="weighted").eval()
    weighted.body.load_state_dict(encoder(name).body.state_dict())
    torch.testing.assert_close(weighted(*batch)[0], every.mean(1), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"encoder\.layer=3 is unknown: .* a number from 0 to 2"):
        HuggingFace(config=TINY[name], layer=3)


@pytest.mark.parametrize("name", TINY)
def test_stages_hold_every_weight_once(name: str) -> None:
    built = HuggingFace(config={**TINY[name], "layerdrop": 0.0})
    stages = built.named_stages()
    assert list(stages) == ["stem", "layer1", "layer2"]
    held = [id(p) for stage in stages.values() for module in stage for p in module.parameters()]
    assert len(held) == len(set(held))
    modules = {id(p): n for n, p in built.named_parameters()}
    alone = {n for i, n in modules.items() if i not in held}
    assert all("masked_spec" in n or "token" in n or "position_embeddings" in n for n in alone), alone


def save_model(config: dict[str, Any], folder: Path) -> None:
    """A whole model of the library, as its own user would have it."""
    options = dict(config)
    described = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
    transformers.AutoModel.from_config(described).save_pretrained(folder)


@pytest.mark.parametrize("name", TINY_TYPES)
def test_a_folder_gives_the_same_states_and_a_checkpoint_needs_it_no_more(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_model(TINY[name], tmp_path)
    told = json.dumps({"do_normalize": False, "sampling_rate": 8000})
    (tmp_path / "preprocessor_config.json").write_text(told)
    from_folder = HuggingFace(str(tmp_path)).eval()
    assert from_folder.sample_rate == 8000
    again = HuggingFace(**json.loads(json.dumps(from_folder.architecture))).eval()
    again.load_state_dict(from_folder.state_dict())
    batch = waveforms([9000, 4000])
    torch.testing.assert_close(again(*batch), from_folder(*batch))


def test_a_task_describes_the_architecture_of_its_encoder(tmp_path: Path) -> None:
    save_model(TINY["wav2vec2"], tmp_path)
    answering = {
        "frontend": {
            "_target_": "lightning_audio.frontend.frozen.Frozen",
            "encoder": {
                "_target_": "lightning_audio.networks.encoders.huggingface.HuggingFace",
                "weights": str(tmp_path),
            },
        },
        "normalize": "none",
        "network": {"_target_": "lightning_audio.networks.heads.LinearHead"},
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    task = build.assemble(answering, DataInfo(("a", "b"), 16000, 1.0))
    described = task.description["config"]
    build.refuse_unknown(described)
    again = build.assemble(build.without_weights(described), DataInfo(("a", "b"), 16000, 1.0))
    again.load_state_dict(task.state_dict())
    batch = waveforms([9000, 4000])
    torch.testing.assert_close(again.eval()(*batch)[0], task.eval()(*batch)[0])


def test_a_file_of_weights_with_a_configuration(tmp_path: Path) -> None:
    model = encoder("whisper").body.model
    save_file(model.state_dict(), tmp_path / "encoder.safetensors")
    built = HuggingFace(str(tmp_path / "encoder.safetensors"), config=WHISPER).eval()
    batch = waveforms([9000, 4000])
    torch.testing.assert_close(built(*batch), encoder("whisper")(*batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"encoder\.weights names no encoder"),
        (
            {"config": {"model_type": "bert"}},
            r"is of kind 'bert', which is no known audio encoder",
        ),
        ({"config": {"model_type": "wave2vec2"}}, r"did you mean 'wav2vec2'"),
        (
            {"config": {"model_type": "wav2vec2", "hidden_size": 15}},
            r"is no wav2vec2: .*; mend it",
        ),
        ({"weights": "https://example.org/model"}, "is an address"),
    ],
)
def test_what_is_no_encoder_is_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HuggingFace(**options)


def test_a_folder_without_its_weights_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path} holds no encoder that transformers can load"):
        HuggingFace(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="no known audio encoder"):
        HuggingFace(str(tmp_path))
    encoder("hubert").body.model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights of the encoder such as"):
        HuggingFace(str(tmp_path))


def test_the_real_whisper_hears_the_words_of_a_clip_apart() -> None:
    file = Path(os.environ.get("LIGHTNING_AUDIO_MODELS", "models")) / "whisper_tiny_en_encoder.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} is not there (set LIGHTNING_AUDIO_MODELS to its folder)")
    real: Encoder = HuggingFace(
        str(file),
        config={
            "model_type": "whisper",
            "d_model": 384,
            "encoder_layers": 4,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536,
        },
    ).eval()
    with torch.no_grad():
        states, counts = real(*waveforms([16000, 8000]))
    assert states.shape[:2] == (2, 384)
    assert counts.tolist() == [50, 25]
