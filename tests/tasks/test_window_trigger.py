"""Trigger words through windows: any network learns them, and a stream is heard as it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from lightning_audio import config
from lightning_audio.checkpoint import load
from lightning_audio.cli.live import detector_of
from lightning_audio.errors import UserError
from lightning_audio.inference.live import stream_of
from lightning_audio.inference.stream import WindowStream
from lightning_audio.tasks.window_trigger import WindowTrigger
from lightning_audio.training.run import train

OPTIONS = ("task=window_trigger", "task.background=[rain,wind]", "task.noise=wind", "augment=none")
HEARD = ("task.window=0.5", "task.hop=0.1", "task.smoothing=0.2")


def composed(folder: Path, *options: str) -> Any:
    return config.compose_config(
        [*TINY, *OPTIONS, *HEARD, "loader.val_fraction=0.3", f"paths.cache={folder}", *options]
    )


def test_a_network_for_clips_becomes_a_trigger(tmp_path: Path) -> None:
    scores = train(composed(tmp_path, "trainer.max_epochs=1"), tmp_path / "run")["scores"]
    assert {"val/accuracy", "test/miss_rate", "test/false_alarms_per_hour"} <= scores.keys()
    task = load(tmp_path / "run")
    assert isinstance(task, WindowTrigger)
    assert (task.frame_seconds, task.smooth) == (pytest.approx(0.1), 2)
    stream = stream_of(task)
    assert isinstance(stream, WindowStream)
    # What is detected as it comes is what `listen` scores, hop by hop.
    rng = np.random.default_rng(0)
    samples = (rng.normal(0, 0.1, 3 * task.sample_rate) * 32767).astype(np.int16)
    whole = task.listen(samples)
    pieces = [stream.push(part) for part in np.array_split(samples, 7)] + [stream.finish()]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    assert len(whole) == 31
    assert detector_of(task, stream).frame_seconds == task.frame_seconds


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("task.hop=0.6", "task.window=0.5 and task.hop=0.6"),
        ("task.clips_per_sequence=4", "task.clips_per_sequence=1"),
        ("task.noise=hum", "'hum'"),
    ],
)
def test_misfits_end_in_a_sentence(tmp_path: Path, option: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(composed(tmp_path, option), tmp_path / "run")
