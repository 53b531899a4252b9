"""Labels as numbers."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import ClassIndex, MultiHot, Tokens
from lightning_audio.errors import UserError


def clip(*labels: str) -> Clip:
    return Clip("one", "a.wav", labels=labels)


def test_a_label_is_its_place_in_the_list() -> None:
    encoding = ClassIndex(["rain", "dog", "bell"])
    assert encoding.num_outputs == 3
    found = encoding.encode([clip("bell"), clip("rain"), clip("dog"), clip("bell")])
    assert found.dtype == torch.int16, "ten million of them are kept"
    assert found.tolist() == [2, 0, 1, 2]
    batch, lengths = encoding.gather(found, [3, 1])
    assert (batch.dtype, batch.tolist(), lengths) == (torch.int64, [2, 0], None)
    assert [encoding.labels[index] for index in found] == ["bell", "rain", "dog", "bell"]


def test_no_clips_have_no_targets() -> None:
    assert ClassIndex(["rain"]).encode([]).shape == (0,)


@pytest.mark.parametrize("labels", [(), ("cat",), ("rain", "dog")])
def test_a_clip_without_exactly_one_known_label_is_named(labels: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"Clip 'one' has the labels .* exactly one of the 2 labels"):
        ClassIndex(["rain", "dog"]).encode([clip("dog"), clip(*labels)])


def test_any_number_of_labels_is_a_row_of_ones() -> None:
    encoding = MultiHot(["rain", "dog", "bell"])
    assert encoding.num_outputs == 3
    found = encoding.encode([clip("bell", "rain"), clip(), clip("dog"), clip("dog", "bell", "rain")])
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    assert encoding.encode([]).shape == (0, 3)


def test_a_label_that_stands_twice_counts_once() -> None:
    assert MultiHot(["rain", "dog"]).encode([clip("dog", "dog")]).tolist() == [[0, 1]]


def test_an_unknown_label_among_known_ones_is_named() -> None:
    with pytest.raises(UserError, match=r"Clip 'one' has the label 'cat', which is none of the 2 labels"):
        MultiHot(["rain", "dog"]).encode([clip(), clip("dog", "cat")])


def labelled(counts: dict[str, str]) -> list[Clip]:
    """A clip of each label of a split, by letters."""
    return [
        Clip(f"{split}-{label}", "a.wav", labels=(label,), split=split)
        for split, labels in counts.items()
        for label in labels
    ]


@pytest.mark.parametrize("encoding", [ClassIndex, MultiHot])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_label_that_is_asked_for_is_trained_whatever_the_corpus(encoding: type, split: str) -> None:
    clips = labelled({"train": "ab", split: "abcd"})
    with pytest.raises(UserError, match=rf"'c' stands in {split}, but not in train \(2 such labels\)"):
        encoding("abcd", clips)
    assert encoding("abcd", labelled({"train": "abcd", split: "ab"})).num_outputs == 4


def test_one_label_is_no_choice_but_may_be_there_or_not() -> None:
    clips = labelled({"train": "a", "test": "a"})
    with pytest.raises(UserError, match=r"All clips have one label, 'a': a choice takes two"):
        ClassIndex(["a"], clips)
    assert MultiHot(["a"], clips).num_outputs == 1


def test_a_number_without_words_is_the_fault_of_its_clip_alone() -> None:
    texts = {"a": "der 2te", "b": "eins zwei", "c": "90er", "d": "zwei"}
    clips = [Clip(name, "x.wav", text=text, split="train") for name, text in texts.items()]
    tokens = Tokens((), clips, {"steps": ["numbers", "spaces"], "language": "de"})
    assert {name: "can't be read" in why for name, why in tokens.unfit(clips).items()} == {
        "a": True,
        "c": True,
    }
    assert [len(found) for found in tokens.encode([clips[1], clips[3]])] == [9, 4]
    assert tokens.normalizer.leniently("  der 2te") == "der 2te"
