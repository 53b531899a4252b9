"""Digit strings: of recordings made up here, which are found again in them, and of the real ones."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import write_wav
from omegaconf import OmegaConf

from lightning_audio import build, config
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.digit_strings import (
    FRAME,
    LEVEL_DB,
    RATE,
    VALIDATED_TAKES,
    WORDS,
    DigitStrings,
    audible_part,
)
from lightning_audio.data.corpora.synthesis import rms
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError

SPEAKERS = ("anna", "bo_li", "cem")
TAKES = 11
FEW: dict[str, Any] = {"train_utterances": 14, "val_utterances": 7, "test_utterances": 8}
CLEAN = {"min_snr_db": 200.0, "max_snr_db": 200.0}
CONFIGS = Path(__file__).parents[3] / "conf" / "data"


def write_recordings(root: Path, speakers: tuple[str, ...] = SPEAKERS) -> Path:
    """Each one noise of its own, of another length and level."""
    rng = np.random.default_rng(0)
    for speaker in speakers:
        for digit in range(10):
            for take in range(TAKES):
                samples = rng.uniform(0.02, 0.5) * rng.uniform(-1, 1, size=rng.integers(400, 1200))
                write_wav(root / "recordings" / f"{digit}_{speaker}_{take}.wav", samples, RATE)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("data") / "free-spoken-digit-dataset")


def made(root: Path, cache: Path, **options: Any) -> DigitStrings:
    corpus = DigitStrings(str(root), str(cache), **{**FEW, **options})
    corpus.prepare()
    return corpus


@pytest.fixture(scope="module")
def clean(root: Path, tmp_path_factory: pytest.TempPathFactory) -> DigitStrings:
    return made(root, tmp_path_factory.mktemp("clean"), **CLEAN)


@pytest.fixture(scope="module")
def by_speaker(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], DigitStrings]:
    cache = tmp_path_factory.mktemp("speakers")
    return lambda fold: made(root, cache, split="speaker", fold=fold)


def read(path: str | Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0].astype(float)


def contents(corpus: DigitStrings) -> dict[str, bytes]:
    return {clip.id: Path(clip.path).read_bytes() for clip in corpus.clips()}


def takes_by_split(corpus: DigitStrings, clips: list[Clip]) -> dict[str, set[str]]:
    recordings = {row["id"]: row["recordings"] for row in corpus.rows()}
    found: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for clip in clips:
        found[clip.split or ""].update(recordings[clip.id])
    return found


def take_numbers(names: set[str]) -> set[int]:
    return {int(name.rpartition("_")[2]) for name in names}


def assert_recordings_are_found(corpus: DigitStrings, clips: Sequence[Clip]) -> None:
    """Between its boundaries every recording stands whole, but for its level; around it is nothing."""
    rows, boundaries = {row["id"]: row for row in corpus.rows()}, corpus.boundaries()
    for clip in clips:
        samples, levels, silent = read(clip.path), [], np.ones(round((clip.duration or 0) * RATE), bool)
        assert clip.text == " ".join(word for word, *_ in boundaries[clip.id])
        for name, (word, start, end) in zip(rows[clip.id]["recordings"], boundaries[clip.id], strict=True):
            original = read(corpus.root / "recordings" / f"{name}.wav")
            here = slice(round(start * RATE), round(end * RATE))
            gain = samples[here] @ original / (original @ original)
            assert np.abs(samples[here] - gain * original).max() < 1  # a rounding
            assert word == WORDS[int(name[0])]
            first, last = audible_part(original)
            levels.append(20 * np.log10(gain * rms(original[first:last])))
            silent[here] = False
        assert np.ptp(levels) <= 2 * LEVEL_DB
        assert np.all(samples[silent] == 0)


def test_the_recordings_stand_at_the_boundaries_sample_for_sample(clean: DigitStrings) -> None:
    assert_recordings_are_found(clean, clean.clips())


def test_gaps_digits_and_durations_are_within_their_ranges(clean: DigitStrings) -> None:
    words, clips = clean.boundaries(), validated(clean.clips(), "strings")
    for clip in clips:
        edges = np.array([0.0, *np.ravel([word[1:] for word in words[clip.id]]), clip.duration])
        gaps = edges[1::2] - edges[::2]
        assert gaps.min() >= 0.05 - 1e-9
        assert gaps.max() <= 0.4 + 1e-9
        assert soundfile.info(clip.path).frames == round((clip.duration or 0) * RATE)
    assert {len(found) for found in words.values()} == {3, 4, 5, 6, 7}


def test_digits_come_up_evenly_and_repeat(root: Path, tmp_path: Path) -> None:
    corpus = DigitStrings(str(root), str(tmp_path), train_utterances=1200, min_gap=0, max_gap=0)
    said = [[word for word, *_ in made.words] for made in corpus.utterances()]
    counts = Counter(word for words in said for word in words)
    total = counts.total()
    assert counts.keys() == set(WORDS)
    assert all(abs(counts[word] - total / 10) < 4 * np.sqrt(total * 0.09) for word in WORDS)
    pairs = [first == second for words in said for first, second in pairwise(words)]
    assert np.mean(pairs) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / len(pairs)))


def test_the_noise_is_low_and_fills_the_gaps(root: Path, tmp_path: Path) -> None:
    corpus = made(root, tmp_path, min_snr_db=30.0, max_snr_db=30.0)
    words, found = corpus.boundaries(), []
    for clip in corpus.clips():
        samples = read(clip.path)
        quiet = np.ones(len(samples), bool)
        for _, start, end in words[clip.id]:
            quiet[round(start * RATE) : round(end * RATE)] = False
        noise = samples[quiet]
        assert np.count_nonzero(noise) > 0.5 * len(noise)
        found.append(20 * np.log10(rms(samples) / rms(noise)))
    assert np.mean(found) == pytest.approx(30, abs=1)


def test_officially_no_recording_is_in_two_splits(clean: DigitStrings) -> None:
    clips = clean.clips()
    refuse_leaks(clips)
    assert Counter(clip.split for clip in clips) == {"train": 14, "val": 7, "test": 8}
    assert {(clip.group, clip.fold, clip.labels) for clip in clips} == {(None, None, ())}
    said = Counter(clip.id.rpartition("-")[0] for clip in clips)  # the first speakers say what is left over
    assert [said[f"train-{name}"] for name in SPEAKERS] == [5, 5, 4]
    assert [said[f"test-{name}"] for name in SPEAKERS] == [3, 3, 2]
    takes = takes_by_split(clean, clips)
    assert take_numbers(takes["test"]) <= set(range(5))
    assert take_numbers(takes["val"]) <= set(VALIDATED_TAKES)
    assert take_numbers(takes["train"]) == {9, 10}


def test_one_speaker_says_an_utterance(clean: DigitStrings) -> None:
    for row in clean.rows():
        assert {name.split("_", 1)[1].rpartition("_")[0] for name in row["recordings"]} == {row["speaker"]}


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_a_held_out_speaker_is_heard_in_the_test_alone(
    fold: int, by_speaker: Callable[[int], DigitStrings]
) -> None:
    corpus = by_speaker(fold)
    clips, tested = corpus.clips(), SPEAKERS[fold - 1]
    refuse_leaks(clips)
    assert Counter(clip.split for clip in clips) == {"train": 14, "val": 7, "test": 8}
    assert {clip.group for clip in clips if clip.split == "test"} == {tested}
    assert {clip.fold for clip in clips if clip.split == "test"} == {fold}
    takes = takes_by_split(corpus, clips)
    assert all(f"_{tested}_" in name for name in takes["test"])
    assert not any(f"_{tested}_" in name for name in takes["train"] | takes["val"])
    assert take_numbers(takes["val"]) <= set(VALIDATED_TAKES)
    assert not take_numbers(takes["train"]) & set(VALIDATED_TAKES)
    assert not takes["train"] & takes["val"]
    assert take_numbers(takes["test"]) > set(range(5))


def test_the_folds_share_a_folder_and_test_everybody_once(
    by_speaker: Callable[[int], DigitStrings],
) -> None:
    corpora = [by_speaker(fold) for fold in (1, 2, 3)]
    assert len({corpus.folder for corpus in corpora}) == 1
    assert corpora[0].folds == (1, 2, 3)
    tested = Counter(clip.id for corpus in corpora for clip in corpus.clips() if clip.split == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == 3 * 8


def test_same_seed_same_bytes_other_seed_others(clean: DigitStrings, root: Path, tmp_path: Path) -> None:
    again, other = (made(root, tmp_path, **CLEAN, seed=seed) for seed in (0, 1))
    first = contents(clean)
    assert contents(again) == first
    assert again.boundaries() == clean.boundaries()
    assert not set(contents(other).values()) & set(first.values())
    assert len(set(first.values())) == len(first)


def test_a_smaller_corpus_is_contained_in_a_larger(clean: DigitStrings, root: Path, tmp_path: Path) -> None:
    fewer = contents(made(root, tmp_path, **CLEAN, train_utterances=4, val_utterances=3, test_utterances=3))
    assert len(fewer) == 10
    assert fewer.items() <= contents(clean).items()


def test_all_that_changes_the_utterances_has_its_own_folder(root: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "split": "speaker",
        "train_utterances": 15,
        "val_utterances": 8,
        "test_utterances": 9,
        "min_digits": 2,
        "max_digits": 8,
        "min_gap": 0.0,
        "max_gap": 0.5,
        "min_snr_db": 20.0,
        "max_snr_db": 60.0,
        "seed": 1,
    }
    variants: list[dict[str, Any]] = [{}, *({key: value} for key, value in changes.items())]
    folders = {DigitStrings(str(root), str(tmp_path), **{**FEW, **one}).folder for one in variants}
    assert len(folders) == len(variants)
    plain = DigitStrings(str(root), str(tmp_path), **FEW).folder
    assert DigitStrings(str(root), str(tmp_path), sample_rate=16000, **FEW).folder == plain


def test_a_changed_recording_makes_a_new_corpus(tmp_path: Path) -> None:
    root = write_recordings(tmp_path / "data", ("anna",))
    path = root / "recordings" / "0_anna_0.wav"
    folders = [DigitStrings(str(root), str(tmp_path)).folder]
    os.utime(path, ns=(0, 0))
    folders.append(DigitStrings(str(root), str(tmp_path)).folder)
    write_wav(path, np.ones(100) / 2, RATE)
    os.utime(path, ns=(0, 0))
    folders.append(DigitStrings(str(root), str(tmp_path)).folder)
    path.rename(path.with_name("0_anna_99.wav"))
    folders.append(DigitStrings(str(root), str(tmp_path)).folder)
    assert len(set(folders)) == 4


@pytest.mark.parametrize(("before", "behind"), [(0, 0), (800, 0), (0, 805), (800, 403)])
def test_the_audible_part_is_found_to_a_frame(before: int, behind: int) -> None:
    rng = np.random.default_rng(1)
    word, quiet = rng.uniform(-1, 1, size=10 * FRAME), 10 ** (-45 / 20)
    hiss = [quiet * rng.uniform(-1, 1, size=count) for count in (before, behind)]
    assert audible_part(np.concatenate([hiss[0], word, hiss[1]])) == (before, before + len(word))


def test_audible_boundaries_lie_within_those_of_the_recordings(tmp_path: Path) -> None:
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for digit in range(10):
        for take in (0, 5, 9):
            samples = np.concatenate([np.zeros(160), rng.uniform(-0.5, 0.5, size=800), np.zeros(400)])
            write_wav(root / "recordings" / f"{digit}_anna_{take}.wav", samples, RATE)
    corpus = made(root, tmp_path, train_utterances=1, val_utterances=1, test_utterances=1)
    audible = corpus.boundaries(audible=True)
    for name, words in corpus.boundaries().items():
        for (word, start, end), (heard, first, last) in zip(words, audible[name], strict=True):
            assert (heard, first, last) == (word, pytest.approx(start + 0.02), pytest.approx(end - 0.05))


def test_a_killed_write_leaves_nothing_that_looks_whole(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = DigitStrings(str(root), str(tmp_path), **FEW)
    write, written = Path.write_bytes, []

    def interrupted(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 7:
            raise KeyboardInterrupt
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare()
    assert not corpus.folder.exists()
    for ask in (corpus.clips, corpus.boundaries):
        with pytest.raises(UserError, match=r"digit_strings are not in .*: call prepare\(\)"):
            ask()
    corpus.prepare()
    assert not written[0].parent.exists()
    assert contents(corpus) == contents(made(root, tmp_path / "other"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "digit"}, r"no split 'digit' .* set data\.split to official or speaker"),
        ({"split": "speaker", "speaker": "ana"}, r"no speaker 'ana' \(did you mean 'anna'\?\)"),
        ({"split": "speaker", "fold": 4}, r"no fold 4 of the speakers: set data\.fold"),
        ({"train_utterances": 0}, r"data\.train_utterances is 0: set it to 1 at least"),
        ({"val_utterances": 0}, r"data\.val_utterances is 0: set it to 1 at least"),
        ({"test_utterances": -1}, r"data\.test_utterances is -1: set it to 1 at least"),
        ({"min_digits": 0}, r"data\.min_digits is 0: set it to 1 at least"),
        ({"min_digits": 8}, r"data\.min_digits 8 is above data\.max_digits 7: swap them"),
        ({"min_gap": -0.1}, r"data\.min_gap is -0\.1: set it to 0 at least"),
        ({"max_gap": 0.01}, r"data\.min_gap 0\.05 is above data\.max_gap 0\.01: swap them"),
        ({"max_snr_db": 10.0}, r"data\.min_snr_db 200\.0 is above data\.max_snr_db 10\.0: swap them"),
        ({"seed": -1}, r"data\.seed is -1: set it to 0 at least"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    options: dict[str, Any], sentence: str, root: Path, clean: DigitStrings
) -> None:
    with pytest.raises(UserError, match=sentence):
        DigitStrings(str(root), str(clean.cache), **{**FEW, **CLEAN, **options}).clips()


def test_recordings_that_are_not_enough_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recordings in .*nowhere/recordings: clone https://"):
        made(tmp_path / "nowhere", tmp_path)
    root = write_recordings(tmp_path / "data", ("anna",))
    with pytest.raises(UserError, match=r"data has one speaker, and none to train on: set data\.split"):
        made(root, tmp_path, split="speaker")
    for take in VALIDATED_TAKES:
        (root / "recordings" / f"7_anna_{take}.wav").unlink()
    with pytest.raises(UserError, match=r"no recording by anna of 7 for val utterances: complete the clone"):
        made(root, tmp_path)
    write_wav(root / "recordings" / "1_anna_0.wav", np.zeros(80), RATE)
    with pytest.raises(UserError, match=r"Cannot read .*1_anna_0\.wav: it is silent"):
        made(root, tmp_path)


def test_a_cache_that_is_no_folder_is_one_sentence(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"digit_strings cannot be written to .*: set paths\.cache"):
        made(root, tmp_path / "file" / "cache")


def test_the_config_names_every_argument_with_its_default() -> None:
    cfg = OmegaConf.to_container(OmegaConf.load(CONFIGS / "digit_strings.yaml"), resolve=False)
    assert isinstance(cfg, dict)
    assert cfg.pop("_target_") == f"{DigitStrings.__module__}.DigitStrings"
    assert (cfg.pop("cache"), cfg.pop("root")) == (
        "${paths.cache}",
        "${paths.data}/free-spoken-digit-dataset",
    )
    assert cfg.pop("validation_fold") is None  # of every corpus that has folds
    parameters = inspect.signature(DigitStrings).parameters
    assert cfg == {name: p.default for name, p in parameters.items() if name not in ("cache", "root")}


def test_the_real_digits(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = real_data("free-spoken-digit-dataset")
    few = [f"data.{split}_utterances={count}" for split, count in (("train", 60), ("val", 12), ("test", 30))]
    options = ["data.min_snr_db=200", "data.max_snr_db=200", *few]
    corpus = build.corpus(
        config.compose_config(
            ["data=digit_strings", f"paths.data={root}", f"paths.cache={tmp_path}", *options]
        )
    )
    assert isinstance(corpus, DigitStrings)
    corpus.prepare()
    clips = validated(corpus.clips(), "strings")
    assert Counter(clip.split for clip in clips) == {"train": 60, "val": 12, "test": 30}
    assert_recordings_are_found(corpus, clips)
    whole, audible = corpus.boundaries(), corpus.boundaries(audible=True)
    edges = [
        (first - start, end - last)
        for name in whole
        for (_, start, end), (_, first, last) in zip(whole[name], audible[name], strict=True)
    ]
    assert np.min(edges) >= 0
    # Few recordings have quiet edges: a network's boundaries can be held against either.
    assert np.median(edges) <= 0.01
    assert 0.05 < np.mean(np.array(edges) > 0.06) < 0.25
