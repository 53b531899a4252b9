"""A run that begins with the weights of another one: which are equal, which are new, and what is told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, TINY_SPEECH
from torch import Tensor

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training import initial
from lightning_audio.training.initial import initialise, take_weights
from lightning_audio.training.run import train


def begun(*overrides: str, options: Sequence[str] = TINY) -> AudioTask:
    cfg = compose_config([*options, *overrides])
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    initialise(cfg, task, data)
    return task


def weights_of(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def changed(run: Path, folder: Path, change: Any) -> Path:
    """A copy of a checkpoint, changed."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    change(content)
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def test_all_of_the_same_network_is_taken(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, saved = begun(f"init={tiny_run}", "seed=7"), weights_of(tiny_run)
    own = {n: v for n, v in task.state_dict().items() if n.startswith(("network.", "normalize."))}
    assert len(own) > 20
    assert all(torch.equal(value, saved[name]) for name, value in own.items())
    count = len(list(task.network.parameters()))
    told = capsys.readouterr().out
    assert f"{count} of {count} weights." in told
    assert "new:" not in told
    assert "other clips" not in told


def test_a_head_of_other_labels_is_new(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["lightning_audio"]["facts"]["labels"].reverse()

    place = changed(tiny_run, tmp_path, rename)
    task, fresh, saved = begun(f"init={place}"), begun(), weights_of(tiny_run)
    for name, value in task.network.state_dict().items():
        expected = fresh.network.state_dict()[name] if "head" in name else saved[f"network.{name}"]
        assert torch.equal(value, expected), name
    told = capsys.readouterr().out.splitlines()
    outputs = len(task.labels)
    assert f"  new: network.head.weight [{outputs}, 8] is of other labels there" in told
    assert f"  new: network.head.bias [{outputs}] is of other labels there" in told


def test_what_has_another_shape_or_is_not_there_is_new_and_the_lines_are_few(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = "network.widths=[4,8,16,16]"
    task, saved = begun(f"init={tiny_run}", widths), weights_of(tiny_run)
    capsys.readouterr()
    assert torch.equal(task.network.stem.weight, saved["network.stem.weight"])  # type: ignore[union-attr, arg-type]
    assert torch.equal(
        task.network.state_dict()["stages.1.conv2.weight"], saved["network.stages.1.conv2.weight"]
    )
    _, lines = take_weights(begun(widths), str(tiny_run))
    assert lines[1] == "  new: network.stages.2.conv1.weight [16, 8, 3, 3] is not there"
    assert len(lines) == 1 + 8 + 1
    assert lines[-1].endswith(" more")
    anew = 8 + int(lines[-1].split()[1])
    assert lines[0].endswith(
        f": {len(saved_parameters(task)) - anew} of {len(saved_parameters(task))} weights."
    )
    monkeypatch.setattr(initial, "SHOWN", 99)
    _, lines = take_weights(begun("network.widths=[4,16]"), str(tiny_run))
    outputs = len(task.labels)
    assert f"  new: network.head.weight [{outputs}, 16] is [{outputs}, 8] there" in lines


def saved_parameters(task: AudioTask) -> list[str]:
    return [name for name, _ in task.network.named_parameters()]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("frontend.hop_length=400", "another front end (hop_length)"),
        ("normalize=per_feature", "another normaliser (corpus)"),
    ],
)
def test_a_normaliser_of_other_features_is_fitted_anew(
    override: str, told: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, fresh = begun(f"init={tiny_run}", override), begun(override)
    assert told in capsys.readouterr().out
    assert torch.equal(task.normalize.mean, fresh.normalize.mean)


def test_the_normaliser_of_the_same_features_comes_along(tiny_run: Path, tmp_path: Path) -> None:
    def shift(content: dict[str, Any]) -> None:
        content["state_dict"]["normalize.mean"] += 1

    task = begun(f"init={changed(tiny_run, tmp_path, shift)}")
    assert torch.equal(task.normalize.mean, weights_of(tiny_run)["normalize.mean"] + 1)


def test_other_test_clips_of_the_same_recordings_are_told(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def move(content: dict[str, Any]) -> None:
        content["AudioDataModule"]["identity"]["test"] = "others"

    begun(f"init={changed(tiny_run, tmp_path, move)}")
    assert "may have learned from some of those that are tested here" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No weight of .*\.ckpt fits GRU: set network"):
        begun(f"init={tiny_run}", "network=gru", options=[o for o in TINY if "network" not in o])
    with pytest.raises(UserError, match="There is no checkpoint at"):
        begun(f"init={tmp_path}")
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"PK\x03\x04 no weights")
    with pytest.raises(UserError, match=r"can't be read as a checkpoint|is corrupt"):
        begun(f"init={bad}")


def test_nothing_that_a_checkpoint_describes_is_built(tiny_run: Path, tmp_path: Path) -> None:
    def plant(content: dict[str, Any]) -> None:
        content["lightning_audio"]["config"]["network"] = {"_target_": "os.system", "command": "false"}

    task = begun(f"init={changed(tiny_run, tmp_path, plant)}")
    assert torch.equal(task.network.stem.weight, weights_of(tiny_run)["network.stem.weight"])  # type: ignore[union-attr, arg-type]


def test_a_run_is_resumed_from_its_own_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    cfg = compose_config([*TINY, f"init={tiny_run}", "trainer.max_epochs=1", "test=false"])
    train(cfg, first)
    shutil.copytree(first, again)
    before = weights_of(again)
    train(cfg, again)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(again).items())


SOUNDS = (
    *("data=demo", "data.clips_per_class=2", "data.seconds=0.5", "augment=none", "trainer=cpu"),
    *("encoder=yamnet", "encoder.weights=null", "logger=none", "trainer.max_epochs=1"),
)
LEARNING = (*SOUNDS, "frontend=waveform", "network=pretrained", "normalize=none")


@pytest.mark.parametrize("normalize", ["per_feature", "corpus"])
def test_a_head_on_a_frozen_encoder_goes_on_with_it(
    normalize: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ("frontend=frozen", "network=linear", f"normalize={normalize}")
    train(compose_config([*SOUNDS, *frozen, "optimizer.lr=0.1", "test=false"]), tmp_path)
    capsys.readouterr()
    learning = begun(f"init={tmp_path}", "seed=5", options=LEARNING)
    told = capsys.readouterr().out
    assert "new:" not in told
    assert "another front end" not in told
    generator = torch.Generator().manual_seed(0)
    x, lengths = 0.1 * torch.randn(2, 8000, generator=generator), torch.tensor([8000, 8000])
    with torch.no_grad():
        expected, _ = load(tmp_path)(x, lengths)
        found, _ = learning.eval()(x, lengths)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_states_that_were_normalised_by_clip_are_refused(tmp_path: Path) -> None:
    frozen = ("frontend=frozen", "network=linear", "normalize=per_clip", "test=false")
    train(compose_config([*SOUNDS, *frozen]), tmp_path)
    with pytest.raises(UserError, match="normalize=per_clip, which is done to no states that change"):
        begun(f"init={tmp_path}", options=LEARNING)


def test_a_transducer_begins_with_an_encoder_by_ctc_and_a_language_model(
    speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (*TINY_SPEECH, "task=language_model", "task.predictor.hidden=8", "test=false", "report=null")
    train(compose_config([*text]), tmp_path)
    options = ["experiment=demo_dtmf_transducer", *TINY_SPEECH[1:], "task.predictor.hidden=8"]
    capsys.readouterr()
    task = begun(f"init=[{speech_run},{tmp_path}]", options=options)
    told = capsys.readouterr().out
    own, heard, said = task.state_dict(), weights_of(speech_run), weights_of(tmp_path)
    from_model = {name for name in own if name.startswith("predictor.") and "projection" not in name}
    assert len(from_model) == 5
    assert all(torch.equal(own[name], said[name]) for name in from_model)
    network = {name for name in own if name.startswith("network.lstm")}
    assert network
    assert all(torch.equal(own[name], heard[name]) for name in network)
    assert torch.equal(own["normalize.mean"], heard["normalize.mean"])
    assert re.search(r"Starts from \S+best.ckpt: 5 of 7 weights", told)

    alone, fresh = (begun(*init, options=options).state_dict() for init in ([f"init={tmp_path}"], []))
    assert all(torch.equal(alone[name], said[name]) for name in from_model)
    assert torch.equal(alone["normalize.mean"], fresh["normalize.mean"])
    assert all(torch.equal(alone[name], fresh[name]) for name in network)
    with pytest.raises(UserError, match=r"No weight of .* fits .* a language model fits task=trans"):
        begun(f"init={tmp_path}", options=TINY_SPEECH)
    with pytest.raises(UserError, match="a language model fits"):
        begun(f"init={tmp_path}", "task.predictor.hidden=16", options=options)
