"""The normaliser: text as written to text as it is learned and scored, in named steps."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.text.numbers import NumberVerbalizer, UnreadableNumber, apart, is_english

STEPS = ("annotations", "unicode", "abbreviations", "numbers", "lower", "punctuation", "spaces")

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


class Normalizer:
    """Text as written -> words as they are learned and scored; the same for reference and hypothesis.

    Steps run in the order given, `spaces` wherever it is named at the end:

    - `annotations`: what a transcriber noted and nobody said goes: `[noise]`, `<unk>`, `(inaudible)`;
    - `unicode`: NFKC, but for Thai and Lao sara am; curly quotes and long dashes become plain, invisible
      signs go;
    - `abbreviations`: each key of the mapping, in any case, becomes its words;
    - `numbers`: digits become words by num2words. Decimals are read out; years are cardinals; digit by digit
      go numbers with a leading zero, telephone numbers, and more than 6 digits without separators. In English
      also ordinals (1st), decades (90s), money ($5, £2.50, $40k), fractions (½, 3/4), temperatures (20°C) and
      heights (5'10"). In other languages such signs take words from `abbreviations`, or are warned of;
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
        UnreadableNumber: when called, that a number of the text has no words.
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
            "annotations": lambda: _without_annotations,
            "unicode": lambda: _unicode,
            "abbreviations": lambda: _Abbreviations(self.abbreviations),
            "numbers": lambda: NumberVerbalizer(language),
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
        self._chain = [(step, makers[step]()) for step in ordered]

    def __call__(self, text: str) -> str:
        for _, step in self._chain:
            text = step(text)
        return text

    def leniently(self, text: str) -> str:
        """The same, with its digits as they stand where a number can't be read."""
        try:
            return self(text)
        except UnreadableNumber:
            for name, step in self._chain:
                text = text if name == "numbers" else step(text)
            return text


# In round brackets and braces words are said, too, so that only usual notes go.
_NOTES = (
    "applause|breath|breathing|cough|crosstalk|foreign|inaudible|indiscernible|laugh|laughs|laughing|laughter|"
    "music|noise|sigh|silence|sil|sniff|spoken_noise|spn|throat|unclear|unintelligible|unk|unknown|xxx"
)
_ANNOTATION = re.compile(
    rf"""\[[^\[\]\d]{{1,40}}\] | </?[^<>\d\s][^<>\d]{{0,40}}>
    | [({{][^(){{}}\d]{{0,20}}\b(?:{_NOTES})\b[^(){{}}\d]{{0,20}}[)}}]""",
    re.IGNORECASE | re.VERBOSE,
)


def _has_any(signs: Iterable[str], text: str) -> bool:
    """Whether one of them is in the text: much faster than a pattern that begins with none of its own."""
    return any(map(text.__contains__, signs))


def _without_annotations(text: str) -> str:
    return _ANNOTATION.sub(" ", text) if _has_any("[<({", text) else text


def _spaces(text: str) -> str:
    return " ".join(text.split())


class _Table(dict[int, str]):
    """For `str.translate`: what a character becomes is worked out when it is met for the first time."""

    def __init__(self, becomes: Callable[[str], str]) -> None:
        super().__init__()
        self.becomes = becomes
        self.kept: set[str] = set()  # characters that become themselves

    def __missing__(self, code: int) -> str:
        self[code] = self.becomes(chr(code))
        if self[code] == chr(code):
            self.kept.add(chr(code))
        return self[code]

    def applied(self, text: str) -> str:
        # Beyond ASCII `translate` takes ten times as long, and most texts stay as they are.
        return text if not text.isascii() and self.kept.issuperset(text) else text.translate(self)


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
_ORDINAL_SIGN = re.compile(r"((?<=\d)\.?\s?[ºª])")  # NFKC makes 1o of 1º, which `numbers` would not know
_DEGREES = re.compile(r"º(?=\s?[CF]\b)")  # typed for °
# Thai and Lao sara am, which NFKC takes apart and everyone writes as one letter, behind a mark of tone.
_SARA_AM = (re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32"), re.compile("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2"))


def _unicode(text: str) -> str:
    if text.isascii():
        return text.replace("`", "'")  # all of ASCII that changes
    parts = _ORDINAL_SIGN.split(_DEGREES.sub("°", text)) if _has_any("ºª", text) else [text]
    text = "".join(part if i % 2 else _compatible(part) for i, part in enumerate(parts))
    for pattern, letter in zip(_SARA_AM, "\u0e33\u0eb3", strict=True):
        text = pattern.sub(rf"\1{letter}", text)
    return text


def _compatible(text: str) -> str:
    # Compatibility forms can hold quotes, as in U+0149, so that the table is needed behind NFKC too.
    composed = unicodedata.normalize("NFKC", _PLAIN_TABLE.applied(text))
    if composed == text:
        return composed
    return unicodedata.normalize("NFKC", _PLAIN_TABLE.applied(composed))


class _Case:
    """In upper or lower case, where Turkish and Azerbaijani have two letters i."""

    def __init__(self, upper: bool, language: str) -> None:
        self.change = str.upper if upper else str.lower
        turkic = language in ("tr", "az")
        self.table = str.maketrans(*(("iı", "İI") if upper else ("Iİ", "ıi"))) if turkic else {}

    def __call__(self, text: str) -> str:
        # Some letters have no single counterpart and come apart, such as U+0390 in upper case.
        text = self.change(text.translate(self.table) if self.table else text)
        return text if text.isascii() else unicodedata.normalize("NFC", text)


class _Punctuation:
    def __init__(self, keep: str) -> None:
        self.keep = keep
        self.table = _Table(self._word_or_space)
        self.edges = re.compile(r"['-](?:(?<![^\s'-]['-])|(?![^\s'-]))")  # begins with a sign: found fast

    def _word_or_space(self, character: str) -> str:
        category = unicodedata.category(character)
        stays = category[0] in "LM" or category == "Nd" or character in self.keep
        return character if stays else " "

    def __call__(self, text: str) -> str:
        return self.edges.sub(" ", self.table.applied(text))


FOLDED = "\u017f\u0130\u0131\u212a"  # ſ, İ, ı and the sign of kelvin


class _Abbreviations:
    """Keys of a mapping -> their words; a letter at the edge of a key must be at the edge of a word."""

    def __init__(self, words: Mapping[str, str]) -> None:
        longest_first = sorted(filter(None, words), key=len, reverse=True)
        letters = [key for key in longest_first if key[0].isalnum()]
        signs = [key for key in longest_first if not key[0].isalnum()]
        self.words = [str(words[key] or "") for key in letters + signs]
        choices = [rf"(?<!\w)(?:{_any_of(letters)})"] * bool(letters) + [_any_of(signs)] * bool(signs)
        self.pattern = re.compile("|".join(choices) or r"(?!)", re.IGNORECASE)
        self.ascii_keys = [key.lower() for key in longest_first] if all(map(str.isascii, words)) else None

    def __call__(self, text: str) -> str:
        # Looking for each key is much faster than the pattern, which most texts don't need. Only the letters
        # of FOLDED match some of ASCII without being them in lower case.
        keys = None if not text.isascii() and _has_any(FOLDED, text) else self.ascii_keys
        if keys is not None and not _has_any(keys, text.lower()):
            return text
        # By number and not by text, since the cases of one letter don't all fold to the same.
        return self.pattern.sub(lambda found: apart(found, self.words[(found.lastindex or 0) - 1]), text)


def _any_of(keys: Sequence[str]) -> str:
    """A pattern with a group for each key."""
    return "|".join(f"({re.escape(key)})" + (r"(?!\w)" if key[-1].isalnum() else "") for key in keys)
