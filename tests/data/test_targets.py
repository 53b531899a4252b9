"""Labels as numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.targets import PAD, ClassIndex, MultiHot, Tokens
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


def transcripts(alphabet: str, number: int) -> list[Clip]:
    """Clips with random texts, of which many are there twice, and some are `unfit`."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(1, 30))) for _ in range(number // 2)]
    texts += [None, "", " ", "\u2603 a", "der 2te"]  # type: ignore[list-item]
    splits = ["train", "train", "val", "test", None]
    return [
        Clip(f"{n:05d}", "x.wav", text=rng.choice(texts), split=rng.choice(splits)) for n in range(number)
    ]


@pytest.mark.parametrize("alphabet", [" abcdefg", "".join(map(chr, range(0x4E00, 0x4E00 + 400)))])
def test_tokens_kept_flat_are_those_of_each_text(alphabet: str) -> None:
    clips = transcripts(alphabet, 25_000)
    text = {
        "steps": ["numbers", "spaces"],
        "language": "de",
        "tokenizer": {"alphabet": [*" abder", *alphabet[6:]]},
    }
    tokens, used = Tokens((), clips, text), [clip for clip in clips if clip.split]
    known = set(tokens.tokenizer.vocabulary)
    said = {clip.id: " ".join((clip.text or "").split()) for clip in used}
    expected = {}
    for clip in used:
        if not clip.text and (clip.text is None or clip.split != "test"):
            expected[clip.id] = "it has no text"
        elif not said[clip.id] and clip.split != "test":
            expected[clip.id] = f"its text {clip.text!r} is empty"
        elif "2te" in said[clip.id]:
            expected[clip.id] = "the number 2te can't be read, for num2words"
        elif unknown := [letter for letter in said[clip.id] if letter not in known]:
            expected[clip.id] = f"the character {unknown[0]!r} of {said[clip.id]!r} is in no training text"
    found = tokens.unfit(used)
    assert [*found] == [*expected]
    assert all(found[name].startswith(reason) for name, reason in expected.items())
    fit = [clip for clip in used if clip.id not in found]
    rows = tokens.encode(fit)
    vectors = [torch.tensor([tokens.tokenizer.ids[c] + 1 for c in said[clip.id]]).long() for clip in fit]
    assert all(torch.equal(row, vector) for row, vector in zip(rows, vectors, strict=True))
    assert rows.counts().tolist() == [len(vector) for vector in vectors]
    assert rows.repeats().tolist() == [int((vector[1:] == vector[:-1]).sum()) for vector in vectors]
    places = random.Random(1).choices(range(len(rows)), k=50)
    batch, lengths = tokens.gather(rows, places)
    assert lengths is not None
    assert (batch.dtype, lengths.dtype) == (torch.int64, torch.int64)
    assert torch.equal(batch, pad_sequence([vectors[p] for p in places], batch_first=True, padding_value=PAD))
    assert lengths.tolist() == [len(vectors[place]) for place in places]


def test_an_utterance_takes_few_bytes_and_each_text_is_encoded_once() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, row)) for row in rng.integers(97, 123, (2000, 180))]
    clips = ClipTable.of(
        Clip(f"{n:05d}", "x.wav", text=text, split="test" if n % 10 == 0 else "train")
        for n, text in enumerate(texts)
    )
    tokens, read = Tokens((), clips, {"steps": ["spaces"]}), []
    chain = tokens.normalizer._chain
    chain.insert(0, ("counted", lambda text: (read.append(text), text)[1]))  # type: ignore[func-returns-value]
    assert tokens.unfit(clips[:1500]) == tokens.unfit(clips) == {}
    kept = [tokens.encode(clips.take(clips.column("split").equals(split))) for split in ("train", "test")]
    assert sorted(read) == sorted(texts)
    arrays = {id(a): a for rows in kept for a in (rows.tokens, rows.ends, rows.texts)}.values()
    assert kept[0].tokens.dtype == np.uint8
    assert sum(array.nbytes for array in arrays) / len(clips) < 180 + 60
