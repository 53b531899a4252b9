"""Numbers as words: no two numbers in the same words, in any language that num2words has."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict

import pytest
from num2words import CONVERTER_CLASSES

from lightning_audio.errors import UserError
from lightning_audio.text import numbers
from lightning_audio.text.normalizer import STEPS, Normalizer
from lightning_audio.text.numbers import AMBIGUOUS, LARGEST, NumberVerbalizer, distinct_words

REFUSED = "refused"


def said(text: str, language: str = "en") -> str:
    try:
        return Normalizer(STEPS, language)(text)
    except UserError:
        return REFUSED


@pytest.mark.parametrize("language", CONVERTER_CLASSES)
def test_distinct_numbers_have_distinct_words(language: str) -> None:
    point = "." if NumberVerbalizer(language).point.startswith("[.") else ","
    comma = "," if point == "." else "."
    texts = [
        str(n) for n in (*range(130), *range(200, 1000, 37), 1000, 1001, 1011, 1100, 2000, 10_000, 11_000)
    ]
    texts += [f"{a}{comma}{b}" for a in (12, 31, 120, 400, 401) for b in ("000", "400", "607", "011")]
    texts += [f"{a}{point}{b}" for a in (0, 3, 21) for b in ("5", "50", "05", "005", "14", "141", "0141")]
    texts += [f"-{text}" for text in ("1", "5", "15", "20", f"3{point}5")]
    words = [said(text, language) for text in texts]
    read = [found for found in words if found != REFUSED]
    assert len(read) > 130
    assert len(set(read)) == len(read)
    assert not any(character.isdigit() for found in read for character in found)


@pytest.mark.parametrize(
    ("language", "raw"),
    [
        ("tr", "401.607"),
        ("tr", "400.607"),
        ("az", "11.000"),
        ("tet", "100011"),
        ("vi", "3,5"),
        ("vi", "-5"),
        ("ar", "3,5"),
        ("fa", "0,5"),
        ("bn", "-5"),
        ("kn", "-5"),
        ("am", "1,001,100"),
        ("am", "401607"),
        ("de", "1º"),
        ("ca", "1ª"),
        ("kn", "1,00,000"),
        ("kn", "123456"),
        ("de", "2te"),
        ("de", "1990er"),
        ("fr", "2er"),
        ("es", "1a"),
        ("es", "2er"),
        ("pt_BR", "2a"),
        ("sv", "2:a"),
        ("sv", "90-talet"),
        ("fi", "5:n"),
        ("ru", "1990-х"),
    ],
)
def test_what_num2words_misreads_is_refused(language: str, raw: str) -> None:
    assert said(raw, language) == REFUSED
    with pytest.raises(UserError, match="write it in words, or leave `numbers` out"):
        Normalizer(STEPS, language)(raw)


@pytest.mark.parametrize(
    ("language", "raw", "words"),
    [
        ("tr", "3,5 3,50 3,005", "üç virgül beş üç virgül beş sıfır üç virgül sıfır sıfır beş"),
        ("az", "0,5 0,05", "sıfır nöqtə beş sıfır nöqtə sıfır beş"),
        ("lt", "3,50", "trys kablelis penkiasdešimt"),
        ("ru", "3,05 3,50", "три целых пять сотых три целых пятьдесят сотых"),
        ("ja", "3.50", "三点五零"),
        ("bn", "3.05", "তিন দশমিক শূন্য পাঁচ"),
        ("ar", "-5", "سالب خمسة"),
        ("fa", "-5", "منفی پنج"),
        ("en", "1,00,000", "one hundred thousand"),
        ("en_IN", "12,34,567.5", "twelve lakh thirty four thousand five hundred and sixty seven point five"),
        ("bn", "1,00,000", "এক লাখ"),
        # Beyond 15 digits, which had been read as two numbers.
        ("en", "1,000,000,000,000,001", "one" + 14 * " zero" + " one"),
        ("en", "100,000,000,000,001", "one hundred trillion and one"),
        ("en", "3٫14 1٬234", "three point one four one thousand two hundred and thirty four"),
        ("fa", "۱۲٬۳۴۵", "دوازده هزار و سیصد و چهل و پنج"),
        ("fr_CH", "1’000", "mille"),
        ("de", "1'000.000", "eintausend komma null null null"),  # one sign groups a number
        ("fr_CH", "1’000.5", "mille virgule cinq"),
        ("de", "1'000.50", "eintausend komma fünf null"),
        ("it", "1'000. 5", "mille cinque"),
        (
            "de",
            "1'234'567,5",
            "eine million zweihundertvierunddreißigtausendfünfhundertsiebenundsechzig komma fünf",
        ),
        ("it", "1'000", "mille"),
        ("es_GT", "1,234.5", "mil doscientos treinta y cuatro punto cinco"),
        ("es", "1º 2.ª 21ª", "primero segunda vigésima primera"),
        ("pt", "3º 21ª", "terceiro vigésima primeira"),
        ("it", "1º 1ª", "primo prima"),
        ("en", "(-5) and -.5", "minus five and minus point five"),
        ("en", "the 1990s and '90s", "the nineteen nineties and nineties"),
        ("en", "the 1980's and 60's", "the nineteen eighties and sixties"),
        ("en", "1800s 1900s 2000s 2010s", "eighteen hundreds nineteen hundreds two thousands twenty tens"),
        ("en", "3000s 1990", "three thousands one thousand nine hundred and ninety"),
        ("kn", "1,000", "ಒಂದು ಸಾವಿರ"),
        ("fr", "1er 1ère 1res 2e 2ème 21è", "premier première premières deuxième deuxième vingt et unième"),
        ("fr_CH", "2nd 2ndes 80e 200e", "second secondes huitantième deux centième"),
        ("fr", "80ème 5 m 5m", "quatre vingtième cinq m cinq m"),
        ("nl", "1ste 2de 20e", "eerste tweede twintigste"),
        ("es", "1er 3ra 4tos 20s", "primer tercera cuartos veinte s"),
        ("ru", "5-летний", "пять летний"),
        ("sv", "kl 5:30", "kl fem trettio"),
    ],
)
def test_forms_of_languages(language: str, raw: str, words: str) -> None:
    assert said(raw, language) == words


PHONE = "five five five one two three four five six seven"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("(555) 123-4567", PHONE),
        ("555.123.4567", PHONE),
        ("555 123 4567", PHONE),
        ("+1 (555) 123-4567", f"plus one {PHONE}"),
        ("$40k", "forty thousand dollars"),
        ("$2.5bn", "two point five billion dollars"),
        ("£3m and $1B", "three million pounds and one billion dollars"),
        ("2.5bn people", "two point five billion people"),
        ("5€ or 5 €", "five euros or five euros"),
        ("¥500 10¢ 1¢", "five hundred yen ten cents one cent"),
        ("₹2.50", "two rupees fifty paise"),
        ("$-5 -$5 $-2.50", "minus five dollars minus five dollars minus two dollars fifty cents"),
        ("$.50", "fifty cents"),
        ("½ a 2½ b 1 3/4", "one half a two and a half b one and three quarters"),
        ("3/4 2/3 24/7 9/11", "three quarters two thirds twenty four seven nine eleven"),
        ("3/4/2020", "three four two thousand and twenty"),
        ("20°C 1° -4.5 °F", "twenty degrees celsius one degree minus four point five degrees fahrenheit"),
        ("20 ºC", "twenty degrees celsius"),
        ("5'10\" or 5′10″", "five foot ten or five foot ten"),
        ('"press 10", he said', "press ten he said"),
    ],
)
def test_english_quantities(raw: str, words: str) -> None:
    assert said(raw) == words


@pytest.mark.parametrize(
    ("language", "raw", "sign"), [("de", "5 €", "€"), ("es", "20 ºC", "°"), ("en", "₩500", "₩")]
)
def test_a_unit_that_is_lost_is_told(
    language: str, raw: str, sign: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        said(raw, language)
        said(raw, language)
    (warning,) = caplog.messages
    assert f"The sign {sign} beside a number" in warning
    assert "task.text.abbreviations" in warning
    caplog.clear()
    assert Normalizer(STEPS, "de", abbreviations={"€": "Euro"})("5€") == "fünf euro"
    assert not caplog.messages


def sample_of_numbers(largest: int) -> list[int]:
    few = (0, 1, 2, 10, 11, 12, 20, 21, 100, 101, 110, 111, 200, 400, 401, 607, 999)
    found = {*range(0, 3000, 3), *(a * 1000 + b for a in range(1, 1000, 7) for b in few)}
    found |= {a * 1000 + b for a in few for b in few}
    found |= {(a * 1000 + b) * 1000 + c for a in few for b in few for c in few[:9]}
    found |= {((1 * 1000 + a) * 1000 + b) * 1000 + c for a in few[:8] for b in few[:8] for c in few[:8]}
    found |= {a * 1000**3 + b for a in few[1:] for b in few}
    return sorted(n for n in found if n <= largest)


@pytest.mark.slow
@pytest.mark.parametrize("language", CONVERTER_CLASSES)
def test_languages_that_give_several_numbers_one_text(language: str) -> None:
    """Holds AMBIGUOUS against num2words: the languages in it, and no others, have such numbers."""
    by_words = defaultdict(list)
    for number in sample_of_numbers(LARGEST.get(language, 10**15)):
        if words := numbers._words_of(str(number), language, ordinal=False):
            by_words[words].append(str(number))
    shared = [found for found in by_words.values() if len(found) > 1]
    assert bool(shared) == (language in AMBIGUOUS), shared[:3]
    for found in shared:
        refused = 0
        for digits in found:
            try:
                distinct_words(digits, language)
            except UserError:
                refused += 1
        assert refused >= len(found) - 1, found


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "es", "pt", "it", "ca"])
def test_ordinals_are_distinct(language: str) -> None:
    found: dict[str, int] = {}
    for number in itertools.chain(range(1, 400), range(400, 100_000, 97)):
        words = numbers._words_of(str(number), language, ordinal=True)
        assert not words or found.setdefault(words, number) == number
