"""What every test shares: the real corpora where they are, synthetic audio, few threads."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Threads of a process and of what it starts: for work as small as here, a second costs more than it brings.
# Torch reads it when it is imported; that takes seconds, and is not for the process that hands the tests out.
os.environ["OMP_NUM_THREADS"] = "1"
# A million objects are imported and collected, and stay: nobody looks for garbage among them, then or later.
gc.disable()

# The demo as a run of about a second: 80 training and 20 test clips of half a second, five steps an epoch.
TINY = (
    "experiment=demo",
    "network=cnn2d",
    "network.widths=[4,8]",
    "data.clips_per_class=2",
    "data.seconds=0.5",
    "loader.batch_size=16",
    "trainer.max_epochs=2",
    "logger=none",
    "report=null",
)
# The same with its page and the scores of training clips, which take half a second more.
REPORTED = tuple(option for option in TINY if option != "report=null")

# One run on two processes; BatchNorm over processes is for GPUs.
TWO_PROCESSES = (
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.precision=32-true",
    "trainer.sync_batchnorm=false",
)

# The same of speech: telephone keys, learned hardly at all.
TINY_SPEECH = (
    "experiment=demo_dtmf_bilstm",
    "network.channels=4",
    "network.hidden=8",
    "data.train_utterances=8",
    "data.val_utterances=4",
    "data.test_utterances=4",
    "trainer.max_epochs=1",
    "logger=none",
)


def write_wav(path: Path, samples: np.ndarray, sample_rate: int, subtype: str = "PCM_16") -> Path:
    """Writes `samples` (T,) or (T, channels), float in [-1, 1] or int16; the format follows the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".mp3": None, ".ogg": None}.get(path.suffix, subtype)
    soundfile.write(path, samples, sample_rate, subtype=kind)
    return path


def sine(frequency: float, seconds: float, sample_rate: int, level: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return level * np.sin(2 * np.pi * frequency * time)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """`real_data("ESC-50")` is the data root that holds this corpus; the test skips where it is not there."""

    def find(corpus: str) -> Path:
        root = Path(os.environ.get("LIGHTNING_AUDIO_DATA", "data"))
        if not (root / corpus).is_dir():
            pytest.skip(f"{corpus} is not under {root} (set LIGHTNING_AUDIO_DATA to the data root)")
        return root

    return find


@pytest.fixture
def chromium() -> Iterator[Callable[..., Any]]:
    """`chromium(*arguments)` is a browser without a window; the test skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    if binary is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as play, ExitStack() as browsers:

        def launch(*arguments: str) -> Any:
            browser = play.chromium.launch(executable_path=binary, args=["--no-sandbox", *arguments])
            browsers.callback(browser.close)
            return browser

        yield launch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests never write into the user's cache, and share one of their own within a run.
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("LIGHTNING_AUDIO_CACHE", str(cache))


@pytest.fixture(scope="session", autouse=True)
def _composed_once() -> Iterator[None]:
    """Of conf/ as it is in the repository, Hydra composes equal overrides once, in a fifth of a second."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import read_write

    from lightning_audio.config import CONF

    known: dict[Any, bytes] = {}
    places = {"pkg://hydra.conf", str(CONF), "structured://"}
    load = ConfigLoaderImpl.load_configuration

    def loaded(
        self: ConfigLoaderImpl, config_name: str, overrides: list[str], *rest: Any, **options: Any
    ) -> DictConfig:
        own = {place.path for place in self.get_search_path().get_path()} <= places
        if not own or any("searchpath" in override for override in overrides):
            return load(self, config_name, overrides, *rest, **options)
        key = (config_name, *overrides, *rest, *options.items())
        if key not in known:
            known[key] = pickle.dumps(load(self, config_name, overrides, *rest, **options))
        cfg = pickle.loads(known[key])
        with read_write(cfg):
            cfg.hydra.runtime.cwd = os.getcwd()  # noqa: PTH109
        return cfg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", loaded)
        yield


@pytest.fixture(scope="session", autouse=True)
def _merged_once() -> Iterator[None]:
    """Of equal files, Hydra merges the same groups once; values of the command line come on top each time."""
    from hydra._internal import config_loader_impl
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    from lightning_audio.config import CONF

    lists: dict[Any, Any] = {}
    wholes: dict[Any, bytes] = {}
    digests = {CONF: _digest(CONF)}  # it stays as it is; copies of it may be edited
    make_list = config_loader_impl.create_defaults_list
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def sources(repo: Any) -> Iterator[str]:
        for source in repo.get_sources():
            place = source.path.removeprefix("file://")
            yield place if "://" in place else digests.get(Path(place)) or _digest(Path(place))

    def listed(repo: Any, config_name: str, overrides_list: Sequence[Any], **options: Any) -> Any:
        groups: list[Any] = []
        values: list[Any] = []
        for override in overrides_list:
            if not override.is_sweep_override():
                group = repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
                (groups if group else values).append(override)
        key = (config_name, *(group.input_line for group in groups), *options.items(), *sources(repo))
        if key not in lists:
            lists[key] = make_list(repo, config_name, groups, **options)
        return replace(lists[key], config_overrides=values)

    def merged(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        key = (repr(defaults), *sources(repo))
        if key not in wholes:
            wholes[key] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(wholes[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", listed)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merged)
        yield


def _digest(folder: Path) -> str:
    """Of the names of its YAML files, and of what they hold."""
    files = [(file.relative_to(folder), file.read_bytes()) for file in sorted(folder.rglob("*.yaml"))]
    return hashlib.sha256(pickle.dumps(files)).hexdigest()


@pytest.fixture(scope="session", autouse=True)
def _drawn_once() -> Iterator[None]:
    """The confusion matrix beside each run is drawn once of the same labels, in a third of a second."""
    from lightning_audio.io import write_atomically
    from lightning_audio.reports import plots

    figures: dict[tuple[str, ...], Any] = {}
    pictures: dict[Any, bytes] = {}
    draw, write = plots.confusion_figure, plots.write_png

    def drawn(confusion: Any, labels: Sequence[str]) -> Any:
        key = tuple(labels)
        if key not in figures:
            figures[key] = draw(confusion, labels)
        return figures[key]

    def written(figure: Any, path: Path) -> None:
        if figure in pictures:
            write_atomically(path, pictures[figure])
        else:
            write(figure, path)
            pictures[figure] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "confusion_figure", drawn)
        patch.setattr(plots, "write_png", written)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """What tests write need not outlast the machine, for which every file takes a hundredth of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Nor do they look at the key by which the user's own runs are known.
    os.environ["LIGHTNING_AUDIO_KEY"] = str(tmp_path_factory.getbasetemp() / "key")


def trained(folder: Path, cache: Path, options: Sequence[str]) -> Path:
    from lightning_audio.config import compose_config
    from lightning_audio.training.run import train

    train(compose_config([*options, f"paths.cache={cache}"]), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of the demo, made once: look, but write nothing into it."""
    return trained(
        tmp_path_factory.mktemp("tiny") / "run", tmp_path_factory.getbasetemp() / "cache", REPORTED
    )


@pytest.fixture(scope="session")
def speech_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of speech recognition, made once: write nothing into it."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    return trained(tmp_path_factory.mktemp("speech") / "run", cache, TINY_SPEECH)


def after_some_training(network: Any, batches: Iterable[tuple[Any, ...]]) -> Any:
    """The network in eval mode, with biases and with statistics of BatchNorm as after some training."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 0.5
    for batch in batches:
        network(*batch)
    return network.eval()


def _exported(run: Path, file: Path) -> Path:
    from lightning_audio.cli import export

    export.main([str(run), "--output", str(file)])
    return file


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as an ONNX file, with its card beside it."""
    return _exported(tiny_run, tmp_path_factory.mktemp("exported") / "demo.onnx")


@pytest.fixture(scope="session")
def exported_speech(speech_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run of speech recognition as an ONNX file."""
    return _exported(speech_run, tmp_path_factory.mktemp("exported") / "keys.onnx")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own conf/, to be edited."""
    from lightning_audio import config

    shutil.copytree(config.CONF, tmp_path / "conf")
    monkeypatch.setattr(config, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs that a test starts through `launch`, which reads and sets sys.argv."""
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr(sys, "argv", ["train"])
    # Hydra's handlers write to the stdout of this test, which is closed after it.
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])
    return tmp_path / "logs"
