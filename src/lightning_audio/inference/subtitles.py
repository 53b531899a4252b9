"""Words with their times as files: TextGrid of Praat, SubRip (SRT), WebVTT, and CTM of NIST."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import wrap

from lightning_audio.decoding.alignment import TimedText

LINE_CHARACTERS = 42  # in a line of a subtitle
MOST_LINES = 2
LONGEST_CUE = 7.0  # seconds that a subtitle stands
SHORTEST_CUE = 1.0  # seconds that it stands at least, where the next one leaves it the time
CUE_PAUSE = 1.0  # seconds without a word at which a subtitle ends


@dataclass(frozen=True)
class Cue:
    """A subtitle: lines that stand from `start` to `end` in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def textgrid(tiers: Mapping[str, Sequence[TimedText]], duration: float) -> str:
    """A TextGrid in Praat's long format, with an interval tier for each name.

    The intervals of a tier cover the whole duration: empty ones lie where nothing is said. A span begins
    where the one before it ends, at the earliest. Times are in milliseconds; what is shorter than one is left
    out, since Praat takes no interval without extent.

    Args:
        tiers: spans in the order of their times, by the name of their tier.
        duration: seconds of the recording.
    """
    end = round(duration, 3)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers.items(), start=1):
        found = _intervals(spans, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
        ]
        lines += ["        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(found)}"]
        for place, (first, last, text) in enumerate(found, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {first:.3f}"]
            lines += [f"            xmax = {last:.3f}", f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _intervals(spans: Iterable[TimedText], end: float) -> list[tuple[float, float, str]]:
    """From 0 to the end without a gap."""
    found: list[tuple[float, float, str]] = []
    at = 0.0
    for span in spans:
        first, last = max(round(span.start, 3), at), min(round(span.end, 3), end)
        if first >= last:
            continue
        if first > at:
            found.append((at, first, ""))
        found.append((first, last, span.text))
        at = last
    return found if at >= end and found else [*found, (at, end, "")]


def _quoted(text: str) -> str:
    doubled = " ".join(text.split()).replace('"', '""')
    return f'"{doubled}"'


def cues(segments: Iterable[TimedText]) -> list[Cue]:
    """Subtitles of segments: at most two lines of 42 characters, at most 7 seconds.

    A subtitle ends with its segment, before the word that does not fit any more, and where nothing is said
    for a second. A segment without words as parts has them spread evenly over its time, by their characters.
    """
    groups = [
        group
        for segment in segments
        for group in _groups(segment.parts or _spread(segment, segment.text.split()))
    ]
    followings = [*(group[0].start for group in groups[1:]), math.inf]
    return [
        Cue(group[0].start, _end(group, following), _lines(group))
        for group, following in zip(groups, followings, strict=False)
    ]


def _end(group: Sequence[TimedText], following: float) -> float:
    """That of the last word; later where it was short, but never within the next subtitle."""
    start = group[0].start
    end = min(max(group[-1].end, start + SHORTEST_CUE), start + LONGEST_CUE)
    return max(min(end, following), start)


def _groups(words: Sequence[TimedText]) -> list[list[TimedText]]:
    """The words of each subtitle."""
    groups: list[list[TimedText]] = []
    for word in (piece for whole in words for piece in _pieces(whole)):
        if groups and _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _pieces(word: TimedText) -> list[TimedText]:
    """The word, or what of it fits one subtitle: a script without spaces has no shorter ones."""
    pieces: list[TimedText] = []
    for letter in [word] if _fit([word]) else word.parts or _spread(word, [*word.text]):
        whole = (
            replace(letter, text=pieces[-1].text + letter.text, start=pieces[-1].start) if pieces else letter
        )
        pieces[-1:] = [whole] if _fit([whole]) else [*pieces[-1:], letter]
    return pieces


def _fits(group: Sequence[TimedText], word: TimedText) -> bool:
    return _fit([*group, word]) and word.start - group[-1].end < CUE_PAUSE


def _fit(words: Sequence[TimedText]) -> bool:
    return len(_lines(words)) <= MOST_LINES and words[-1].end - words[0].start <= LONGEST_CUE


def _lines(words: Sequence[TimedText]) -> tuple[str, ...]:
    """As even as they can be where one line is not enough."""
    text = " ".join(word.text for word in words)
    found = wrap(text, LINE_CHARACTERS, break_on_hyphens=False)
    for width in range(len(text) // 2, LINE_CHARACTERS):
        evener = wrap(text, max(width, 1), break_on_hyphens=False, break_long_words=False)
        if len(found) == len(evener) == MOST_LINES and max(map(len, evener)) <= LINE_CHARACTERS:
            return tuple(evener)
    return tuple(found)


def _spread(segment: TimedText, words: Sequence[str]) -> list[TimedText]:
    """The words of a text, each as long as it has characters."""
    weights = [len(word) for word in words]
    seconds = (segment.end - segment.start) / max(sum(weights), 1)
    times = [segment.start + seconds * sum(weights[:i]) for i in range(len(words) + 1)]
    return [
        TimedText(word, start, end, segment.score)
        for word, (start, end) in zip(words, pairwise(times), strict=True)
    ]


def srt(segments: Iterable[TimedText]) -> str:
    """SubRip: numbered subtitles, as `cues` makes them."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "".join(f"{x}\n" for x in cue.lines)
        for number, cue in enumerate(cues(segments), start=1)
    )


def vtt(segments: Iterable[TimedText]) -> str:
    """WebVTT of the same subtitles; &, < and > are escaped."""
    blocks = [
        f"\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "".join(f"{_escaped(x)}\n" for x in cue.lines)
        for cue in cues(segments)
    ]
    return "WEBVTT\n" + "".join(blocks)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """`01:02:03,004`: hours, minutes, seconds and milliseconds."""
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def ctm(name: str, channel: int, words: Iterable[TimedText]) -> str:
    """NIST's time-marked words: file, channel from 1 on, start, duration, word and confidence, a word a line.

    Fields end at a space: those within names become `_`.
    """
    file = "_".join(name.split())
    return "".join(
        f"{file} {channel} {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.score:.4f}\n"
        for word in words
    )
