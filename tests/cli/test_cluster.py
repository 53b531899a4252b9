"""Slurm's files, and what `check-cluster` finds between processes."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ended, program, start
from torch.distributed import TCPStore

from lightning_audio.cli import arguments, check_cluster, slurm
from lightning_audio.cli.check_cluster import check, differences
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError


def options_of(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def command_of(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return shlex.split(line)[1:]


def test_a_file_for_sbatch_asks_for_processes_and_resumes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["demo", "optimizer.lr=0.01", "name='my run'", "--nodes", "2", "--gpus", "4", "--time", "8:00:00"]
    file = slurm.write(arguments.slurm(asked))
    assert file.name == "my run.sbatch"
    text = file.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH")
    options = options_of(text)
    assert {options[name] for name in ("nodes", "time", "signal")} == {"2", "8:00:00", "USR1@120"}
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "4"
    assert options["job-name"] == "'my run'"
    assert "requeue" in options
    command = command_of(text)
    assert command[1:4] == ["-m", "lightning_audio", "train"]
    assert command[4:] == ["experiment=demo", "optimizer.lr=0.01", "name='my run'", "trainer=ddp"]
    assert compose_config(command[4:]).trainer.strategy == "ddp"
    with pytest.raises(UserError, match=r"my run\.sbatch is there already"):
        slurm.write(arguments.slurm(asked))


def test_a_sweep_is_an_array_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = slurm.write(arguments.slurm(["demo", "sweep=random", "--workers", "8", "--gpus", "0"]))
    assert options_of(file.read_text())["array"] == "0-7"
    assert command_of(file.read_text())[3:] == ["sweep", "experiment=demo", "sweep=random", "trainer=cpu"]
    with pytest.raises(UserError, match="A trial takes one task"):
        slurm.write(arguments.slurm(["demo", "sweep=random", "--gpus", "2", "--output", "x"]))
    with pytest.raises(UserError, match="There is no experiment 'dmo'"):
        slurm.write(arguments.slurm(["dmo"]))


def test_what_would_fail_on_the_cluster_is_refused_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nname: own\n")
    file = slurm.write(arguments.slurm(["own", "--config-dir", "mine"]))
    assert command_of(file.read_text())[3:] == ["train", "experiment=own", "--config-dir=mine", "trainer=gpu"]
    file = slurm.write(arguments.slurm(["demo", "seed=0,1"]))  # which train wants -m for
    assert command_of(file.read_text())[3:] == ["sweep", "experiment=demo", "seed=0,1", "trainer=gpu"]
    for asked, said in (
        (["--workers", "8"], "--workers 8 share trials that are drawn: add sweep=random"),
        (["--workers", "8", "sweep=lr"], "--workers 8 share trials that are drawn"),
        (["--nodes", "0"], "--nodes 0 is too little: give 1 or more"),
        (["--gpus", "2", "seed=0,1"], "A trial takes one task"),
    ):
        with pytest.raises(UserError, match=said):
            slurm.write(arguments.slurm(["demo", *asked, "--output", "x"]))


def test_what_differs_is_named_with_its_place() -> None:
    usual = {"clock": 100.0, "torch": "2.14.0", "shared logs": "yes", "data": "3 entries", "GPUs": "none"}
    rows: list[dict[str, Any]] = [{"rank": rank, "host": f"n{rank // 2}", **usual} for rank in range(4)]
    assert differences(rows) == []
    rows[3] |= {"torch": "2.13.0", "data": "absent", "clock": 190.0, "shared logs": "no: another folder"}
    assert differences(rows) == [
        "torch differs: 2.14.0 on 0 (n0), 1 (n0), 2 (n1); 2.13.0 on 3 (n1).",
        "data differs: 3 entries on 0 (n0), 1 (n0), 2 (n1); absent on 3 (n1).",
        "Clocks are 90.0 s apart: set them by NTP, or run folders are hard to put in order.",
        "Process 3 on n1 does not share paths.logs (no: another folder): name a folder that all nodes see.",
    ]


def test_one_process_looks_at_its_machine(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["experiment=demo"]) == []
    assert "1 processes" in capsys.readouterr().out
    assert list(logs.iterdir()) == []


def test_a_process_that_is_lost_is_one_sentence(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*arguments: Any) -> None:
        raise RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:1234")

    monkeypatch.setattr(check_cluster, "join", lambda: (0, 2))
    monkeypatch.setattr(check_cluster.dist, "broadcast_object_list", lost)
    with pytest.raises(UserError, match=r"Process 0 of 2 on .* lost another one \(Connection closed by peer"):
        check(["experiment=demo"])


def test_one_that_can_not_write_keeps_step_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    monkeypatch.setattr(check_cluster, "_together", lambda: steps.append(1))
    for logs in (tmp_path / "file" / "logs", tmp_path / "logs"):
        check_cluster.shares_folder(0, logs, "x")
    assert len(steps) == 4
    assert check_cluster.shares_folder(0, tmp_path / "file" / "logs", "x").startswith("no: ")


def test_processes_look_at_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of torchrun, of which the second has its logs elsewhere."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "LOCAL_WORLD_SIZE": "1"}
    both = []
    for rank in "01":
        monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path / f"logs{rank}"))
        for name, value in {**shared, "RANK": rank, "LOCAL_RANK": "0", "GROUP_RANK": rank}.items():
            monkeypatch.setenv(name, value)
        both.append(start(program, "check-cluster", "experiment=demo", output=tmp_path / rank))
    begin = time.monotonic()
    assert [ended(one, 60) for one in both] == [2, 0], (tmp_path / "0.err").read_text()
    assert time.monotonic() - begin < 60
    said = (tmp_path / "0.err").read_text()
    assert "Process 1 on" in said
    assert "does not share paths.logs (no: not the same folder" in said
    assert "error: 1 things differ between the processes" in said
    assert "2 processes" in (tmp_path / "0").read_text()
