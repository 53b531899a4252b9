"""Augmented views that are kept: what they are known by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from lightning_audio.augment import Augment
from lightning_audio.augment.noise import NoiseFloor
from lightning_audio.augment.policy import RandomPolicy
from lightning_audio.augment.views import views_of
from lightning_audio.augment.waveform import Gain


def test_views_are_others_when_a_recording_that_they_draw_from_is_another(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain.wav", np.zeros(800), 8000)
    augment = Augment({"policy": RandomPolicy({"noise": NoiseFloor(str(tmp_path), 8000)}, n=1)})
    known = lambda augment: [told for _, told in views_of(augment, {}, 0, 2, torch.ones(3).bool())]  # noqa: E731
    before = known(augment)
    assert before == known(augment)
    soundfile.write(tmp_path / "rain.wav", np.ones(900), 8000)
    assert all(old != new for old, new in zip(before, known(augment), strict=True))
    assert len(known(Augment({"gain": Gain()}))[0]) == 4  # nothing is computed again where there are none
