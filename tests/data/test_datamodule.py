"""AudioDataModule on a small corpus: what is in which split, and that batches hold the right clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import sine, write_wav

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.splits import split_by_fold
from lightning_audio.data.targets import ClassIndex, MultiHot, Tokens
from lightning_audio.data.wave_store import _key
from lightning_audio.errors import UserError

RATE = 8000
LABELS = ("low", "high", "middle")  # not in the order of the alphabet
FREQUENCIES = dict(zip(LABELS, (200, 1600, 600), strict=True))
FOLDS, RECORDINGS, TAKES = 3, 5, 2
CLIPS = FOLDS * RECORDINGS * TAKES * len(LABELS)


class Tones(Corpus):
    """In each fold 5 recordings of each label, two takes of each recording; one fold is tested on."""

    labels = LABELS
    folds = (1, 2, 3)

    def __init__(self, root: Path, fold: int = 1, change: Callable[[Clip], Clip] = lambda clip: clip) -> None:
        super().__init__(str(root), str(root / "cache"), RATE)
        self.fold, self.change = fold, change

    def prepare(self) -> None:
        for number, clip in enumerate(self.clips()):
            if not Path(clip.path).is_file():
                seconds = 0.05 + 0.002 * (number % 7)
                write_wav(
                    Path(clip.path), sine(FREQUENCIES[clip.id.split("-")[1]] + number, seconds, RATE), RATE
                )

    def clips(self) -> list[Clip]:
        names = (
            (f"{fold}-{label}-{recording}-{take}", fold, label, f"{fold}-{label}-{recording}")
            for fold in self.folds
            for label in LABELS
            for recording in range(RECORDINGS)
            for take in "AB"
        )
        rows = (
            Clip(name, str(self.root / f"{name}.wav"), labels=(label,), fold=fold, group=group)
            for name, fold, label, group in names
        )
        return [self.change(clip) for clip in split_by_fold(rows, self.fold or 1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    Tones(folder).prepare()
    return folder


def module(
    root: Path, fold: int = 1, change: Callable[[Clip], Clip] | None = None, **options: Any
) -> AudioDataModule:
    corpus = Tones(root, fold, change) if change else Tones(root, fold)
    return AudioDataModule(corpus, ClassIndex, **({"batch_size": 8} | options))


def ready(root: Path, **options: Any) -> AudioDataModule:
    data = module(root, **options)
    data.prepare_data()
    data.setup()
    return data


def ids(data: AudioDataModule, split: str) -> set[str]:
    return {clip.id for clip in data.splits[split].clips}


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_one_fold_is_the_test_split(root: Path, fold: int) -> None:
    data = ready(root, fold=fold)
    assert {clip.fold for clip in data.splits["test"].clips} == {fold}
    assert {clip.fold for clip in data.splits["train"].clips} == {1, 2, 3} - {fold}
    assert data.facts()["clips"] == {"train": 60, "val": 0, "test": 30}
    assert (data.facts()["fold"], data.facts()["folds"]) == (fold, [1, 2, 3])
    assert not data.has_validation
    assert data.val_dataloader() == []


def test_what_the_data_knows_of_itself(root: Path) -> None:
    data = ready(root)
    assert (data.labels, data.targets.num_outputs, data.sample_rate) == (LABELS, 3, RATE)
    lengths = sorted(len(read(clip)) for clip in data.splits["train"].clips)
    assert data.info.clip_seconds == pytest.approx(lengths[(len(lengths) - 1) // 2] / RATE)
    assert data.info.longest_seconds == pytest.approx(lengths[-1] / RATE)
    assert data.describe() == f"Tones at {RATE} Hz: 60 train, 30 test clips of 3 labels"


def read(clip: Clip) -> np.ndarray:
    return soundfile.read(clip.path, dtype="int16")[0]


@pytest.mark.parametrize("store", ["disk", "memory", "device"])
def test_batches_hold_the_samples_and_the_targets_of_their_ids(root: Path, store: str) -> None:
    data = ready(root, store=store, val_fraction=0.2)
    known = {clip.id: clip for clip in data.corpus.clips()}
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in loaders.items():
        seen: Counter[str] = Counter()
        for batch in loader:
            assert batch.waveforms.dtype == torch.int16
            assert batch.waveforms.shape == (len(batch.ids), int(batch.lengths.max()))
            seen.update(batch.ids)
            for name, waveform, length, target in zip(
                batch.ids, batch.waveforms, batch.lengths, batch.targets, strict=True
            ):
                expected = read(known[name])
                assert int(length) == len(expected)
                np.testing.assert_array_equal(waveform[:length].cpu(), expected)
                assert not waveform[length:].any()
                assert LABELS[int(target)] == known[name].labels[0]
        assert seen == dict.fromkeys(ids(data, split), 1)


def test_training_is_shuffled_by_seed_and_epoch_and_tests_are_not(root: Path) -> None:
    data, again, other = ready(root), ready(root), ready(root, seed=1)

    def order(source: AudioDataModule, epoch: int) -> list[str]:
        loader = source.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [name for batch in loader for name in batch.ids]

    assert order(data, 0) == order(again, 0) != order(data, 1) != order(other, 1)
    tested = [name for batch in data.test_dataloader() for name in batch.ids]
    assert tested == sorted(tested)


def test_batch_sizes(root: Path) -> None:
    data = ready(root, batch_size=7, eval_batch_size=11)
    assert [len(batch) for batch in data.train_dataloader()] == [7] * 8 + [4]
    assert [len(batch) for batch in data.test_dataloader()] == [11, 11, 8]
    assert [len(batch) for batch in ready(root, batch_size=20).test_dataloader()] == [20, 10]


def test_validation_holds_whole_recordings_out_of_training(root: Path) -> None:
    chosen = set()
    for seed in range(3):
        data = ready(root, val_fraction=0.2, seed=seed)
        groups = {split: {clip.group for clip in rows.clips} for split, rows in data.splits.items()}
        assert not groups["val"] & (groups["train"] | groups["test"])
        assert Counter(clip.labels[0] for clip in data.splits["val"].clips) == dict.fromkeys(LABELS, 4)
        assert ids(data, "test") == ids(ready(root), "test")
        assert ids(data, "train") | ids(data, "val") == ids(ready(root), "train")
        assert ids(ready(root, val_fraction=0.2, seed=seed), "val") == ids(data, "val")
        chosen.add(frozenset(ids(data, "val")))
        assert data.has_validation
    assert len(chosen) == 3


def test_a_corpus_own_validation_split_stays(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        return replace(clip, split="val") if clip.fold == 2 else clip

    data = ready(root, change=change, val_fraction=0.5)
    assert {clip.fold for clip in data.splits["val"].clips} == {2}
    assert {clip.fold for clip in data.splits["train"].clips} == {3}


def test_class_counts_are_of_the_training_clips(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        kept = clip.labels[0] != "high" or clip.fold != 2
        return clip if kept else replace(clip, split=None)

    data = ready(root, change=change)
    assert data.info.class_counts == (20, 10, 20)
    assert ready(root).info.class_counts == (20, 20, 20)


def epoch_ids(data: AudioDataModule, epoch: int) -> list[str]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [name for batch in loader for name in batch.ids]


def test_balance_draws_every_label_equally_often(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        rare = clip.labels[0] == "high" and clip.group != f"{clip.fold}-high-0"
        return replace(clip, split=None) if rare and clip.split == "train" else clip

    assert ready(root, change=change).info.class_counts == (20, 4, 20)
    data = ready(root, change=change, balance=True)
    assert data.info.class_counts == pytest.approx((44 / 3, 44 / 3, 44 / 3)), "of what is drawn"
    epochs = [epoch_ids(data, epoch) for epoch in range(60)]
    assert {len(epoch) for epoch in epochs} == {44}
    assert epochs[3] == epoch_ids(data, 3) != epochs[4]
    drawn = Counter(name.split("-")[1] for epoch in epochs for name in epoch)
    assert all(abs(drawn[label] - 880) < 100 for label in LABELS)  # deviation 24
    tested = [name for batch in data.test_dataloader() for name in batch.ids]
    assert sorted(tested) == sorted(ids(data, "test")), "a test takes every clip once"


def test_balanced_epochs_have_as_many_batches_by_duration(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        rare = clip.labels[0] == "high" and clip.group != f"{clip.fold}-high-0"
        return replace(clip, split=None) if rare and clip.split == "train" else clip

    data = ready(root, change=change, balance=True, max_batch_duration=0.3, jitter=0.0)
    loader, batches, drawn = data.train_dataloader(), set[int](), Counter[str]()
    for epoch in range(60):
        loader.sampler.set_epoch(epoch)
        found = [*loader.sampler]
        batches.add(len(found))
        clips = data.splits["train"]
        assert all(len(batch) * clips.seconds[batch].max() <= 0.3 for batch in found)
        drawn.update(clips.clips[position].labels[0] for batch in found for position in batch)
    assert batches == {len(loader)}
    assert all(abs(drawn[label] - 880) < 100 for label in LABELS)


def test_balance_goes_by_the_rarest_of_several_labels(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        others = {"low": (), "middle": ("low", "middle"), "high": ("high",)}[clip.labels[0]]
        both = clip.group == f"{clip.fold}-low-0"
        return replace(clip, labels=("low", "high") if both else others)

    corpus = Tones(root, 1, change)
    data = AudioDataModule(corpus, MultiHot, batch_size=8, balance=True)
    data.setup()
    # 4 clips of low and high, 16 of none, 20 of low and middle, 20 of high: low 24, high 24, middle 20.
    # Of an epoch's 60 they make 60 * (4 / 24 + 20 / 20) / (40 / 24 + 20 / 20) and so on.
    assert data.info.class_counts == pytest.approx((26.25, 22.5, 22.5))
    for batch in data.train_dataloader():
        assert batch.targets.shape == (len(batch), 3)
        for name, row in zip(batch.ids, batch.targets, strict=True):
            (clip,) = [clip for clip in data.splits["train"].clips if clip.id == name]
            assert {LABELS[i] for i in row.nonzero().flatten()} == set(clip.labels)
    drawn = Counter(name.split("-")[1] for epoch in range(60) for name in epoch_ids(data, epoch))
    weight = {"low": 20 / 24, "high": 20 / 24, "middle": 20 / 20}
    for label, share in weight.items():
        # 3600 draws, deviation about 28
        assert abs(drawn[label] - 3600 * share / sum(weight.values())) < 115


def test_a_corpus_may_draw_a_part_of_its_training_clips_afresh(root: Path) -> None:
    class Drawing(Tones):
        """All clips of two labels, and 5 of the third, others in each epoch."""

        def draw(self, clips: Sequence[Clip], rng: np.random.Generator) -> np.ndarray:
            middle = np.array([clip.labels[0] == "middle" for clip in clips])
            chosen = rng.choice(np.flatnonzero(middle), size=5, replace=False)
            return np.concatenate([np.flatnonzero(~middle), chosen])

    data = AudioDataModule(Drawing(root), ClassIndex, batch_size=8)
    data.setup()
    epochs = [epoch_ids(data, epoch) for epoch in range(12)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 45
        assert Counter(name.split("-")[1] for name in epoch) == {"low": 20, "high": 20, "middle": 5}
    seen = {name for epoch in epochs for name in epoch if "middle" in name}
    assert len(seen) > 15, "in time all of them come up"
    assert epochs[2] == epoch_ids(data, 2)
    assert len(data.train_dataloader()) == 6
    everything = {name for batch in data.loader("train") for name in batch.ids}
    assert everything == ids(data, "train"), "what is measured of the corpus is of all clips"

    data = AudioDataModule(Drawing(root), ClassIndex, batch_size=8, balance=True)
    data.setup()
    drawn = Counter(name.split("-")[1] for epoch in range(60) for name in epoch_ids(data, epoch))
    assert all(abs(drawn[label] - 900) < 100 for label in LABELS)  # balanced among what the corpus drew


def test_clips_of_no_split_are_nowhere(root: Path) -> None:
    left_out = "2-low-0"
    data = ready(root, change=lambda clip: replace(clip, split=None) if clip.group == left_out else clip)
    everywhere = ids(data, "train") | ids(data, "val") | ids(data, "test")
    assert everywhere == {clip.id for clip in Tones(root).clips()} - {f"{left_out}-A", f"{left_out}-B"}
    assert data.facts()["clips"] == {"train": 58, "val": 0, "test": 30}


def test_labels_come_from_the_clips_where_the_corpus_names_none(root: Path) -> None:
    data = module(root)
    data.corpus.labels = ()
    data.setup()
    assert data.labels == tuple(sorted(LABELS))


def test_folds_splits_and_seeds_share_one_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(root)

    def refuse(*_: object) -> None:
        raise AssertionError("a file was decoded again")

    monkeypatch.setattr("lightning_audio.data.wave_store.decode_clips", refuse)
    others = [ready(root, fold=2), ready(root, fold=3, val_fraction=0.2, seed=4)]
    assert {data.store.folder for data in others} == {first.store.folder}
    assert len(list((root / "cache" / "stores").glob("*/index.json"))) == 1
    assert len(first.store) == CLIPS


def test_a_split_that_leaks_is_refused(root: Path) -> None:
    def leak(clip: Clip) -> Clip:
        return replace(clip, split="train") if clip.id == "1-low-0-A" else clip

    with pytest.raises(UserError, match=r"The split leaks: 1 group .* such as 1-low-0 \(test and train\)"):
        module(root, change=leak).setup()


def test_a_label_that_the_corpus_does_not_know_is_refused(root: Path) -> None:
    def rename(clip: Clip) -> Clip:
        return replace(clip, labels=("shrill",)) if clip.id == "2-high-1-A" else clip

    with pytest.raises(UserError, match=r"Clip '2-high-1-A' has the labels \['shrill'\]"):
        module(root, change=rename).setup()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_refused(root: Path, split: str) -> None:
    def empty(clip: Clip) -> Clip:
        return replace(clip, split=None) if clip.split == split else clip

    with pytest.raises(UserError, match=rf"has no {split} clips: check its split"):
        module(root, change=empty).setup()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"batch_size": 0}, "loader.batch_size=0"),
        ({"val_fraction": 1.0}, "loader.val_fraction=1.0"),
        ({"val_fraction": -0.1}, "loader.val_fraction=-0.1"),
        ({"workers": -1}, "loader.workers=-1"),
    ],
)
def test_an_option_out_of_its_range_is_one_sentence(root: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        module(root, **options)


def test_an_unknown_place_for_the_store_is_one_sentence(root: Path) -> None:
    with pytest.raises(UserError, match="tape"):
        module(root, store="tape").setup()


@pytest.mark.parametrize("store", ["disk", "memory", "device"])
def test_a_process_that_has_prepared_the_data_lists_and_keys_them_once(
    root: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()

    def counting(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            asked[name] += 1
            return work(*given)

        return counted

    data = module(root, store=store, val_fraction=0.2)
    monkeypatch.setattr(data.corpus, "prepare", lambda: None)  # it lists them for itself
    monkeypatch.setattr(data.corpus, "clips", counting("clips", data.corpus.clips))
    monkeypatch.setattr("lightning_audio.data.wave_store._key", counting("key", _key))
    data.prepare_data()
    data.setup()
    assert asked == {"clips": 1, "key": 1}
    assert data.store.where == store
    alone = module(root, store=store, val_fraction=0.2)
    alone.setup()  # as in a process that prepares nothing
    assert asked["key"] == 2
    assert {name: rows.clips for name, rows in alone.splits.items()} == {
        name: rows.clips for name, rows in data.splits.items()
    }


TEXT = {"steps": ["lower", "spaces"], "tokenizer": {"kind": "characters"}}


def spoken(root: Path, texts: dict[str, str | None], **options: Any) -> AudioDataModule:
    """The tones with transcripts: "ab", or what `texts` says by the clip's id."""

    def change(clip: Clip) -> Clip:
        return replace(clip, labels=(), text=texts.get(clip.id, "ab"))

    corpus: Any = Tones(root, 1, change)
    corpus.labels = ()
    return AudioDataModule(corpus, partial(Tokens, text=TEXT), **options)


def test_transcripts_that_cant_be_scored_are_named_and_left_out_up_to_a_share(root: Path) -> None:
    texts = {"1-low-0-A": "az", "1-low-0-B": "", "2-low-0-A": " ", "2-low-0-B": None}
    reasons = {
        "1-low-0-A": "the character 'z' of 'az' is in no training text",
        "2-low-0-A": "its text ' ' is empty",
        "2-low-0-B": "it has no text",
    }
    data = spoken(root, texts, max_bad_fraction=3 / CLIPS)
    data.prepare_data()
    data.setup()
    found = {clip.id: (split, why) for split, rows in data.unscorable.items() for clip, why in rows}
    places = {"1": "test", "2": "train"}
    assert found == {name: (places[name[0]], why) for name, why in reasons.items()}
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 58, "val": 0, "test": 29}
    assert not set(reasons) & {clip.id for rows in data.splits.values() for clip in rows.clips}
    assert data.facts()["unscorable"] == {"train": 2, "val": 0, "test": 1}
    assert "3 transcripts can't be learned or scored (2-low-0-A: its text ' ' is empty; " in data.remarks()[0]
    # What a task finds later counts beside them.
    with pytest.raises(UserError, match=r"lets a run go without 3: cut them, or raise it"):
        data.leave_out(dict.fromkeys((f"1-high-{n}-A" for n in range(4)), "too long"), "cut them")
    data.leave_out({"1-high-0-A": "too long"}, "cut them")
    assert len(data.splits["test"]) == 28
    assert data.unscorable["test"][-1][1] == "too long"
    batch = data.splits["test"][[0, 27]]
    assert batch.ids == ("1-high-0-B", "1-middle-4-B")
    assert batch.lengths.tolist() == [data.store.lengths[row] for row in data.splits["test"].rows[[0, 27]]]
    strict = spoken(root, texts, max_bad_fraction=0.01)
    strict.prepare_data()
    with pytest.raises(UserError, match=r"3 transcripts .* lets a run go without 0: mend or leave out"):
        strict.setup()


def test_labels_that_look_alike_are_told(root: Path) -> None:
    def change(clip: Clip) -> Clip:
        return replace(clip, labels=("Low",)) if clip.labels == ("high",) else clip

    data = module(root, 1, change)
    data.corpus.labels = ()
    data.prepare_data()
    data.setup()
    assert data.remarks() == ["Labels that look alike are told apart: 'Low' and 'low'."]
