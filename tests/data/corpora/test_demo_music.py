"""The demo of music: every clip holds the intervals of its label, whatever root, inversion and instrument."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_audio.data.corpora import demo_music
from lightning_audio.data.corpora.demo_music import QUALITIES, DemoMusic
from lightning_audio.data.corpora.synthesised import BOUNDARIES
from lightning_audio.errors import UserError

RATE = 16000


class Sine:
    """An instrument without overtones, for as long as the clip."""

    def __init__(self, *ignored: object) -> None: ...

    def note(self, hz: float, since: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * hz * since)


@pytest.mark.parametrize("label", QUALITIES)
def test_a_chord_holds_the_notes_of_its_quality(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_music, "Instrument", Sine)
    time, intervals = np.arange(4 * RATE) / RATE, QUALITIES[label]
    roots, inversions = set(), set()
    for number in range(30):
        clean = demo_music.chord(np.random.default_rng(number), time, intervals)
        power = np.abs(np.fft.rfft(clean * np.hanning(len(clean)))) ** 2
        loud = power[1:-1] > 0.05 * power.max()
        peaks = 1 + np.flatnonzero(loud & (power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:]))
        notes = 12 * np.log2(peaks / 4 / demo_music.LOWEST)
        assert len(notes) == len(intervals)
        steps = (notes - notes[0]).round().astype(int)
        np.testing.assert_allclose(notes - notes[0], steps, atol=0.1)
        turned = [sorted((note - root) % 12 for note in intervals) for root in intervals]
        assert sorted(steps % 12) in turned
        inversions.add(tuple(steps))
        roots.add(round(float(notes[0])))
    assert len(inversions) == (1 if label == "augmented" else len(intervals))
    assert len(roots) > 10


def test_clips_are_made_once_and_known_by_fold(tmp_path: Path) -> None:
    corpus = DemoMusic(str(tmp_path), clips_per_class=2, seconds=0.5, fold=3)
    corpus.prepare()
    clips = corpus.clips()
    assert len(clips) == 8 * 2 * 5
    assert {clip.labels[0] for clip in clips} == set(QUALITIES) == set(corpus.labels)
    assert {clip.fold for clip in clips if clip.split == "test"} == {3}
    assert all(Path(clip.path).is_file() for clip in clips)
    assert not (corpus.folder / BOUNDARIES).exists()
    files = {Path(clip.path).read_bytes() for clip in clips}
    assert len(files) == len(clips)
    larger = DemoMusic(str(tmp_path), clips_per_class=3, seconds=0.5)
    larger.prepare()
    assert files < {Path(clip.path).read_bytes() for clip in larger.clips()}, "it holds the smaller one"
    assert DemoMusic(str(tmp_path), clips_per_class=2, seconds=0.5, seed=1).folder != corpus.folder
    with pytest.raises(UserError, match="clips_per_class is 0"):
        DemoMusic(str(tmp_path), clips_per_class=0)
