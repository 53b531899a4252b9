"""The demo corpora: the same clips everywhere, in five folds, whole or not there."""

from __future__ import annotations

import errno
import inspect
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from lightning_audio.data.corpora import synthesised
from lightning_audio.data.corpora.demo import Demo
from lightning_audio.data.corpora.demo_multilabel import DemoMultilabel
from lightning_audio.data.corpora.synthesis import SOUNDS, overlapping, render, rms
from lightning_audio.data.corpora.synthesised import SynthesisedCorpus
from lightning_audio.errors import UserError

RATE = 16000
LEVELS = [
    0.1058,
    0.003542,
    0.009684,
    0.0181,
    0.1594,
    0.1511,
    0.001807,
    0.004482,
    0.03795,
    0.04704,
]  # rms of the first clip of each class
CONFIGS = Path(__file__).parents[3] / "conf" / "data"


def prepared(cache: Path, **arguments: float) -> Demo:
    corpus = Demo(str(cache), **{"clips_per_class": 1, "seconds": 0.5, **arguments})  # type: ignore[arg-type]
    corpus.prepare()
    return corpus


def contents(corpus: SynthesisedCorpus) -> dict[str, bytes]:
    return {clip.id: Path(clip.path).read_bytes() for clip in corpus.clips()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return prepared(tmp_path_factory.mktemp("demo"), clips_per_class=2, fold=3)


def test_same_seed_same_bytes_other_seed_other_bytes(corpus: Demo, tmp_path: Path) -> None:
    again, other = (contents(prepared(tmp_path, clips_per_class=2, seed=seed)) for seed in (0, 1))
    first = contents(corpus)
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert len(set(first.values())) == 100


def test_a_smaller_corpus_is_contained_in_a_larger(corpus: Demo, tmp_path: Path) -> None:
    smaller = contents(prepared(tmp_path, clips_per_class=1))
    assert len(smaller) == 50
    assert smaller.items() <= contents(corpus).items()


def test_counts_labels_folds(corpus: Demo) -> None:
    clips = corpus.clips()
    assert len(corpus.labels) == len(set(corpus.labels)) == 10
    counts = {(label, fold): 0 for label in corpus.labels for fold in corpus.folds}
    for clip in clips:
        assert clip.fold is not None
        counts[clip.labels[0], clip.fold] += 1
    assert set(counts.values()) == {2}
    assert len({clip.id for clip in clips}) == len({clip.path for clip in clips}) == 100
    assert {clip.id for clip in clips if clip.split == "test"} == {
        clip.id for clip in clips if clip.fold == 3
    }
    assert {clip.split for clip in clips if clip.fold != 3} == {"train"}
    assert clips[0].id == "f1-engine-000"


def test_files_are_whole_pcm_within_scale_and_not_silent(corpus: Demo) -> None:
    for clip in corpus.clips():
        samples, rate = soundfile.read(clip.path, dtype="int16")
        assert (rate, samples.shape, clip.duration) == (RATE, (RATE // 2,), 0.5)
        assert soundfile.info(clip.path).subtype == "PCM_16"
        peak = np.abs(samples.astype(int)).max()
        assert 32768 * 10 ** (-30 / 20) - 1 <= peak <= 32768 * 10 ** (-1 / 20) + 1


def test_interrupted_synthesis_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Demo(str(tmp_path), clips_per_class=1, seconds=0.5)
    written = []

    def interrupted(path: Path, data: bytes) -> int:
        written.append(path)
        path.touch()
        if len(written) == 7:
            raise KeyboardInterrupt
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare()
    assert not corpus.root.exists()
    with pytest.raises(UserError, match="prepare"):
        corpus.clips()
    corpus.prepare()
    assert sorted(path.stem for path in corpus.root.iterdir()) == sorted(clip.id for clip in corpus.clips())
    assert not written[0].parent.exists()
    assert soundfile.info(corpus.clips()[0].path).frames == RATE // 2


def test_a_full_cache_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    corpus = Demo(str(tmp_path), clips_per_class=1, seconds=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"is full: make room for the clips of demo, or set paths"):
            corpus.prepare()
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_two_that_start_together_synthesise_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def counted(*arguments: object) -> np.ndarray:
        rendered.append(arguments)
        return render(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(synthesised, "render", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: prepared(tmp_path), range(2))
    assert len(rendered) == 50
    assert contents(first) == contents(second)


def test_every_parameter_of_the_synthesis_has_its_own_folder_and_the_fold_has_not(tmp_path: Path) -> None:
    changes = {
        "sample_rate": 22050,
        "clips_per_class": 3,
        "seconds": 1.0,
        "min_snr_db": 0.0,
        "max_snr_db": 30.0,
        "seed": 5,
    }
    roots = {Demo(str(tmp_path), **{key: value}).root for key, value in changes.items()}  # type: ignore[arg-type]
    assert len(roots | {Demo(str(tmp_path)).root}) == len(changes) + 1
    assert Demo(str(tmp_path), fold=2).root == Demo(str(tmp_path), fold=1).root


def test_the_clips_of_the_first_release_stay_as_they_are(corpus: Demo) -> None:
    """Scores in the README are of these samples; another way to make them wants another SYNTHESIS_VERSION."""
    assert (corpus.root.name, Demo("x").root.name) == ("demo-10587a1b17a3", "demo-a037a6049223")
    levels = []
    for label in corpus.labels:
        samples, _ = soundfile.read(corpus.root / f"f1-{label}-000.wav")
        levels.append(rms(samples))
    assert levels == pytest.approx(LEVELS, rel=1e-3)


@pytest.fixture(scope="module")
def overlaps(tmp_path_factory: pytest.TempPathFactory) -> DemoMultilabel:
    made = DemoMultilabel(str(tmp_path_factory.mktemp("overlaps")), clips_per_fold=12, seconds=0.5, fold=2)
    made.prepare()
    return made


def test_overlapping_clips_have_one_to_three_labels_in_every_fold(overlaps: DemoMultilabel) -> None:
    clips = overlaps.clips()
    assert Counter(clip.fold for clip in clips) == dict.fromkeys(overlaps.folds, 12)
    assert {clip.id for clip in clips if clip.split == "test"} == {f"f2-{n:04d}" for n in range(12)}
    assert {len(clip.labels) for clip in clips} == {1, 2, 3}
    assert all(len(set(clip.labels)) == len(clip.labels) for clip in clips)
    assert len(set(contents(overlaps).values())) == 60


def test_labels_and_their_number_come_up_evenly(tmp_path: Path) -> None:
    rows = list(DemoMultilabel(str(tmp_path), clips_per_fold=400).rows())
    counts = Counter(len(row.labels) for row in rows)
    assert all(600 < counts[number] < 735 for number in (1, 2, 3))  # 667 expected, deviation 21
    labels = Counter(label for row in rows for label in row.labels)
    assert all(340 < labels[label] < 460 for label in SOUNDS)  # 400 expected, deviation 18
    fewer = list(DemoMultilabel(str(tmp_path), clips_per_fold=3).rows())
    assert set(fewer) <= set(rows), "a smaller corpus is contained in a larger"
    assert {len(row.labels) for row in DemoMultilabel(str(tmp_path), max_sounds=1).rows()} == {1}


def test_overlapping_clips_are_the_same_everywhere(overlaps: DemoMultilabel, tmp_path: Path) -> None:
    again, other = (
        DemoMultilabel(str(tmp_path), clips_per_fold=4, seconds=0.5, seed=seed) for seed in (0, 1)
    )
    again.prepare()
    assert contents(again).items() <= contents(overlaps).items()
    assert other.root != again.root
    assert [row.labels for row in other.rows()] != [row.labels for row in again.rows()]


def test_sounds_overlap_at_levels_within_six_decibels() -> None:
    time = np.arange(4000) / RATE
    tones = [lambda rng, time, f=f: 7 * f * np.sin(2 * np.pi * f * time) for f in (400.0, 1200.0, 3200.0)]
    assert overlapping(tones[:1]) is tones[0]
    for seed in range(20):
        mixed = overlapping(tones)(np.random.default_rng(seed), time)
        # Of a tone the coefficient says its amplitude, that is its rms times the root of 2.
        found = [
            2 * np.mean(mixed * tone(None, time) / (7 * f))
            for tone, f in zip(tones, (400, 1200, 3200), strict=True)
        ]
        levels = 20 * np.log10(np.array(found) / np.sqrt(2))
        assert np.abs(levels).max() <= 6.01
        assert np.ptp(levels) > 0.1
        assert rms(mixed) ** 2 == pytest.approx(np.sum(np.square(found)) / 2)


@pytest.mark.parametrize("options", [{"max_sounds": 11}, {"max_sounds": 0}, {"clips_per_fold": 0}])
def test_an_overlap_out_of_range_is_one_sentence(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(options))}"):
        DemoMultilabel(str(tmp_path), **options)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"fold": 6}, "data.fold"),
        ({"sample_rate": 8000}, "data.sample_rate"),
        ({"clips_per_class": 0}, "data.clips_per_class"),
        ({"seconds": 0.1}, "data.seconds"),
        ({"seed": -1}, "data.seed"),
        ({"min_snr_db": 30.0}, "data.min_snr_db"),
    ],
)
def test_an_argument_out_of_range_is_one_sentence(tmp_path: Path, arguments: dict, key: str) -> None:
    with pytest.raises(UserError, match=key):
        Demo(str(tmp_path), **arguments)


@pytest.mark.parametrize(("name", "kind"), [("demo", Demo), ("demo_multilabel", DemoMultilabel)])
def test_the_config_names_every_argument_with_its_default(name: str, kind: type[SynthesisedCorpus]) -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=False)
    assert isinstance(config, dict)
    assert config.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    assert config.pop("cache") == "${paths.cache}"
    assert config.pop("validation_fold") is None  # of every corpus that has folds
    parameters = inspect.signature(kind).parameters
    assert config == {name: p.default for name, p in parameters.items() if name != "cache"}
