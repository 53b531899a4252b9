"""Ordinals as they are written with digits (1er, 2de, 3ra, 1º) and other endings, which are refused."""

from __future__ import annotations

import re

# Signs and letters behind a number that change what is said. English has its own.
ENDINGS = {
    "ca": "[rntèéa]",
    "de": "s?te[nrsm]?|er[ns]?",
    "es": "e?r[oa]?s?|[dtmvn][oa]s?|[oa]",
    "fi": r":[^\W\d_]+",
    "fr": "ers?|i?[eèé]?[rm]es?|nde?s?|[eè]s?",
    "it": "[oa]",
    "nl": "s?te|de|e",
    "pt": "[oa]s?",
    "sv": r":[^\W\d_]+|-tal\w*",
    **dict.fromkeys(("be", "ru", "uk"), r"-[^\W\d_]{1,3}"),
}


def pattern(language: str) -> str:
    """What may stand behind a number of this language, without its group."""
    letters = ENDINGS.get(language.split("_")[0])
    return r"\.?[ºª](?!\s?[CF]\b)" + (rf"|(?:{letters})(?!\w)" if letters else "")


def with_ending(words: str, ending: str, language: str) -> str:
    """A masculine ordinal of num2words with the gender and number of an ending; "" where it has none."""
    root, ending = language.split("_")[0], ending.lower().lstrip(".")
    if ending == "º":
        return words if root in ("ca", "es", "it", "pt") else ""
    if ending == "ª":
        return _feminine(words) if root in ("es", "it", "pt") else ""
    if root == "nl":
        return words
    plural = "s" if ending.endswith("s") else ""
    ending = ending.removesuffix("s")
    if root == "es" and len(ending) > 1:
        if ending == "er":  # primer, tercer
            return words[:-1] if words.endswith(("primero", "tercero")) else ""
        return (_feminine(words) if ending.endswith("a") else words) + plural
    return _french(words, ending) + plural if root == "fr" and _french(words, ending) else ""


def _feminine(words: str) -> str:
    return re.sub(r"o\b", "a", words)


def _french(words: str, ending: str) -> str:
    if words == "premier":
        return {"er": words, "re": "première", "ère": "première", "ere": "première"}.get(ending, "")
    if ending in ("nd", "nde"):
        return ending.replace("nd", "second") if words == "deuxième" else ""
    return words.replace("tsième", "tième") if "r" not in ending else ""  # num2words: quatre-vingtsième
