"""Texts read aloud: what is said is the transcript, by the voice and at the rate that were drawn."""

from __future__ import annotations

import builtins
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile

from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.espeak import Espeak
from lightning_audio.data.corpora.spoken_text import (
    BEFORE,
    BEHIND,
    Reading,
    SpokenText,
    frequent_words,
    read_aloud,
    sentences_of,
)
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError

pytest.importorskip("espeakng_loader", reason="the extra `synthesis` is not installed")
RATE = 16000
FEW: dict[str, Any] = {"random_utterances": 30, "vocabulary": 500, "val_share": 0.1, "test_share": 0.1}


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    return Espeak()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "lines.txt").write_text("One two.\n\n...\nThree, four five!\n", encoding="utf-8")
    for n in range(4):
        (folder / f"{n}.wav").touch()  # a manifest wants its audio to be there
    rows = [
        {"path": f"{n}.wav", "text": f"number {n}", "split": split}
        for n, split in enumerate(("train", "val", "test", "train"))
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return [str(folder / "lines.txt"), str(folder / "rows.jsonl")]


def made(cache: Path, **options: Any) -> SpokenText:
    corpus = SpokenText(str(cache), **{**FEW, **options})
    corpus.prepare()
    return corpus


def test_the_sentences_are_read_and_those_of_validation_and_test_are_not(texts: list[str]) -> None:
    found = [sentence for text in texts for sentence in sentences_of(Path(text))]
    assert found == ["One two.", "Three, four five!", "number 0", "number 3"]


def test_readings_stand_in_one_split_and_have_the_drawn_length(tmp_path: Path, texts: list[str]) -> None:
    corpus = made(tmp_path, texts=texts, readings=3)
    clips = validated(corpus.clips(), "spoken text")
    refuse_leaks(clips)
    assert len(clips) == 4 * 3 + 30 == len(corpus.plan)
    assert set(Counter(clip.text for clip in clips).values()) == {1, 3}
    assert {clip.split for clip in clips} == {"train", "val", "test"}
    for clip, reading in zip(clips, corpus.plan, strict=True):
        info = soundfile.info(clip.path)
        assert (clip.text, info.samplerate) == (reading.text, RATE)
        assert info.frames == pytest.approx((clip.duration or 0) * RATE, abs=0.5)
        samples = soundfile.read(clip.path)[0]
        loud = np.flatnonzero(np.abs(samples) > 0.002)
        assert loud[0] <= (BEFORE + 0.05) * RATE  # what is silent before and behind is cut off
        assert len(samples) - loud[-1] <= (BEHIND + 0.1) * RATE


def test_the_same_options_make_the_same_samples_in_any_process(tmp_path: Path, texts: list[str]) -> None:
    first, second = (made(tmp_path / name, texts=texts) for name in ("a", "b"))
    contents = [[Path(clip.path).read_bytes() for clip in corpus.clips()] for corpus in (first, second)]
    assert contents[0] == contents[1]
    assert first.folder.name == second.folder.name
    assert SpokenText(str(tmp_path), **FEW, texts=texts, seed=1).folder.name != first.folder.name
    Path(texts[0]).write_text("One two.\nSix.\n", encoding="utf-8")  # another text is another corpus
    assert SpokenText(str(tmp_path), **FEW, texts=texts).folder.name != first.folder.name


def test_pitch_and_rate_are_heard(espeak: Espeak) -> None:
    def hertz(voice: str, pitch: int) -> float:
        said = espeak.say("we were away a year ago", voice, 140, pitch, 50)
        f0, voiced, _ = librosa.pyin(said, fmin=50, fmax=500, sr=espeak.sample_rate)
        return float(np.median(f0[voiced]))

    assert hertz("en-us+m1", 50) < 0.75 * hertz("en-us+f3", 50)
    assert hertz("en-us+m1", 30) < 0.9 * hertz("en-us+m1", 70)
    slow, fast = (
        len(espeak.say("one two three four five six", "en-us", rate, 50, 50)) for rate in (100, 200)
    )
    assert fast / slow == pytest.approx(0.5, abs=0.12)


def test_levels_are_those_of_the_plan(tmp_path: Path) -> None:
    plan = [Reading("hello there", "en-us", 140, 50, 50, level) for level in (0.0, -6.0)]
    read_aloud(plan, tmp_path, RATE)
    loud, soft = (np.sqrt(np.mean(np.square(soundfile.read(tmp_path / f"{n:06d}.wav")[0]))) for n in (0, 1))
    assert 20 * np.log10(loud / soft) == pytest.approx(6.0, abs=0.3)  # voices flutter


def test_random_words_come_by_the_root_of_their_frequency(tmp_path: Path) -> None:
    wordfreq = pytest.importorskip("wordfreq", reason="the extra `synthesis` is not installed")
    words, likely = frequent_words("en", 50)
    wanted = np.array([wordfreq.word_frequency(word, "en") ** 0.5 for word in words])
    np.testing.assert_allclose(likely, wanted / wanted.sum())
    options = {**FEW, "vocabulary": 50, "random_utterances": 4000, "min_words": 1, "max_words": 3}
    plan = SpokenText(str(tmp_path), **options).plan
    drawn = [one.text.split() for one in plan]
    assert {len(each) for each in drawn} == {1, 2, 3}
    counts = Counter(word for each in drawn for word in each)
    total = sum(counts.values())
    assert total == pytest.approx(8000, rel=0.05)
    for word, share in zip(words, likely, strict=True):
        assert counts[word] == pytest.approx(share * total, abs=5 * np.sqrt(share * total))
    rates = np.array([(one.words_per_minute, one.pitch, one.level_db) for one in plan])
    assert rates.min(0) == pytest.approx([110, 35, -6], abs=0.1)
    assert rates.max(0) == pytest.approx([165, 75, 0], abs=0.1)


def test_what_makes_no_sound_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say = Espeak.say
    monkeypatch.setattr(Espeak, "say", lambda self, text, *rest: say(self, text, *rest) * (text != "hush"))
    read_aloud([Reading(text, "en-us", 140, 50, 50, 0.0) for text in ("hush", "hello")], tmp_path, RATE)
    assert [path.name for path in sorted(tmp_path.glob("*.wav"))] == ["000001.wav"]
    assert len((tmp_path / "clips.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"voices": []}, "data.voices is empty"),
        ({"voices": ["xx"]}, "eSpeak NG has no voice 'xx'"),
        ({"voices": ["en-us+nobody"]}, r"eSpeak NG has no voice 'en-us\+nobody'"),
        ({"random_utterances": 0}, "There is nothing to read"),
        ({"language": "tlh"}, "data.language=tlh is none of wordfreq's"),
        ({"texts": ["absent.txt"]}, "There is no absent.txt"),
        ({"readings": 0}, "data.readings is 0: set it to 1 at least"),
        ({"min_rate": 200}, "data.min_rate 200 is above data.max_rate 165"),
        ({"test_share": 0.0}, "data.test_share=0.0 leaves a split empty"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        made(tmp_path, **options).clips()


def test_a_reader_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "dead.py"
    dead.write_text("#!/bin/sh\nkill -9 $$\n")
    dead.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dead))
    with pytest.raises(UserError, match="The process that reads aloud has ended by 9"):
        made(tmp_path / "cache")
    assert not [*(tmp_path / "cache").glob("spoken_text-*[0-9a-f]/")]  # and the next start makes it


def test_a_text_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("...\n\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"empty.txt of data.texts has nothing to read"):
        sentences_of(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("package", "what"),
    [("espeakng_loader", Espeak), ("wordfreq", lambda: frequent_words("en", 10))],
)
def test_what_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, package: str, what: Callable[[], Any]
) -> None:
    found = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install 'lightning-audio\[synthesis\]'"):
        what()
