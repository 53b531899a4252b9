"""What English says of money, temperatures, heights and fractions."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Protocol

MONEY = {  # one, many, and the same of its hundredth
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "¥": ("yen", "yen", "", ""),
    "¢": ("cent", "cents", "", ""),
}
SCALES = {
    **dict.fromkeys(("k", "thousand"), "thousand"),
    **dict.fromkeys(("m", "mn", "million"), "million"),
    **dict.fromkeys(("b", "bn", "billion"), "billion"),
    **dict.fromkeys(("t", "tn", "trn", "trillion"), "trillion"),
}
DEGREES = {"C": " celsius", "F": " fahrenheit"}
PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth"}
PARTS[10] = "tenth"
SIGNS = "".join(MONEY) + "°⁄"  # that are read here

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


class Reader(Protocol):
    """What is asked of a NumberVerbalizer."""

    def number(self, bare: str = "") -> str: ...

    def cardinal(self, text: str, ordinal: bool = False) -> str: ...

    def amount(self, whole: str, fraction: str | None, minus: str | None = None) -> str: ...


def rules(reader: Reader) -> list[Rule]:
    """Patterns and what is said for them, to be tried one after another."""
    sign, minus = rf"(?P<sign>[{''.join(MONEY)}])", r"(?P<minus>(?<![^\s(\[{\"'=:<>])-)?"
    scale = rf"(?:\s?(?P<scale>{'|'.join(sorted(SCALES, key=len, reverse=True))})\b)?"
    point = r"|(?=\.\d)"  # $.50
    apart = r"(?:(?=[-.\d])|(?<!\d.)(?<!\d\s.)\s)"  # in 10¢ 5 the sign is that of the number before it
    before = rf"{minus}{sign}{apart}(?P<inner>-)?{reader.number(point)}{scale}"
    behind = rf"{minus}{reader.number()}{scale}\s?{sign}(?!-?\.?\d)"
    degrees = rf"{minus}{reader.number()}\s?[°º](?:\s?(?P<unit>[CF])\b)?"
    fraction = (
        r"(?<![\d/.,⁄])(?:(?P<whole>\d+)\s+)?(?P<top>\d+)\s?(?P<bar>[/⁄])\s?(?P<bottom>\d+)(?![\d/⁄]|[.,]\d)"
    )
    height = r"(?P<feet>\d+)'\s?(?P<inches>\d{1,2})\""

    def temperature(found: re.Match[str]) -> str:
        words = reader.amount(found["whole"], found["fraction"], found["minus"])
        return (
            f"{words} degree{'' if words == 'one' else 's'}{DEGREES.get((found['unit'] or '').upper(), '')}"
        )

    return [
        (re.compile(before, re.IGNORECASE), partial(_money, reader)),
        (re.compile(behind, re.IGNORECASE), partial(_money, reader)),
        (re.compile(degrees), temperature),
        (re.compile(height), lambda f: f"{reader.cardinal(f['feet'])} foot {reader.cardinal(f['inches'])}"),
        (
            re.compile(r"(?P<whole>\d+)(?:\.?\s?(?P<a>ª)|\.\s?º)"),
            lambda f: f"{reader.cardinal(f['whole'])} {'a' if f['a'] else 'o'}",
        ),
        (re.compile(fraction), partial(_fraction, reader)),
        (
            re.compile(r"(?P<whole>\d+)(?:\.(?P<fraction>\d+))?\s?(?P<scale>bn|tn)\b"),
            lambda f: f"{reader.amount(f['whole'], f['fraction'])} {SCALES[f['scale']]}",
        ),
    ]


def _money(reader: Reader, found: re.Match[str]) -> str:
    unit, units, cent, cents = MONEY[found["sign"]]
    whole, fraction, scale = found["whole"], found["fraction"], found["scale"]
    minus = found["minus"] or found.groupdict().get("inner")
    if fraction and len(fraction) == 2 and cent and not scale:
        parts = (whole or "0", unit, units), (fraction.lstrip("0") or "0", cent, cents)
        spoken = [f"{reader.cardinal(n)} {one if n == '1' else many}" for n, one, many in parts if n != "0"]
        words = " ".join(spoken) or f"zero {units}"
        return f"minus {words}" if minus else words
    words = reader.amount(whole, fraction, minus)
    if scale:
        return f"{words} {SCALES[scale.lower()]} {units}"
    return f"{words} {unit if words in ('one', 'minus one') else units}"


def _fraction(reader: Reader, found: re.Match[str]) -> str:
    """3/4 as three quarters, 24/7 as twenty-four seven; a date such as 3/4 can't be told from a fraction."""
    whole, top, bottom = found["whole"], int(found["top"]), int(found["bottom"])
    before = f"{reader.cardinal(whole)} " if whole else ""
    if bottom not in PARTS or not 0 < top < bottom:
        over = " over " if found["bar"] == "⁄" else "/"
        return f"{before}{reader.cardinal(found['top'])}{over}{reader.cardinal(found['bottom'])}"
    part = PARTS[bottom] if top == 1 else "halves" if bottom == 2 else f"{PARTS[bottom]}s"
    if whole:
        return f"{before}and {'a' if top == 1 else reader.cardinal(found['top'])} {part}"
    return f"{reader.cardinal(found['top'])} {part}"
