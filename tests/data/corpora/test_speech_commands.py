"""Speech Commands against releases made up here, and against the real subset where it is."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import write_wav

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora import speech_commands_rules as rules
from lightning_audio.data.corpora.speech_commands import SpeechCommands
from lightning_audio.data.corpora.speech_commands_rules import (
    DIGITS,
    KEYWORDS,
    NEW_IN_002,
    OTHERS,
    draw_evenly,
    silence_stretches,
    speaker_of,
    split_by_hash,
)
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.data.targets import ClassIndex
from lightning_audio.errors import UserError

RATE = 1000
NOISES = {"tap.wav": 40.0, "hum.wav": 20.0}
# Training, validation and test clips of each word.
FEW = {"bed": (9, 4, 3), "cat": (9, 4, 3), "one": (9, 4, 3), "wow": (2, 1, 3)}
SMALL = dict.fromkeys(KEYWORDS, (12, 8, 6)) | FEW


def write_release(
    root: Path,
    words: dict[str, tuple[int, int, int]] = SMALL,
    noises: dict[str, float] = NOISES,
    with_audio: bool = False,
) -> Path:
    """Words with so many clips in each split, by the lists; of each word, every clip has its own speaker."""
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for word, counts in words.items():
        for split, count in zip(listed, counts, strict=True):
            names = [f"{word}/{split}{number:02d}_nohash_0.wav" for number in range(count)]
            listed[split] += names
            for name in names:
                samples = np.full(50, len(listed[split]), dtype=np.int16)
                (root / word).mkdir(parents=True, exist_ok=True)
                write_wav(root / name, samples, RATE) if with_audio else (root / name).touch()
    for name, seconds in noises.items():
        noise = np.random.default_rng(0).integers(-99, 99, round(seconds * RATE)).astype(np.int16)
        write_wav(root / "_background_noise_" / name, noise, RATE)
    (root / "validation_list.txt").write_text("\n".join(listed["val"]) + "\n")
    (root / "testing_list.txt").write_text("\n".join(listed["test"]) + "\n")
    return root


def write_test_set(root: Path) -> Path:
    for label in KEYWORDS:
        (root / label).mkdir(parents=True)
        (root / label / "test00_nohash_0.wav").touch()
    for name in (
        "_unknown_/bed_test01_nohash_0.wav.wav",
        "_unknown_/test02_nohash_1.wav.wav",
        "_silence_/7.wav",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def corpus(root: Path, **options: Any) -> SpeechCommands:
    return SpeechCommands(str(root), str(root.parent / "cache"), **({"sample_rate": RATE} | options))


def count(clips: Sequence[Clip], split: str | None) -> Counter[str]:
    return Counter(clip.labels[0] for clip in clips if clip.split == split)


def epoch(made: SpeechCommands, seed: int) -> list[Clip]:
    train = [clip for clip in validated(made.clips(), "") if clip.split == "train"]
    return [train[position] for position in made.draw(train, np.random.default_rng(seed))]


# ------------------------------------------------------------------------------------------------- the splits


@pytest.mark.parametrize(
    ("speaker", "percentage", "split"),
    [
        ("00000000", 9.56, "val"),
        ("0000000f", 0.50, "val"),
        ("00000002", 16.41, "test"),
        ("00000026", 11.62, "test"),
        ("00000013", 23.71, "train"),
        ("0000000d", 93.85, "train"),
    ],
)
def test_the_hash_rule_puts_a_speaker_into_his_bucket(speaker: str, percentage: float, split: str) -> None:
    # The README's own words: the SHA-1 as a number, modulo 2**27, in percent of 2**27 - 1.
    number = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27
    assert number * (100.0 / (2**27 - 1)) == pytest.approx(percentage, abs=0.005)
    for take in (0, 1, 17):
        assert split_by_hash(f"{speaker}_nohash_{take}.wav") == split


def test_the_hash_rule_holds_out_ten_percent_each() -> None:
    splits = Counter(split_by_hash(f"{number:08x}_nohash_0.wav") for number in range(20_000))
    assert splits["val"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert splits["test"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_the_lists_decide_where_they_are_and_the_rule_where_they_are_not(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release")
    for speaker in ("00000000", "00000002", "00000013"):
        (root / "yes" / f"{speaker}_nohash_0.wav").touch()
    listed = {clip.id: clip for clip in corpus(root, variant=12).clips()}
    assert [listed[f"yes/{name}_nohash_0.wav"].split for name in ("val00", "test03", "train01")] == [
        "val",
        "test",
        "train",
    ]
    assert listed["yes/00000000_nohash_0.wav"].split == "train"
    assert listed["yes/00000000_nohash_0.wav"].group == "00000000"
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / name).unlink()
    by_rule = {clip.id: clip.split for clip in corpus(root).clips() if "_" not in clip.labels[0]}
    assert by_rule["yes/00000000_nohash_0.wav"] == "val"
    assert by_rule["yes/00000002_nohash_0.wav"] == "test"
    assert by_rule["yes/00000013_nohash_0.wav"] == "train"
    assert by_rule == {name: split_by_hash(name.partition("/")[2]) for name in by_rule}


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("bed/0a2b400e_nohash_1.wav", "0a2b400e"),
        ("0a2b400e_nohash_12.wav", "0a2b400e"),
        ("_unknown_/bed_0a2b400e_nohash_0.wav.wav", "0a2b400e"),
        ("_unknown_/0a2b400e_nohash_0.wav.wav", "0a2b400e"),
    ],
)
def test_the_speaker_is_the_prefix(name: str, speaker: str) -> None:
    assert speaker_of(name) == speaker


# ----------------------------------------------------------------------------------------------- the variants


def test_the_order_of_the_labels() -> None:
    def labels(**options: Any) -> tuple[str, ...]:
        return SpeechCommands("root", "cache", **options).labels

    assert labels() == (*KEYWORDS, "_unknown_", "_silence_")
    assert labels()[:3] == ("yes", "no", "up")
    assert labels(variant=20) == KEYWORDS + DIGITS
    assert labels(variant=35) == KEYWORDS + DIGITS + OTHERS + NEW_IN_002
    assert labels(variant=35, version=0.01) == KEYWORDS + DIGITS + OTHERS
    assert [len(labels(variant=variant)) for variant in (12, 20, 35)] == [12, 20, 35]


def test_all_words_and_core_words(tmp_path: Path) -> None:
    words = dict.fromkeys(KEYWORDS + DIGITS + OTHERS + NEW_IN_002, (3, 2, 1))
    root = write_release(tmp_path / "release", words, noises={})
    for variant, names in ((35, words), (20, KEYWORDS + DIGITS)):
        clips = corpus(root, variant=variant).clips()
        for split, number in (("train", 3), ("val", 2), ("test", 1)):
            assert count(clips, split) == dict.fromkeys(names, number)
        assert corpus(root, variant=variant).draw(clips, np.random.default_rng(0)).tolist() == list(
            range(len(clips))
        )


def test_v001_has_thirty_words(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release", dict.fromkeys(KEYWORDS + DIGITS + OTHERS, (1, 1, 1)), {})
    assert len(count(corpus(root, variant=35, version="0.01").clips(), "train")) == 30
    with pytest.raises(UserError, match=r"no clips of backward, .*set data\.version"):
        corpus(root, variant=35).clips()
    write_release(root, {"visual": (1, 0, 0)}, {})
    with pytest.raises(UserError, match=r"is not v0\.01, it holds visual: set data\.version=0\.02"):
        corpus(root, variant=20, version="0.01").clips()


# ---------------------------------------------------------------------------------------- unknown and silence


@pytest.mark.parametrize(
    ("options", "unknown", "silence"),
    [
        ({}, (12, 8, 6), (12, 8, 6)),
        ({"silence_share": 0.25, "unknown_share": 0.05}, (6, 4, 3), (30, 20, 15)),
        ({"silence_share": 0.0}, (12, 8, 6), (0, 0, 0)),
        ({"silence_share": 0.03, "unknown_share": 0}, (0, 0, 0), (4, 3, 2)),
        ({"convention": "balanced", "silence_share": 0.5}, (12, 8, 6), (12, 8, 6)),
    ],
)
def test_the_shares_of_unknown_and_silence(
    options: dict[str, Any], unknown: tuple[int, ...], silence: tuple[int, ...], tmp_path: Path
) -> None:
    made = corpus(write_release(tmp_path / "release"), **options)
    clips = validated(made.clips(), "release")
    refuse_leaks(clips)
    keywords = {"train": 12, "val": 8, "test": 6}
    found = {split: count(clips, split) for split in ("val", "test")}
    found["train"] = Counter(clip.labels[0] for clip in epoch(made, 0))
    for number, (split, each) in enumerate(keywords.items()):
        expected = dict.fromkeys(KEYWORDS, each) | {
            "_unknown_": unknown[number],
            "_silence_": silence[number],
        }
        assert found[split] == Counter(expected)


def test_with_other_keywords_all_other_words_are_unknown(tmp_path: Path) -> None:
    root = write_release(tmp_path)
    made = corpus(root, keywords=["wow", "bed"], unknown_share=0.5)
    assert made.labels == ("wow", "bed", "_unknown_", "_silence_")
    assert count(epoch(made, 0), "train") == {"wow": 2, "bed": 9, "_unknown_": 6, "_silence_": 2}
    words = {clip.id.partition("/")[0] for clip in made.clips() if clip.labels == ("_unknown_",)}
    assert words == {*KEYWORDS, "cat", "one"}
    assert corpus(root, keywords="wow").labels == ("wow", "_unknown_", "_silence_")


def test_halves_of_training_words_are_unknown_each_cut_in_the_middle_of_its_energy(tmp_path: Path) -> None:
    root = write_release(tmp_path, with_audio=True)
    word = np.zeros(1000, dtype=np.int16)
    word[600:800] = 50  # most of it behind the clip's middle
    write_wav(root / "yes" / "train03_nohash_0.wav", word, RATE)
    whole, made = corpus(root), corpus(root, cut_share=0.5)
    clips = made.clips()
    halves = [clip for clip in clips if clip.id.endswith(("/before", "/behind"))]
    assert [clip for clip in clips if clip not in halves] == whole.clips()
    assert len(halves) == 2 * 12 * len(KEYWORDS)  # none of validation, of test, or of other words
    assert {(clip.split, clip.labels) for clip in halves} == {("train", ("_unknown_",))}
    before, behind = (clip for clip in halves if clip.id.startswith("yes/train03"))
    assert (before.start, before.duration) == (0.0, 0.7)
    assert (behind.start, behind.duration) == (0.7, None)
    assert before.group == behind.group == "train03"
    for odd in (np.zeros(50), np.ones(1), np.eye(1, 50, 49)[0]):  # silent, too short, a click at the end
        write_wav(root / "yes" / "train03_nohash_0.wav", (99 * odd).astype(np.int16), RATE)
        starts = [clip.start for clip in made.clips() if clip.id.startswith("yes/train03_nohash_0.wav/")]
        assert starts == ([0.0, 0.049] if odd[-1] and len(odd) > 1 else [])
    drawn = epoch(corpus(root, cut_share=0.5), 3)
    assert count(drawn, "train") == count(epoch(whole, 3), "train") + Counter(_unknown_=60)
    assert len({clip.id for clip in drawn if clip in halves}) == 60


@pytest.mark.parametrize("variant", [12, 20])
def test_few_clips_of_each_keyword_train_and_the_seed_names_them(variant: int, tmp_path: Path) -> None:
    words = SMALL | dict.fromkeys(DIGITS, (9, 4, 3))
    root = write_release(tmp_path, words)
    whole, made = corpus(root, variant=variant), corpus(root, variant=variant, clips_per_keyword=3)
    names = [label for label in made.labels if not label.startswith("_")]
    trained = count(epoch(made, 0), "train")
    assert {label: trained[label] for label in names} == dict.fromkeys(names, 3)
    if variant == 12:
        assert (trained["_unknown_"], trained["_silence_"]) == (3, 3), "shares of the keywords that train"
    for split in ("val", "test"):
        assert count(made.clips(), split) == count(whole.clips(), split)

    def training(seed: int) -> set[str]:
        clips = corpus(root, variant=variant, clips_per_keyword=3, seed=seed).clips()
        return {clip.id for clip in clips if clip.split == "train" and clip.labels[0] in KEYWORDS}

    assert training(0) == training(0) != training(1)


def test_every_epoch_draws_other_unknowns_and_silences_and_equally_many(tmp_path: Path) -> None:
    made = corpus(write_release(tmp_path / "release"), unknown_share=0.1, silence_share=0.2)
    epochs = [epoch(made, seed) for seed in (0, 1, 2, 0)]
    drawn = [
        {
            label: {clip.id for clip in clips if clip.labels == (label,)}
            for label in (*KEYWORDS, "_unknown_", "_silence_")
        }
        for clips in epochs
    ]
    assert {len(clips) for clips in epochs} == {120 + 12 + 24}
    assert drawn[0] == drawn[3]
    for label, number in (("_unknown_", 12), ("_silence_", 24)):
        assert {len(ids[label]) for ids in drawn} == {number}, "none comes twice"
        assert drawn[0][label] != drawn[1][label] != drawn[2][label]
    assert len(drawn[0]["_silence_"] | drawn[1]["_silence_"] | drawn[2]["_silence_"]) > 60
    for label in KEYWORDS:
        assert drawn[0][label] == drawn[1][label]
        assert len(drawn[0][label]) == 12


def test_unknowns_are_drawn_evenly_over_the_words_and_silence_over_the_recordings(tmp_path: Path) -> None:
    made = corpus(write_release(tmp_path / "release"), unknown_share=0.14, silence_share=0.2)
    for seed in range(5):
        clips = epoch(made, seed)
        words = Counter(clip.id.partition("/")[0] for clip in clips if clip.labels == ("_unknown_",))
        assert words == {"bed": 5, "cat": 5, "one": 5, "wow": 2}, "wow has no more than two"
        recordings = Counter(Path(clip.path).name for clip in clips if clip.labels == ("_silence_",))
        assert recordings == {"tap.wav": 12, "hum.wav": 12}


def test_validation_and_test_are_drawn_once_by_their_own_seed(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release")

    def held_out(split: str, **options: Any) -> set[str]:
        clips = corpus(root, **options).clips()
        return {clip.id for clip in clips if clip.split == split and clip.labels[0].startswith("_")}

    for split, number in (("val", 16), ("test", 12)):
        assert len(held_out(split)) == number
        assert held_out(split) == held_out(split)
        assert held_out(split) != held_out(split, seed=1)
    everything = {clip.id for clip in corpus(root).clips()}
    assert everything == {clip.id for clip in corpus(root, seed=1, unknown_share=1.0).clips()}, (
        "one store for all"
    )


def test_where_there_are_too_few_training_repeats_them_and_the_others_take_all(tmp_path: Path) -> None:
    made = corpus(write_release(tmp_path / "release"), unknown_share=0.5)
    unknown = Counter(clip.id for clip in epoch(made, 0) if clip.labels == ("_unknown_",))
    assert (len(unknown), sum(unknown.values())) == (29, 60)
    assert set(unknown.values()) == {2, 3}
    assert count(made.clips(), "val")["_unknown_"] == 13
    assert count(made.clips(), "test")["_unknown_"] == 12


def test_silence_of_two_splits_shares_no_sample(tmp_path: Path) -> None:
    made = corpus(
        write_release(tmp_path / "release", noises={"long.wav": 61.3, "short.wav": 3.99}), silence_share=9
    )
    spans: dict[tuple[str, str], list[float]] = defaultdict(list)
    for clip in made.clips():
        if clip.labels == ("_silence_",) and clip.split is not None:
            assert clip.duration == 1.0
            assert clip.group == f"_background_noise_/{Path(clip.path).name}, {clip.split}"
            spans[Path(clip.path).name, clip.split] += [clip.start, clip.start + 1.0]
    ends = {key: (round(min(times), 2), round(max(times), 2)) for key, times in spans.items()}
    assert ends == {
        ("long.wav", "train"): (0.0, 49.1),
        ("long.wav", "val"): (49.1, 55.2),
        ("long.wav", "test"): (55.2, 61.3),
        ("short.wav", "train"): (0.0, 1.35),
        ("short.wav", "val"): (1.35, 2.65),
        ("short.wav", "test"): (2.65, 3.95),
    }


@pytest.mark.parametrize(
    ("seconds", "numbers"),
    [(0.9, ()), (2.9, (1,)), (3.0, (1, 1, 1)), (10.0, (61, 41, 41)), (60.0, (941, 101, 101))],
)
def test_a_recording_of_three_seconds_serves_every_split(seconds: float, numbers: tuple[int, ...]) -> None:
    stretches = silence_stretches(seconds)
    assert tuple(Counter(split for _, split in stretches).values()) == numbers
    assert all(start + 1 <= seconds for start, _ in stretches)


def test_the_full_release_has_stretches_for_an_epoch_without_repetition() -> None:
    seconds = (95.2, 61.8, 61.3, 60.0, 61.0, 60.0)  # its six recordings, about
    pool = Counter(split for each in seconds for _, split in silence_stretches(each))
    assert pool["train"] >= 3077
    assert pool["val"] >= 371
    assert pool["test"] >= 408


def test_drawing_evenly_takes_each_before_any_twice() -> None:
    sources = ["a"] * 10 + ["b"] * 3 + ["c"]
    for seed in range(20):
        for number in range(40):
            drawn = draw_evenly(sources, number, np.random.default_rng(seed))
            assert len(drawn) == number
            times = Counter(drawn.tolist())
            assert max(times.values(), default=0) <= -(-number // 14)
        first = Counter(
            sources[position] for position in draw_evenly(sources, 8, np.random.default_rng(seed))
        )
        assert first == {"a": 4, "b": 3, "c": 1}
    assert draw_evenly([], 3, np.random.default_rng(0)).tolist() == []


def test_training_batches_are_drawn_afresh_and_test_batches_are_not(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release", noises={"tap.wav": 10.0, "hum.wav": 6.0}, with_audio=True)
    data = AudioDataModule(corpus(root), ClassIndex, batch_size=50)
    data.prepare_data()
    data.setup()
    assert (data.targets.num_outputs, data.labels[10:]) == (12, ("_unknown_", "_silence_"))
    loader = data.train_dataloader()
    assert len(loader) == 3
    orders = []
    for number in range(2):
        loader.sampler.set_epoch(number)
        batches = list(loader)
        orders.append([name for batch in batches for name in batch.ids])
        targets = Counter(int(target) for batch in batches for target in batch.targets)
        assert targets == dict.fromkeys(range(12), 12)
        for batch in batches:
            for name, length in zip(batch.ids, batch.lengths.tolist(), strict=True):
                assert length == (RATE if name.startswith("_background_noise_") else 50)
    assert set(orders[0]) != set(orders[1])
    tested = [[name for batch in data.test_dataloader() for name in batch.ids] for _ in range(2)]
    assert tested[0] == tested[1]
    assert len(tested[0]) == 60 + 6 + 6


# ---------------------------------------------------------------------------------- the separate test archive


def test_balanced_is_tested_on_the_archive_alone(tmp_path: Path) -> None:
    root, archive = write_release(tmp_path / "release"), write_test_set(tmp_path / "test_set")
    made = corpus(root, convention="balanced", test_root=str(archive))
    clips = validated(made.clips(), "release")
    refuse_leaks(clips)
    tested = [clip for clip in clips if clip.split == "test"]
    assert Counter(clip.labels[0] for clip in tested) == dict.fromkeys(KEYWORDS, 1) | {
        "_unknown_": 2,
        "_silence_": 1,
    }
    assert {Path(clip.path).parents[1] for clip in tested} == {archive}
    unknown = {Path(clip.path).name: clip.group for clip in tested if clip.labels == ("_unknown_",)}
    assert unknown == {"bed_test01_nohash_0.wav.wav": "test01", "test02_nohash_1.wav.wav": "test02"}
    assert not [clip for clip in clips if clip.id.startswith("yes/test")]
    assert count(clips, "val") == Counter(dict.fromkeys([*KEYWORDS, "_unknown_", "_silence_"], 8))
    for options in ({"convention": "tensorflow"}, {"convention": "balanced", "test_root": None}):
        own = corpus(root, **({"test_root": str(archive)} | options)).clips()
        assert sum(clip.id.startswith("yes/test") and clip.split == "test" for clip in own) == 6


def test_a_speaker_of_the_archive_who_trains_is_a_leak(tmp_path: Path) -> None:
    root, archive = write_release(tmp_path / "release"), write_test_set(tmp_path / "test_set")
    (archive / "yes" / "train03_nohash_2.wav").touch()
    with pytest.raises(UserError, match=r"1 group .* train03"):
        refuse_leaks(corpus(root, convention="balanced", test_root=str(archive)).clips())


# -------------------------------------------------------------------------------------------------- downloads


def pack(folder: Path, path: Path, folder_name: str) -> rules.Release:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=".")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return rules.Release(f"https://127.0.0.1/{path.name}", digest, path.stat().st_size, folder_name, "yes")


@pytest.mark.parametrize("writable", [True, False])
def test_download_unpacks_to_the_roots_or_to_the_cache(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archives lie in the cache as if they had been fetched."""
    cache, data = tmp_path / "cache", tmp_path / "data"
    release = pack(write_release(tmp_path / "made"), cache / "words.tar.gz", "words")
    test_set = pack(write_test_set(tmp_path / "made_too"), cache / "test.tar.gz", "test")
    monkeypatch.setitem(rules.RELEASES, "0.02", release)
    monkeypatch.setitem(rules.TEST_SETS, "0.02", test_set)
    if not writable:
        monkeypatch.setattr("lightning_audio.data.download.os.access", lambda *_: False)
    options: dict[str, Any] = {
        "convention": "balanced",
        "test_root": str(data / "google"),
        "sample_rate": RATE,
    }
    fetched = SpeechCommands(str(data / "release"), str(cache), download=True, **options)
    fetched.prepare()
    folder = data / "release" if writable else cache / "words"
    assert fetched.folder == folder
    assert (data / "release").exists() == (data / "google").exists() == writable
    clips = fetched.clips()
    assert all(Path(clip.path).is_file() for clip in clips)
    tested = {Path(clip.path).parents[1] for clip in clips if clip.split == "test"}
    assert tested == {data / "google" if writable else cache / "test"}
    fetched.prepare()  # what is there is not fetched again, nor looked at
    again = SpeechCommands(str(data / "release"), str(cache), **options)
    assert again.clips() == clips


def test_the_checksums_are_whole() -> None:
    for release in (*rules.RELEASES.values(), *rules.TEST_SETS.values()):
        assert re.fullmatch("[0-9a-f]{64}", release.sha256)
        assert release.url.endswith(f"/{release.folder}.tar.gz")


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"version": "0.03"}, r"set data\.version to one of 0\.01, 0\.02"),
        ({"variant": 30}, r"set data\.variant to one of 12, 20, 35"),
        ({"convention": "tf"}, r"set data\.convention to one of tensorflow, balanced"),
        ({"silence_share": -0.1}, r"data\.silence_share=-0\.1 is no share"),
        ({"cut_share": -1}, r"data\.cut_share=-1 is no share"),
        ({"unknown_share": float("nan")}, r"data\.unknown_share=nan is no share"),
        ({"keywords": ["wow", "wow"]}, r"data\.keywords=\['wow', 'wow'\] has a name twice"),
        ({"keywords": ["wow", "_silence_"]}, "classes of their own"),
        ({"keywords": ["wow"], "variant": 35}, r"data\.keywords is for data\.variant=12"),
        ({"clips_per_keyword": 0}, r"data\.clips_per_keyword=0 is no number of clips"),
        ({"clips_per_keyword": 1.5}, r"data\.clips_per_keyword=1\.5 is no number of clips"),
    ],
)
def test_a_wrong_option_names_its_key(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        corpus(tmp_path, **options)


def test_more_clips_of_a_keyword_than_there_are_is_one_sentence(tmp_path: Path) -> None:
    made = corpus(write_release(tmp_path), keywords=["bed", "wow"], clips_per_keyword=5)
    with pytest.raises(UserError, match="more than the 2 training clips of wow: set it to 2 or less"):
        made.clips()


def remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            remove(*path.iterdir())
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize(
    ("gone", "options", "sentence"),
    [
        ((".",), {}, "has no words of Speech Commands: put the release v0.02 there"),
        (("yes", "go"), {}, "has no clips of go, yes: put the whole release v0.02 there"),
        (("bed", "cat", "one", "wow"), {}, "holds no words but the keywords"),
        (("testing_list.txt",), {}, "There is no .*testing_list.txt, but its twin is there"),
        (
            ("yes/val00_nohash_0.wav", "bed/test00_nohash_0.wav"),
            {},
            "2 of the 165 .* bed/test00_nohash_0.wav, yes",
        ),
        (
            ("_background_noise_",),
            {},
            "Silence is cut from the recordings in .*_background_noise_, but there is none",
        ),
        (("_background_noise_",), {"convention": "balanced"}, "Silence is cut"),
        ((), {"convention": "balanced", "test_root": "nowhere"}, "nowhere has no yes, .*, _silence_: unpack"),
    ],
)
def test_what_is_missing_is_one_sentence(
    gone: tuple[str, ...], options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    root = write_release(tmp_path / "release")
    remove(*(root / name for name in gone))
    made = corpus(root, **options)
    made.prepare()
    with pytest.raises(UserError, match=sentence) as error:
        made.clips()
    assert str(error.value).count(". ") == 0
    assert str(error.value).endswith(".")


def test_what_is_not_asked_for_may_be_missing(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release", dict.fromkeys(KEYWORDS, (2, 1, 1)), noises={})
    clips = corpus(root, silence_share=0, unknown_share=0).clips()
    assert Counter(clip.split for clip in clips) == {"train": 20, "val": 10, "test": 10}


@pytest.mark.parametrize("lists", [".wav", ".flac"])
def test_a_mirror_may_have_another_format(lists: str, tmp_path: Path) -> None:
    root = write_release(tmp_path / "release")
    archive = write_test_set(tmp_path / "test_set")
    options: tuple[dict[str, Any], ...] = ({}, {"convention": "balanced", "test_root": str(archive)})
    before = [corpus(root, **one).clips() for one in options]
    for path in (*root.rglob("*.wav"), *archive.rglob("*.wav")):
        if path.stat().st_size:
            soundfile.write(path.with_suffix(".flac"), *soundfile.read(path, dtype="int16"))
            path.unlink()
        else:
            path.rename(path.with_suffix(".flac"))
    for name in ("validation_list.txt", "testing_list.txt"):
        (root / name).write_text((root / name).read_text().replace(".wav", lists))
    for clips, one in zip(before, options, strict=True):
        after = corpus(root, **one).clips()
        assert [replace(clip, path="") for clip in after] == [replace(clip, path="") for clip in clips]
        assert {Path(clip.path).suffix for clip in after} == {".flac"}


def test_noise_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = write_release(tmp_path / "release")
    (root / "_background_noise_" / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match=r"bad\.wav: it cannot be decoded"):
        corpus(root).clips()


# ----------------------------------------------------------------------------------------------- the real one


def test_the_real_subset_has_its_official_split(real_data: Callable[[str], Path]) -> None:
    root = real_data("SpeechCommands") / "SpeechCommands" / "speech_commands_v0.02"
    every = SpeechCommands(str(root), "cache", variant=35).clips()
    assert Counter(clip.split for clip in every) == {"train": 1889, "val": 388, "test": 420}
    speakers: dict[str | None, set[str | None]] = defaultdict(set)
    for clip in every:
        speakers[clip.group].add(clip.split)
    assert {len(splits) for splits in speakers.values()} == {1}
    twelve = SpeechCommands(str(root), "cache")
    clips = validated(twelve.clips(), "subset")
    refuse_leaks(clips)
    for split in ("val", "test"):
        counts = count(clips, split)
        keywords = sum(counts[word] for word in KEYWORDS)
        assert counts["_silence_"] == -(-keywords // 10)
        assert counts["_unknown_"] == min(
            -(-keywords // 10), sum(clip.split == split for clip in every) - keywords
        )
    epochs = [Counter(clip.labels[0] for clip in epoch(twelve, seed)) for seed in (0, 1)]
    assert epochs[0] == epochs[1]
    assert epochs[0]["_silence_"] == epochs[0]["_unknown_"] == 172
