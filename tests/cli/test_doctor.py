"""The doctor on tasks of clips: what it says of the first loss, of gradients, and of what is learned."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import TINY

from lightning_audio.cli import doctor
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.networks.cnn2d import CNN2d

WIDER = ("network.widths=[8,16]",)


def test_a_batch_of_every_label_is_learned_by_heart(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine(compose_config([*TINY, *WIDER])) >= 1 - doctor.WRONG
    told = capsys.readouterr().out
    assert f"(one that knows nothing: {math.log(10):.3f})" in told
    assert "are frozen" in told
    assert "no gradient reaches" not in told


def test_a_layer_that_no_gradient_reaches_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "UPDATES", 1)
    forward = CNN2d.forward

    def detached(self: CNN2d, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, lengths = forward(self, x, lengths)
        return logits.detach() + 0 * self.head.bias, lengths

    monkeypatch.setattr(CNN2d, "forward", detached)
    with pytest.raises(UserError, match=r"could not learn 8 clips by heart .*no gradient reaches \w+"):
        doctor.examine(compose_config(list(TINY)))


def test_trigger_words_are_learned_one_by_one_as_they_are_scored() -> None:
    """In a row of four, which training makes of them, a network would learn the row."""
    trigger = ("task=trigger", "task.background=[siren]", "task.noise=null", "frontend.top_db=null")
    network = ("network=gru", "network.per_frame=true", "augment.mix=null")
    data = ("data.clips_per_class=2", "data.seconds=0.5")
    assert (
        doctor.examine(compose_config(["experiment=demo", "logger=none", *trigger, *network, *data])) == 1.0
    )
