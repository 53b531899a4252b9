"""The programs by their names: `lightning-audio`, `python -m lightning_audio`, and find-lr."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import TINY

from lightning_audio import __main__ as front
from lightning_audio.cli import arguments, find_lr
from lightning_audio.cli.usage import usage_of
from lightning_audio.decoding.alignment import BoundaryRule
from lightning_audio.inference import formats

ARGUMENTS = {
    "align": ["one", "two", "three"],
    "ngram": ["one", "--output", "two"],
    "export": ["one", "--output", "two"],
    "demo": ["one"],
    "serve": ["one"],
}


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--help"], 0), (["tarin"], 2)])
def test_the_front_door_lists_the_programs(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-audio", *arguments])
    with pytest.raises(SystemExit) as ended:
        front.main()
    assert ended.value.code == status
    printed = capsys.readouterr()
    for name in ("train", "evaluate", "predict", "folds", "find-lr"):
        assert f"  {name} " in printed.out + printed.err
    assert printed.err.endswith("error: There is no program 'tarin' (did you mean 'train'?).\n") == bool(
        status
    )


@pytest.mark.parametrize("levels", ["nan", "10,inf", "loud", ""])
def test_levels_of_noise_are_numbers(levels: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.evaluate(["run", "--noise", "white", "--snr", levels])
    assert f"{levels!r} holds what is no number: give some such as 20,10,0" in capsys.readouterr().err


# Without site-packages, which may import anything while Python starts.
WITH_SOURCES = {**os.environ, "PYTHONPATH": str(Path(front.__file__).parents[1])}


@pytest.mark.parametrize("program", [arguments.predict, arguments.evaluate, arguments.align, arguments.ngram])
def test_a_package_that_is_allowed_swallows_nothing(
    program: Callable[[Sequence[str] | None], argparse.Namespace],
) -> None:
    given = {"align": ["text"], "ngram": ["--output", "x"]}.get(program.__name__, [])
    options = program(["run", "--allow", "one", "a=b.wav", "--allow", "two", *given])
    assert options.allow == ["one", "two"]
    assert "a=b.wav" in str(options)
    assert program(["run", "a=b.wav", *given]).allow == []


@pytest.mark.parametrize("name", arguments.PROGRAMS)
def test_every_program_that_is_listed_is_there(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    module = f"lightning_audio.cli.{name.replace('-', '_')}"
    monkeypatch.setattr(f"{module}.main", lambda: called.append(sys.argv[1:]))
    given = ARGUMENTS.get(name, ["one", "two"])
    monkeypatch.setattr(sys, "argv", ["lightning-audio", name, *given])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    front.main()
    assert called == [given]
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    assert spec.name == module  # what Lightning starts for other devices


@pytest.mark.parametrize("name", arguments.READERS)
def test_a_program_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-audio", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        front.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: lightning-audio {name} ")


def test_help_and_mistyped_options_wait_for_no_torch() -> None:
    """Of every program."""
    asked = [["--help"], ["-h"], *([name, "--help"] for name in arguments.PROGRAMS), ["folds", "-h"]]
    code = f"""
import sys
from lightning_audio.__main__ import main
for arguments in {[*asked, ["predict", "run", "a.wav", "--fromat", "csv"]]}:
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as ended:
        print("status", ended.code)
print(sorted({{"torch", "hydra", "numpy", "rich", "omegaconf"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("usage: lightning-audio ") == len(asked)
    assert done.stdout.count("status 0\n") == len(asked)
    assert done.stdout.endswith("status 2\n[]\n")
    assert "unrecognized arguments: --fromat" in done.stderr


def test_what_the_command_line_names_is_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(formats.TRANSCRIPTS) == arguments.TRANSCRIPT_FORMATS
    with pytest.raises(SystemExit):
        arguments.align(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"words are later [as fitted, or {BoundaryRule().shift}]" in printed
    assert f"beyond its frames [as fitted, or {BoundaryRule().reach}]" in printed


def test_ctrl_c_is_handled_before_anything_is_imported_that_takes_time() -> None:
    code = """
import os, signal, sys
import lightning_audio.__main__ as front
print(sorted({"typing", "argparse", "lightning_audio.errors"} & set(sys.modules)), flush=True)
handle = signal.signal
signal.signal = lambda *handler: (handle(*handler), os.kill(os.getpid(), signal.SIGINT))
front.main()
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=WITH_SOURCES
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "[]\n", "stopped by SIGINT\n")


def test_a_program_is_imported_while_nobody_looks_for_garbage(tmp_path: Path) -> None:
    """And what it brings is passed over by every later search."""
    content = "import gc\nlooking = gc.isenabled()\nthings = [[] for _ in range(10000)]"
    (tmp_path / "heavy.py").write_text(content)
    code = """
import gc
from lightning_audio.__main__ import imported
heavy = imported("heavy")
print(heavy.looking, gc.isenabled(), gc.get_freeze_count() > len(heavy.things), imported("heavy") is heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
    )
    assert done.stdout == "False True True True\n"


@pytest.mark.parametrize("name", arguments.OVERRIDDEN)
def test_the_usage_names_every_group_and_choice(name: str) -> None:
    words = set(usage_of(name).split())
    for path in (Path(__file__).parents[2] / "conf").glob("*/*.yaml"):
        assert {path.parent.name, path.stem} <= words


def test_the_console_command_is_installed() -> None:
    command = Path(sys.executable).with_name("lightning-audio")
    if not command.is_file():
        pytest.skip(f"the package is not installed beside {sys.executable}")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("usage: lightning-audio PROGRAM")


def test_the_package_is_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning_audio"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lightning_audio", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: lightning-audio PROGRAM")


def test_find_lr_suggests_a_rate_and_draws_it(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["find_lr", *TINY])
    find_lr.main()
    (folder,) = (logs / "demo").iterdir()
    found = json.loads((folder / "lr_find.json").read_text())
    assert 1e-6 < found["suggestion"] < 1
    assert len(found["lr"]) == len(found["loss"])
    assert found["lr"] == sorted(found["lr"])
    assert found["suggestion"] in found["lr"]
    assert (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert f"optimizer.lr={found['suggestion']:.2g}" in capsys.readouterr().out


def test_find_lr_leaves_nothing_else_behind(
    logs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find_lr, "STEPS", 20)
    monkeypatch.setattr(sys, "argv", ["find_lr", *TINY])
    find_lr.main()
    (folder,) = (logs / "demo").iterdir()
    assert {path.name for path in folder.iterdir()} == {"lr_find.json", "lr_find.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_find_lr_takes_one_value_of_each_option(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["find_lr", *TINY, "seed=0,1"])
    with pytest.raises(SystemExit) as ended:
        find_lr.main()
    assert ended.value.code == 2
    assert not logs.exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), "train experiment=demo"),
        (("RESUME=latest",), 'train experiment=demo "resume=latest"'),
        (("RESUME=logs/a",), 'train "resume=logs/a"'),  # the folder says what its run is
        (("RESUME=logs/a", "EXP=x", "ARGS=seed=1"), 'train experiment=x "resume=logs/a" seed=1'),
    ],
)
def test_make_train_names_an_experiment_where_it_is_meant(given: tuple[str, ...], expected: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", "train", *given]
    environment = {"PATH": os.environ["PATH"]}  # without what `make test` itself was given
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.splitlines()[-1].split("lightning_audio ")[1].split()) == expected
