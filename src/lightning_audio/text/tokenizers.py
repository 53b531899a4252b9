"""Tokenizers: text as ids of characters, byte pairs or words, and back."""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lightning_audio.errors import UserError, did_you_mean

REFUSED = -1  # in the place of the number of ids of a text that has none
MOST_WORDS = 100_000  # whose ids are kept, in about 30 MB
AT_ONCE = 1000  # times that a word is handed to BPE's library in one text
WORD_START = "▁"  # U+2581, which begins the first token of each word of a BPE or word vocabulary


class UnknownCharacter(ValueError):
    """A text has a character, or where each word is a token a word, that is in no vocabulary."""

    def __init__(self, character: str, unit: str = "character") -> None:
        super().__init__(character)
        self.character, self.named = character, f"the {unit} {character!r}"

    def __str__(self) -> str:
        return f"{self.named} is not in the vocabulary"


class Tokenizer(ABC):
    """Text <-> ids, 0-based, in a vocabulary without blank and special tokens.

    `decode(encode(text)) == text` for every text of known characters.
    """

    kind: str

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.ids = {token: number for number, token in enumerate(self.vocabulary)}
        if len(self.ids) != len(self.vocabulary):
            twice = next(token for token in self.vocabulary if self.vocabulary.count(token) > 1)
            raise UserError(f"{twice!r} stands twice in the vocabulary: name each character once.")

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Raises UnknownCharacter for the first character that the vocabulary lacks."""

    def encode_all(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of texts, one text behind the other, and how many each has `(N,)`; REFUSED and no ids for a
        text that `encode` refuses."""
        ids: list[int] = []
        counts = np.full(len(texts), REFUSED)
        for number, text in enumerate(texts):
            with contextlib.suppress(UnknownCharacter):
                ids += (found := self.encode(text))
                counts[number] = len(found)
        return np.array(ids, np.int32), counts

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Any ids make a text, whether or not `encode` would make them of it."""

    def state(self) -> dict[str, Any]:
        """Plain JSON, of which `tokenizer_of` makes an equal tokenizer."""
        return {"kind": self.kind, "vocabulary": list(self.vocabulary)}


class Characters(Tokenizer):
    """One token for each character, the space among them."""

    kind = "characters"

    def encode(self, text: str) -> list[int]:
        try:
            return [self.ids[character] for character in text]
        except KeyError as error:
            raise UnknownCharacter(error.args[0]) from None

    def encode_all(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4")
        ids = self._by_code[np.minimum(codes, len(self._by_code) - 1)]
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        if (unknown := ids == REFUSED).any():
            rows = np.repeat(np.arange(len(texts)), counts)
            counts[rows[unknown]] = REFUSED
            ids = ids[counts[rows] != REFUSED]
        return ids, counts

    @cached_property
    def _by_code(self) -> np.ndarray:
        """The ids by Unicode's numbers of characters, and REFUSED behind the last of them."""
        codes = {ord(token): number for token, number in self.ids.items() if len(token) == 1}
        found = np.full(max(codes, default=0) + 2, REFUSED, np.int32)
        found[[*codes]] = [*codes.values()]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.vocabulary[number] for number in ids)


class BPE(Tokenizer):
    """Byte-pair encoding within words, by Hugging Face `tokenizers`: Sennrich et al. 2016, arXiv:1508.07909.

    WORD_START stands for the space before a word, also before the first. Text is decoded without the library.

    Args:
        vocabulary: tokens, among them each single character that may occur.
        merges: pairs of tokens that become one, the first first.
    """

    kind = "bpe"

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[Sequence[str]]) -> None:
        super().__init__(vocabulary)
        self.merges = tuple((left, right) for left, right in merges)
        self._words: dict[
            str, list[int]
        ] = {}  # ids of words that have been met: few words are most of a text

    @cached_property
    def _model(self) -> Any:
        library = _tokenizers()
        return _within_words(library.models.BPE(vocab=self.ids, merges=list(self.merges)))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in text.split(" ") if text else ():
            ids += self._words.get(word) or self._ids_of(word)
        return ids

    def _ids_of(self, word: str) -> list[int]:
        for character in word:
            if character == WORD_START or character not in self.ids:
                raise UnknownCharacter(character)
        if len(self._words) >= MOST_WORDS:
            self._words.clear()
        self._words[word] = ids = self._model.encode(_marked(word)).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return _unmarked(self.vocabulary[number] for number in ids)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "merges": [list(pair) for pair in self.merges]}


class Words(Tokenizer):
    """One token for each word, which WORD_START begins: for phones, or another small closed set of words."""

    kind = "words"

    def encode(self, text: str) -> list[int]:
        try:
            return [self.ids[WORD_START + word] for word in text.split()]
        except KeyError as error:
            raise UnknownCharacter(error.args[0].removeprefix(WORD_START), "word") from None

    def decode(self, ids: Sequence[int]) -> str:
        return _unmarked(self.vocabulary[number] for number in ids)


def _marked(text: str) -> str:
    return WORD_START + text.replace(" ", WORD_START)


def _unmarked(tokens: Iterable[str]) -> str:
    return "".join(tokens).removeprefix(WORD_START).replace(WORD_START, " ")


def _tokenizers() -> Any:
    # Its threads would only warn of the loader's processes, which are forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "task.text.tokenizer.kind=bpe needs a package that is not installed: run pip install "
            "'lightning-audio[speech]', or choose kind=characters."
        ) from None
    return tokenizers


def _within_words(model: Any) -> Any:
    library = _tokenizers()
    whole = library.Tokenizer(model)
    whole.pre_tokenizer = library.pre_tokenizers.Split(WORD_START, "merged_with_next")
    return whole


KINDS = (Characters.kind, BPE.kind, Words.kind)


def fit_tokenizer(
    texts: Iterable[str],
    kind: str = "characters",
    size: int | None = None,
    alphabet: str | Sequence[str] | None = None,
) -> Tokenizer:
    """The tokenizer of these normalised texts; the same texts in any order give the same one.

    Args:
        texts: those of the training split, read once.
        kind: `characters`, `bpe` or `words`.
        size: tokens in a BPE vocabulary, single characters among them.
        alphabet: the characters, or the list of the words, that are known, in their order; None takes those
            of the texts, sorted.

    Raises:
        UserError: an option does not fit the others or the texts, or BPE's library is missing.
    """
    where = "task.text.tokenizer"
    if kind not in KINDS:
        raise UserError(
            f"{where}.kind={kind} is none{did_you_mean(kind, KINDS)}: choose one of {', '.join(KINDS)}."
        )
    found: set[str] = set()
    words: Counter[str] = Counter()
    for text in texts:
        found.update(text.split() if kind == Words.kind else text)
        if kind == BPE.kind:
            words.update(text.split(" "))
    known = sorted(found) if alphabet is None else list(alphabet)
    if not known:
        raise UserError(
            f"No character is known: give transcripts with text, or name some in {where}.alphabet."
        )
    if kind == BPE.kind:
        return _fit_bpe(words, known, size, where)
    if size is not None:
        raise UserError(f"{where}.size={size} is for BPE: set {where}.kind=bpe, or leave the size out.")
    return Words([WORD_START + word for word in known]) if kind == Words.kind else Characters(known)


def _fit_bpe(words: Counter[str], known: Sequence[str], size: int | None, where: str) -> BPE:
    characters = {WORD_START, *known} - {" "}
    if size is None or size < len(characters):
        raise UserError(
            f"{where}.size={size} does not fit BPE: set {len(characters)} or more, one for each "
            "character and one for the beginning of a word."
        )
    library = _tokenizers()
    whole = _within_words(library.models.BPE())
    # A pair that occurs once tells nothing of others to come.
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=sorted(characters), show_progress=False
    )
    # A word of unknown characters will be refused where it is encoded, with the utterance that has it.
    fit = ((_marked(word), times) for word, times in words.items() if characters.issuperset(word))
    # As often as it is there, many at once: handing each over by itself takes most of the time.
    many = (word * min(AT_ONCE, times - start) for word, times in fit for start in range(0, times, AT_ONCE))
    whole.train_from_iterator(many, trainer)
    learned = json.loads(whole.to_str())["model"]
    vocabulary = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    if len(vocabulary) < size:
        raise UserError(
            f"{where}.size={size} is more than the training transcripts give: set {len(vocabulary)} or less."
        )
    return BPE(vocabulary, learned["merges"])


def tokenizer_of(state: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `state()` this is; raises UserError where it is none."""
    try:
        if not all(isinstance(token, str) for token in state["vocabulary"]):
            raise ValueError
        if state["kind"] == BPE.kind:
            return BPE(state["vocabulary"], state["merges"])
        if state["kind"] == Characters.kind:
            return Characters(state["vocabulary"])
        if state["kind"] == Words.kind:
            return Words(state["vocabulary"])
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f"This is no vocabulary, but {str(state)[:80]}: take a checkpoint of a task that writes text."
    )
