"""Several processes of one run: the numbers of one process, and an end in a sentence when one is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from conftest import TINY
from processes import ended, program, start
from torch.distributed import TCPStore
from torch.distributed.tensor import DTensor

from lightning_audio.config import compose_config
from lightning_audio.data.batch import Batch
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.ranks import rate_factor
from lightning_audio.training.trainer import _for_device, _refuse_parted_weights, _sharded

# 80 clips in batches of 12 for a step of all: the last step of an epoch has 8. No BatchNorm, nothing drawn.
SAME = (
    *(option for option in TINY if not option.startswith(("loader.batch_size", "network"))),
    "network=gru",
    "network.hidden=8",
    "network.dropout=0",
    "augment=none",
    "callbacks.ema=null",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
)


class Group:
    """The processes of one run as torchrun starts them on `nodes` machines, beside its store."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        world: int,
        options: Sequence[str],
        nodes: int = 1,
        work=program,
    ) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.folder, self.processes = folder, list[BaseProcess]()
        patch.setenv("LIGHTNING_AUDIO_LOGS", str(folder / "logs"))
        local = world // nodes
        shared = {
            **{"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            **{"TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port)},
        }
        for rank in range(world):
            own = {"RANK": rank, "LOCAL_RANK": rank % local, "GROUP_RANK": rank // local}
            for name, value in {**shared, **own}.items():
                patch.setenv(name, str(value))
            self.processes.append(start(work, "train", *options, output=folder / f"{world}_{rank}"))
        for name in (*shared, "RANK", "LOCAL_RANK", "GROUP_RANK"):
            patch.delenv(name)

    def said(self) -> str:
        return "".join(file.read_text() for file in sorted(self.folder.glob(f"{len(self.processes)}_*")))

    def ended(self) -> list[int]:
        return [ended(process, 200) for process in self.processes]

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 120
        while text not in self.said():
            assert time.monotonic() < end, self.said()
            assert any(p.is_alive() for p in self.processes), self.said()
            time.sleep(0.05)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def the_run(folder: Path) -> Path:
    (run,) = (folder / "logs" / "demo").iterdir()
    return run


def scores(run: Path) -> dict[str, float]:
    found = json.loads((run / "metrics.json").read_text())["scores"]
    return {name: score["value"] for name, score in found.items()}


def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last step of an epoch, whose 8 clips are fewer than those of the others."""
    runs = []
    for world, size in ((1, 12), (2, 6)):
        folder = tmp_path / str(world)
        folder.mkdir()
        options = [*SAME, f"loader.batch_size={size}"]
        group = Group(folder, monkeypatch, world, options, nodes=world)  # each on a machine of its own
        assert group.ended() == [0] * world, group.said()
        assert group.said().count("epoch 2/2") == 1
        runs.append(the_run(folder))
    alone, shared = map(weights, runs)
    assert max(float((alone[name] - shared[name]).abs().max()) for name in alone) < 1e-6
    assert scores(runs[0]) == scores(runs[1])


def stops_after_step(step: int, *arguments: str) -> None:
    """The program, whose first process gets SIGTERM within this batch of the run."""
    training_step, count = AudioTask.training_step, iter(range(1, 100))

    def counted(task: AudioTask, batch: object, batch_idx: int) -> object:
        if next(count) == step and task.global_rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(task, batch, batch_idx)  # type: ignore[arg-type]

    AudioTask.training_step = counted  # type: ignore[assignment, method-assign]
    program(*arguments)


def stops_after_two(*arguments: str) -> None:
    stops_after_step(2, *arguments)


@pytest.mark.slow
def test_a_run_goes_on_with_other_numbers_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 -> 2 -> 3 -> 1, each but the last stopped by SIGTERM in the middle of an epoch: the same weights."""
    options = [*SAME, "loader.batch_size=12", "test=false"]
    alone = tmp_path / "alone"
    alone.mkdir()
    group = Group(alone, monkeypatch, 1, options)
    assert group.ended() == [0], group.said()
    for number, world in enumerate((1, 2, 3)):
        again = ["resume=latest"] if number else []
        group = Group(tmp_path, monkeypatch, world, [*options, *again], work=stops_after_two)
        assert group.ended() == [143] * world, group.said()
        assert f"resume={the_run(tmp_path)}" in group.said()
    group = Group(tmp_path, monkeypatch, 1, [*options, "resume=latest"])
    assert group.ended() == [0], group.said()
    one, other = weights(the_run(alone)), weights(the_run(tmp_path))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < 1e-6
    assert [line.count("epoch 2/2") for line in (group.said(),)] == [1]


@pytest.mark.parametrize(
    ("lost", "signum"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_is_lost_ends_the_others_in_a_sentence(
    lost: int, signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*SAME, "loader.batch_size=6", "trainer.max_epochs=10000", "test=false"]
    group = Group(tmp_path, monkeypatch, 2, options)
    try:
        group.wait_for("epoch 2/")
        pid = group.processes[lost].pid
        assert pid
        os.kill(pid, signum)
        begin = time.monotonic()
        assert ended(group.processes[1 - lost], 60) in (1, 2)
        assert time.monotonic() - begin < 30
    finally:
        for process in group.processes:
            process.kill()
    left = (tmp_path / f"2_{1 - lost}.err").read_text()
    assert "Traceback" not in left
    (sentence,) = [line for line in left.splitlines() if line.startswith("error: ")]
    assert "of the run has ended" in sentence or "was stopped" in sentence
    assert sentence.endswith(f"look at what it says, then resume with resume={the_run(tmp_path)}.")


def notes_clips(*arguments: str) -> None:
    """The program, of which each process leaves a file with the epoch and the clips of its steps."""
    training_step = AudioTask.training_step
    file = Path(os.environ["LIGHTNING_AUDIO_LOGS"]).parent / f"clips_{os.environ['RANK']}"

    def noted(task: AudioTask, batch: Batch, batch_idx: int) -> object:
        with file.open("a") as told:
            told.write(json.dumps([task.current_epoch, *batch.ids]) + "\n")
        return training_step(task, batch, batch_idx)

    AudioTask.training_step = noted  # type: ignore[assignment, method-assign]
    stop = (arguments[0] == "stop") * 9  # in the second of the epochs of 7 steps
    stops_after_step(stop, *arguments[stop > 0 :])


def notes_clips_and_stops(*arguments: str) -> None:
    notes_clips("stop", *arguments)


@pytest.mark.slow
def test_two_processes_read_shards_each_its_part_and_resume_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, corpus = tmp_path / "set", [o for o in SAME if o.startswith(("experiment", "data"))]
    assert ended(start(program, "shard", *corpus, str(shards), "--megabytes", "0.05")) == 0
    options = [*SAME, "loader.batch_size=6", "test=false", f"loader.shards={shards}", "loader.workers=2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    for folder, work, code, again in (
        (whole, notes_clips, 0, []),
        (cut, notes_clips_and_stops, 143, []),
        (cut, notes_clips, 0, ["resume=latest"]),
    ):
        group = Group(folder, monkeypatch, 2, [*options, *again], work=work)
        assert group.ended() == [code] * 2, group.said()
    read = [[json.loads(line) for line in (whole / f"clips_{r}").read_text().splitlines()] for r in (0, 1)]
    for epoch in (0, 1):
        parts = [[name for at, *names in steps if at == epoch for name in names] for steps in read]
        assert [*map(len, parts)] == [40, 40]
        assert len({*parts[0], *parts[1]}) == 80
    assert [(cut / f"clips_{rank}").read_text() for rank in (0, 1)] == [
        (whole / f"clips_{rank}").read_text() for rank in (0, 1)
    ]
    one, other = weights(the_run(whole)), weights(the_run(cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_machine_that_joins_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path / "logs"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "late"]
    command += ["-m", "lightning_audio", "train", *SAME, "loader.batch_size=6", "test=false"]
    machines: list[subprocess.Popen[bytes]] = []
    try:
        for late in (0, 20):
            time.sleep(late)
            assert all(machine.poll() is None for machine in machines), (tmp_path / "0").read_text()
            with (tmp_path / str(len(machines))).open("wb") as output:
                machines.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        said = [machine.wait(200) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    printed = "".join((tmp_path / name).read_text() for name in "01")
    assert said == [0, 0], printed
    assert printed.count("epoch 2/2") == 1
    assert (the_run(tmp_path) / "metrics.json").is_file()


def counts_weights(*arguments: str) -> None:
    """The program; each process says how many numbers of the weights it keeps, and how many there are."""
    end = AudioTask.on_train_end

    def counted(task: AudioTask) -> None:
        kept = sum(weight.to_local().numel() for weight in task.parameters() if isinstance(weight, DTensor))
        print(f"keeps {kept} of {sum(weight.numel() for weight in task.parameters())}")
        end(task)

    AudioTask.on_train_end = counted  # type: ignore[assignment, method-assign]
    program(*arguments)


@pytest.mark.slow
def test_parted_weights_learn_what_whole_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 -> 1 -> 2 processes, stopped within epochs, and scored by one process: as by one."""
    options = [*SAME, "trainer.gradient_clip_val=1.0", "channels_last=false"]
    alone = tmp_path / "alone"
    alone.mkdir()
    group = Group(alone, monkeypatch, 1, [*options, "loader.batch_size=12"])
    assert group.ended() == [0], group.said()
    options += ["loader.batch_size=6", "trainer=fsdp"]
    for world, again, work, code in (
        (2, [], stops_after_two, 143),
        (1, ["resume=latest"], stops_after_two, 143),
        (2, ["resume=latest"], counts_weights, 0),
    ):
        group = Group(tmp_path, monkeypatch, world, [*options, *again], work=work)
        assert group.ended() == [code] * world, group.said()
    kept = re.findall(r"keeps (\d+) of (\d+)", group.said())
    one, other = the_run(alone), the_run(tmp_path)
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) < 1e-5
    assert scores(one) == scores(other)
    total = sum(value.numel() for value in expected.values())
    assert [int(of) for _, of in kept] == [int(kept[0][1])] * 2
    assert sum(int(part) for part, _ in kept) == int(kept[0][1]) <= total
    assert max(int(part) for part, _ in kept) < 0.6 * total
    process = start(program, "evaluate", str(other), "--output", str(tmp_path / "again"))
    assert ended(process) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["scores"]
    assert {name: score["value"] for name, score in again.items()} == scores(one)


def tells_statistics(*arguments: str) -> None:
    """The program; each process says the sum of the statistics that it validates with."""
    end = AudioTask.on_validation_epoch_end

    def told(task: AudioTask) -> None:
        print(f"statistics {sum(float(buffer.sum()) for buffer in task.buffers()):.9g}")
        end(task)

    AudioTask.on_validation_epoch_end = told  # type: ignore[assignment, method-assign]
    program(*arguments)


@pytest.mark.slow
def test_parted_weights_with_batch_norms_and_frozen_layers_are_as_with_ddp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for strategy in ("ddp", "fsdp"):
        options = [*TINY, f"trainer={strategy}", "trainer.accelerator=cpu", "trainer.precision=32-true"]
        options += ["callbacks.ema=null", "augment=none", "loader.batch_size=6", "finetune.unfreeze=1"]
        options += ["channels_last=false", "loader.val_fraction=0.2"]
        folder = tmp_path / strategy
        folder.mkdir()
        group = Group(folder, monkeypatch, 2, options, work=tells_statistics)
        assert group.ended() == [0, 0], group.said()
        runs.append(the_run(folder))
    told = [re.findall("statistics (.*)", (folder / f"2_{rank}").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert len({*told[0]}) > 1
    whole, parted = map(weights, runs)
    assert any("running_var" in name for name in whole)
    assert max(float((whole[name] - parted[name]).abs().max()) for name in whole) < 1e-5
    assert scores(runs[0]) == scores(runs[1])


@pytest.mark.slow
def test_parted_weights_with_low_rank_additions_are_as_with_ddp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    same = [option for option in SAME if not option.startswith(("network", "trainer=ddp"))]
    same += ["network=timm", "network.backbone=test_vit", "network.weights=null", "finetune.lora={rank: 2}"]
    same += ["optimizer.lr=0.05", "channels_last=false", "loader.batch_size=6", "callbacks=default"]
    for strategy in ("ddp", "fsdp"):
        folder = tmp_path / strategy
        folder.mkdir()
        group = Group(folder, monkeypatch, 2, [*same, f"trainer={strategy}"])
        assert group.ended() == [0, 0], group.said()
    whole, parted = (weights(the_run(tmp_path / strategy)) for strategy in ("ddp", "fsdp"))
    assert whole.keys() == parted.keys()
    learned = [name for name in whole if "lora_B" in name]
    assert all(whole[name].abs().max() > 0 for name in learned)
    assert learned
    assert max(float((whole[name] - parted[name]).abs().max()) for name in whole) < 1e-4
    assert scores(the_run(tmp_path / "ddp")) == scores(the_run(tmp_path / "fsdp"))
    process = start(program, "evaluate", str(the_run(tmp_path / "fsdp")), output=tmp_path / "evaluated")
    assert ended(process) == 0
    assert "The same numbers as when it was trained." in (tmp_path / "evaluated").read_text()


@pytest.mark.parametrize(
    ("options", "precision", "skips", "words"),
    [
        (["callbacks=ema"], "32-true", False, r"callbacks\.ema takes whole weights.*set callbacks\.ema=null"),
        (["callbacks=swa"], "32-true", False, r"callbacks\.swa takes whole weights"),
        ([], "16-mixed", False, r"trainer\.precision=16-mixed .*set trainer\.precision=bf16-mixed"),
        (["channels_last=true"], "32-true", False, r"set channels_last=false, or trainer=ddp"),
        (["compile=true"], "32-true", False, r"set compile=false"),
        ([], "32-true", True, "The encoder skips other layers"),
    ],
)
def test_what_does_not_go_with_parted_weights_is_refused(
    options: list[str], precision: str, skips: bool, words: str
) -> None:
    plain = ["experiment=demo", "trainer=fsdp", "channels_last=false", "callbacks=default"]
    assert _sharded(compose_config(plain), "bf16-mixed", False)
    with pytest.raises(UserError, match=words):
        _sharded(compose_config([*plain, *options]), precision, skips)


def test_all_that_does_not_go_with_parted_weights_is_told_at_once() -> None:
    both = ["experiment=demo", "trainer=fsdp", "channels_last=true", "callbacks=ema"]
    with pytest.raises(
        UserError, match=r"set callbacks\.ema=null \(.*\), channels_last=false, or trainer=ddp"
    ):
        _sharded(compose_config(both), "bf16-mixed", False)


@pytest.mark.parametrize("named", ["gpu", "cuda", "mps"])
def test_a_device_that_is_not_there_is_told(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"accelerator={named}, and torch finds none here: set .*=cpu"):
        _for_device({"accelerator": named, "precision": "auto"})


@pytest.mark.parametrize(
    ("has", "asked", "taken", "warns"),
    [
        ({"avx512_bf16": True}, "auto", "bf16-mixed", False),
        ({"architecture": "arm64", "bf16": True}, "auto", "bf16-mixed", False),
        ({"avx2": True, "avx512_bf16": False}, "auto", "32-true", False),
        ({"avx2": True}, "bf16-mixed", "bf16-mixed", True),
        ({"amx_bf16": True}, "bf16-mixed", "bf16-mixed", False),
        ({"avx2": True}, "32-true", "32-true", False),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_instructions_for_it(
    has: dict[str, object],
    asked: str,
    taken: str,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _for_device({"accelerator": "cpu", "precision": asked})["precision"] == taken
    assert ("no instructions for bfloat16" in caplog.text) == warns


@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp_cpu_offload",
        "deepspeed_stage_3",
        {"_target_": "pytorch_lightning.strategies.ModelParallelStrategy"},
    ],
)
def test_a_strategy_that_parts_the_weights_is_refused(strategy: object) -> None:
    with pytest.raises(UserError, match=r"parts the weights over processes.*set trainer=fsdp"):
        _refuse_parted_weights(strategy)


def test_rates_by_rule() -> None:
    assert [rate_factor(rule, 4) for rule in (None, "linear", "sqrt")] == [1.0, 4.0, 2.0]
    with pytest.raises(UserError, match=r"trainer\.scale_lr=sqr is no rule"):
        rate_factor("sqr", 4)
