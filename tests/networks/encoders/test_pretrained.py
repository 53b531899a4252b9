"""Encoders that learn, under a head; layers in a learned sum; the BiLSTM on states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_audio import build
from lightning_audio.config import compose_config
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.networks.bilstm import BiLSTM
from lightning_audio.networks.encoders.yamnet import YAMNet
from lightning_audio.networks.heads import LinearHead
from lightning_audio.networks.pretrained import Pretrained, WeightedLayers

WHISPER = (
    *("d_model=8", "encoder_layers=1", "encoder_attention_heads=2", "encoder_ffn_dim=8", "num_mel_bins=16"),
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("encoder", ["yamnet", "whisper"])
def test_an_encoder_learns_with_its_head(encoder: str) -> None:
    if encoder == "whisper":
        pytest.importorskip("transformers")
    small = [f"encoder.config.{option}" for option in WHISPER] if encoder == "whisper" else []
    cfg = compose_config(
        ["frontend=waveform", "network=pretrained", f"encoder={encoder}", "encoder.weights=null", *small]
    )
    network = build.instantiate(cfg.network, "network", in_shape=(1, 1), num_outputs=3)
    x, lengths = noise(2, 1, 16000), torch.tensor([16000, 9000])
    logits, counts = network(x, lengths)
    assert logits.shape == (2, int(counts.max()), 3)
    assert counts.tolist() == network.output_lengths(lengths).tolist()
    (logits * noise(*logits.shape)).sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None and "embed_positions" not in n]
    assert still == []
    stages = network.named_stages()
    assert list(stages)[-1] == "head"
    held = {id(p) for modules in stages.values() for module in modules for p in module.parameters()}
    assert held == {id(p) for p in network.parameters()}


def test_a_checkpoint_of_a_learned_encoder_needs_no_file() -> None:
    part = {"_target_": "lightning_audio.networks.encoders.yamnet.YAMNet", "weights": "gone.safetensors"}
    head = {"_target_": "lightning_audio.networks.heads.LinearHead", "_partial_": True}
    answering = {
        "frontend": {"_target_": "lightning_audio.frontend.waveform.Waveform"},
        "normalize": "none",
        "network": {
            "_target_": "lightning_audio.networks.pretrained.Pretrained",
            "encoder": part,
            "head": head,
        },
        "task": {"_target_": "lightning_audio.tasks.classification.Classification"},
    }
    build.refuse_unknown(answering)
    with pytest.raises(UserError, match=r"no weight file .*gone\.safetensors"):
        build.assemble(answering, DataInfo(("a", "b"), 16000, 1.0))
    built = build.assemble(build.without_weights(answering), DataInfo(("a", "b"), 16000, 1.0))
    assert isinstance(built.network.encoder, YAMNet)


def test_what_is_no_encoder_or_no_waveform_is_one_sentence() -> None:
    with pytest.raises(UserError, match="frontend=waveform and an encoder"):
        Pretrained((1, 1), 3, LinearHead)
    with pytest.raises(UserError, match="frontend=waveform and an encoder"):
        Pretrained((1, 64), 3, LinearHead, YAMNet())


def test_layers_are_summed_by_weights_that_add_up_to_one() -> None:
    torch.manual_seed(0)
    network = WeightedLayers((3, 5), 2, LinearHead).eval()
    x, lengths = noise(2, 3, 5, 7), torch.tensor([7, 7])
    expected = network.head(x.mean(1), lengths)
    torch.testing.assert_close(network(x, lengths), expected)
    assert network.mix is not None
    with torch.no_grad():
        network.mix.copy_(torch.tensor([0.0, 50.0, 0.0]))
    torch.testing.assert_close(network(x, lengths), network.head(x[:, 1], lengths))


@torch.no_grad()
def test_a_bilstm_on_states_joins_frames_and_padding_does_not_change_it() -> None:
    torch.manual_seed(0)
    network = BiLSTM((1, 6), 4, strides=(), stack=3, hidden=5, layers=1).eval()
    lengths = torch.tensor([10, 9, 1, 2])
    x = noise(4, 6, 10) * (torch.arange(10) < lengths[:, None])[:, None]
    logits, counts = network(x, lengths)
    assert counts.tolist() == network.output_lengths(lengths).tolist() == [4, 3, 1, 1]
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        alone, _ = network(x[row : row + 1, :, :length], lengths[row : row + 1])
        torch.testing.assert_close(logits[row, :count], alone[0], rtol=1e-5, atol=1e-6)
