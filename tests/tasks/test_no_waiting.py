"""A training step asks the device for no number; on a CPU, which answers at once, only at known places."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from conftest import TINY
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_audio import build
from lightning_audio.config import compose_config

ASKS = {"_local_scalar_dense", "nonzero", "masked_select"}  # .item(), bool(), int(); picking by a mask
# What asks on a CPU alone: whether there is padding, and whether PyTorch's one_hot has its classes.
ON_A_CPU = {"mask_frames", "targets_for_training"}
EARLIER = {"read"}  # HostCopy: of the step before, which waits for nothing of this one


class Asked(TorchDispatchMode):
    """The functions of the package that asked for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ASKS:
            frame: Any = sys._getframe()
            while "lightning_audio" not in frame.f_code.co_filename.rpartition("src")[2]:
                frame = frame.f_back
            self.places.add(frame.f_code.co_name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "options",
    [
        [*TINY, "augment=environment"],
        ["experiment=demo_dtmf_bilstm", "augment=speech"],
        ["experiment=demo_dtmf_attention", "augment=speech", "task.scheduled_sampling=0.5"],
    ],
)
def test_a_step_asks_for_no_number(options: list[str]) -> None:
    cfg = compose_config([*options, "logger=none"])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data).train()
    task.augment.progress = 0.9
    batch = next(iter(data.train_dataloader()))
    for _ in range(2):
        with Asked() as asked:
            task.loss(*task.training_logits(batch)).backward()
        assert "mask_frames" in asked.places, "that it is seen at all"
        assert asked.places <= ON_A_CPU | EARLIER
