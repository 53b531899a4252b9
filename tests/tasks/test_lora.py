"""LoRA: what learns, and that what is loaded answers as what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

from lightning_audio.checkpoint import load
from lightning_audio.cli.evaluate import evaluate
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.networks.conformer import Conformer
from lightning_audio.networks.timm import Timm
from lightning_audio.tasks.lora import add_lora
from lightning_audio.training.run import train

VIT = [
    *(option for option in TINY if "network" not in option),
    *("network=timm", "network.backbone=test_vit", "network.weights=null"),
]


def vit() -> Timm:
    torch.manual_seed(0)
    return Timm((1, 32), 5, backbone="test_vit", weights=None)


@pytest.fixture(autouse=True)
def _peft() -> None:
    pytest.importorskip("peft")


def test_at_first_nothing_changes_and_then_only_additions_and_the_head_learn() -> None:
    x, lengths = torch.randn(2, 32, 40), torch.tensor([40, 40])
    plain, built = vit(), vit()
    assert add_lora(built, rank=4, modules=["qkv"]) == 2.0
    torch.testing.assert_close(built.eval()(x, lengths)[0], plain.eval()(x, lengths)[0])
    learning = {name for name, p in built.named_parameters() if p.requires_grad}
    blocks = len(built.backbone.blocks)
    added = {f"backbone.blocks.{n}.attn.qkv.lora_{s}.default.weight" for n in range(blocks) for s in "AB"}
    assert learning == added | {"backbone.head.weight", "backbone.head.bias"}


def test_layers_whose_weights_are_read_by_others_are_left_out() -> None:
    built = Conformer((1, 16), 5, width=16, feedforward=32, layers=1)
    add_lora(built)
    names = {name.split(".lora_A")[0] for name, _ in built.named_parameters() if ".lora_A" in name}
    assert names
    assert not any("self_attn" in name or name.startswith("head") for name in names)


def test_no_such_layer() -> None:
    with pytest.raises(
        UserError, match=r"no linear layer to add to in Timm \(outside of the head there are qkv, proj"
    ):
        add_lora(vit(), modules=["query"])


def test_a_run_is_loaded_without_peft_and_can_be_begun_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    lora = ["finetune.lora={rank: 2}", "optimizer.lr=0.05"]
    train(compose_config([*VIT, *lora]), first)
    saved = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    task, qkv = load(first), "network.backbone.blocks.1.attn.qkv"
    a, b = (saved[f"{qkv}.lora_{side}.default.weight"] for side in "AB")
    assert b.abs().max() > 0
    expected = saved[f"{qkv}.base_layer.weight"] + 2 * b @ a
    assert torch.equal(task.state_dict()[f"{qkv}.weight"], expected)
    evaluate(first, [], tmp_path / "again")
    assert "The same numbers as when it was trained." in capsys.readouterr().out
    train(compose_config([*VIT, *lora, f"init={first}", "trainer.max_epochs=1", "test=false"]), second)
    told = capsys.readouterr().out
    count = len(list(task.network.parameters()))
    assert f"{count} of {count} weights." in told
    base = torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    np.testing.assert_array_equal(base[f"{qkv}.base_layer.weight"].numpy(), expected.numpy())


def test_without_peft_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"finetune\.lora needs .*lightning-audio\[pretrained\]"):
        add_lora(vit())
