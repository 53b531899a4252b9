"""Convolutions that come out wrong in bfloat16 are found, and a training takes float32 in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.build import data_and_task
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.training.bfloat16 import wrong_convolutions
from lightning_audio.training.trainer import build_trainer

SHAPES = [(1, 16, 80, 1), (8, 16, 8, 1), (12, 8, 16, 1), (16, 16, 8, 2), (16, 16, 3, 16), (32, 16, 8, 1)]


def test_what_is_found_is_what_autocast_gets_wrong() -> None:
    """Whatever this processor is: which are wrong, a batch of other numbers tells."""
    torch.manual_seed(1)
    convolutions = [nn.Conv1d(i, o, kernel, groups=groups) for i, o, kernel, groups in SHAPES]
    model, expected = nn.ModuleList(convolutions), []
    for name, one in enumerate(convolutions):
        x = torch.randn(3, one.in_channels, 500)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            coarse = one(x).float()
        exact = one(x).detach()
        if float((coarse - exact).norm() / exact.norm()) > 0.2:
            expected.append(str(name))
    drawn = torch.get_rng_state()
    assert wrong_convolutions(model) == expected
    assert torch.equal(torch.get_rng_state(), drawn)  # or the training behind it would draw other numbers


@pytest.fixture
def wrong_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that mixes up the frames of kernels of 5 in bfloat16."""
    right = functional.conv2d

    def convolve(x: Tensor, weight: Tensor, *options: Any) -> Tensor:
        found = right(x, weight, *options)
        return found.flip(-1) if (weight.shape[-1], x.dtype) == (5, torch.bfloat16) else found

    monkeypatch.setattr(functional, "conv2d", convolve)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def taken(precision: str, folder: Path) -> str:
    options = ["experiment=demo", "logger=none", "trainer=cpu", f"trainer.precision={precision}"]
    cfg = compose_config([*options, f"paths.cache={folder}"])
    data, task = data_and_task(cfg)
    return build_trainer(cfg, folder, data, task).precision


@pytest.mark.usefixtures("wrong_of_five")
def test_a_training_takes_float32_where_a_convolution_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert taken("auto", tmp_path) == "32-true"
    assert "network.stem of this model comes out wrong in bfloat16" in caplog.text
    assert taken("32-true", tmp_path) == "32-true"
    with pytest.raises(UserError, match=r"network\.stem of .* set trainer\.precision=32-true"):
        taken("bf16-mixed", tmp_path)
