"""Clips: bad rows named, labels that look alike found."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from lightning_audio.data.clip import Clip, clean_label, look_alikes, problems
from lightning_audio.data.clip_table import validated
from lightning_audio.errors import UserError

LABELS = ("bell", "dog", "rain")


def corpus(groups: int = 30, takes: int = 3) -> list[Clip]:
    """`groups` recordings of one label each, `takes` clips of each."""
    return [
        Clip(
            f"{group:02d}-{take}", "a.wav", labels=(LABELS[group % 3],), split="train", group=f"g{group:02d}"
        )
        for group in range(groups)
        for take in range(takes)
    ]


def test_validated_rows_stand_in_the_order_of_their_ids_and_bad_ones_are_counted() -> None:
    clips = corpus()
    shuffled = random.Random(0).sample(clips, len(clips))
    assert validated(shuffled, "made up") == clips
    bad = [replace(clip, start=-1.0) for clip in clips[:12]]
    with pytest.raises(UserError, match=r"made up has 12 bad rows .* and 2 more\."):
        validated([*bad, *clips[12:]], "made up")


def test_labels_in_a_list_end_in_a_sentence() -> None:
    with pytest.raises(UserError, match="own has clips whose labels are a list: make them tuples"):
        validated([Clip("a", "a.wav", labels=["dog"])], "own")  # type: ignore[arg-type]


def test_labels_that_look_alike_stand_side_by_side() -> None:
    labels = ("Dog", "dog", "cat", "c\u200bat", "cow", "c\u043ew", "bird", "big bird", "big_bird", "-1", "1")
    assert look_alikes(labels) == [
        "'Dog' and 'dog'",
        "'cat' and 'c\\u200bat'",
        "'cow' and 'c\u043ew'",
        "'big bird' and 'big_bird'",
    ]
    assert clean_label(" cafe\u0301 ") == "caf\u00e9"


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\x07"])
def test_a_label_that_would_be_shown_as_another_one_is_a_bad_row(sign: str) -> None:
    assert "control characters" in problems(Clip("a", "a.wav", labels=(f"d{sign}og",)))[0]


@pytest.mark.parametrize(
    ("channel", "good"), [(None, True), ("mean", True), (0, True), (1, True), (-1, False), ("left", False)]
)
def test_a_channel_is_a_number_or_the_mean(channel: object, good: bool) -> None:
    assert (problems(Clip("a", "a.wav", channel=channel)) == []) == good  # type: ignore[arg-type]
