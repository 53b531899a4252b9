"""Numbers in a transcript as the words that are spoken, by num2words."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, lru_cache

from num2words import CONVERTER_CLASSES, num2words

from lightning_audio.errors import UserError, did_you_mean
from lightning_audio.text import english, ordinals

# The others write a comma before decimals. By CLDR; U+066B and U+066C are understood in every language.
POINT_LANGUAGES = ("en", "am", "bn", "cy", "he", "ja", "kn", "ko", "te", "th", "es_GT", "es_NI")
LONGEST_CARDINAL = 6  # digits; what is longer and not grouped is a telephone or account number
LONGEST_GROUPED = 15  # digits; beyond them languages have no words, or others than num2words
CLINGING = ".,;:!?'\")]}/-([{"  # what may touch a word without running into it
# Languages in which num2words gives several whole numbers the same words; a slow test finds no others.
AMBIGUOUS = ("az", "cy", "tet", "tr")
# num2words never comes back from 1,001,100 in Amharic, and reads 2,00,000 in Kannada as two one lakh.
LARGEST = {"am": 999_999, "kn": 99_999}
DECADE = r"1[1-9]\d0|20\d0"  # 1990s is read as a year is
SAMPLES = ("0", "3", "0.5", "0.05", "3.5", "3.05", "3.005", "3.0005", "3.14", "3.141")
ZEROS = ("0", "00", "000", "000000")

_DIGIT = re.compile(r"\d")
_MINUS = r"(?P<minus>(?<![^\s(\[{\"'=:<>])-)?"
_PHONE = r"""(?<![\d-])(?:\d{1,3}[-. ])?\(\d{3}\)\s?\d{3}[-. ]\d{4}(?![\d-])  # (555) 123-4567
    |(?<![\d-])(?:\d{1,3}-)*\d{3}-\d{4}(?![\d-])
    |(?<![\d.,-])(?:\d{1,3}(?P<gap>[. ]))?\d{3}(?P<part>(?(gap)(?P=gap)|[. ]))
      \d{3}(?P=part)\d{4}(?![\d-]|[.,]\d)"""

_log = logging.getLogger(__name__)


class UnreadableNumber(UserError):
    """A number that has no words, or no words of its own, in a language; `reason` says why as a clause."""

    def __init__(self, number: str, language: str, why: str) -> None:
        super().__init__(number, language, why)
        self.language = language
        self.reason = f"the number {number} can't be read, for num2words {why}"

    def __str__(self) -> str:
        return (
            f"In task.text.language={self.language} {self.reason}: write it in words, or leave `numbers` out "
            "of task.text.steps."
        )


def is_english(language: str) -> bool:
    return language.split("_")[0] == "en"


def apart(found: re.Match[str], words: str) -> str:
    """The words, parted by spaces from what they would run into."""
    around = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    before, after = (" " if one and one not in CLINGING and not one.isspace() else "" for one in around)
    return f"{before}{words}{after}"


class NumberVerbalizer:
    """Digits -> words of a language that num2words knows.

    num2words reads some numbers of some languages as others (in Azerbaijani 31,400 as 30,400). A number whose
    words are those of another number is refused, and so are the forms that num2words lacks in a language.

    Raises:
        UserError: num2words does not know the language.
        UnreadableNumber: when called, that it can't read a number.
    """

    def __init__(self, language: str) -> None:
        if language not in CONVERTER_CLASSES:
            nearest = did_you_mean(language, CONVERTER_CLASSES)
            raise UserError(
                f"There are no numbers in task.text.language={language}{nearest}: "
                f"choose from {', '.join(CONVERTER_CLASSES)}, or leave `numbers` out of task.text.steps."
            )
        self.language = language
        self.digits = tuple(num2words(digit, lang=language) for digit in range(10))
        self.minus_word = self._minus_word()
        self.point_word, self.fraction_words, self.joint = self._decimals()
        points = {language, language.split("_")[0]}.intersection(POINT_LANGUAGES)
        self.point, self.comma = (r"[.٫]", r"[,٬'’]") if points else (r"[,٫]", "[. \u00a0\u202f٬'’]")
        self.rules: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
            (re.compile(_PHONE, re.VERBOSE), lambda found: self.read(found[0])),
            (re.compile(rf"\d+(?:{self.point}\d+){{2,}}"), self._parts),  # a version, an address
        ]
        if is_english(language):
            self.rules += english.rules(self)
        self.rules.append((self._plain_pattern(), self._plain))
        known = english.SIGNS if is_english(language) else ""
        self.unread = "".join(sign for sign in _unit_signs() if sign not in known)

    def __reduce__(self) -> tuple[type[NumberVerbalizer], tuple[str]]:
        return NumberVerbalizer, (self.language,)  # the rules can't go to another process

    def __call__(self, text: str) -> str:
        if not _DIGIT.search(text):
            return text  # most transcripts, much faster
        self._warn_of_units(text)
        for pattern, words in self.rules:
            text = pattern.sub(lambda found, words=words: apart(found, words(found)), text)  # type: ignore[misc]
        return text

    def number(self, bare: str = "") -> str:
        """A pattern of a number with the groups `whole` and `fraction`."""
        groups = rf"(?!0\d*\s)\d{{1,3}}(?P<comma>{self.comma})\d{{3}}(?:(?P=comma)\d{{3}})*(?!\d)"
        # Lakh and crore: 1,00,000.
        indian = r"\d{1,2}(?:,\d{2}){1,4},\d{3}(?!\d)|" if "," in self.comma else ""
        # Behind groups with apostrophes a point is one of decimals everywhere: 1'000.50.
        point = rf"(?:{self.point}|(?<=['’]\d{{3}})\.)"
        return rf"(?P<whole>{indian}{groups}|\d+{bare})(?:{point}(?P<fraction>\d+))?"

    def read(self, text: str) -> str:
        """Digit by digit."""
        return " ".join(self.digits[int(digit)] for digit in _bare(text))

    def cardinal(self, text: str, ordinal: bool = False) -> str:
        digits = _bare(text)
        leading_zero = len(digits) > 1 and int(digits[0]) == 0
        longest = LONGEST_CARDINAL if digits == text else LONGEST_GROUPED
        if not ordinal and (leading_zero or len(digits) > longest):
            return self.read(digits)
        return distinct_words(str(int(digits)), self.language, ordinal)

    def amount(self, whole: str, fraction: str | None, minus: str | None = None) -> str:
        """A number as its parts stand in the text."""
        words = self._decimal(whole, fraction) if fraction else self.cardinal(whole)
        if minus and not self.minus_word:
            raise UnreadableNumber(f"-{whole}", self.language, "has no word for the minus")
        return f"{self.minus_word} {words}" if minus else words

    def _minus_word(self) -> str:
        words, one = _words_of("-1", self.language, False), self.digits[1]
        if not words.endswith(one):
            words = str(getattr(CONVERTER_CLASSES[self.language], "negword", "") or "")
        word = words.removesuffix(one).strip()
        return word if _has_letter(word) else ""

    def _decimals(self) -> tuple[str, Callable[[str], str] | None, str]:
        """The word for the point, what reads a fraction behind it, and what stands between the words.

        Fractions are not read by num2words where that can be: it drops zeros at the end and rounds after some
        digits. The point is "" where num2words reads tenths and hundredths, and where nothing reads them.
        """
        for joint in (" ", ""):
            words = _words_of("0.141", self.language, False).replace(" ", joint)
            start = self.digits[0] + joint
            for reader in (self.read, self._zeros_and_cardinal):
                end = joint + reader("141").replace(" ", joint)
                if words.startswith(start) and words.endswith(end) and len(words) > len(start + end):
                    return words[len(start) : -len(end)].strip(), reader, joint
        tenths = [words for sample in SAMPLES if (words := _words_of(sample, self.language, False))]
        if tenths and len(set(tenths)) == len(tenths):
            return "", lambda number: distinct_words(number, self.language), " "
        point = getattr(CONVERTER_CLASSES[self.language], "pointword", "")
        if isinstance(point, str) and _has_letter(point):
            return point.strip(), self.read, " "
        return "", None, " "

    def _zeros_and_cardinal(self, fraction: str) -> str:
        digits = _bare(fraction)
        rest = digits.lstrip("0")
        if not rest or len(rest) > LONGEST_CARDINAL:
            return self.read(digits)
        zeros = self.read("0" * (len(digits) - len(rest)))
        return f"{zeros} {self.cardinal(rest)}".lstrip()

    def _decimal(self, whole: str, fraction: str) -> str:
        number = f"{int(_bare(whole) or 0)}.{_bare(fraction)}"
        if self.fraction_words is None:
            raise UnreadableNumber(number, self.language, "reads decimals as other ones")
        if not self.point_word:
            return self.fraction_words(number)
        before = self.cardinal(whole) if whole else ""
        words = f"{before} {self.point_word} {self.fraction_words(fraction)}".lstrip()
        return words if self.joint else words.replace(" ", "")

    def _parts(self, found: re.Match[str]) -> str:
        return " ".join(self.cardinal(part) for part in re.split(self.point, found[0]))

    def _plain_pattern(self) -> re.Pattern[str]:
        if is_english(self.language):  # .5, 22nd, 90s
            bare, endings = (
                r"|(?<![^\s(-])(?=\.\d)",
                r"(?P<ordinal>(?:st|nd|rd|th)\b)|(?P<plural>(?:s|(?<=0)'s)\b)",
            )
        else:
            bare, endings = "", rf"(?P<ordinal>{ordinals.pattern(self.language)})|(?P<plural>(?!))"
        return re.compile(rf"{_MINUS}{self.number(bare)}(?:{endings})?", re.IGNORECASE)

    def _plain(self, found: re.Match[str]) -> str:
        if not found["ordinal"] or found["fraction"]:
            if found["plural"] and re.fullmatch(DECADE, found["whole"]):
                return _plural(num2words(int(found["whole"]), lang=self.language, to="year"))
            words = self.amount(found["whole"], found["fraction"], found["minus"])
            return _plural(words) if found["plural"] else words
        words = self.cardinal(found["whole"], ordinal=True)
        words = (
            words
            if is_english(self.language)
            else ordinals.with_ending(words, found["ordinal"], self.language)
        )
        if not words:
            raise UnreadableNumber(found[0], self.language, f"has no ending {found['ordinal']}")
        return words

    def _warn_of_units(self, text: str) -> None:
        signs = re.escape(self.unread)
        for found in re.finditer(rf"\d+\s?([{signs}])|([{signs}])\s?\d+", text):
            _warn_once(found[1] or found[2], found[0], self.language)


def distinct_words(number: str, language: str, ordinal: bool = False) -> str:
    """The words of num2words for a number, which no number like it shares.

    Args:
        number: digits, with a point before its decimals.

    Raises:
        UnreadableNumber: num2words has no words for it, or the same ones for another number.
    """
    words, other = _words_and_rival(number, language, ordinal)
    if not words:
        raise UnreadableNumber(number, language, "has no right words for it")
    if other:
        raise UnreadableNumber(number, language, f"reads {other} in the same words, {words!r}")
    return words


@lru_cache(maxsize=10_000)
def _words_and_rival(number: str, language: str, ordinal: bool) -> tuple[str, str]:
    """The words, and a number near it that has them too, or nothing."""
    words = _words_of(number, language, ordinal)
    if not words:
        return "", ""
    if ordinal and words == _words_of(number, language, False):
        return words, f"the cardinal {number}"
    if not ordinal and "." not in number and language not in AMBIGUOUS:
        return words, ""
    return words, next((other for other in _near(number) if _words_of(other, language, ordinal) == words), "")


def _near(number: str) -> Iterator[str]:
    """Numbers that differ by a 0 or 1, alone or three places on too, by two digits that change places, or by
    zeros that are put in or taken out; none of them its equal."""
    seen = {_value(number)}
    for i in range(len(number) + 1):
        before, after = number[:i], number[i:]
        others = [before + zeros + after for zeros in ZEROS] + [before + after.removeprefix(z) for z in ZEROS]
        for digit in "01":
            others += [before + digit + after[1:], before + digit + after[1:3] + digit + after[4:]]
        others += [before + after[k] + after[1:k] + after[0] + after[k + 1 :] for k in range(1, len(after))]
        for other in others:
            if re.fullmatch(r"\d+(\.\d+)?", other) and _value(other) not in seen:
                seen.add(_value(other))
                yield other


def _value(number: str) -> tuple[str, str]:
    whole, _, fraction = number.partition(".")
    return whole.lstrip("0"), fraction.rstrip("0")


def _words_of(number: str, language: str, ordinal: bool) -> str:
    """Nothing where num2words fails, as it does in its rarer languages in many ways."""
    value: int | float | Decimal = float(number) if "." in number else int(number)
    if "." in number and (number.endswith("0") or len(number) > 15):
        value = Decimal(number)  # a float would lose digits; num2words takes those in more languages
    if value > LARGEST.get(language, math.inf):
        return ""
    try:
        words = num2words(value, lang=language, ordinal=ordinal)
    except Exception:
        return ""
    # Commas would be taken for those of the transcript.
    return " ".join(words.replace(",", "").split())


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _bare(text: str) -> str:
    return "".join(str(int(sign)) for sign in text if sign.isdecimal())


def _plural(words: str) -> str:
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


@cache
def _unit_signs() -> str:
    currencies = (chr(code) for code in range(0xFFFF) if unicodedata.category(chr(code)) == "Sc")
    return "".join(currencies) + "%‰°⁄"


@cache
def _warn_once(sign: str, example: str, language: str) -> None:
    _log.warning(
        f"The sign {sign} beside a number, as in {example!r}, is not read in task.text.language={language}: "
        f"name its words in task.text.abbreviations, or it is lost."
    )
