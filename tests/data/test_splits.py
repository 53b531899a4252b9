"""Splits: drawn so that nothing moves when recordings are added, dealt into folds, held against leaks."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product

import pytest
from test_clip import LABELS, corpus

from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.splits import (
    deal_out,
    hold_out,
    into_folds,
    leaks,
    refuse_leaks,
    split_by_fold,
    validate_by_fold,
)
from lightning_audio.errors import UserError


@pytest.mark.parametrize("into", ["val", "test"])
def test_what_was_held_out_stays_so_when_recordings_are_added(into: str) -> None:
    """And what was trained on, too: nothing at all moves, wherever the new ones stand in the table."""
    for seed in range(20):
        clips = corpus(60)
        before = {clip.id: clip.split for clip in hold_out(clips, 0.2, seed, into)}
        more = [replace(clip, id=f"new-{clip.id}", group=f"new-{clip.group}") for clip in clips[:90]]
        after = {clip.id: clip.split for clip in hold_out([*more, *clips], 0.2, seed, into)}
        assert {name: after[name] for name in before} == before
        assert {after[clip.id] for clip in more} == {"train", into}


@pytest.mark.parametrize(("name", "spread"), [("s{}", 2), ("{}.mp3", 2), ("take 2 of {}", 2)])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5])
def test_numbered_groups_spread_evenly(share: float, name: str, spread: int) -> None:
    clips = [
        Clip(f"{label}-{n}", "a.wav", labels=(label,), split="train", group=f"{label} {name.format(n)}")
        for label in LABELS
        for n in range(100)
    ]
    for seed in range(5):
        taken = Counter(clip.labels[0] for clip in hold_out(clips, share, seed) if clip.split == "val")
        assert all(abs(taken[label] - 100 * share) <= spread for label in LABELS)


def test_names_without_numbers_meet_the_share_as_chance_does() -> None:
    """1,000 groups: 200 are expected, with a deviation of 12.6."""
    names = ["".join(letters) for letters in product("abcdefghij", repeat=3)]
    clips = [Clip(name, "a.wav", split="train", group=name) for name in names]
    taken = [sum(c.split == "val" for c in hold_out(clips, 0.2, seed)) for seed in range(20)]
    assert all(abs(n - 200) < 4 * 12.6 for n in taken)
    assert 5 < statistics.pstdev(taken) < 20


def test_every_label_of_two_groups_or_more_is_on_both_sides() -> None:
    for seed in range(30):
        split = hold_out(corpus(6, 2), 0.2, seed)
        refuse_leaks(split)
        assert Counter((clip.split, clip.labels[0]) for clip in split) == {
            (side, label): 2 for side in ("train", "val") for label in LABELS
        }
        assert {clip.split for clip in hold_out(corpus(3), 0.9, seed)} == {"train"}  # one group a label


def test_test_and_validation_are_drawn_apart() -> None:
    """By one number for both, every clip that is left for training would be above the share."""
    for seed in range(10):
        clips = hold_out(corpus(300, 1), 0.2, seed, "test")
        split = Counter(clip.split for clip in hold_out(clips, 0.2, seed))
        assert abs(split["test"] - 60) <= 3
        assert abs(split["val"] - 48) <= 6


def test_clips_without_a_group_are_drawn_by_their_file_wherever_that_lies() -> None:
    clips = [Clip(f"{n:03d}", f"/a/{n // 4}.wav", n, 1.0, split="train") for n in range(200)]
    split = hold_out(clips, 0.3, 0, root="/a")
    sides = {clip.path: clip.split for clip in split}
    assert all(sides[clip.path] == clip.split for clip in split)
    moved = [replace(clip, path=clip.path.replace("/a/", "/b/c/")) for clip in clips]
    assert [clip.split for clip in hold_out(moved, 0.3, 0, root="/b/c")] == [clip.split for clip in split]


def test_clips_of_one_file_are_drawn_one_by_one_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    clips = [Clip(f"{n:03d}", "/a/long.wav", n, 1.0, labels=("a",), split="train") for n in range(200)]
    split = Counter(clip.split for clip in hold_out(clips, 0.2, 0, root="/a"))
    assert abs(split["val"] - 40) < 4 * 5.7
    assert "All 200 clips that a split is drawn from are of one group or file, long.wav" in caplog.text


def test_hold_out_is_named_by_its_seed_whatever_the_order_of_the_clips() -> None:
    clips = corpus()
    chosen = {
        seed: frozenset(clip.id for clip in hold_out(clips, 0.2, seed) if clip.split == "val")
        for seed in range(8)
    }
    assert len(set(chosen.values())) == 8
    for seed, ids in chosen.items():
        shuffled = random.Random(seed).sample(clips, len(clips))
        assert {clip.id for clip in hold_out(shuffled, 0.2, seed) if clip.split == "val"} == ids


def test_hold_out_leaves_other_splits_alone() -> None:
    clips = corpus()
    mixed = [
        replace(clip, split=(None, "test", "train")[number // 3 % 3]) for number, clip in enumerate(clips)
    ]
    split = hold_out(mixed, 0.3, 0)
    assert [c.split for c in split if c.split not in ("train", "val")] == [
        c.split for c in mixed if c.split != "train"
    ]
    assert all(old.split == "train" for old, new in zip(mixed, split, strict=True) if new.split == "val")


def test_hold_out_of_clips_without_groups_or_labels_takes_its_share_of_them() -> None:
    clips = [Clip(f"{number:03d}", f"{number}.wav", text="yes", split="train") for number in range(50)]
    split = Counter(clip.split for clip in hold_out(clips, 0.1, 0))
    assert 0 < split["val"] < 15


def test_hold_out_of_nothing_changes_nothing() -> None:
    assert hold_out(corpus(), 0.0, 0) == corpus()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5])
def test_deal_out_takes_whole_groups_and_their_share_of_every_label(share: float) -> None:
    clips = corpus()
    for seed in range(5):
        split = deal_out(clips, share, seed)
        refuse_leaks(split)
        assert [replace(clip, split="train") for clip in split] == clips
        taken = Counter(clip.labels[0] for clip in split if clip.split == "val")
        # 10 groups of 3 clips of each label: as many whole groups as go into the share of 30 clips.
        assert taken == dict.fromkeys(LABELS, round(share * 30) // 3 * 3)


def speakers(num_speakers: int, seed: int) -> list[Clip]:
    """Speakers who said every label some times, no two alike; every third clip has two labels."""
    rng = random.Random(seed)
    return [
        Clip(f"{speaker}-{label}-{take}", "a.wav", labels=labels, split="train", group=f"s{speaker:02d}")
        for speaker in range(num_speakers)
        for label in LABELS
        for take in range(rng.randint(2, 7))
        for labels in [(label,) if take % 3 else (label, LABELS[take % 2])]
    ]


def shares(clips: list[Clip], split: str) -> dict[str, float]:
    every = Counter(label for clip in clips for label in clip.labels)
    chosen = Counter(label for clip in clips if clip.split == split for label in clip.labels)
    return {label: chosen[label] / n for label, n in every.items()}


def test_a_deal_is_near_the_best_of_all_choices_of_groups() -> None:
    """Speakers who differ in how much they said: an exhaustive search finds what is least off."""
    for seed in range(3):
        clips = speakers(7, seed)
        names = sorted({clip.group for clip in clips if clip.group})

        def error(clips: list[Clip]) -> float:
            return sum((share - 0.25) ** 2 for share in shares(clips, "test").values())

        errors = []
        for choice in product([False, True], repeat=len(names)):
            chosen = {name for name, taken in zip(names, choice, strict=True) if taken}
            errors.append(error([replace(c, split="test" if c.group in chosen else "train") for c in clips]))
        found = deal_out(clips, 0.25, seed, into="test")
        assert {clip.split for clip in found} == {"train", "test"}
        refuse_leaks(found)
        assert sum(e < error(found) for e in errors) < 0.05 * len(errors)
        assert all(abs(share - 0.25) < 0.1 for share in shares(found, "test").values())


def test_one_speaker_who_said_half_of_all_is_trained_on() -> None:
    small = [Clip(f"{n:02d}", "a.wav", labels=(LABELS[n % 2],), split="train") for n in range(40)]
    large = [replace(clip, id=f"x{clip.id}", group="large") for clip in small]
    found = deal_out([*small, *large], 0.2, 0)
    assert shares(found, "val") == pytest.approx({"bell": 0.2, "dog": 0.2})
    assert {clip.split for clip in found if clip.group == "large"} == {"train"}


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_folds_hold_whole_groups_and_equal_shares(num_folds: int) -> None:
    folds = into_folds(corpus(), num_folds, 0)
    of_group = defaultdict(set)
    for clip in folds:
        of_group[clip.group].add(clip.fold)
    assert all(len(found) == 1 for found in of_group.values())
    # 10 groups of each label: as many in every fold, or one more.
    counts = Counter((clip.labels[0], clip.fold) for clip in folds)
    assert len(counts) == 3 * num_folds
    assert {n // 3 for n in counts.values()} <= {10 // num_folds, -(-10 // num_folds)}
    assert into_folds(corpus()[::-1], num_folds, 0) == folds[::-1]
    assert into_folds(corpus(), num_folds, 1) != folds


def test_rare_labels_do_not_all_go_to_the_first_folds() -> None:
    clips = [
        Clip(f"{label}-{n}", f"{label}-{n}.wav", labels=(f"l{label:02d}",))
        for label in range(20)
        for n in range(2)
    ]
    counts = Counter(clip.fold for clip in into_folds(clips, 5, 0))
    assert set(counts.values()) <= {7, 8, 9}


@pytest.mark.parametrize(("more", "most"), [(1, 0.1), (8, 0.15)])
def test_most_groups_keep_their_fold_when_recordings_are_added(more: int, most: float) -> None:
    """As measured, 0.07 and 0.09; dealt anew, 0.6 to 0.8 would move."""
    moved = []
    for seed in range(20):
        before, after = (
            {clip.group: clip.fold for clip in into_folds(_heard(count), 5, seed)}
            for count in (40, 40 + more)
        )
        moved.append(sum(after[group] != fold for group, fold in before.items()) / 40)
        assert set(Counter(before.values()).values()) == {8}
    assert sum(moved) / len(moved) < most


def test_no_fold_is_empty_where_one_group_is_most_of_all() -> None:
    clips = _heard(5) + [replace(clip, id=f"{n}-{clip.id}") for n in range(50) for clip in _heard(1)]
    for seed in range(20):
        assert {clip.fold for clip in into_folds(clips, 5, seed)} == {1, 2, 3, 4, 5}


def _heard(count: int) -> list[Clip]:
    """So many speakers, each with the same clips."""
    return [
        Clip(f"{n}-{label}-{take}", "a.wav", labels=(label,), group=f"speaker {n}")
        for n in range(count)
        for label in LABELS
        for take in range(4)
    ]


def test_one_fold_is_tested_on() -> None:
    clips = [Clip(str(number), "a.wav", fold=number % 3 + 1) for number in range(9)]
    for fold in (1, 2, 3):
        split = split_by_fold(clips, fold)
        assert [clip.split == "test" for clip in split] == [clip.fold == fold for clip in clips]
        assert Counter(clip.split for clip in split) == {"test": 3, "train": 6}
    with pytest.raises(UserError, match=r"There is no fold 4: set data\.fold to one of \[1, 2, 3\]"):
        split_by_fold(clips, 4)


def test_a_leak_is_named_with_its_splits() -> None:
    clips = corpus()
    clips[0] = replace(clips[0], split="test")
    with pytest.raises(
        UserError, match=r"1 group stands in more than one split, such as g00 \(test and train\)"
    ):
        refuse_leaks(clips)
    clips[0] = replace(clips[0], split=None)  # a clip in no split leaks nowhere
    refuse_leaks(clips)
    refuse_leaks([replace(clip, group=None) for clip in clips])


def test_leaks_against_brute_force() -> None:
    rng = random.Random(0)
    for names in (["a", "b", None], [*map(str, range(30)), None]):
        clips = [
            Clip(str(number), "a.wav", split=rng.choice([*SPLITS, None]), group=rng.choice(names))
            for number in range(40)
        ]
        found = {}
        for group in sorted({clip.group for clip in clips if clip.group}):
            splits = {clip.split for clip in clips if clip.group == group and clip.split}
            if len(splits) > 1:
                found[group] = sorted(splits)
        assert found
        assert leaks(clips) == found
        assert [*leaks(clips)] == [*found]


def folded(count: int = 4) -> list[Clip]:
    """Three clips in each of so many folds; fold 1 and 2 hold one of the recording `shared`."""
    return [
        Clip(f"{k}-{n}", "a.wav", fold=k, group="shared" if n == 0 and k < 3 else f"{k}-{n}")
        for k in range(1, count + 1)
        for n in range(3)
    ]


@pytest.mark.parametrize(
    ("test", "asked", "expected"), [(1, "next", 2), (4, "next", 1), (2, 4, 4), (4, 1, 1)]
)
def test_a_whole_fold_is_validation(test: int, asked: int | str, expected: int) -> None:
    """All of it, nothing else, and no recording of it is learned from."""
    split = validate_by_fold(split_by_fold(folded(), test), asked, test)
    assert {clip.fold for clip in split if clip.split == "val"} == {expected}
    assert Counter(clip.split for clip in split if clip.fold == expected) == {"val": 3}
    assert Counter(clip.split for clip in split if clip.fold == test) == {"test": 3}
    lost = [clip.id for clip in split if clip.split is None]
    assert lost == ([f"{3 - expected}-0"] if expected < 3 and test > 2 else [])
    held = {clip.group for clip in split if clip.split == "val"}
    assert not held & {clip.group for clip in split if clip.split == "train"}


@pytest.mark.parametrize("asked", [1, 5, "previous"])
def test_a_fold_that_is_none_beside_the_test_is_refused(asked: int | str) -> None:
    with pytest.raises(UserError, match=r"validation_fold=.* is no fold .*`next` or one of \[2, 3, 4\]"):
        validate_by_fold(split_by_fold(folded(), 1), asked, 1)
    with pytest.raises(UserError, match="there are none: set it to null"):
        validate_by_fold([Clip("a", "a.wav", split="train")], asked, 0)
