"""A user's mistake ends in one sentence that says what, where and how to mend it; never in a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from processes import ended, start
from processes import program as whole_program

from lightning_audio import build
from lightning_audio.cli import evaluate, folds
from lightning_audio.cli import train as program
from lightning_audio.config import compose_config

TIMM = [override for override in TINY if not override.startswith("network")] + ["network=timm"]
ESC = ["experiment=esc10_cnn2d", "data.root=nowhere/ESC-50"]

CONFIGURATION = {
    "an unknown option": ("loader.batchsize=8", "did you mean 'loader.batch_size'?"),
    "an unknown option of a chosen group": ("frontend.n_mel=8", "did you mean 'frontend.n_mels'?"),
    "an unknown experiment": ("experiment=dmo", "There is no experiment 'dmo' (did you mean 'demo'?)"),
    "an added key that nothing reads": ("+foo=1", "'foo' is no option: nothing reads it"),
    "an added path that nothing reads": (
        "+paths.log=1",
        "'paths.log' is no option (did you mean 'logs'?): nothing reads it",
    ),
    "an added key of Hydra's": ("+hydra.foo=1", "'hydra.foo' is no option: nothing reads it"),
    "a word without a value": ("positional", "write KEY=VALUE"),
    "several values without -m": ("seed=0,1", "put -m in front"),
    "a fraction of a clip": (
        "loader.batch_size=2.5",
        "loader.batch_size=2.5 does not fit: give a whole number",
    ),
    "text for epochs": ("trainer.max_epochs=x", "trainer.max_epochs=x does not fit: give a whole number"),
    "text for a switch": ("compile=maybe", "compile=maybe does not fit: give true or false"),
    "a number for a group": ("loader=3", "loader=3 does not fit: give several values"),
    "text for the seed": ("seed=abc", "seed=abc"),
}
PARTS = {
    "text for a batch size that was null": ("loader.eval_batch_size=abc", "loader"),
    "a store on a floppy": ("loader.store=floppy", "choose one of disk, memory, device"),
    "less than a clip for validation": (
        "loader.val_fraction=0.01",
        "loader.val_fraction=0.01 is less than one clip",
    ),
    "a fold that is not there": ("data.fold=9", "There is no fold 9"),
    "too few class weights": ("task.class_weights=[1,2]", "give `balanced` or 10 numbers"),
    "a rate below 0": ("optimizer.lr=-1", "optimizer.lr=-1 is out of range: give a number of 0 or more"),
    "an empty spectrum": ("frontend.n_fft=0", "frontend"),
    "frames that stand still": ("frontend.hop_length=0", "frontend"),
    "weights of half precision": ("trainer.precision=bf16-true", "set it to bf16-mixed, 16-mixed or 32-true"),
    "no rate": (
        "data.sample_rate=0",
        "data.sample_rate=0 is out of range: give a whole number from 1000 to 768000",
    ),
    "no device": ("trainer.devices=0", "trainer can't be built"),
    "an unknown device": ("trainer.accelerator=abacus", "trainer can't be built"),
    "early stopping without validation": ("callbacks=early_stopping", "set loader.val_fraction=0.1"),
    "a task that is not there": ("task._target_=lightning_audio.tasks.clasify.X", "There is no task"),
    "a program as a part": ("network._target_=os.system", "network can't be built"),
}
FILES = {
    "no corpus": ([*ESC], "put meta/ and audio/ of the ESC-50 release into {here}/nowhere/ESC-50"),
    "no such backbone": ([*TIMM, "network.backbone=resnet19"], "timm has no backbone 'resnet19'"),
    "no weight file": (
        [*TIMM, "network.weights=nowhere/r.safetensors"],
        "no weight file nowhere/r.safetensors",
    ),
    "a file as the cache": ([*TINY, "paths.cache={file}/cache"], "set paths.cache to a folder"),
    "a file as the logs": ([*TINY, "paths.logs={file}/logs"], "set paths.logs to a folder"),
    "no run to resume": ([*TINY, "resume=latest"], "There is no run in"),
    "an unknown folder to resume": ([*TINY, "resume=nowhere"], "There is no run folder {here}/nowhere"),
    "no run folder to resume": ([*TINY, "resume={folder}"], "can't be resumed"),
    "no multirun to resume": (["-m", *TINY, "seed=0,1", "resume=latest"], "There is no multirun in"),
}

Sentence = Callable[[Callable[[], None]], str]


@pytest.fixture
def sentence(tiny_run: Path, logs: Path, capsys: pytest.CaptureFixture[str]) -> Sentence:
    """Runs a program to its end; what it said must be one sentence, and no training must have begun.

    The clips of the tiny run are decoded by then, so that no progress bar stands before the sentence.
    """

    def end(main: Callable[[], None]) -> str:
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == 2
        assert "epoch" not in printed.out
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1, printed.err
        assert printed.err.endswith(".\n")
        assert "Traceback" not in printed.out + printed.err
        return printed.err

    return end


def started(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Callable[[], None]:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    return program.main


@pytest.mark.parametrize("mistake", CONFIGURATION)
def test_of_the_configuration(mistake: str, sentence: Sentence, monkeypatch: pytest.MonkeyPatch) -> None:
    override, said = CONFIGURATION[mistake]
    assert said in sentence(started(monkeypatch, [*TINY, override]))


@pytest.mark.parametrize("mistake", PARTS)
def test_of_a_part(mistake: str, sentence: Sentence, monkeypatch: pytest.MonkeyPatch) -> None:
    override, said = PARTS[mistake]
    assert said in sentence(started(monkeypatch, [*TINY, override]))


@pytest.mark.parametrize("mistake", FILES)
def test_of_files_and_folders(
    mistake: str, sentence: Sentence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    arguments, said = FILES[mistake]
    places = {"file": tmp_path / "file", "folder": tmp_path}
    filled = [argument.format_map(places) if "{" in argument else argument for argument in arguments]
    said = said.replace("{here}", str(Path.cwd()))
    assert said in sentence(started(monkeypatch, filled))


def test_corrupt_files_of_a_corpus_are_all_named(
    sentence: Sentence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = [*TINY, "data.clips_per_class=1", f"paths.cache={tmp_path}"]
    corpus = build.corpus(compose_config(arguments))
    corpus.prepare()
    bad = [Path(clip.path) for clip in corpus.clips()[3:5]]
    bad[0].write_bytes(b"RIFF and nothing more")
    bad[1].write_bytes(b"")
    said = sentence(started(monkeypatch, arguments))
    assert " clips cannot be read, and loader.max_bad_fraction=0.01 lets a run go without 0: " in said
    assert all(str(path) in said for path in bad)


def test_a_weight_file_of_something_else(
    sentence: Sentence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "resnet18.safetensors"
    file.write_bytes(b"no weights")
    said = sentence(started(monkeypatch, [*TIMM, f"network.weights={file}"]))
    assert f"{file} does not hold weights of resnet18" in said


def test_of_the_other_programs(
    sentence: Sentence, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_run: Path
) -> None:
    assert "is no run folder" in sentence(lambda: evaluate.main([str(tmp_path)]))
    assert "changes no option" in sentence(lambda: evaluate.main([str(tiny_run), "data.folt=1"]))
    assert "--tune is for runs that transcribe" in sentence(lambda: evaluate.main([str(tiny_run), "--tune"]))
    monkeypatch.setattr(sys, "argv", ["folds", *TINY, "seed=0,1"])
    assert "Folds are what varies here" in sentence(folds.main)
    monkeypatch.setattr(sys, "argv", ["folds", *TINY, "resume=latest"])
    assert "There is no multirun in" in sentence(folds.main)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", "experiment=dmo"), "no experiment 'dmo'"),
        (("predict", ".", "a.wav"), "There is no checkpoint at"),
    ],
)
def test_a_sentence_comes_out_of_whole_programs_too(
    command: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user sees it: the process, its two streams and its exit status."""
    (tmp_path / "a.wav").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path))
    assert ended(start(whole_program, *command, output=tmp_path / "out")) == 2
    assert (tmp_path / "out").read_text() == ""
    err = (tmp_path / "out.err").read_text()
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
