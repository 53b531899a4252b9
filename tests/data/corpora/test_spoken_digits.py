"""The digits against recordings made up here, and against the real ones where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_audio import build, config
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.spoken_digits import SpokenDigits
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError

SPEAKERS = ("anna", "bo_li", "cem")
TAKES = 8


def write_recordings(root: Path) -> Path:
    (root / "recordings").mkdir(parents=True)
    for digit in range(10):
        for speaker in SPEAKERS:
            for take in range(TAKES):
                (root / "recordings" / f"{digit}_{speaker}_{take}.wav").touch()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "free-spoken-digit-dataset")


def corpus(root: Path, **options: Any) -> SpokenDigits:
    return SpokenDigits(str(root), str(root.parent / "cache"), **options)


def test_takes_0_to_4_are_the_official_test(root: Path) -> None:
    official = corpus(root)
    clips = validated(official.clips(), "digits")
    refuse_leaks(clips)
    assert official.folds == ()
    assert Counter(clip.split for clip in clips) == {"test": 10 * 3 * 5, "train": 10 * 3 * 3}
    assert {clip.id.rpartition("_")[2] for clip in clips if clip.split == "test"} == set("01234")
    assert official.labels == tuple("0123456789")
    clip = next(clip for clip in clips if clip.id == "7_bo_li_5")
    assert (clip.labels, clip.split, clip.path) == (
        ("7",),
        "train",
        str(root / "recordings" / "7_bo_li_5.wav"),
    )


@pytest.mark.parametrize(
    ("options", "held_out"),
    [
        ({}, "anna"),
        ({"fold": 2}, "bo_li"),
        ({"speaker": "cem"}, "cem"),
        ({"speaker": "bo_li", "fold": 2}, "bo_li"),
    ],
)
def test_a_held_out_speaker_is_the_test_and_nobody_else(
    options: dict[str, Any], held_out: str, root: Path
) -> None:
    clips = corpus(root, split="speaker", **options).clips()
    refuse_leaks(clips)
    assert {clip.group for clip in clips if clip.split == "test"} == {held_out}
    assert {clip.group for clip in clips if clip.split == "train"} == set(SPEAKERS) - {held_out}
    assert len(clips) == 10 * 3 * TAKES


def test_the_speakers_are_folds_that_test_every_clip_once(root: Path) -> None:
    overrides = ["data=spoken_digits", f"paths.data={root.parent}", "data.split=speaker"]
    composed = build.corpus(config.compose_config(overrides))  # what `folds` composes to see the folds
    assert (composed.folds, composed.fold) == ((1, 2, 3), 1)
    tested: Counter[str] = Counter()
    for fold in composed.folds:
        clips = corpus(root, split="speaker", fold=fold).clips()
        assert {clip.fold for clip in clips if clip.split == "test"} == {fold}
        tested.update(clip.id for clip in clips if clip.split == "test")
    assert tested == dict.fromkeys([clip.id for clip in clips], 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"split": "speaker", "speaker": "ana"},
            r"no speaker 'ana' \(did you mean 'anna'\?\): set data\.speaker",
        ),
        ({"split": "speaker", "fold": 4}, r"no fold 4 of the speakers: set data\.fold to one of \(1, 2, 3\)"),
        (
            {"split": "speaker", "fold": 1, "speaker": "cem"},
            r"data\.speaker=cem is fold 3, but data\.fold is 1",
        ),
        ({"split": "digit"}, r"no split 'digit' .* set data\.split to official or speaker"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str, root: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        corpus(root, **options).clips()


def test_a_mirror_may_have_another_format(root: Path) -> None:
    before = corpus(root).clips()
    for n, path in enumerate(sorted((root / "recordings").iterdir())):
        path.rename(path.with_suffix((".flac", ".MP3", ".opus")[n % 3]))
    after = corpus(root).clips()
    assert [replace(clip, path="") for clip in after] == [replace(clip, path="") for clip in before]
    assert {Path(clip.path).suffix for clip in after} == {".flac", ".MP3", ".opus"}
    (root / "recordings" / "0_anna_0.wav").touch()  # of two files of one recording one counts
    assert [clip.id for clip in corpus(root).clips()] == [clip.id for clip in before]


def test_missing_and_foreign_recordings_are_one_sentence(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recordings in .*recordings: clone https://github\.com/"):
        corpus(tmp_path / "nowhere").clips()
    (root / "recordings" / "seven_anna_1.wav").touch()
    with pytest.raises(UserError, match=r"1 file in .* such as seven_anna_1\.wav: move them away"):
        corpus(root).clips()


def test_the_real_digits(real_data: Callable[[str], Path]) -> None:
    root = real_data("free-spoken-digit-dataset") / "free-spoken-digit-dataset"
    clips = validated(corpus(root).clips(), "digits")
    assert Counter(clip.split for clip in clips) == {"train": 2700, "test": 300}
    assert set(Counter((clip.labels, clip.split) for clip in clips).values()) == {270, 30}
    by_speaker = corpus(root, split="speaker", fold=5)
    assert by_speaker.speakers == ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    parted = by_speaker.clips()
    refuse_leaks(parted)
    assert Counter(clip.split for clip in parted) == {"train": 2500, "test": 500}
    assert {clip.group for clip in parted if clip.split == "test"} == {"theo"}
