"""Clips: bad rows named, splits and folds that hold groups together and every label in its share."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product

import pytest

from lightning_audio.data.clip import (
    SPLITS,
    Clip,
    hold_out,
    into_folds,
    leaks,
    refuse_leaks,
    split_by_fold,
    validated,
)
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


@pytest.mark.parametrize("share", [0.1, 0.2, 0.34, 0.5])
def test_hold_out_takes_whole_groups_and_their_share_of_every_label(share: float) -> None:
    clips = corpus()
    for seed in range(5):
        split = hold_out(clips, share, seed)
        refuse_leaks(split)
        assert [replace(clip, split="train") for clip in split] == clips
        taken = Counter(clip.labels[0] for clip in split if clip.split == "val")
        # 10 groups of 3 clips of each label: as many whole groups as go into the share of 30 clips.
        assert taken == dict.fromkeys(LABELS, round(share * 30) // 3 * 3)


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
    clips = [Clip(f"{number:03d}", "a.wav", text="yes", split="train") for number in range(50)]
    assert Counter(clip.split for clip in hold_out(clips, 0.1, 0)) == {"train": 45, "val": 5}


def test_hold_out_of_nothing_changes_nothing() -> None:
    assert hold_out(corpus(), 0.0, 0) == corpus()


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


def test_hold_out_is_near_the_best_of_all_choices_of_groups() -> None:
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
        found = hold_out(clips, 0.25, seed, into="test")
        assert {clip.split for clip in found} == {"train", "test"}
        refuse_leaks(found)
        assert sum(e < error(found) for e in errors) < 0.05 * len(errors)
        assert all(abs(share - 0.25) < 0.1 for share in shares(found, "test").values())


def test_one_speaker_who_said_half_of_all_is_trained_on() -> None:
    small = [Clip(f"{n:02d}", "a.wav", labels=(LABELS[n % 2],), split="train") for n in range(40)]
    large = [replace(clip, id=f"x{clip.id}", group="large") for clip in small]
    found = hold_out([*small, *large], 0.2, 0)
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
        Clip(f"{label}-{n}", "a.wav", labels=(f"l{label:02d}",)) for label in range(20) for n in range(2)
    ]
    counts = Counter(clip.fold for clip in into_folds(clips, 5, 0))
    assert counts == dict.fromkeys(range(1, 6), 8)


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
        UserError, match=r"1 groups stand in more than one split, such as g00 \(test and train\)"
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


def test_labels_in_a_list_end_in_a_sentence() -> None:
    with pytest.raises(UserError, match="own has clips whose labels are a list: make them tuples"):
        validated([Clip("a", "a.wav", labels=["dog"])], "own")  # type: ignore[arg-type]
