"""What every test shares: the real corpora where they are, synthetic audio, few threads."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lightning_audio import config
from lightning_audio.training.run import train

# Two cores: a process for each under pytest-xdist, or both for a single one; what a test starts has as many.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
os.environ["OMP_NUM_THREADS"] = str(THREADS)
torch.set_num_threads(THREADS)

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
)

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


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """`real_data("ESC-50")` is the data root that holds this corpus; the test skips where it is not there."""

    def find(corpus: str) -> Path:
        root = Path(os.environ.get("LIGHTNING_AUDIO_DATA", "data"))
        if not (root / corpus).is_dir():
            pytest.skip(f"{corpus} is not under {root} (set LIGHTNING_AUDIO_DATA to the data root)")
        return root

    return find


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests never write into the user's cache, and share one of their own within a run.
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("LIGHTNING_AUDIO_CACHE", str(cache))


@pytest.fixture(scope="session", autouse=True)
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Nor do they look at the key by which the user's own runs are known.
    os.environ["LIGHTNING_AUDIO_KEY"] = str(tmp_path_factory.getbasetemp() / "key")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of the demo, made once: look, but write nothing into it."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    cache = tmp_path_factory.getbasetemp() / "cache"
    train(config.compose_config([*TINY, f"paths.cache={cache}"]), folder)
    return folder


@pytest.fixture(scope="session")
def speech_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one tiny run of speech recognition, made once: write nothing into it."""
    folder = tmp_path_factory.mktemp("speech") / "run"
    cache = tmp_path_factory.getbasetemp() / "cache"
    train(config.compose_config([*TINY_SPEECH, f"paths.cache={cache}"]), folder)
    return folder


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs that a test starts through `launch`, which reads and sets sys.argv."""
    monkeypatch.setenv("LIGHTNING_AUDIO_LOGS", str(tmp_path / "logs"))
    monkeypatch.setattr(sys, "argv", ["train"])
    # Hydra's handlers write to the stdout of this test, which is closed after it.
    monkeypatch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[:])
    return tmp_path / "logs"
