"""The keypad demo: the keys are found again in its samples, at the frequencies of the standard."""

from __future__ import annotations

import inspect
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from lightning_audio import build, config
from lightning_audio.data.clip_table import validated
from lightning_audio.data.corpora.demo_dtmf import COLUMNS, DEVIATION, KEYS, ROWS, TWIST_DB, DemoDtmf
from lightning_audio.data.corpora.digit_strings import WORDS
from lightning_audio.data.corpora.synthesis import rms
from lightning_audio.data.splits import refuse_leaks
from lightning_audio.errors import UserError

RATE = 8000
FEW: dict[str, Any] = {"train_utterances": 24, "val_utterances": 6, "test_utterances": 10}
CLEAN = {"min_snr_db": 200.0, "max_snr_db": 200.0}
CONFIGS = Path(__file__).parents[3] / "conf" / "data"
SPELLED = {str(digit): word for digit, word in enumerate(WORDS)}
PAD = [["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"], ["star", "0", "pound"]]


def made(cache: Path, **options: Any) -> DemoDtmf:
    corpus = DemoDtmf(str(cache), **{**FEW, **options})
    corpus.prepare()
    return corpus


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> DemoDtmf:
    return made(tmp_path_factory.mktemp("clean"), **CLEAN)


def contents(corpus: DemoDtmf) -> dict[str, bytes]:
    return {clip.id: Path(clip.path).read_bytes() for clip in corpus.clips()}


def read(path: str) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    return samples.astype(float)


def tones(samples: np.ndarray, rate: int = RATE) -> tuple[tuple[float, float], tuple[float, float]]:
    """The strongest frequency below and above 1,075 Hz, between the groups, each in Hz with its amplitude."""
    size = 1 << 17
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size))
    hertz = np.fft.rfftfreq(size, 1 / rate)
    low, high = ((hertz > 600) & (hertz < 1075)), ((hertz > 1075) & (hertz < 1600))
    best = [int(np.argmax(np.where(group, spectrum, 0))) for group in (low, high)]
    row, column = ((float(hertz[place]), float(spectrum[place])) for place in best)
    return row, column


def key_of(samples: np.ndarray, rate: int = RATE) -> str:
    (low, _), (high, _) = tones(samples, rate)
    return PAD[int(np.abs(np.array(ROWS) - low).argmin())][int(np.abs(np.array(COLUMNS) - high).argmin())]


def assert_keys_are_found(corpus: DemoDtmf) -> None:
    """In each stretch between its boundaries sounds the key, and nothing does outside of them."""
    words, rate = corpus.boundaries(), corpus.sample_rate
    for clip in corpus.clips():
        samples, _ = soundfile.read(clip.path, dtype="int16")
        quiet = np.ones(len(samples), bool)
        for _, start, end in words[clip.id]:
            quiet[int(start * rate) : int(np.ceil(end * rate))] = False
        heard = [
            key_of(samples[round(start * rate) : round(end * rate)], rate) for _, start, end in words[clip.id]
        ]
        assert " ".join(heard) == clip.text
        assert not samples[quiet].any()


def test_the_keys_are_found_at_their_boundaries(clean: DemoDtmf) -> None:
    assert_keys_are_found(clean)


def test_another_rate_has_the_same_keys(clean: DemoDtmf, tmp_path: Path) -> None:
    other = made(tmp_path, sample_rate=16000, **CLEAN)
    assert_keys_are_found(other)
    assert other.boundaries() == clean.boundaries()


def test_the_keys_stand_as_on_the_telephone() -> None:
    assert list(KEYS) == [key for row in PAD for key in row]


def test_frequencies_and_twist_are_within_their_tolerances(tmp_path: Path) -> None:
    corpus = made(tmp_path, **CLEAN, min_tone=0.5, max_tone=0.5, train_utterances=60)
    words, off, twists = corpus.boundaries(), [], []
    for clip in corpus.clips():
        samples = read(clip.path)
        by_tone: dict[float, list[float]] = {}
        for _, start, end in words[clip.id]:
            pair = tones(samples[round(start * RATE) : round(end * RATE)])
            for (hertz, _), group in zip(pair, (ROWS, COLUMNS), strict=True):
                nominal = min(group, key=lambda one: abs(one - hertz))
                by_tone.setdefault(nominal, []).append(hertz / nominal - 1)
            twists.append(20 * np.log10(pair[1][1] / pair[0][1]))
        # A telephone keeps its frequencies, and each has its own.
        assert all(np.ptp(found) < 0.001 for found in by_tone.values())
        off += [found[0] for found in by_tone.values()]
    assert np.abs(off).max() <= DEVIATION + 0.0005
    assert np.std(off) == pytest.approx(DEVIATION / np.sqrt(3), rel=0.1)  # that of an even spread
    assert min(twists) >= TWIST_DB[0] - 0.2
    assert max(twists) <= TWIST_DB[1] + 0.2
    assert max(twists) - min(twists) > 10


def test_counts_keys_durations_and_gaps_are_within_their_ranges(clean: DemoDtmf) -> None:
    words, clips = clean.boundaries(), validated(clean.clips(), "keys")
    refuse_leaks(clips)
    assert Counter(clip.split for clip in clips) == {"train": 24, "val": 6, "test": 10}
    assert clean.labels == ()
    assert {len(found) for found in words.values()} == set(range(3, 11))
    for clip in clips:
        edges = np.array([0.0, *np.ravel([word[1:] for word in words[clip.id]])])
        held, gaps = np.diff(edges)[1::2], np.diff(edges)[::2]
        assert (held.min() >= 0.06, held.max() <= 0.2, gaps.min() >= 0.08, gaps.max() <= 0.3) == (True,) * 4
        assert soundfile.info(clip.path).frames == round((clip.duration or 0) * RATE)
        assert (clip.duration or 0) - edges[-1] > 0.08 - 1 / RATE


def test_keys_come_up_evenly(tmp_path: Path) -> None:
    corpus = DemoDtmf(str(tmp_path), train_utterances=500, val_utterances=1, test_utterances=1)
    counts = Counter(word for one in corpus.utterances() for word, *_ in one.words)
    expected = counts.total() / 12
    assert counts.keys() == set(KEYS)
    assert all(abs(count - expected) < 4 * np.sqrt(expected) for count in counts.values())


def test_an_utterance_is_long_enough_to_be_spelled_in_frames_of_40_ms(tmp_path: Path) -> None:
    corpus = made(tmp_path, min_gap=0.0, max_gap=0.05, max_tone=0.1)
    lengthened = 0
    for clip in corpus.clips():
        text = " ".join(SPELLED.get(word, word) for word in (clip.text or "").split())
        repeats = sum(first == second for first, second in pairwise(text))
        assert (clip.duration or 0) / 0.04 >= len(text) + repeats
        lengthened += (clip.duration or 0) > corpus.boundaries()[clip.id][-1][2] + 0.051
    assert lengthened > 30


def test_the_noise_is_at_its_level(tmp_path: Path) -> None:
    corpus = made(tmp_path, min_snr_db=10.0, max_snr_db=10.0)
    words, found = corpus.boundaries(), []
    for clip in corpus.clips():
        samples = read(clip.path)
        quiet = np.ones(len(samples), bool)
        for _, start, end in words[clip.id]:
            quiet[int(start * RATE) : int(end * RATE) + 1] = False
        noise = rms(samples[quiet]) ** 2
        found.append(10 * np.log10((rms(samples) ** 2 - noise) / noise))
    assert np.mean(found) == pytest.approx(10, abs=0.5)


def test_same_seed_same_bytes_other_seed_others(clean: DemoDtmf, tmp_path: Path) -> None:
    again, other = (made(tmp_path, **CLEAN, seed=seed) for seed in (0, 1))
    first = contents(clean)
    assert contents(again) == first
    assert again.boundaries() == clean.boundaries()
    assert not set(contents(other).values()) & set(first.values())
    assert len(set(first.values())) == len(first)


def test_a_smaller_corpus_is_contained_in_a_larger(clean: DemoDtmf, tmp_path: Path) -> None:
    fewer = contents(made(tmp_path, **CLEAN, train_utterances=5, val_utterances=2, test_utterances=3))
    assert len(fewer) == 10
    assert fewer.items() <= contents(clean).items()


def test_every_option_has_its_own_folder(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "sample_rate": 16000,
        "train_utterances": 3,
        "val_utterances": 3,
        "test_utterances": 3,
        "min_keys": 4,
        "max_keys": 9,
        "min_tone": 0.1,
        "max_tone": 0.3,
        "min_gap": 0.1,
        "max_gap": 0.2,
        "min_snr_db": -5.0,
        "max_snr_db": 20.0,
        "seed": 1,
    }
    folders = {DemoDtmf(str(tmp_path), **{key: value}).folder for key, value in changes.items()}
    assert len(folders | {DemoDtmf(str(tmp_path)).folder}) == len(changes) + 1


def test_a_killed_write_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = DemoDtmf(str(tmp_path), **FEW)
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
    with pytest.raises(UserError, match=r"demo_dtmf are not in .*: call prepare\(\)"):
        corpus.clips()
    corpus.prepare()
    assert not written[0].parent.exists()
    names = {clip.id for clip in corpus.clips()}
    assert {path.stem for path in corpus.folder.glob("*.wav")} == names == corpus.boundaries().keys()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sample_rate": 4000}, r"data\.sample_rate is 4000: set it to 8000 at least"),
        ({"train_utterances": 0}, r"data\.train_utterances is 0: set it to 1 at least"),
        ({"min_keys": 0}, r"data\.min_keys is 0: set it to 1 at least"),
        ({"max_keys": 2}, r"data\.min_keys 3 is above data\.max_keys 2: swap them"),
        ({"min_tone": 0.001}, r"data\.min_tone is 0\.001: set it to 0\.02 at least"),
        ({"max_tone": 0.05}, r"data\.min_tone 0\.06 is above data\.max_tone 0\.05: swap them"),
        ({"min_gap": -1.0}, r"data\.min_gap is -1\.0: set it to 0 at least"),
        ({"max_gap": 0.01}, r"data\.min_gap 0\.08 is above data\.max_gap 0\.01: swap them"),
        ({"min_snr_db": 30.0}, r"data\.min_snr_db 30\.0 is above data\.max_snr_db 25\.0: swap them"),
        ({"seed": -1}, r"data\.seed is -1: set it to 0 at least"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        DemoDtmf(str(tmp_path), **options)


def test_the_config_builds_it_with_the_defaults(tmp_path: Path) -> None:
    cfg = OmegaConf.to_container(OmegaConf.load(CONFIGS / "demo_dtmf.yaml"), resolve=False)
    assert isinstance(cfg, dict)
    assert cfg.pop("_target_") == f"{DemoDtmf.__module__}.DemoDtmf"
    assert cfg.pop("cache") == "${paths.cache}"
    parameters = inspect.signature(DemoDtmf).parameters
    assert cfg == {name: p.default for name, p in parameters.items() if name != "cache"}
    built = build.corpus(config.compose_config(["data=demo_dtmf", f"paths.cache={tmp_path}"]))
    assert isinstance(built, DemoDtmf)
    assert built.folder == DemoDtmf(str(tmp_path)).folder
