"""Training that diverges goes back to its last good state, and no bad state is ever saved."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from kill_points import equal
from omegaconf import OmegaConf
from processes import ended, start
from test_resume import EMA, MIX, state_of
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lightning_audio.cli import train as program
from lightning_audio.cli.train import launch
from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.data.sampler import Reshuffles
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks import divergence
from lightning_audio.training.callbacks.divergence import DIVERGED, Diverged, DivergenceGuard
from lightning_audio.training.run import train

RUN = (*TINY, MIX, EMA)  # of two epochs
STEPS = 5  # of an epoch

Here = Callable[[AudioTask, Batch, int], bool]


def number_of(task: AudioTask) -> int:
    return task.trainer.datamodule.reshuffles.number  # type: ignore[attr-defined]


def at(epoch: int, step: int) -> Here:
    """At this step, before training has gone back."""
    return lambda task, _, index: (task.current_epoch, index, number_of(task)) == (epoch, step, 0)


class Plant:
    """Makes the loss, or with `gradient` that of one weight alone, NaN at some steps; keeps all ids."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: Here, gradient: bool = False) -> None:
        self.read: list[tuple[int, int, tuple[str, ...]]] = []
        step = AudioTask.training_step

        def training_step(task: AudioTask, batch: Batch, batch_idx: int) -> torch.Tensor:
            self.read.append((task.current_epoch, batch_idx, batch.ids))
            loss = step(task, batch, batch_idx)
            if not here(task, batch, batch_idx):
                return loss
            if not gradient:
                return loss * math.nan
            weight = next(iter(task.network.parameters()))
            return loss + ((weight - weight.detach()).abs().sum() * 0).sqrt()  # 0, of an infinite gradient

        monkeypatch.setattr(AudioTask, "training_step", training_step)

    def ids(self, epoch: int) -> list[str]:
        """The ids of an epoch as it was read at last."""
        begun = max(i for i, (at, step, _) in enumerate(self.read) if (at, step) == (epoch, 0))
        return [name for _, _, ids in self.read[begun : begun + STEPS] for name in ids]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / DIVERGED).read_text().splitlines()]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plant]:
    """A run in which nothing happens: its states after each epoch and every 4 steps, and its ids."""
    folder = tmp_path_factory.mktemp("sound")
    os.environ["LIGHTNING_AUDIO_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    cfg = compose_config(list(RUN))
    saver: dict[str, Any] = {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "save_top_k": -1}
    # The mode tells the state of one from that of `last`.
    every: dict[str, Any] = {"step": {"every_n_train_steps": 4}, "epoch": {"mode": "max"}}
    for name, options in every.items():
        kept = {"dirpath": str(folder), "filename": f"{{{name}}}", **options}
        OmegaConf.update(cfg, f"callbacks.{name}", saver | kept, force_add=True)
    with pytest.MonkeyPatch.context() as patch:
        plant = Plant(patch, lambda *_: False)
        train(cfg, folder)
    return folder, plant


def placed(checkpoint: Path, folder: Path, mark: list[int] | None = None) -> Path:
    """The folder of a run that resumes from this checkpoint; `mark` is written into it."""
    state = torch.load(checkpoint, weights_only=True)
    if mark is not None:
        state["AudioDataModule"] = {"reshuffles": [mark]}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "checkpoints" / "last.ckpt")
    return folder


def last_state(folder: Path) -> dict[str, Any]:
    """The last state of a run that is resumed, or begun, in this folder."""
    train(compose_config([*RUN, "test=false"]), folder)
    return state_of(folder)


@pytest.fixture(scope="module")
def hand_made(sound: tuple[Path, Plant], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last state of a run that resumes from the first epoch in the first other order."""
    return last_state(placed(sound[0] / "epoch=0.ckpt", tmp_path_factory.mktemp("hand") / "run", [1, 0, 1]))


def test_it_goes_back_to_the_last_checkpoint_and_on_in_another_order(
    sound: tuple[Path, Plant],
    hand_made: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    states, undisturbed = sound
    plant = Plant(monkeypatch, at(1, 1))
    metrics = train(compose_config(list(RUN)), tmp_path / "run")
    assert (metrics["went_back"], metrics["epochs"]) == (1, 2)
    (row,) = rows(tmp_path / "run")
    assert (row["time"], row["epoch"], row["step"], row["loss"]) == (1, 1, 1, None)
    assert row["reason"] == "the loss became nan in step 2 of epoch 2"
    assert row["ids"] == undisturbed.ids(1)[16:32]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "diverged" in line]
    assert all(name in line for name in row["ids"])

    assert plant.ids(0) == undisturbed.ids(0)
    unmoved = np.random.default_rng((0, 1)).permutation(80).tolist()
    clips = dict(zip(unmoved, undisturbed.ids(1), strict=True))
    assert plant.ids(1) == [
        clips[place] for place in np.random.default_rng((0, 1, 1)).permutation(80).tolist()
    ]
    monkeypatch.undo()
    assert equal(state_of(tmp_path / "run"), hand_made)
    assert not equal(state_of(states)["state_dict"], hand_made["state_dict"])


def test_within_an_epoch_what_is_left_of_it_comes_in_another_order(
    sound: tuple[Path, Plant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, undisturbed = sound
    plant = Plant(monkeypatch, at(1, 4))
    run = last_state(placed(states / "step=8.ckpt", tmp_path / "run"))
    monkeypatch.undo()
    assert rows(tmp_path / "run")[0]["step"] == 4
    again = [name for epoch, step, ids in plant.read[2:4] for name in ids if (epoch, step) > (1, 2)]
    assert again != undisturbed.ids(1)[48:]
    assert sorted(again) == sorted(undisturbed.ids(1)[48:]), "each clip once an epoch all the same"
    assert equal(run, last_state(placed(states / "step=8.ckpt", tmp_path / "hand", [1, 3, 1])))


def test_before_the_first_checkpoint_it_goes_back_to_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Plant(patch, at(0, 3))
        run = last_state(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 1
    monkeypatch.setattr(Reshuffles, "__init__", lambda self: self.__dict__.update(marks=[[0, 0, 1]], due=0))
    assert equal(run, last_state(tmp_path / "hand"))


def test_the_third_time_it_stops(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clip that always gives NaN: whatever the order, it comes up."""
    bad: list[str] = []

    def here(task: AudioTask, batch: Batch, _: int) -> bool:
        bad.extend(batch.ids[:1] if not bad else ())
        return task.current_epoch > 0 and bad[0] in batch.ids

    Plant(monkeypatch, here)
    monkeypatch.setattr(sys, "argv", ["train", *RUN])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 2
    (folder,) = (logs / "demo").iterdir()
    told = capsys.readouterr()
    assert told.err.startswith("error: Training diverged 3 times, at last since the loss became nan in step ")
    assert told.err.count("\n") == 1
    assert str(folder / DIVERGED) in told.err
    assert [row["time"] for row in rows(folder)] == [1, 2, 3]
    assert all(bad[0] in row["ids"] for row in rows(folder))
    assert len({tuple(row["ids"]) for row in rows(folder)}) == 3, "another order each time"
    assert state_of(folder)["epoch"] == 0
    assert all(value.isfinite().all() for value in state_of(folder)["state_dict"].values())
    assert not (folder / "metrics.json").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last loss of an epoch is finite, its gradient is not. Loggers go on in their files."""
    Plant(monkeypatch, at(1, STEPS - 1), gradient=True)
    overrides = ["logger=default", "trainer.log_every_n_steps=1", "test=false"]
    train(compose_config([*TINY, EMA, *overrides]), tmp_path)
    (row,) = rows(tmp_path)
    assert row["reason"] == "weights or their optimizer became NaN or infinite in step 5 of epoch 2"
    assert (row["epoch"], row["step"]) == (1, STEPS - 1)
    assert math.isfinite(row["loss"])
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (state["epoch"], state["global_step"]) == (1, 2 * STEPS)
    assert all(value.isfinite().all() for value in state["current_model_state"].values())
    assert state["AudioDataModule"]["reshuffles"] == [[1, 0, 1]]
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        steps = [int(line["step"]) for line in csv.DictReader(file) if line["lr"]]
    assert steps == [*range(2 * STEPS)]  # once each: those that came to nothing were taken back


def killed_run(overrides: list[str]) -> None:
    """A run that goes back, and is killed before its next checkpoint."""
    step = AudioTask.training_step

    def planted(self: AudioTask, batch: Batch, batch_idx: int) -> torch.Tensor:
        here = (self.current_epoch, batch_idx, number_of(self))
        if here == (1, 3, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        loss = step(self, batch, batch_idx)
        return loss * math.nan if here == (1, 1, 0) else loss

    AudioTask.training_step = planted  # type: ignore[method-assign]
    launch(overrides)


def test_a_run_that_went_back_and_is_killed_ends_with_the_same_weights(
    hand_made: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes back once more from the checkpoint before."""
    assert ended(start(killed_run, [*RUN, f"paths.logs={tmp_path}"])) == -signal.SIGKILL
    (folder,) = (tmp_path / "demo").iterdir()
    assert (state_of(folder)["epoch"], len(rows(folder))) == (0, 1)
    with monkeypatch.context() as patch:
        Plant(patch, at(1, 1))
        launch(["experiment=demo", f"paths.logs={tmp_path}", "resume=latest", "test=false"])
    assert len(rows(folder)) == 2
    assert equal(state_of(folder), hand_made)


# The callback by itself.


def trainer(accumulate: int = 1) -> Any:
    return SimpleNamespace(accumulate_grad_batches=accumulate, world_size=1, current_epoch=4)


def feed(watching: DivergenceGuard, losses: list[float], accumulate: int = 1) -> None:
    batch = Batch(torch.zeros(2, 1), torch.ones(2), torch.zeros(2), ("a", "b"))
    for step, loss in enumerate(losses):
        outputs = {"loss": torch.tensor(loss) / accumulate}
        watching.on_train_batch_end(trainer(accumulate), None, outputs, batch, step)  # type: ignore[arg-type]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_jump_fires_above_the_factor_and_not_at_it(accumulate: int) -> None:
    watching = DivergenceGuard(factor=4.0, window=5, least=1.0, in_a_row=1)
    feed(watching, [2.0, 50.0, 1.0, 2.0, 3.0, 8.0], accumulate)  # no window is full before the last of them
    with pytest.raises(Diverged, match=r"jumped from about 3 to 12\.5 in step 1 of epoch 5") as told:
        feed(watching, [12.5], accumulate)
    assert (told.value.epoch, told.value.step, told.value.ids) == (4, 0, ("a", "b"))
    feed(watching, [12.0], accumulate)


def test_a_small_loss_is_no_jump_and_jumps_can_be_left_alone() -> None:
    feed(DivergenceGuard(factor=4.0, window=5, least=1.0), [0.01] * 7 + [1.0] * 3)
    feed(DivergenceGuard(factor=None, window=5, least=1.0), [0.01] * 7 + [1e9] * 3)
    with pytest.raises(Diverged, match="the loss became inf"):
        feed(DivergenceGuard(factor=None), [math.inf])


def test_what_a_checkpoint_keeps_makes_the_same_jumps() -> None:
    watching, resumed = DivergenceGuard(window=3), DivergenceGuard(window=3)
    feed(watching, [1.0, 2.0, 3.0, 4.0, 70.0, 62.0])
    assert watching.state_key == "Guard", "so do checkpoints of version 0.2 name it"
    resumed.load_state_dict(watching.state_dict())
    with pytest.raises(Diverged, match="from about 3 to 61"):
        feed(resumed, [61.0])


def test_odd_batches_are_no_jump_and_a_loss_that_stays_up_is() -> None:
    watching = DivergenceGuard(window=9)
    feed(watching, [0.5] * 11 + [18.0, 0.5, 18.0, 19.0, *[0.5] * 5] * 4)
    with pytest.raises(Diverged, match=r"jumped from about 0\.5 to 19 in step 3"):
        feed(watching, [18.0, 19.0, 19.0])


def test_a_loss_that_is_read_late_is_read_before_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(divergence._Loss):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.is_late = True

    monkeypatch.setattr(divergence, "_Loss", Late)
    watching = DivergenceGuard()
    feed(watching, [1.0, math.nan])
    assert list(watching.losses) == [1.0]
    with pytest.raises(Diverged, match="nan in step 2 of epoch 5"):
        watching.state_dict()
    with pytest.raises(Diverged, match="nan in step 2 of epoch 5"):
        feed(DivergenceGuard(), [1.0, math.nan, 1.0])


@pytest.mark.parametrize("options", [{"factor": 1.0}, {"window": 0}, {"in_a_row": 0}, {"stop_at": 0}])
def test_options_out_of_their_range(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"callbacks\.guard: .* do not fit"):
        DivergenceGuard(**options)


@pytest.mark.parametrize(("frozen", "at_epoch"), [(1, 0), (2, 1)])
def test_a_divergence_while_the_backbone_is_frozen_leaves_all_of_it_to_be_learned(
    frozen: int, at_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first checkpoint, and from one on; the backbone learns as soon as it is unfrozen."""
    network = [
        "network=timm",
        "network.backbone=test_resnet",
        "network.weights=null",
        f"finetune.unfreeze={frozen}",
    ]
    options = [
        "finetune.lr_decay=0.9",
        "channels_last=false",
        "callbacks.ema=null",
        f"trainer.max_epochs={frozen + 1}",
    ]
    Plant(monkeypatch, at(at_epoch, 1))
    cfg = compose_config([*(o for o in TINY if "network" not in o), *network, *options, "test=false"])
    train(cfg, tmp_path)
    assert len(rows(tmp_path)) == 1
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    optimizer, weights = saved["optimizer_states"][0], {k for k in saved["state_dict"] if "running" not in k}
    learned = {number for group in optimizer["param_groups"] for number in group["params"]}
    parameters = [k for k in weights if k.startswith("network.backbone.") and "num_batches" not in k]
    assert len(learned) == len(optimizer["state"]) == len(parameters)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_value_that_is_not_finite_is_found_among_many(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    largest = torch.finfo(dtype).max
    sound = torch.randn(7, 5, 3, 3).to(dtype).contiguous(memory_format=layout)
    sound[0, 0, 0, 0] = largest
    assert divergence.all_finite(iter([sound, torch.zeros(0, dtype=dtype), torch.tensor(3)]))
    for bad in (math.nan, math.inf, -math.inf):
        for place in ((0, 0, 0, 1), (3, 2, 1, 1), (6, 4, 2, 2)):
            planted = sound.clone()
            planted[place] = bad
            assert not divergence.all_finite(iter([sound, planted]))


def judged(rank: int, rows: list[int | None], store: str) -> None:
    """Says of a matrix of 8 rows that two processes share, NaN in one of them, whether this one finds it."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks = init_device_mesh("cpu", (2,))
    for row in rows:
        whole = torch.zeros(8, 4)
        whole[[] if row is None else row, 1] = math.nan
        print(divergence.all_finite(iter([distribute_tensor(whole, ranks, [Shard(0)])])), flush=True)
    distributed.destroy_process_group()


def test_each_process_judges_its_own_part_of_weights_that_are_shared(tmp_path: Path) -> None:
    """They agree behind it. A minimum over processes would lose the NaN of the second one."""
    rows = [None, 0, 7]
    files = [tmp_path / "0", tmp_path / "1"]
    both = [
        start(judged, rank, rows, str(tmp_path / "store"), output=file) for rank, file in enumerate(files)
    ]
    assert [ended(process) for process in both] == [0, 0]
    assert [file.read_text().split() for file in files] == [
        ["True", "False", "True"],
        ["True", "True", "False"],
    ]
