"""Text as it is learned and scored: a normaliser of named steps, and tokenizers into characters or BPE."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.spoken_numbers import SpokenNumbers, apart, is_english

STEPS = ("unicode", "abbreviations", "numbers", "lower", "punctuation", "spaces")
ENGLISH_ABBREVIATIONS = {
    "dr.": "doctor",
    "mr.": "mister",
    "mrs.": "missus",
    "prof.": "professor",
    "st.": "saint",
    "jr.": "junior",
    "sr.": "senior",
    "vs.": "versus",
    "etc.": "et cetera",
    "#": "pound",
    "*": "star",
    "%": "percent",
    "&": "and",
    "@": "at",
    "+": "plus",
}

WORD_START = "▁"  # U+2581, which begins the first token of each word of a BPE vocabulary


class Normalizer:
    """Text as written -> words as they are learned and scored; the same for reference and hypothesis.

    Steps run in the order given, `spaces` wherever it is named at the end:

    - `unicode`: NFKC; curly quotes and long dashes become plain, invisible signs go;
    - `abbreviations`: each key of the mapping, in any case, becomes its words;
    - `numbers`: digits become words by num2words. Decimals are read out; years are cardinals; digit by digit
      go numbers with a leading zero, telephone numbers, and more than 6 digits without separators. In English
      also ordinals (1st), decades (90s) and money ($5, £2.50);
    - `lower`, `upper`: case, with the two letters i of Turkish and Azerbaijani;
    - `punctuation`: what is no letter, mark, digit or sign to keep becomes a space, and so do the apostrophe
      and the hyphen at the edge of a word;
    - `spaces`: runs of white space become one space, none at the ends.

    Args:
        steps: names of the above.
        language: num2words' code of the language of numbers, such as `en` or `pt_BR`.
        keep: signs that `punctuation` leaves.
        abbreviations: replaces the whole default, which is a few English ones and nothing in other languages.

    Raises:
        UserError: there is no such step or language.
    """

    def __init__(
        self,
        steps: Sequence[str] = STEPS,
        language: str = "en",
        keep: str = "'",
        abbreviations: Mapping[str, str] | None = None,
    ) -> None:
        language = str(language)  # YAML takes `no`, which is Norwegian, for false
        self.steps, self.language, self.keep = tuple(steps), language, keep or ""
        if abbreviations is None:
            abbreviations = ENGLISH_ABBREVIATIONS if is_english(language) else {}
        self.abbreviations = dict(abbreviations)
        makers: dict[str, Callable[[], Callable[[str], str]]] = {
            "unicode": lambda: _unicode,
            "abbreviations": lambda: _Abbreviations(self.abbreviations),
            "numbers": lambda: SpokenNumbers(language),
            "lower": lambda: _Case(False, language),
            "upper": lambda: _Case(True, language),
            "punctuation": lambda: _Punctuation(self.keep),
            "spaces": lambda: _spaces,
        }
        for step in self.steps:
            if step not in makers:
                raise UserError(
                    f"There is no step {step!r} of task.text.steps{did_you_mean(str(step), makers)}: "
                    f"choose from {', '.join(makers)}."
                )
        ordered = sorted(self.steps, key=lambda step: step == "spaces")
        self._chain = [makers[step]() for step in ordered]

    def __call__(self, text: str) -> str:
        for step in self._chain:
            text = step(text)
        return text


def _spaces(text: str) -> str:
    return " ".join(text.split())


class _Table(dict[int, str]):
    """For `str.translate`: what a character becomes is worked out when it is met for the first time."""

    def __init__(self, becomes: Callable[[str], str]) -> None:
        super().__init__()
        self.becomes = becomes

    def __missing__(self, code: int) -> str:
        self[code] = self.becomes(chr(code))
        return self[code]


_PLAIN = {
    **dict.fromkeys("‘’‚‛ʼ´`′＇", "'"),
    **dict.fromkeys("“”„‟«»″＂", '"'),
    **dict.fromkeys("‐‑‒–−﹣－", "-"),
    **dict.fromkeys("—―⸺⸻", " - "),  # these part two words where the shorter ones join them
}


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens, joiners, marks of direction
        return ""
    compatible = unicodedata.normalize("NFKC", character)
    if category == "No":  # a number of its own, however close it stands: 2½ isn't 21/2
        return f" {compatible} "
    # An accent that stands alone would be left as a mark upon nothing.
    return " " if len(compatible) > 1 and compatible.startswith(" ") else character


_PLAIN_TABLE = _Table(_plain)


def _unicode(text: str) -> str:
    # Compatibility forms can hold quotes, as in U+0149, so that the table is needed behind NFKC too.
    composed = unicodedata.normalize("NFKC", text.translate(_PLAIN_TABLE))
    return unicodedata.normalize("NFKC", composed.translate(_PLAIN_TABLE))


class _Case:
    """In upper or lower case, where Turkish and Azerbaijani have two letters i."""

    def __init__(self, upper: bool, language: str) -> None:
        self.change = str.upper if upper else str.lower
        turkic = language in ("tr", "az")
        self.table = str.maketrans(*(("iı", "İI") if upper else ("Iİ", "ıi"))) if turkic else {}

    def __call__(self, text: str) -> str:
        # Some letters have no single counterpart and come apart, such as U+0390 in upper case.
        return unicodedata.normalize("NFC", self.change(text.translate(self.table)))


class _Punctuation:
    def __init__(self, keep: str) -> None:
        self.keep = keep
        self.table = _Table(self._word_or_space)
        self.edges = re.compile(r"(?<![^\s'-])['-]|['-](?![^\s'-])")

    def _word_or_space(self, character: str) -> str:
        category = unicodedata.category(character)
        stays = category[0] in "LM" or category == "Nd" or character in self.keep
        return character if stays else " "

    def __call__(self, text: str) -> str:
        return self.edges.sub(" ", text.translate(self.table))


class _Abbreviations:
    """Keys of a mapping -> their words; a letter at the edge of a key must be at the edge of a word."""

    def __init__(self, words: Mapping[str, str]) -> None:
        longest_first = sorted(filter(None, words), key=len, reverse=True)
        letters = [key for key in longest_first if key[0].isalnum()]
        signs = [key for key in longest_first if not key[0].isalnum()]
        self.words = [str(words[key] or "") for key in letters + signs]
        choices = [rf"(?<!\w)(?:{_any_of(letters)})"] * bool(letters) + [_any_of(signs)] * bool(signs)
        self.pattern = re.compile("|".join(choices) or r"(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        # By number and not by text, since the cases of one letter don't all fold to the same.
        return self.pattern.sub(lambda found: apart(found, self.words[(found.lastindex or 0) - 1]), text)


def _any_of(keys: Sequence[str]) -> str:
    """A pattern with a group for each key."""
    return "|".join(f"({re.escape(key)})" + (r"(?!\w)" if key[-1].isalnum() else "") for key in keys)


class UnknownCharacter(ValueError):
    """A text has a character that is in no vocabulary."""

    def __init__(self, character: str) -> None:
        super().__init__(character)
        self.character = character

    def __str__(self) -> str:
        return f"the character {self.character!r} is not in the vocabulary"


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

    @cached_property
    def _model(self) -> Any:
        library = _tokenizers()
        return _within_words(library.models.BPE(vocab=self.ids, merges=list(self.merges)))

    def encode(self, text: str) -> list[int]:
        for character in text:
            if character == WORD_START or (character != " " and character not in self.ids):
                raise UnknownCharacter(character)
        return self._model.encode(_marked(text)).ids if text else []

    def decode(self, ids: Sequence[int]) -> str:
        text = "".join(self.vocabulary[number] for number in ids)
        return text.removeprefix(WORD_START).replace(WORD_START, " ")

    def state(self) -> dict[str, Any]:
        return {**super().state(), "merges": [list(pair) for pair in self.merges]}


def _marked(text: str) -> str:
    return WORD_START + text.replace(" ", WORD_START)


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


KINDS = (Characters.kind, BPE.kind)


def fit_tokenizer(
    texts: Iterable[str], kind: str = "characters", size: int | None = None, alphabet: str | None = None
) -> Tokenizer:
    """The tokenizer of these normalised texts; the same texts in any order give the same one.

    Args:
        texts: those of the training split.
        kind: `characters` or `bpe`.
        size: tokens in a BPE vocabulary, single characters among them.
        alphabet: the characters that are known, in their order; None takes those of the texts, sorted.

    Raises:
        UserError: an option does not fit the others or the texts, or BPE's library is missing.
    """
    where = "task.text.tokenizer"
    texts = sorted(texts)
    known = sorted(set().union(*texts)) if alphabet is None else list(alphabet)
    if kind not in KINDS:
        raise UserError(
            f"{where}.kind={kind} is none{did_you_mean(kind, KINDS)}: choose {' or '.join(KINDS)}."
        )
    if not known:
        raise UserError(
            f"No character is known: give transcripts with text, or name some in {where}.alphabet."
        )
    if kind == BPE.kind:
        return _fit_bpe(texts, known, size, where)
    if size is not None:
        raise UserError(f"{where}.size={size} is for BPE: set {where}.kind=bpe, or leave the size out.")
    return Characters(known)


def _fit_bpe(texts: Sequence[str], known: Sequence[str], size: int | None, where: str) -> BPE:
    characters = sorted({WORD_START, *known} - {" "})
    if size is None or size < len(characters):
        raise UserError(
            f"{where}.size={size} does not fit BPE: set {len(characters)} or more, one for each "
            "character and one for the beginning of a word."
        )
    library = _tokenizers()
    whole = _within_words(library.models.BPE())
    # A pair that occurs once tells nothing of others to come.
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, initial_alphabet=characters, show_progress=False
    )
    # A word of unknown characters will be refused where it is encoded, with the utterance that has it.
    words = (_marked(word) for text in texts for word in text.split(" ") if set(word) <= set(characters))
    whole.train_from_iterator(words, trainer)
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
        if state["kind"] == BPE.kind:
            return BPE(state["vocabulary"], state["merges"])
        if state["kind"] == Characters.kind:
            return Characters(state["vocabulary"])
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f"This is no vocabulary, but {str(state)[:80]}: take a checkpoint of a task that writes text."
    )
