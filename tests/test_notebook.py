"""The notebooks run from their first cell to their last, offline, and show what they say they show."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import processes
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TINY = (
    "data.clips_per_class=2 data.seconds=0.5 network.widths=[8,16] trainer.max_epochs=1 trainer=cpu "
    "report=null"
)
CELL_SECONDS = 240  # far more than a cell takes: a kernel that hangs is to end some time


class ForkedKernel:
    """A kernel in a fork of a process that has imported torch; of a `Popen` what its client asks for."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str, **_: Any) -> None:
        arguments = command[command.index("-f") :]
        self.process = processes.start(_kernel, arguments, {**env, "JPY_PARENT_PID": ""}, cwd)
        assert self.process.pid
        self.pid = self.process.pid
        while os.getpgid(self.pid) != self.pid:  # its client ends the whole group
            time.sleep(0.01)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode


def _kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update({name: value for name, value in environment.items() if name != "JPY_PARENT_PID"})
    os.chdir(folder)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=arguments)


@contextlib.contextmanager
def started(name: str, folder: Path, overrides: str) -> Iterator[NotebookClient]:
    """A notebook that runs in a folder, which gets its cache, logs and temporary files."""
    client = NotebookClient(
        nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4),
        timeout=CELL_SECONDS,
        resources={"metadata": {"path": str(folder)}},
    )
    with contextlib.ExitStack() as kernel:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIGHTNING_AUDIO_NOTEBOOK_OVERRIDES", overrides)
            patch.setenv("LIGHTNING_AUDIO_CACHE", str(folder / "cache"))
            patch.setenv("LIGHTNING_AUDIO_LOGS", str(folder / "logs"))
            patch.setenv("TMPDIR", str(folder))
            patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", ForkedKernel)
            kernel.enter_context(client.setup_kernel())
        yield client


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[NotebookClient]:
    with started("01_listen_and_look", folder, TINY) as client:
        yield client


def execute(client: NotebookClient, *names: str) -> dict[str, NotebookNode]:
    """Runs the cells of these ids, or all of them; the cells by their ids."""
    for number, cell in enumerate(client.nb.cells):
        if not names or cell.id in names:
            client.execute_cell(cell, number)
    return {cell.id: cell for cell in client.nb.cells}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(client: NotebookClient) -> dict[str, NotebookNode]:
    """All cells, with outputs, run where there is no trained run to look at."""
    return copy.deepcopy(execute(client))


def shown(cell: NotebookNode, kind: str) -> list[str]:
    """What a cell displays as this MIME type."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def printed(cell: NotebookNode) -> str:
    """What a cell prints, without what moves the cursor."""
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    return re.sub(r"\x1b\[[?;\d]*[A-Za-z]", "", text)


def rows_of(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    lines = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in table.strip().splitlines()]
    return lines[2:]


@pytest.mark.parametrize("file", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda file: file.stem)
def test_no_output_is_kept_in_git(file: Path) -> None:
    cells = nbformat.read(file, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.long
def test_every_figure_is_drawn(executed: dict[str, NotebookNode]) -> None:
    figures = {name: len(shown(cell, "image/png")) for name, cell in executed.items() if "outputs" in cell}
    drawn = {name for name, count in figures.items() if count == 1}
    assert drawn == {"look", "augment", "mix", "mask", "scores"}
    assert sum(figures.values()) == 5


def test_clips_can_be_played(executed: dict[str, NotebookNode]) -> None:
    html = {name: shown(cell, "text/html") for name, cell in executed.items() if "outputs" in cell}
    sounds = {name: sum("data:audio" in text for text in texts) for name, texts in html.items()}
    assert {name: count for name, count in sounds.items() if count} == {
        "listen": 4,
        "augment": 1,
        "mix": 1,
        "mistakes": 2,
        "long": 1,
    }


def test_a_mix_is_named_by_two_labels(executed: dict[str, NotebookNode]) -> None:
    (title,) = shown(executed["mix"], "text/markdown")
    shares = [float(share) for share in re.findall(r"\d\.\d\d", title)]
    assert " + " in title
    assert sum(shares) == pytest.approx(1, abs=0.011)


def test_the_table_counts_all_clips(executed: dict[str, NotebookNode]) -> None:
    rows = rows_of(shown(executed["corpus"], "text/markdown")[0])
    assert [row[1:] for row in rows] == [["8", "0", "2"]] * 10


def test_a_run_is_trained_where_there_is_none(executed: dict[str, NotebookNode]) -> None:
    lines = printed(executed["run"]).splitlines()
    assert any(line.startswith("epoch 1/1") for line in lines)
    assert (Path(lines[-1]) / "checkpoints" / "last.ckpt").is_file()


def test_the_newest_run_is_looked_at(
    executed: dict[str, NotebookNode], client: NotebookClient, folder: Path
) -> None:
    trained = Path(printed(executed["run"]).splitlines()[-1])
    runs = [folder / "logs" / "demo" / f"2026-01-0{day}_12-00-00_abcd" for day in (1, 3, 2)]
    for run in runs:
        shutil.copytree(trained, run)
    assert printed(execute(client, "settings", "corpus", "run")["run"]).strip() == str(runs[1])


def test_predictions_are_of_unseen_clips(executed: dict[str, NotebookNode]) -> None:
    (table,) = shown(executed["predictions"], "text/markdown")
    rows = rows_of(table)
    assert len({row[0] for row in rows}) == 12
    for clip, reference, hypothesis, score, _, *verdict in rows:
        assert clip.startswith(f"f1-{reference}-")  # fold 1 is the test fold
        assert 0 < float(score) <= 1
        assert ("wrong" in verdict) == (reference != hypothesis)


def test_a_longer_recording_is_heard_in_windows(executed: dict[str, NotebookNode]) -> None:
    (table,) = shown(executed["long"], "text/markdown")
    starts = [float(row[0].removesuffix(" s")) for row in rows_of(table)]
    assert starts == pytest.approx([0.25 * number for number in range(7)], abs=0.06)


@pytest.mark.long
def test_transfer_freezes_finds_a_rate_unfreezes_and_compares(tmp_path: Path) -> None:
    tiny = "data.seconds=0.5 network.widths=[8,16] trainer=cpu trainer.max_epochs=2 report=null"
    with started("02_transfer", tmp_path, tiny) as client:
        cells = execute(client)
    stages = re.findall(r"(\S+) +[\d,]+ weights", printed(cells["stages"]))
    assert stages[-1] == "head"
    told = printed(cells["scratch"])
    assert "Starts from" in told
    assert f"Frozen: {stages[0]} to {stages[-2]} for good." in told
    assert len(shown(cells["rate"], "image/png")) == 1
    assert "until epoch" in printed(cells["unfreeze"])
    rows = rows_of(shown(cells["compare"], "text/markdown")[0])
    assert [row[0] for row in rows] == ["from scratch", "head alone", "unfrozen by stage"]
    assert "mAP: " in printed(cells["compare"])


@pytest.mark.long
def test_features_are_kept_and_heads_read_them(tmp_path: Path) -> None:
    tiny = "data.seconds=1.0 data.clips_per_class=2 report=null"
    with started("03_frozen_features", tmp_path, tiny) as client:
        cells = execute(client)
    assert "samples (3, 16000) -> states (3, 1024, 2)" in printed(cells["states"])
    assert re.match(r"opened again in \d+\.\d s: 0\.\d MB", printed(cells["once"]))
    rows = rows_of(shown(cells["heads"], "text/markdown")[0])
    assert [row[0] for row in rows] == ["linear", "mlp", "prototypes", "neighbours"]
    if "random ones" not in printed(cells["states"]):
        assert max(float(row[1].split()[0]) for row in rows) >= 30  # percent of 20 clips of ten labels
    assert len(shown(cells["plane"], "image/png")) == 1
    assert re.search(r"\d+ of 20 clips are nearest", printed(cells["plane"]))
