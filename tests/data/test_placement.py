"""Where the store lives changes nothing that is learned; what lies on the device already is not copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from lightning_fabric.utilities import move_data_to_device

from lightning_audio import config
from lightning_audio.data import wave_store
from lightning_audio.data.batch import Batch, sent
from lightning_audio.data.placement import own_accelerator
from lightning_audio.training.run import train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_training_from_a_store_on_the_device_ends_with_the_same_weights(
    tiny_run: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered = []
    gather = wave_store.gather_on_device

    def watched(*of: Any, **options: Any) -> Any:
        gathered.append(of)
        return gather(*of, **options)

    monkeypatch.setattr(wave_store, "gather_on_device", watched)
    cache = tmp_path_factory.getbasetemp() / "cache"
    options = ["trainer.accelerator=cpu", "loader.store=device", f"paths.cache={cache}"]
    found = train(config.compose_config([*TINY, *options]), tmp_path)
    assert len(gathered) >= 2 * 5 + 2, "every batch of two epochs and of the test"
    expected = weights(tiny_run)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())
    assert 0 <= found["scores"]["test/accuracy"]["value"] <= 1


def test_a_batch_that_is_where_it_should_be_is_not_copied() -> None:
    batch = Batch(torch.ones(2, 3, dtype=torch.int16), torch.tensor([3, 2]), torch.tensor([0, 1]), ("a", "b"))
    moved = move_data_to_device(batch, torch.device("cpu"))  # what Lightning does with each
    for name in ("waveforms", "lengths", "targets"):
        assert getattr(moved, name) is getattr(batch, name)
    assert moved.ids == ("a", "b")


def test_a_batch_half_of_which_is_on_the_device_gets_there_whole() -> None:
    waveforms = torch.ones(2, 3, dtype=torch.int16, device="meta")
    batch = Batch(waveforms, torch.tensor([3, 2]), torch.tensor([0, 1]))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.waveforms is waveforms
    assert (moved.lengths.device.type, moved.targets.device.type) == ("meta", "meta")


def test_a_tensor_is_sent() -> None:
    rows = torch.tensor([1, 2])
    assert sent(rows, torch.device("cpu")) is rows
    assert sent(rows, torch.device("meta")).device.type == "meta"


def test_every_process_of_a_machine_has_an_accelerator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    assert own_accelerator() is None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    for rank, number in ((None, 0), ("0", 0), ("3", 3), ("5", 1)):
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if rank:
            monkeypatch.setenv("LOCAL_RANK", rank)
        assert own_accelerator() == torch.device("cuda", number)
