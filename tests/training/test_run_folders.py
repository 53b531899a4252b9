"""Whatever way a run folder is entered again, other settings than it was trained with are asked for."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY
from omegaconf import OmegaConf
from processes import ended, program, start
from torch.distributed import TCPStore

from lightning_audio.cli import folds, train
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError
from lightning_audio.training import run_folder

ONE = (*TINY, "trainer.max_epochs=1")
AGENT = {"RUN_ID": "none", "USE_AGENT_STORE": "True", "RESTART_COUNT": "0"}  # of torchrun, TORCHELASTIC_...


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["scores"]


def test_a_folder_that_hydra_is_given_is_asked_as_resuming_is(logs: Path, tmp_path: Path) -> None:
    place = f"hydra.run.dir={tmp_path / 'run'}"
    launch([*ONE, place])
    before = state_of(tmp_path / "run")
    for other in ("optimizer.lr=0.125", "seed=1", "network.widths=[4,4]"):
        with pytest.raises(UserError, match=r"run was trained with other settings \(.*resume\.force=true"):
            launch([*ONE, place, other])
    assert state_of(tmp_path / "run") == before
    launch([*ONE, place])  # the same: it has ended, and is tested again
    launch([*TINY, place, "resume.force=true"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 2


def test_the_runs_of_a_sweep_are_asked_before_one_starts(logs: Path, tmp_path: Path) -> None:
    place = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    launch(["-m", *ONE, place, "optimizer.lr=0.1,0.2"])
    before = state_of(tmp_path / "sweep")
    with pytest.raises(UserError, match=r"1 was trained with other settings \(optimizer\.lr 0\.2 -> 0\.3\)"):
        launch(["-m", *ONE, place, "optimizer.lr=0.1,0.3"])
    assert state_of(tmp_path / "sweep") == before
    launch(["-m", *ONE, place, "optimizer.lr=0.1,0.2,0.4"])  # one more
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"]
    assert [row["overrides"]["optimizer.lr"] for row in rows] == ["0.1", "0.2", "0.4"]
    for number, row in enumerate(rows):
        assert row["scores"] == scores_of(tmp_path / "sweep" / str(number))


def test_folds_of_another_network_are_asked(logs: Path, tmp_path: Path) -> None:
    place = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    launch(["-m", *ONE, place, "data.fold=1"])
    with pytest.raises(UserError, match=r"0 was trained with other settings \(network\.widths"):
        folds.cross_validate([*ONE, place, "network.widths=[4,4]"])


@pytest.mark.parametrize("subdir", ["lr${optimizer.lr}", "same", "${optimizer.lr}/x"])
def test_runs_that_would_share_a_folder_are_refused_before_one_starts(subdir: str, logs: Path) -> None:
    with pytest.raises(UserError, match=r"Several runs would share the folder .*: let hydra\.sweep\.subdir"):
        launch(["-m", *ONE, f"hydra.sweep.subdir='{subdir}'", "optimizer.lr=0.1,0.2", "seed=0,1"])
    assert not list(logs.glob("*/*"))


def test_a_folder_within_a_folder_is_in_the_table(logs: Path) -> None:
    folder = launch(["-m", *ONE, "hydra.sweep.subdir='lr${optimizer.lr}/seed${seed}'", "seed=0,1"])
    assert folder is not None
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    assert [Path(row["folder"]).name for row in runs] == ["seed0", "seed1"]


def test_options_that_a_run_has_may_be_given_again(
    logs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    added = ("+optimizer.amsgrad=true", "augment.mix={_target_:lightning_audio.augment.mix.Mix,mode:power}")
    launch([*ONE, *added, "test=false"])
    (run,) = (logs / "demo").iterdir()
    resumed: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", lambda cfg, folder, force: resumed.append(folder))
        for again in (added, ("optimizer.amsgrad=true",), ("+optimizer.amsgrad=true", "optimizer.lr=2e-3")):
            launch([*ONE, *again, "resume=latest"])
    assert resumed == [run] * 3
    with pytest.raises(UserError, match=r"with other settings \(optimizer\.amsgrad True -> False\)"):
        launch([*ONE, "+optimizer.amsgrad=false", "resume=latest"])
    with pytest.raises(UserError, match=r"'optimizer\.foo=1' changes no option of the run"):
        launch(["experiment=demo", "optimizer.foo=1", "resume=latest"])

    # By a relative path, too, nothing has changed.
    monkeypatch.chdir(logs / "demo")
    launch([f"resume={run.name}"])
    launch(["experiment=demo", f"resume=./{run.name}"])
    assert not list(run.glob("config_until_*"))
    assert OmegaConf.load(run / "config.yaml").run_folder == str(run)


def test_a_folder_that_cant_be_written_to_is_one_sentence(
    tiny_run: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tiny_run))
    with pytest.raises(UserError, match=r"can't be written to: resume a copy of it"):
        launch([f"resume={tiny_run}"])


@pytest.mark.slow
def test_torchrun_starts_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29618"]
    options = [*ONE, "trainer=ddp", "trainer.accelerator=cpu", f"paths.logs={tmp_path}"]
    subprocess.run([*command, "-m", "lightning_audio", "train", *options], timeout=300, check=True)
    (run,) = (tmp_path / "demo").iterdir()
    assert (run / "metrics.json").is_file()


@pytest.mark.slow
def test_torchrun_on_two_nodes_makes_one_folder(tmp_path: Path) -> None:
    """Twice on this machine, as on two that find one another by the first one's port."""
    place = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:29619", "--rdzv-id=1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *place]
    options = [*ONE, "trainer=ddp", "trainer.accelerator=cpu", f"paths.logs={tmp_path / 'logs'}"]
    both = []
    for name in "ab":
        with (tmp_path / name).open("w") as output:
            both.append(
                subprocess.Popen(
                    [*command, "-m", "lightning_audio", "train", *options], stdout=output, stderr=output
                )
            )
    said = [(node.wait(300), (tmp_path / name).read_text()) for node, name in zip(both, "ab", strict=True)]
    assert [status for status, _ in said] == [0, 0], said
    (run,) = (tmp_path / "logs" / "demo").iterdir()
    assert (run / "metrics.json").is_file()
    assert "".join(text for _, text in said).count("Run folder:") == 1


def test_two_processes_of_torchrun_make_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts them: with its variables, beside the store that it serves."""
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **{f"TORCHELASTIC_{name}": value for name, value in AGENT.items()},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)},
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"},
    }
    processes = []
    for rank in "01":
        for name, value in (environment | {"RANK": rank, "LOCAL_RANK": rank}).items():
            monkeypatch.setenv(name, value)
        options = [*ONE, "trainer=ddp", "trainer.accelerator=cpu"]
        processes.append(start(program, "train", *options, output=tmp_path / rank))
    statuses = [ended(process) for process in processes]
    assert statuses == [0, 0], "".join((tmp_path / f"{rank}.err").read_text() for rank in "01")
    (run,) = (tmp_path / "demo").iterdir()
    assert (run / "metrics.json").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not list(run.glob("config_until_*"))
    assert "".join((tmp_path / rank).read_text() for rank in "01").count("Run folder:") == 1


def to_the_end(*arguments: str) -> None:
    """The program, with what Python does when a process that is no fork ends."""
    try:
        program(*arguments)
    finally:
        atexit._run_exitfuncs()


def test_two_processes_of_srun_make_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --ntasks 2`, which sets these variables, and says nothing of tasks per node."""
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path))
    options = [*ONE, "trainer=ddp", "trainer.accelerator=cpu"]
    job = {
        **{"JOB_ID": "29618", "STEP_ID": "0", "JOB_NAME": "train"},
        **{"NTASKS": "2", "NNODES": "1", "NODEID": "0", "NODELIST": "127.0.0.1"},
    }
    tasks = []
    for rank in "10":  # whichever starts first
        for name, value in (job | {"PROCID": rank, "LOCALID": rank}).items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        tasks.append(start(to_the_end, "train", *options, output=tmp_path / rank))
    statuses = [ended(task) for task in tasks]
    assert statuses == [0, 0], "".join((tmp_path / f"{rank}.err").read_text() for rank in "01")
    (run,) = (tmp_path / "demo").iterdir()
    assert (run / "metrics.json").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert not list(run.glob("config_until_*"))
    assert "".join((tmp_path / rank).read_text() for rank in "01").count("Run folder:") == 1
    assert not list(tmp_path.glob(".srun*"))


def test_a_task_of_srun_that_is_left_alone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "NTASKS": "2", "PROCID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_JOB_NAME", raising=False)
    monkeypatch.setattr(run_folder, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"The first process of srun has left no .*\.srun_7_0_0_"):
        run_folder.shared(tmp_path / "own", tmp_path, ["experiment=demo"])
    monkeypatch.setenv("SLURM_NTASKS", "1")  # one process is the whole run
    assert run_folder.shared(tmp_path / "own", tmp_path, []) == tmp_path / "own"


def test_another_number_of_devices_than_torchrun_has_processes_is_refused(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"torchrun has started 2 processes, and trainer\.devices=1"):
        launch([*ONE, "trainer.accelerator=cpu", "trainer.devices=1"])
