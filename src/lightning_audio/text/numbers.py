"""Numbers in a transcript as the words that are spoken."""

from __future__ import annotations

import re
from functools import lru_cache

from num2words import CONVERTER_CLASSES, num2words

from lightning_audio.errors import UserError, did_you_mean

MONEY = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
}
POINT_LANGUAGES = (
    "en",
    "am",
    "bn",
    "cy",
    "he",
    "ja",
    "kn",
    "ko",
    "te",
    "th",
)  # others write a comma before decimals
LONGEST_CARDINAL = 6  # digits; what is longer and not grouped is a telephone or account number
CLINGING = ".,;:!?'\")]}/-([{"  # what may touch a word without running into it

_DIGIT = re.compile(r"\d")


def is_english(language: str) -> bool:
    return language.split("_")[0] == "en"


def apart(found: re.Match[str], words: str) -> str:
    """The words, parted by spaces from what they would run into."""
    around = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    before, after = (" " if one and one not in CLINGING and not one.isspace() else "" for one in around)
    return f"{before}{words}{after}"


class SpokenNumbers:
    """Digits -> words of a language that num2words knows."""

    def __init__(self, language: str) -> None:
        if language not in CONVERTER_CLASSES:
            nearest = did_you_mean(language, CONVERTER_CLASSES)
            raise UserError(
                f"There are no numbers in task.text.language={language}{nearest}: "
                f"choose from {', '.join(CONVERTER_CLASSES)}, or leave `numbers` out of task.text.steps."
            )
        self.language = language
        self.point, commas = (
            (".", ",") if language.split("_")[0] in POINT_LANGUAGES else (",", ". \u00a0\u202f")
        )
        self.pattern = _pattern(re.escape(self.point), f"[{commas}]", is_english(language))
        self.digits = tuple(num2words(digit, lang=language) for digit in range(10))
        self.point_word, self.minus_word = self._point_word(), self._minus_word()

    def __call__(self, text: str) -> str:
        if not _DIGIT.search(text):
            return text  # most transcripts, much faster
        # num2words writes commas, which would be taken for those of the transcript.
        return self.pattern.sub(lambda found: apart(found, self._spoken(found).replace(",", "")), text)

    def _spoken(self, found: re.Match[str]) -> str:
        if found["phone"]:
            return self._read(found["phone"])
        if found["dotted"]:
            return " ".join(self._cardinal(part) for part in found["dotted"].split(self.point))
        if found["money"]:
            words = self._money(found)
        elif found["fraction"]:
            words = self._decimal(found["whole"], found["fraction"])
        else:
            words = self._cardinal(found["whole"], ordinal=bool(found["ordinal"]))
            words = _plural(words) if found["plural"] else words
        return f"{self.minus_word} {words}".lstrip() if found["minus"] else words

    def _say(self, digits: str, ordinal: bool = False) -> str:
        return _words_of(digits, self.language, ordinal)

    def _point_word(self) -> str:
        """The one between whole and fraction, in a language that reads the fraction digit by digit."""
        start, end = f"{self.digits[0]} ", f" {self._read('141')}"
        words = self._say("0.141")
        digit_by_digit = words.startswith(start) and words.endswith(end)
        return words[len(start) : -len(end)].strip() if digit_by_digit else ""

    def _minus_word(self) -> str:
        words, one = self._say("-1"), self.digits[1]
        if words.endswith(one):
            return words.removesuffix(one).strip()
        return str(getattr(CONVERTER_CLASSES[self.language], "negword", "")).strip()

    def _read(self, text: str) -> str:
        """Digit by digit."""
        return " ".join(self.digits[int(digit)] for digit in _bare(text))

    def _cardinal(self, text: str, ordinal: bool = False) -> str:
        digits = _bare(text)
        leading_zero = len(digits) > 1 and int(digits[0]) == 0
        if leading_zero or (digits == text and len(digits) > LONGEST_CARDINAL):
            return self._read(digits)
        return self._say(digits, ordinal) or self._read(digits)

    def _decimal(self, whole: str, fraction: str) -> str:
        # Not by num2words where that can be: it drops zeros at the end and rounds after some digits.
        tenths = "" if self.point_word else self._say(f"{_bare(whole)}.{fraction}")
        before = self._cardinal(whole) if whole else ""
        return tenths or f"{before} {self.point_word} {self._read(fraction)}".lstrip()

    def _money(self, found: re.Match[str]) -> str:
        unit, units, cent, cents = MONEY[found["money"].strip()]
        whole, fraction, scale = found["whole"], found["fraction"], found["scale"]
        if fraction and len(fraction) == 2 and not scale:
            parts = (whole, unit, units), (fraction.lstrip("0") or "0", cent, cents)
            spoken = [
                f"{self._cardinal(n)} {one if n == '1' else many}" for n, one, many in parts if n != "0"
            ]
            return " ".join(spoken) or f"zero {units}"
        amount = self._decimal(whole, fraction) if fraction else self._cardinal(whole)
        if scale:
            return f"{amount} {scale} {units}"
        return f"{amount} {unit if amount == 'one' else units}"


@lru_cache(maxsize=10_000)
def _words_of(number: str, language: str, ordinal: bool) -> str:
    """Nothing where num2words fails, as it does in its rarer languages in many ways."""
    try:
        return num2words(float(number) if "." in number else int(number), lang=language, ordinal=ordinal)
    except Exception:
        return ""


def _bare(text: str) -> str:
    return "".join(sign for sign in text if sign.isdecimal())


def _plural(words: str) -> str:
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


def _pattern(point: str, comma: str, english: bool) -> re.Pattern[str]:
    never = "(?!)"
    money = r"[$£€]\s?" if english else never
    bare = r"(?<!\S)(?=\.\d)" if english else never  # .5
    ordinal, plural = (r"(?:st|nd|rd|th)\b", r"s\b") if english else (never, never)
    return re.compile(
        rf"""(?P<phone>(?<![\d-])(?:\d{{1,3}}-)*\d{{3}}-\d{{4}}(?![\d-]))
        |(?P<dotted>\d+(?:{point}\d+){{2,}})  # a version, an address
        |(?P<minus>(?<!\S)-)?(?P<money>{money})?
         (?P<whole>(?!0\d*\s)\d{{1,3}}(?P<comma>{comma})\d{{3}}(?:(?P=comma)\d{{3}}){{0,3}}(?!\d)|\d+|{bare})(?:{point}(?P<fraction>\d+))?
         (?(money)(?:\s(?P<scale>thousand|million|billion|trillion)\b)?
         |(?:(?P<ordinal>{ordinal})|(?P<plural>{plural}))?)""",
        re.IGNORECASE | re.VERBOSE,
    )
