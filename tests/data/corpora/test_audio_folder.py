"""Folders of recordings: labels, splits and groups out of paths; every mistake in one sentence."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from lightning_audio.data.corpora.audio_folder import AudioFolder
from lightning_audio.data.decode import audio_files
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError


def filled(root: Path, *files: str) -> Path:
    """A folder with these files, which nothing here reads."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def corpus(root: Path, **options: Any) -> AudioFolder:
    return AudioFolder(str(root), str(root.parent / "cache"), **options)


def recordings(root: Path, dogs: int = 8, takes: int = 3) -> Path:
    """Each dog barks and howls some times: `bark/rex03_1.wav`."""
    return filled(
        root,
        *(
            f"{label}/rex{dog:02d}_{take}.wav"
            for label in ("bark", "howl")
            for dog in range(dogs)
            for take in range(takes)
        ),
    )


def test_folders_are_labels_and_what_is_no_audio_or_hidden_is_left_alone(tmp_path: Path) -> None:
    root = filled(
        tmp_path / "r",
        *("dog/a.wav", "dog/deeper/down/B.FLAC", "dog/notes.txt", "dog/._a.wav", "dog/.trash/c.wav"),
        *("cat/a.ogg", "cat/b.mp3", "cat/c.opus", ".git/x/y.wav", "README.md", "stray.wav"),
    )
    clips = corpus(root, test_share=0.5).clips()
    assert {clip.id: clip.labels for clip in clips} == {
        "cat/a.ogg": ("cat",),
        "cat/b.mp3": ("cat",),
        "cat/c.opus": ("cat",),
        "dog/a.wav": ("dog",),
        "dog/deeper/down/B.FLAC": ("dog",),
    }
    assert all(clip.path == str(root / clip.id) and clip.group is None for clip in clips)


def test_sound_that_cant_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = filled(
        tmp_path / "r",
        *("dog/a.wav", "dog/b.M4A", "dog/._c.m4a", "cat/a.aiff", "cat/d.m4a", "cat/e.wma", "cat/notes.txt"),
    )
    for _ in range(2):
        assert len(corpus(root).rows()) == 2
    told = [record.message for record in caplog.records]
    assert len(told) == 1
    assert "2 .m4a, 1 .wma" in told[0]
    assert str(root) in told[0]


def test_a_label_that_is_no_utf8_is_spelled(tmp_path: Path) -> None:
    """Pictures, tables and TensorBoard take no other text."""
    name = os.fsdecode(b"caf\xe9")
    root = filled(tmp_path / "r", f"{name}/a.wav", f"{name}/b.wav", "dog/a.wav", "dog/b.wav")
    clips = corpus(root, test_share=0.5).clips()
    assert {clip.labels for clip in clips} == {("caf\\udce9",), ("dog",)}
    assert {clip.path for clip in clips if clip.labels != ("dog",)} == {
        str(root / name / "a.wav"),
        str(root / name / "b.wav"),
    }


def test_a_label_folder_may_be_a_link(tmp_path: Path) -> None:
    filled(tmp_path / "elsewhere", "a.wav", "b.wav")
    root = filled(tmp_path / "r", "dog/a.wav", "dog/b.wav")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert Counter(clip.labels[0] for clip in corpus(root, test_share=0.5).clips()) == {"cat": 2, "dog": 2}


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5])
def test_the_split_that_is_made_has_its_share_of_every_label(share: float, tmp_path: Path) -> None:
    clips = corpus(recordings(tmp_path / "r", takes=5), test_share=share).clips()
    tested = Counter(clip.labels[0] for clip in clips if clip.split == "test")
    assert all(abs(tested[label] - 40 * share) <= 4 for label in ("bark", "howl"))
    assert {clip.split for clip in clips} == {"train", "test"}


def test_the_split_depends_on_seed_and_names_alone(tmp_path: Path) -> None:
    one, two = recordings(tmp_path / "a" / "r"), recordings(tmp_path / "somewhere" / "else")

    def tested(root: Path, seed: int) -> set[str]:
        return {clip.id for clip in corpus(root, split_seed=seed).clips() if clip.split == "test"}

    assert tested(one, 0) == tested(two, 0)
    assert len({frozenset(tested(one, seed)) for seed in range(8)}) == 8


@pytest.mark.parametrize("group", [r"rex\d+", r"/(rex\d+)_", r"([^/]+)_\d"])
def test_a_regular_expression_names_the_groups(group: str, tmp_path: Path) -> None:
    clips = corpus(recordings(tmp_path / "r"), group=group, test_share=0.25).clips()
    assert {clip.group for clip in clips} == {f"rex{dog:02d}" for dog in range(8)}
    refuse_leaks(clips)
    assert len({clip.group for clip in clips if clip.split == "test"}) in (1, 2, 3)


def test_the_folder_below_the_label_names_the_group(tmp_path: Path) -> None:
    files = [f"{label}/dog{n}/day{m}/a.wav" for label in ("bark", "howl") for n in range(5) for m in range(2)]
    clips = corpus(filled(tmp_path / "r", *files, "bark/alone.wav"), group="folder").clips()
    groups = {clip.id: clip.group for clip in clips}
    assert groups == {file: file.split("/")[1] for file in files} | {"bark/alone.wav": None}
    refuse_leaks(clips)
    assert {clip.split for clip in clips} == {"train", "test"}


def test_folds_are_made_of_groups(tmp_path: Path) -> None:
    root = recordings(tmp_path / "r")
    tested: Counter[str] = Counter()
    for fold in (1, 2, 3, 4):
        made = corpus(root, group=r"rex\d+", num_folds=4, fold=fold)
        assert made.folds == (1, 2, 3, 4)
        clips = made.clips()
        refuse_leaks(clips)
        assert Counter(c.labels[0] for c in clips if c.split == "test") == {"bark": 6, "howl": 6}
        tested.update(clip.id for clip in clips if clip.split == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == 48


NAMES = [
    ("train", None, "test"),
    *(("train", val, "test") for val in ("val", "valid", "validation", "dev", "Dev")),
    *(("training", "val", test) for test in ("testing", "eval", "evaluation", "Test")),
    ("my_train-set", "my_dev-set", "my_test-set"),
    ("trainset", "DevSet", "testset2"),
    ("Train2021", None, "Eval2021"),
]


@pytest.mark.parametrize("names", NAMES)
def test_folders_of_splits_are_the_split(names: tuple[str | None, ...], tmp_path: Path) -> None:
    named = {name: split for name, split in zip(names, ("train", "val", "test"), strict=True) if name}
    files = [f"{name}/{label}/a.wav" for name in named for label in ("cat", "dog")]
    made = corpus(filled(tmp_path / "r", *files))
    assert {clip.id: clip.split for clip in made.clips()} == {
        file: named[file.split("/")[0]] for file in files
    }
    assert {clip.labels[0] for clip in made.clips()} == {"cat", "dog"}
    assert made.folds == ()


def test_labels_may_hold_the_word_of_a_split(tmp_path: Path) -> None:
    labels = ("train_horn", "train_bell", "test_tone")
    root = filled(tmp_path / "r", *(f"{label}/{n}.wav" for label in labels for n in range(5)))
    assert {clip.labels[0] for clip in corpus(root).clips()} == {*labels}


def test_a_root_that_is_one_level_too_high_is_told(tmp_path: Path) -> None:
    files = [f"{label}/{n}.wav" for label in ("cat", "dog") for n in range(5)]
    one = corpus(filled(tmp_path / "one", *(f"sounds/{file}" for file in files)))
    with pytest.raises(
        UserError, match=r"one holds one folder, sounds/, and that cat, dog: set data\.root=.*"
    ):
        one.clips()
    two = corpus(filled(tmp_path / "two", *(f"{part}/{file}" for part in ("2020", "2021") for file in files)))
    assert {clip.labels[0] for clip in two.clips()} == {"2020", "2021"}
    assert len(two.remarks()) == 1
    assert "hold the same folders, such as 2020/cat/: if these are the labels" in two.remarks()[0]
    assert corpus(two.root, group="folder", test_share=0.5).remarks() == []
    assert corpus(filled(tmp_path / "three", *files)).remarks() == []


def test_folds_that_would_be_labels_are_told(tmp_path: Path) -> None:
    folds = corpus(
        filled(tmp_path / "r", *(f"fold{fold}/{n}.wav" for fold in range(1, 11) for n in range(5)))
    )
    (told,) = folds.remarks()
    assert told.startswith("The labels fold1, fold10, fold2 read like folds: if they are, give a manifest")
    labels = ("fold1", "folding")
    root = filled(tmp_path / "s", *(f"{label}/{n}.wav" for label in labels for n in range(5)))
    assert corpus(root).remarks() == []


@pytest.mark.parametrize("beside", [(), ("cat/b.wav",), ("dog/b.wav", "cat/deeper/c.wav")])
def test_splits_below_a_label_are_refused(beside: tuple[str, ...], tmp_path: Path) -> None:
    labels = ("cat", "dog") if not beside else ("dog",)
    files = [f"{label}/{split}/a.wav" for label in labels for split in ("Training", "testing")]
    with pytest.raises(UserError, match=r"holds Training, testing: put these above .*, as Training/\w+/"):
        corpus(filled(tmp_path / "r", *files, *beside)).clips()


def test_labels_below_a_label_are_refused(tmp_path: Path) -> None:
    files = [f"{label}/{n}.wav" for label in ("cat", "dog") for n in range(5)]
    root = filled(tmp_path / "r", *files, *(f"validation/{file}" for file in files))
    with pytest.raises(UserError, match=r"validation holds cat, dog, which are labels beside it: put its"):
        corpus(root).clips()


def test_a_recording_in_two_formats_is_told_and_in_one_split(tmp_path: Path) -> None:
    files = [
        f"{label}/{n}{suffix}" for label in ("cat", "dog") for n in range(9) for suffix in (".wav", ".flac")
    ]
    made = corpus(filled(tmp_path / "r", *files, "cat/x.wav"))
    splits: dict[str, set[str | None]] = defaultdict(set)
    for clip in made.clips():
        splits[clip.id.partition(".")[0]].add(clip.split)
    assert {len(found) for found in splits.values()} == {1}
    assert made.notes == [
        "18 recordings are there in two formats, such as cat/0, and count twice: leave out one of each."
    ]


def test_a_single_split_below_a_label_is_told(tmp_path: Path) -> None:
    files = [f"{label}/{n}.wav" for label in ("cat", "dog") for n in range(9)]
    made = corpus(filled(tmp_path / "r", *files, "dog/Test/a.wav"))
    assert {clip.labels[0] for clip in made.clips()} == {"cat", "dog"}
    (told,) = made.remarks()
    assert "dog holds Test/, taken for a part of dog: if it is a split" in told


def test_links_are_followed_and_what_is_left_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path / "elsewhere", *(f"x/{n}.wav" for n in range(10)), "x/y/z.wav")
    root = filled(tmp_path / "r", *(f"dog/{n}.wav" for n in range(10)), "cat/a.wav", "loose.wav", "cow/a.wav")
    (root / "dog" / "linked").symlink_to(tmp_path / "elsewhere" / "x")
    (root / "dog" / "again").symlink_to(root / "dog" / "linked")
    (root / "dog" / "loop").symlink_to(root / "dog")
    (root / "dog" / "above").symlink_to("..")  # below it lie the clips of other labels
    (tmp_path / "elsewhere" / "x" / "up").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    made = corpus(root)
    found = Counter(clip.labels[0] for clip in made.rows())
    # What a broken link is called is a clip, too, which ends in quarantine.
    assert found == {"dog": 21, "cat": 2, "cow": 1}
    told = [record.message for record in caplog.records if record.message.startswith("Left out: the link")]
    assert len(told) == 4
    assert all("looked through" in line for line in told)
    assert made.notes == [
        f"1 file beside the folders of labels in {root} left out, such as loose.wav: put audio into the "
        "folder of its label."
    ]
    assert len(audio_files([root])) == 24  # the loose one, but not the broken link


def test_labels_are_stripped_of_spaces(tmp_path: Path) -> None:
    root = filled(tmp_path / "r", "dog/a.wav", "dog /b.wav", "cat/a.wav")
    assert Counter(clip.labels[0] for clip in corpus(root).rows()) == {"dog": 2, "cat": 1}


def test_labels_may_be_called_as_a_split_that_is_not_train_or_test(tmp_path: Path) -> None:
    root = filled(tmp_path / "r", *(f"{label}/{n}.wav" for label in ("valid", "invalid") for n in range(4)))
    assert {clip.labels[0] for clip in corpus(root).clips()} == {"valid", "invalid"}


MISTAKES: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "no root": ([], {}, "There is no folder .*r: set data.root"),
    "no labels": (["a.wav"], {}, "holds no folders of labels"),
    "no audio": (
        ["dog/a.wav", "cat/a.m4a", "cat/b.txt"],
        {},
        r"cat holds no audio that can be read \(only .m4a, .txt\): convert",
    ),
    "a pattern": (["dog/a.wav", "cat/a.wav"], {"group": "(a"}, r"data.group=\(a is no regular expression"),
    "no match": (["dog/a1.wav", "cat/b.wav"], {"group": r"\d"}, "names no group in cat/b.wav"),
    "an empty match": (["dog/a1.wav", "cat/b.wav"], {"group": r"(\d*)\.wav"}, "names no group in cat/b.wav"),
    "no test": (["train/dog/a.wav", "train/cat/a.wav"], {}, "has train/ but no test/: add it, or move"),
    "no train": (["test/dog/a.wav", "test/cat/a.wav"], {}, "has test/ but no train/"),
    "val alone": (["dev/dog/a.wav", "dev/cat/a.wav"], {}, "has dev/ but no train/"),
    "two val": (
        [f"{split}/{label}/a.wav" for split in ("train", "test", "val", "dev") for label in ("dog", "cat")],
        {},
        r"two folders for one split \(dev, test, train, val\)",
    ),
    "a stranger": (["train/dog/a.wav", "test/dog/a.wav", "cow/a.wav"], {}, "holds test/ beside cow/"),
    "too few": (["dog/a.wav", "cat/a.wav"], {}, r"test_share=0.2 of 2 groups .* is less than one"),
    "too few for folds": (["dog/a.wav", "cat/a.wav"], {"num_folds": 3}, "2 groups .* do not make 3 folds"),
    "folds beside a split": (
        [f"{split}/{label}/a.wav" for split in ("train", "test") for label in ("dog", "cat")],
        {"num_folds": 3},
        "has splits of its own: set data.num_folds=null",
    ),
    "no share": (["dog/a.wav", "cat/a.wav"], {"test_share": 0}, "data.test_share=0 is no share"),
    "no such fold": (
        ["dog/a.wav", "cat/a.wav"],
        {"num_folds": 2, "fold": 3},
        r"There is no fold 3: set data.fold to one of \[1, 2\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str, tmp_path: Path) -> None:
    files, options, said = MISTAKES[mistake]
    with pytest.raises(UserError, match=said) as error:
        corpus(filled(tmp_path / "r", *files), **options).clips()
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
