"""N-gram models: probabilities that sum to one, as KenLM reads them, worked by hand; and the program."""

from __future__ import annotations

import itertools
import json
import math
import random
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import sine, write_wav

from lightning_audio.cli import ngram
from lightning_audio.decoding import ngram as model_of
from lightning_audio.decoding.ngram import END, START, UNKNOWN, NGramModel
from lightning_audio.errors import UserError
from lightning_audio.text.tokenizers import BPE, Characters

TOY = ["the cat sat", "the dog sat", "a cat ran", "the cat ran home", "a dog sat", "the dog ran"]


def toy_sentences(count: int, seed: int) -> list[list[str]]:
    """Of a small grammar, in which the noun says how a sentence ends, and the verb between says nothing."""
    rng = random.Random(seed)
    ends = {"cat": "home", "dog": "away", "bird": "up", "fish": "down"}
    made = []
    for _ in range(count):
        noun = rng.choice([*ends])
        verb = rng.choice(["sat", "ran", "flew", "swam"])
        made.append([rng.choice(["the", "a"]), noun, verb, *rng.choice([[ends[noun]], []])])
    return made


def total(model: NGramModel, context: tuple[str, ...]) -> float:
    return sum(model.probability(word, context) for word in (*model.vocabulary, END, UNKNOWN))


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 6, 300])
def test_probabilities_behind_every_context_sum_to_one(order: int, count: int) -> None:
    """Contexts that were seen, and others; 300 sentences have discounts of their own, few have not."""
    model = NGramModel(toy_sentences(count, 0), order)
    words = [*model.vocabulary[:6], START, UNKNOWN, "never"]
    for context in itertools.chain.from_iterable(itertools.product(words, repeat=n) for n in range(order)):
        assert total(model, context) == pytest.approx(1, abs=1e-9)


def test_probabilities_are_those_worked_by_hand() -> None:
    """`a b` twice and `a c`, bigrams, discounts 0.5 for what comes up once and 1 for twice.

    Single words count behind how many words they stand: a, b and c behind one, END behind two. Five things
    can be said: a, b, c, END, UNKNOWN.
    """
    model = NGramModel([["a", "b"], ["a", "b"], ["a", "c"]], 2)
    left = Fraction(5, 2) / 5  # 0.5 for each of a, b and c, and 1 for END, of a total of 5
    single = {word: Fraction(1, 2) / 5 + left / 5 for word in "abc"}
    single |= {END: Fraction(1, 5) + left / 5, UNKNOWN: left / 5}
    assert sum(single.values()) == 1
    behind_a = Fraction(3, 2) / 3  # 1 of b, which comes up twice, and 0.5 of c, of a total of 3
    wanted = {
        "b": Fraction(1, 3) + behind_a * single["b"],
        "c": Fraction(1, 6) + behind_a * single["c"],
        **{word: behind_a * single[word] for word in ("a", END, UNKNOWN)},
    }
    assert {word: model.probability(word) for word in single} == pytest.approx(
        {word: float(p) for word, p in single.items()}
    )
    assert {word: model.probability(word, ["a"]) for word in wanted} == pytest.approx(
        {word: float(p) for word, p in wanted.items()}
    )
    # START stands before a three times: the discount of what comes up three times and more is 1.5.
    assert model.probability("a", [START]) == pytest.approx(0.5 + 0.5 * float(single["a"]))


def test_discounts_are_those_of_the_counts() -> None:
    """10 n-grams once, 5 twice, 3 three times and 2 four times: Y is 10 / 20."""
    counts = [1] * 10 + [2] * 5 + [3] * 3 + [4] * 2
    own: dict[tuple[str, ...], int] = {(str(number),): count for number, count in enumerate(counts)}
    assert model_of._discounts(own) == pytest.approx(
        (1 - 2 * 0.5 * 0.5, 2 - 3 * 0.5 * 0.6, 3 - 4 * 0.5 * 2 / 3)
    )
    assert model_of._discounts({("a",): 1, ("b",): 2}) == model_of.FALLBACK_DISCOUNTS


@pytest.mark.parametrize("order", [2, 3, 5])
def test_kenlm_reads_the_same_probabilities(order: int, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = NGramModel(toy_sentences(200, 1), order)
    path = tmp_path / "lm.arpa"
    path.write_text(model.arpa(), encoding="utf-8")
    read = kenlm.Model(str(path))
    assert read.order == order
    for sentence in [*toy_sentences(50, 2), ["never", "the", "cat"], ["cat", "never"], []]:
        words = [START, *sentence, END]
        scores = list(read.full_scores(" ".join(sentence)))
        assert len(scores) == len(words) - 1
        for position, (log_prob, _, unknown) in enumerate(scores, start=1):
            wanted = math.log10(model.probability(words[position], words[:position]))
            assert log_prob == pytest.approx(wanted, abs=1e-5)
            assert unknown == (words[position] == "never")


def test_kenlm_finds_that_probabilities_sum_to_one(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    model = NGramModel([text.split() for text in TOY], 3)
    (tmp_path / "lm.arpa").write_text(model.arpa())
    read = kenlm.Model(str(tmp_path / "lm.arpa"))
    for context in [(), ("the",), ("the", "cat"), ("ran", "home"), ("never",), ("sat", "sat")]:
        state = kenlm.State()
        read.BeginSentenceWrite(state)
        for word in context:
            following = kenlm.State()
            read.BaseScore(state, word, following)
            state = following
        summed = sum(
            10 ** read.BaseScore(state, word, kenlm.State()) for word in (*model.vocabulary, END, UNKNOWN)
        )
        assert summed == pytest.approx(1, abs=1e-5)


def test_longer_contexts_tell_more_of_held_out_sentences() -> None:
    train, held_out = toy_sentences(2000, 3), toy_sentences(200, 4)
    perplexities = [NGramModel(train, order).perplexity(held_out) for order in (1, 2, 3)]
    assert perplexities == sorted(perplexities, reverse=True)
    # The grammar itself: 2, 4, 4 and 2 ways, and one way to stop where there is a last word: 64 in 4.5 words.
    assert perplexities[0] > 8
    assert perplexities[2] == pytest.approx(64 ** (1 / 4.5), rel=0.05)


def test_a_sentence_is_worth_its_words_and_its_end() -> None:
    model = NGramModel([text.split() for text in TOY], 3)
    wanted = [("the", (START,)), ("cat", (START, "the")), (END, ("the", "cat"))]
    product = math.prod(model.probability(word, context) for word, context in wanted)
    assert model.log_prob(["the", "cat"]) == pytest.approx(math.log(product))
    assert model.perplexity([["the", "cat"]]) == pytest.approx(product ** (-1 / 3))


def test_the_order_is_no_more_than_the_sentences_hold() -> None:
    model = NGramModel([["yes"], ["no"]], 5)
    assert model.order == 3
    assert "ngram 3=2\n\n" in model.arpa()


def test_the_same_text_gives_the_same_file() -> None:
    sentences = [text.split() for text in TOY]
    assert NGramModel(sentences, 3).arpa() == NGramModel(sentences[::-1], 3).arpa()


@pytest.mark.parametrize("sentences", [[], [[]]])
def test_no_text_makes_no_model(sentences: list[list[str]]) -> None:
    with pytest.raises(UserError, match="no text"):
        NGramModel(sentences, 3)


def test_signs_of_the_model_are_no_words() -> None:
    with pytest.raises(UserError, match="the word <unk>, which is a sign"):
        NGramModel([["a", UNKNOWN]], 2)


# The program.


def grams(path: Path, order: int) -> set[str]:
    section = path.read_text(encoding="utf-8").split(f"\\{order}-grams:\n")[1].split("\n\n")[0]
    return {line.split("\t")[1] for line in section.splitlines()}


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        ngram.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_text_file_becomes_a_model_and_a_lexicon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output, words = tmp_path / "said.txt", tmp_path / "lm.arpa", tmp_path / "words.txt"
    text.write_text("The cat, sat.\nThe 2 dogs ran!\n\n", encoding="utf-8")
    ngram.main([str(text), "--output", str(output), "--words", str(words), "--order", "2"])
    assert words.read_text() == "cat\ndogs\nran\nsat\nthe\ntwo\n"
    assert "<s> the" in grams(output, 2)
    assert grams(output, 1) == {START, END, UNKNOWN, *words.read_text().split()}
    assert "3 sentences, 8 1-grams, 8 2-grams, over words" in capsys.readouterr().out


def test_characters_have_a_sign_for_the_space(tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("a b\n")
    ngram.main([str(tmp_path / "said.txt"), "--output", str(tmp_path / "lm.arpa"), "--characters"])
    assert grams(tmp_path / "lm.arpa", 1) == {START, END, UNKNOWN, "a", "b", "▁"}
    assert grams(tmp_path / "lm.arpa", 5) == {"<s> a ▁ b </s>"}


def manifest(folder: Path, rows: list[dict[str, object]]) -> Path:
    write_wav(folder / "one.wav", sine(440, 0.1, 8000), 8000)
    path = folder / "all.jsonl"
    path.write_text("".join(json.dumps({"audio_filepath": "one.wav", **row}) + "\n" for row in rows))
    return path


SPLITS: list[dict[str, object]] = [
    {"text": "train words", "split": "train"},
    {"text": "val secrets", "split": "val"},
    {"text": "test secrets", "split": "test"},
]


def test_of_a_manifest_only_what_is_for_training_is_read(tmp_path: Path) -> None:
    assert ngram.training_texts(manifest(tmp_path, SPLITS)) == ["train words"]


@pytest.mark.parametrize(
    "row", [{"text": "no split"}, {"text": "a", "fold": 2}, {"text": "a", "fold": 2, "split": "train"}]
)
def test_a_manifest_that_does_not_say_what_is_tested_needs_the_run(
    row: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With folds any row may be tested on: 100 of 100 were read where 80 train."""
    path = manifest(tmp_path, [*SPLITS, row])
    said = fails([str(path), "--output", str(tmp_path / "lm.arpa")], capsys)
    assert f"{path} does not say which rows are tested on" in said
    assert "--run RUN" in said


def test_what_a_run_holds_out_is_left_out_of_a_manifest(speech_run: Path, tmp_path: Path) -> None:
    """By its place in a file; rows that the run does not know are text like any other."""
    rows = [{"text": f"said {i}", "offset": 0.1 * i, "duration": 0.1} for i in range(6)]
    config = json.loads((speech_run / "config.yaml").read_text())
    tested = {"audio_filepath": "one.wav", **rows[5]}
    (tmp_path / "test.jsonl").write_text(json.dumps(tested) + "\n")
    config["loader"] = {"validation": 0.0}
    (speech_run / "config.yaml").write_text(json.dumps(config))
    texts = ngram.training_texts(manifest(tmp_path, rows), speech_run)
    assert texts == [f"said {i}" for i in range(5)]


@pytest.fixture
def speech_run(tmp_path: Path) -> Path:
    """A run folder with a corpus of one manifest, a fifth of it held out, and a normaliser in upper case."""
    write_wav(tmp_path / "one.wav", sine(440, 0.1, 8000), 8000)
    rows = [{"audio_filepath": f"take_{word}.wav", "text": f"said {word}"} for word in "abcdefghij"]
    for row in rows:
        write_wav(tmp_path / row["audio_filepath"], sine(440, 0.1, 8000), 8000)
    tested = [{"audio_filepath": "one.wav", "text": "test secret"}]
    for split, chosen in {"train": rows, "test": tested}.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    run = tmp_path / "run"
    run.mkdir()
    config = {
        "run_folder": str(run),
        "seed": 0,
        "data": {
            "_target_": "lightning_audio.data.corpora.manifest.Manifest",
            "train": str(tmp_path / "train.jsonl"),
            "test": str(tmp_path / "test.jsonl"),
            "cache": str(tmp_path / "cache"),
            "sample_rate": 8000,
        },
        "loader": {"validation": 0.2},
        "task": {"text": {"steps": ["upper"], "tokenizer": {"kind": "characters"}}},
    }
    (run / "config.yaml").write_text(json.dumps(config))
    return run


def test_of_a_run_only_the_training_clips_are_read(speech_run: Path) -> None:
    """Some of ten are held out for validation, the test clip never seen, and the text as the run has it."""
    kept = len(ngram.training_texts(speech_run))
    assert 6 <= kept <= 9
    output, words = speech_run / "lm.arpa", speech_run / "words.txt"
    ngram.main([str(speech_run), "--output", str(output), "--words", str(words)])
    found = words.read_text().split()
    assert "SAID" in found
    assert len(found) == 1 + kept
    assert "SECRET" not in found


def test_a_list_of_words_leaves_out_those_that_the_run_can_not_spell(
    speech_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise `evaluate --lexicon` refuses the list that was made for its own run."""
    state = Characters(list(" AEFIMOR")).state()
    task = SimpleNamespace(description={"facts": {"vocabulary": state}})
    monkeypatch.setattr(ngram, "find_checkpoint", lambda run: run)
    monkeypatch.setattr(ngram, "load", lambda checkpoint, **_: task)
    (tmp_path / "more.txt").write_text("more café of it\n")
    words, output = tmp_path / "words.txt", tmp_path / "lm.arpa"
    told = ["--run", str(speech_run), "--output", str(output), "--words", str(words)]
    ngram.main([str(tmp_path / "more.txt"), *told])
    assert words.read_text().split() == ["MORE", "OF"]
    assert grams(output, 1) == {START, END, UNKNOWN, "MORE", "CAFÉ", "OF", "IT"}
    assert "Left out of the list of words: 2 that no tokens of" in capsys.readouterr().out


def test_a_run_says_how_other_text_is_normalised(speech_run: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("More of it\n")
    arguments = [str(tmp_path / "more.txt"), "--run", str(speech_run), "--output", str(tmp_path / "lm.arpa")]
    ngram.main(arguments)
    assert grams(tmp_path / "lm.arpa", 1) == {START, END, UNKNOWN, "MORE", "OF", "IT"}


def test_tokens_are_those_of_the_run(
    speech_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = BPE(["▁", "A", "S", "I", "D", "SAID"], []).state()
    task = SimpleNamespace(description={"facts": {"vocabulary": state}})
    monkeypatch.setattr(ngram, "find_checkpoint", lambda run: run)
    monkeypatch.setattr(ngram, "load", lambda checkpoint, **_: task)
    pieces = ngram.splitter("tokens", speech_run)
    pytest.importorskip("tokenizers")
    assert pieces("A I") == ["▁", "A", "▁", "I"]
    printed = fails([str(speech_run), "--tokens", "--output", str(speech_run / "lm.arpa")], capsys)
    assert "cannot be parted into tokens" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no.txt"], "There is no no.txt"),
        (["said.txt", "--order", "7"], "--order 7 is no order that KenLM reads: choose 2 to 6"),
        (["said.txt", "--order", "1"], "choose 2 to 6"),
        (["said.txt", "--tokens"], "name it with --run"),
        (["latin.txt"], "give it in UTF-8"),
        (["empty.txt"], "There is no text"),
        (["."], "is no run folder"),
    ],
)
def test_mistakes_end_in_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.txt").write_text("words\n")
    (tmp_path / "latin.txt").write_bytes("übel\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    assert sentence in fails([*arguments, "--output", "lm.arpa"], capsys)
    assert not (tmp_path / "lm.arpa").exists()


def test_a_run_without_text_needs_no_model(speech_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((speech_run / "config.yaml").read_text())
    (speech_run / "config.yaml").write_text(json.dumps({**config, "task": {}}))
    assert "writes no text" in fails([str(speech_run), "--output", "lm.arpa"], capsys)


def test_no_text_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("one two\n", encoding="utf-8")
    for options in (
        ["--output", str(text)],
        ["--output", str(tmp_path / "x"), "--words", str(tmp_path / "x")],
    ):
        with pytest.raises(SystemExit):
            ngram.main([str(text), *options])
        assert "would be written over" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert text.read_text(encoding="utf-8") == "one two\n"
