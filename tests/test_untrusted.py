"""What somebody sent does nothing but answer: no loader makes or changes a file for it, or grows for it."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import sine, write_wav
from omegaconf import OmegaConf

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import evaluate, predict
from lightning_audio.cli.train import launch
from lightning_audio.data.clip import Clip, problems
from lightning_audio.errors import UserError, cli_errors, end_on, printable
from lightning_audio.training import saved_config
from lightning_audio.training.checkpoint_files import AtomicCheckpointIO
from lightning_audio.training.saved_config import load_config

CANARY = b"a canary"
RECORDING = "recording.wav"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run, as if somebody had sent it, where a canary lies; nothing else must come up there."""
    shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.sha256"))
    (tmp_path / "canary").write_bytes(CANARY)
    write_wav(tmp_path / RECORDING, sine(440, 0.5, 16000), 16000)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("config"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def by_load(run: Path) -> None:
    cli_errors(load)(run)


def by_evaluate(run: Path) -> None:
    evaluate.main([str(run)])


def by_predict(run: Path) -> None:
    predict.main([str(run), str(run.parent / RECORDING)])


def by_resume(run: Path) -> None:
    cli_errors(launch)(["experiment=demo", f"paths.logs={run.parent}", f"resume={run}"])


LOADERS = {"load": by_load, "evaluate": by_evaluate, "predict": by_predict, "resume": by_resume}


def refused(loader: str, run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a program refuses a run; it must have left everything as it was.

    A run that is resumed elsewhere keeps its configuration of before beside the new one.
    """
    before = tree(run.parent)
    with pytest.raises(SystemExit) as ended:
        LOADERS[loader](run)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    after = tree(run.parent)
    assert after["canary"] == CANARY
    assert after == before
    return printed.err


# Pickles.


class Acting:
    """Where it is unpickled, a function is called."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def as_numpy(acting: Acting) -> np.ndarray:
    return np.array([acting], dtype=object)


def as_class(acting: Acting) -> Any:
    """Not called by itself, but as the state of an object of another class."""
    return OrderedDict(deep=[{"er": (acting,)}])


PICKLES: dict[str, Callable[[Path], Any]] = {
    "a call": lambda canary: Acting(os.remove, str(canary)),
    "a shell": lambda canary: Acting(os.system, f"rm {canary}"),
    "code": lambda canary: Acting(eval, f"__import__('os').remove({str(canary)!r})"),
    "an array of objects": lambda canary: as_numpy(Acting(os.remove, str(canary))),
    "deep inside": lambda canary: as_class(Acting(os.remove, str(canary))),
}
FORMATS: dict[str, Callable[[Any, Path], Any]] = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "plain": lambda content, path: path.write_bytes(pickle.dumps(content)),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("form", FORMATS)
def test_the_pickles_do_what_they_should_not(kind: str, form: str, tmp_path: Path) -> None:
    """Otherwise it would be no feat to refuse them."""
    (tmp_path / "canary").write_bytes(CANARY)
    FORMATS[form]({"extra": PICKLES[kind](tmp_path / "canary")}, tmp_path / "bad.ckpt")
    if form == "plain":
        pickle.loads((tmp_path / "bad.ckpt").read_bytes())
    else:
        torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert not (tmp_path / "canary").exists()


ACTING_FILES = [*((kind, "zip") for kind in PICKLES), ("a call", "legacy"), ("a shell", "plain")]


@pytest.mark.parametrize(
    ("loader", "kind", "form"),
    [
        *((loader, *file) for file in ACTING_FILES for loader in ("load", "evaluate", "predict")),
        *(("resume", *file) for file in ACTING_FILES[-2:]),
        ("resume", "an array of objects", "zip"),
    ],
)
def test_a_pickle_that_acts_is_refused(
    loader: str, kind: str, form: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    FORMATS[form](content | {"extra": PICKLES[kind](run.parent / "canary")}, path)
    if loader == "resume":  # which would resume from the one before
        shutil.copy(path, path.with_name("previous.ckpt"))
    said = "corrupt" if loader == "resume" else "last.ckpt can't be read as a checkpoint"
    assert said in refused(loader, run, capsys)


# What configurations name.


def acting_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Configurations that would make the file `made`, or change the canary, were they built."""
    made, canary = str(folder / "made"), str(folder / "canary")
    mkdir = {"_target_": "os.mkdir", "path": made}
    function = {"_target_": "hydra.utils.get_method", "path": "os.mkdir"}
    return {
        "a shell": {"_target_": "os.system", "command": f"touch {made}"},
        "a program": {"_target_": "subprocess.Popen", "args": ["touch", made]},
        "a file": {"_target_": "builtins.open", "file": canary, "mode": "w"},
        "code": {"_target_": "builtins.exec", "_args_": [f"open({made!r}, 'w')"]},
        "a pickle": {"_target_": "torch.load", "f": str(folder / "pickle"), "weights_only": False},
        "a partial": {"_target_": "functools.partial", "_args_": [function, made]},
        "Hydra's call": {"_target_": "hydra.utils.call", "config": mkdir},
        "Hydra's instantiate": {"_target_": "hydra.utils.instantiate", "_args_": [mkdir]},
        "our instantiate": {"_target_": "lightning_audio.build.instantiate", "node": mkdir, "where": "a"},
        "our writing": {
            "_target_": "lightning_audio.io.write_atomically",
            "path": canary,
            "content": "",
        },
        "our unpacking": {"_target_": "lightning_audio.data.download.unpack", "archive": "z", "folder": made},
        "our fetching": {"_target_": "lightning_audio.data.download.fetch", "url": "http://", "folder": made},
        "an alias of a module": {"_target_": "lightning_audio.checkpoint.torch.load", "f": "pickle"},
        "an alias within a part": {"_target_": "lightning_audio.networks.timm.Path.touch", "self": made},
        "a function of a part": {"_target_": "lightning_audio.networks.timm.create_backbone", "name": "a"},
        "a method of a part": {"_target_": "lightning_audio.networks.base.Network.forward", "self": 1},
        "a trainer as a part": {"_target_": "pytorch_lightning.Trainer", "default_root_dir": made},
        "a logger as a part": {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": made},
        "noise as a part": {"_target_": "lightning_audio.augment.noise.NoiseFloor", "folder": str(folder)},
        "nothing": {"_target_": ""},
        "a list": {"_target_": ["os.system"]},
        "dots": {"_target_": ".os.system.", "command": f"touch {made}"},
    }


WORKING = ("a shell", "a program", "a file", "code", "our instantiate", "our writing")
PLACES: dict[str, Callable[[dict], Any]] = {
    "itself": lambda node: node,
    "an option": lambda node: {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": node},
    "a list": lambda node: {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": [[node]]},
    "a part of a partial": lambda node: {
        "_target_": "lightning_audio.networks.cnn2d.CNN2d",
        "_partial_": True,
        "_recursive_": False,
        "_convert_": "all",
        "widths": OrderedDict(a=node),
    },
}
UNNAMED = r"not on the allow list|without a name"


@pytest.mark.parametrize("kind", WORKING)
def test_the_configurations_do_what_they_should_not(kind: str, tmp_path: Path) -> None:
    (tmp_path / "canary").write_bytes(CANARY)
    node = acting_parts(tmp_path)[kind]
    module, _, name = node["_target_"].rpartition(".")
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    if name == "write_atomically":
        options["path"] = Path(options["path"])
    done = getattr(importlib.import_module(module), name)(*node.get("_args_", ()), **options)
    if isinstance(done, subprocess.Popen):
        done.wait()
    if hasattr(done, "close"):
        done.close()
    assert (tmp_path / "made").exists() or (tmp_path / "canary").read_bytes() != CANARY


@pytest.mark.parametrize("kind", acting_parts(Path()))
@pytest.mark.parametrize("place", PLACES)
def test_a_checkpoint_builds_nothing_else(kind: str, place: str, tmp_path: Path) -> None:
    node = PLACES[place](acting_parts(tmp_path)[kind])
    for part in build.ANSWERING:
        with pytest.raises(UserError, match=UNNAMED):
            build.refuse_unknown({part: node})


@pytest.mark.parametrize("loader", ["load", "evaluate", "predict"])
@pytest.mark.parametrize("kind", ["a shell", "a file", "our writing"])
def test_a_checkpoint_that_wants_more_is_refused(
    loader: str, kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["lightning_audio"]["config"]["network"]["widths"] = [acting_parts(run.parent)[kind]]
    torch.save(content, path)
    assert "not on the allow list" in refused(loader, run, capsys)


PARTS = ("data", "frontend", "network", "task", "trainer", "loader", "paths", "name", "seed")
TRAINED = ("augment", "optimizer", "schedule", "callbacks", "logger")


def with_part(run: Path, part: str, node: Any) -> None:
    cfg = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(cfg, dict)
    OmegaConf.save(OmegaConf.create(cfg | {part: node}), run / "config.yaml")


@pytest.mark.parametrize(
    ("loader", "part"),
    [*(("evaluate", part) for part in PARTS), *(("resume", part) for part in ("data", *TRAINED))],
)
def test_a_run_folder_that_wants_more_is_refused(
    loader: str, part: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = acting_parts(run.parent)["our writing"]
    with_part(run, part, {"one": node} if part in ("callbacks", "logger") else node)
    assert "config" in (said := refused(loader, run, capsys))
    assert "wants to build lightning_audio.io.write_atomically" in said


@pytest.mark.parametrize("kind", acting_parts(Path()))
@pytest.mark.parametrize("part", ["data", "trainer", "callbacks"])
def test_a_run_folder_builds_nothing_else(kind: str, part: str, run: Path) -> None:
    node = acting_parts(run.parent)[kind]
    if (kind, part) != ("a trainer as a part", "trainer"):
        with_part(run, part, node)
        with pytest.raises(UserError, match=UNNAMED):
            saved_config.saved_config(run, training=True)


def test_what_evaluate_and_resume_do_not_build_is_no_hindrance(run: Path) -> None:
    """A run of one's own with a callback of one's own is evaluated without it."""
    with_part(run, "callbacks", {"own": {"_target_": "own_project.Callback"}})
    assert saved_config.saved_config(run).callbacks == {}
    with pytest.raises(UserError, match=r"own_project\.Callback, which is not on the allow list"):
        saved_config.saved_config(run, training=True)


def test_what_the_user_names_may_be_built(run: Path) -> None:
    """By `allow`, or since the configuration that is composed now names it too."""
    package = "pytorch_lightning.callbacks"
    with_part(run, "callbacks", {"own": {"_target_": f"{package}.Timer"}})
    assert "own" in saved_config.saved_config(run, [package], training=True).callbacks
    named = OmegaConf.create({"allow": ["mine"], "callbacks": {"a": {"_target_": f"{package}.Timer"}}})
    assert build.packages_of(named) == ["mine", package]
    usual = OmegaConf.create({"trainer": {"_target_": "pytorch_lightning.Trainer"}})
    assert build.packages_of(usual) == []


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("logger", {"save_dir": "{outside}"}),
        ("logger", {"save_dir": "elsewhere"}),
        ("logger", {"save_dir": "{run}", "name": "../../canary"}),
        ("logger", {"save_dir": "{run}", "version": "{outside}"}),
        ("logger", {"save_dir": "~/x"}),
        ("logger", {"save_dir": "{run}", "name": "$HOME/x"}),
        ("logger", {"save_dir": "file:///tmp/x"}),
        ("callbacks", {"dirpath": "{run}/../x"}),
    ],
)
def test_a_run_folder_writes_nowhere_else(part: str, options: dict[str, str], run: Path) -> None:
    places = {"outside": run.parent / "outside", "run": run}
    logger = {"_target_": "pytorch_lightning.loggers.CSVLogger"} if part == "logger" else {}
    with_part(run, part, {"one": {**logger, **{k: v.format_map(places) for k, v in options.items()}}})
    with pytest.raises(UserError, match=r"wants to write to .*, outside of it"):
        saved_config.saved_config(run, training=True)


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x]\nb: *a\nrun_folder: .\n",
        "run_folder: [",
        "- a list",
        "text",
        "",
        "name: demo",
        "run_folder: !!python/object/apply:os.system ['touch made']",
        "\x00",
        "[" * 300,
    ],
)
def test_a_configuration_that_no_run_wrote_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml is no configuration that a run wrote"):
        load_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_configuration_is_not_resolved_when_it_is_read(run: Path) -> None:
    with_part(run, "name", "${oc.env:HOME}")
    with pytest.raises(UserError, match="not resolved"):
        saved_config.saved_config(run)


# Sizes, values and addresses.


def described(run: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Changes configuration and facts of the checkpoint of a run."""
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    description = content["lightning_audio"]
    change(description["config"], description["facts"])
    torch.save(content, path)


def network(name: str, **options: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    node = {"_target_": f"lightning_audio.networks.{name}", **options}
    return lambda config, facts: config.update(network=node)


def laughter() -> list[Any]:
    """Few objects that stand for 10 ** 12 values, as YAML and pickles can write them."""
    values: list[Any] = ["ha"] * 10
    for _ in range(11):
        values = [values] * 10
    return values


def endless() -> list[Any]:
    values: list[Any] = []
    values.append(values)
    return values


LARGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "a wide layer": (network("gru.GRU", hidden=10**9), "far too large"),
    "a layer that is wide enough": (network("gru.GRU", hidden=20_000, layers=1), "larger network"),
    "many layers": (network("gru.GRU", hidden=64, layers=900_000), "larger network"),
    "many blocks": (network("waveform_cnn.WaveformCNN", blocks=[900_000, 1, 1]), "larger network"),
    "a giant of timm": (network("timm.Timm", backbone="eva_giant_patch14_224"), "larger network"),
    "many mel bands": (lambda c, f: c["frontend"].update(n_mels=100_000, n_fft=200_000), "are too many"),
    "many windows": (lambda c, f: c["frontend"].update(win_length=[8] * 1000, n_fft=8192), "are too many"),
    "many options": (lambda c, f: c["frontend"].update(win_length=[8] * 6000), "larger or deeper"),
    "laughter": (lambda c, f: c["network"].update(widths=laughter()), "larger or deeper"),
    "a circle": (lambda c, f: c["network"].update(widths=endless()), "larger or deeper"),
    "labels without end": (lambda c, f: f.update(labels=laughter()), "larger or deeper"),
}
WRONG: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "a terminal's escape": (lambda c, f: f["labels"].append("\x1b[2Jdog"), "control characters"),
    "an escape of one byte": (lambda c, f: f["labels"].append("\x9b2J"), "control characters"),
    "a label that is none": (lambda c, f: f["labels"].append(7), "what it was trained on"),
    "no labels": (lambda c, f: f.pop("labels"), "what it was trained on"),
    "no rate": (lambda c, f: f.update(sample_rate=0), "what it was trained on"),
    "no whole rate": (lambda c, f: f.update(sample_rate=16000.5), "what it was trained on"),
    "an endless clip": (lambda c, f: f.update(clip_seconds=float("inf")), "what it was trained on"),
    "a clip of no length": (lambda c, f: f.update(clip_seconds=float("nan")), "what it was trained on"),
    "a part too few": (lambda c, f: c.pop("network"), "does not describe its network"),
    "a part too many": (lambda c, f: c.update(augment={}), "does not describe its network"),
    "a part that is text": (lambda c, f: c.update(network="cnn2d"), "can't be built"),
    "a tensor": (lambda c, f: c["network"].update(widths=torch.zeros(3)), "no plain value"),
    "a type": (lambda c, f: c["network"].update(widths=torch.float32), "no plain value"),
    "a hub": (network("timm.Timm", backbone="hf-hub:somebody/something"), "timm has no backbone"),
    "a folder": (network("timm.Timm", backbone="local-dir:/tmp"), "timm has no backbone"),
}


@pytest.mark.parametrize("kind", LARGE | WRONG)
def test_what_no_run_writes_is_one_sentence(kind: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, sentence = (LARGE | WRONG)[kind]
    described(run, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sentence in (said := refused("load", run, capsys))
    assert "\x1b" not in said
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 400e6


def test_no_weight_file_is_read_for_a_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the network nor by what stands within another part; and no address is asked."""
    reads: list[Any] = []

    def watched(name: str, weights: Any, *_: Any) -> torch.nn.Module:
        reads.append(weights)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr("lightning_audio.networks.timm.create_backbone", watched)
    timm = {"_target_": "lightning_audio.networks.timm.Timm", "weights": "/etc/passwd"}
    described(
        run,
        lambda c, f: c.update(network={**timm, "sizes": [{**timm, "in_shape": [1, 8], "num_outputs": 2}]}),
    )
    with pytest.raises(UserError):
        load(run)
    assert set(reads) == {None}


def test_a_packed_checkpoint_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is small on the disk and large in memory: compressed, which `torch.save` never does."""
    path = run / "checkpoints" / "last.ckpt"
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert "can't be read as a checkpoint" in refused("load", run, capsys)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "weights that do not fit"),
        (torch.zeros(3, 3).to_sparse(), "no weights"),
        ("text", "no weights"),
    ],
)
def test_weights_that_are_none_are_one_sentence(
    tensor: Any, sentence: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"][next(iter(content["state_dict"]))] = tensor
    torch.save(content, path)
    assert sentence in refused("load", run, capsys)


@pytest.mark.parametrize(
    "address", ["https://example.org/last.ckpt", "s3://bucket/run", "file:///etc/passwd"]
)
def test_an_address_is_not_asked(address: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr("socket.socket.connect", asked)
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(run.parent))
    weights = {"_target_": "lightning_audio.networks.timm.Timm", "weights": address}
    for act in (
        lambda: load(address),
        lambda: launch(["experiment=demo", f"resume='{address}'"]),
        lambda: build.instantiate(weights, "network", in_shape=(1, 64), num_outputs=2),
    ):
        with pytest.raises(UserError, match=r"is an address, and nothing is fetched"):
            act()


def test_the_checkpoint_that_metrics_name_lies_in_the_run(run: Path) -> None:
    shutil.move(run / "checkpoints" / "last.ckpt", run.parent / "other.ckpt")
    (run / "metrics.json").write_text('{"checkpoint": "../../other.ckpt", "scores": {}}')
    with pytest.raises(UserError, match="There is no checkpoint"):
        load(run)


def test_only_checkpoints_are_removed(run: Path) -> None:
    """Lightning removes what the state of a callback names, which comes out of the checkpoint."""
    folder = run / "checkpoints"
    (folder / "old.ckpt").touch()
    (run.parent / "other.ckpt").touch()
    for path in (run, run.parent / "canary", folder / ".." / ".." / "other.ckpt", folder / "old.ckpt"):
        AtomicCheckpointIO().remove_checkpoint(str(path))
    assert (run.parent / "canary").read_bytes() == CANARY
    assert (run.parent / "other.ckpt").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_terminal_gets_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        end_on(UserError("the label \x1b[2Jdog\r\x9b\x00, \tä\u2028"))
    assert capsys.readouterr().err == "error: the label \\x1b[2Jdog\\r\\x9b\\x00, \tä\u2028\n"
    assert printable("naïve 日本 ­") == "naïve 日本 ­"
    assert problems(Clip("a", "a.wav", labels=("do\x07g",))) == [
        "its labels ['do\\x07g'] hold control characters"
    ]
    assert problems(Clip("a", "a.wav", labels=("chien à la mer", "犬", "👩‍👩‍👧"))) == []


def test_every_torch_load_reads_weights_only() -> None:
    """Also Lightning's, where it is given a checkpoint."""
    root = Path(inspect.getfile(build)).parent
    source = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    calls = [
        text[place : text.index(")", place)]
        for text in source.values()
        for name in ("torch.load(", "ckpt_path=")
        for place in range(len(text))
        if text.startswith(name, place)
    ]
    assert len(calls) >= 2
    assert all("weights_only=True" in call for call in calls)
    forbidden = ("import pickle", "allow_pickle", "joblib", "yaml.load(", "unsafe_load", "torch.hub")
    assert [(path, word) for path, text in source.items() for word in forbidden if word in text] == []
