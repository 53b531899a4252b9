"""Subtitles, TextGrids and CTM: read back by small parsers, they say what was written."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from lightning_audio.decoding.alignment import TimedText, from_parts
from lightning_audio.errors import UserError
from lightning_audio.inference.formats import (
    as_table,
    transcript_files,
    transcripts_as_text,
    write_transcripts,
)
from lightning_audio.inference.names import recording_and_channel
from lightning_audio.inference.subtitles import Cue, ctm, cues, srt, textgrid, vtt
from lightning_audio.inference.transcribe import Transcript


def spoken(text: str, start: float = 0.0, each: float = 0.4, gap: float = 0.1) -> TimedText:
    """A segment of words that take `each` second with `gap` seconds between them."""
    words = [
        TimedText(word, start + i * (each + gap), start + i * (each + gap) + each, 0.5)
        for i, word in enumerate(text.split())
    ]
    return from_parts(text, words)


def read_textgrid(text: str) -> tuple[float, dict[str, list[tuple[float, float, str]]]]:
    """The duration, and the intervals by the names of their tiers."""
    lines = [line.strip() for line in text.splitlines()]
    assert lines[:2] == ['File type = "ooTextFile"', 'Object class = "TextGrid"']
    values = [line.split(" = ", 1) for line in lines if " = " in line]
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    name, sizes = "", []
    bounds: list[float] = []
    for key, value in values[2:]:
        if key == "name":
            name = value[1:-1].replace('""', '"')
            tiers[name], bounds = [], []
        elif key in ("xmin", "xmax"):
            bounds.append(float(value))
        elif key == "intervals: size":
            sizes.append(int(value))
            bounds = []
        elif key == "text":
            tiers[name].append((*bounds, value[1:-1].replace('""', '"')))  # type: ignore[arg-type]
            bounds = []
    assert sizes == [len(tier) for tier in tiers.values()]
    assert int(dict(values)["size"]) == len(tiers)
    return float(values[3][1]), tiers


def test_a_textgrid_is_read_back() -> None:
    words = [
        TimedText("three", 0.2, 0.5, 1.0),
        TimedText('say "oh"', 0.5, 0.9, 1.0),
        TimedText("five", 1.25, 1.5, 1.0),
    ]
    duration, tiers = read_textgrid(textgrid({"words": words, 'a "tier"': []}, 2.0))
    assert duration == 2.0
    assert tiers == {
        "words": [
            (0.0, 0.2, ""),
            (0.2, 0.5, "three"),
            (0.5, 0.9, 'say "oh"'),
            (0.9, 1.25, ""),
            (1.25, 1.5, "five"),
            (1.5, 2.0, ""),
        ],
        'a "tier"': [(0.0, 2.0, "")],
    }


def test_intervals_of_a_textgrid_cover_it_whatever_the_spans() -> None:
    rng = random.Random(0)
    for _ in range(200):
        starts = sorted(rng.uniform(-0.2, 5.2) for _ in range(rng.randrange(12)))
        spans = [
            TimedText(f"w{i}", start, start + rng.choice([0, 0.0003, 0.3, 2.0]), 1.0)
            for i, start in enumerate(starts)
        ]
        _, tiers = read_textgrid(textgrid({"words": spans}, 5.0))
        intervals = tiers["words"]
        assert intervals[0][0] == 0.0
        assert intervals[-1][1] == 5.0
        assert all(start < end for start, end, _ in intervals)
        assert all(one[1] == other[0] for one, other in pairwise(intervals))


def clock(text: str) -> float:
    hours, minutes, seconds = text.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def read_srt(text: str) -> list[Cue]:
    found = []
    for number, block in enumerate(filter(None, text.split("\n\n")), start=1):
        index, times, *lines = block.strip("\n").split("\n")
        assert int(index) == number
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", times)
        start, end = map(clock, times.split(" --> "))
        found.append(Cue(start, end, tuple(lines)))
    return found


def read_vtt(text: str) -> list[Cue]:
    head, *blocks = text.split("\n\n")
    assert head.strip() == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.strip("\n").split("\n")
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} --> \d\d:\d\d:\d\d\.\d{3}", times)
        start, end = map(clock, times.split(" --> "))
        plain = [x.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for x in lines]
        found.append(Cue(start, end, tuple(plain)))
    return found


def rounded(found: list[Cue]) -> list[Cue]:
    return [Cue(round(cue.start, 3), round(cue.end, 3), cue.lines) for cue in found]


def random_segments(seed: int) -> list[TimedText]:
    rng = random.Random(seed)
    segments, at = [], 0.0
    for _ in range(rng.randrange(1, 8)):
        at += rng.uniform(0, 4)
        words = []
        for _ in range(rng.randrange(1, 40)):
            end = at + rng.uniform(0.02, 0.8)
            words.append(TimedText("x" * rng.randrange(1, 14), at, end, 0.9))
            at = end + rng.choice([0.0, 0.05, 0.3, 1.4])
        segments.append(from_parts(" ".join(word.text for word in words), words))
    return segments


@pytest.mark.parametrize("seed", range(20))
def test_subtitles_hold_their_limits_and_every_word_once(seed: int) -> None:
    segments = random_segments(seed)
    found = cues(segments)
    assert " ".join(" ".join(cue.lines) for cue in found) == " ".join(segment.text for segment in segments)
    for cue in found:
        assert 1 <= len(cue.lines) <= 2
        assert all(len(line) <= 42 for line in cue.lines)
        assert cue.end - cue.start <= 7.0 + 1e-9
    assert all(one.end <= other.start + 1e-9 for one, other in pairwise(found))
    assert rounded(read_srt(srt(segments))) == rounded(found)
    assert rounded(read_vtt(vtt(segments))) == rounded(found)


def test_a_subtitle_stands_from_its_first_word_to_its_last() -> None:
    (cue,) = cues([spoken("one two three four", start=3.0)])
    assert (cue.start, cue.end) == (3.0, pytest.approx(4.9))
    assert cue.lines == ("one two three four",)


def test_a_short_one_stays_for_a_second_where_there_is_time() -> None:
    alone, before, after = spoken("yes", 0.0), spoken("no", 5.0), spoken("oh", 5.5)
    assert [(cue.start, cue.end) for cue in cues([alone, before, after])] == [
        (0.0, 1.0),
        (5.0, 5.5),
        (5.5, 6.5),
    ]


def test_a_pause_of_a_second_and_seven_seconds_end_a_subtitle() -> None:
    before, after = spoken("one two"), spoken("three", 1.95)
    pause = from_parts("one two three", [*before.parts, *after.parts])
    assert [cue.lines for cue in cues([pause])] == [("one two",), ("three",)]
    slow = spoken("a b c d e f g h i j", each=0.9, gap=0.1)
    assert [cue.lines for cue in cues([slow])] == [("a b c d e f g",), ("h i j",)]


def test_two_lines_are_about_as_long() -> None:
    (cue,) = cues([spoken("please enter your number and then the pound key", each=0.1, gap=0.01)])
    assert cue.lines == ("please enter your number", "and then the pound key")


def test_a_text_without_words_is_spread_over_its_time() -> None:
    text = " ".join(["word"] * 30)
    found = cues([TimedText(text, 10.0, 20.0, 1.0)])
    assert [" ".join(cue.lines) for cue in found] == [" ".join(["word"] * 16), " ".join(["word"] * 14)]
    assert [(cue.start, cue.end) for cue in found] == [
        (10.0, pytest.approx(10 + 16 / 3)),
        (pytest.approx(10 + 16 / 3), pytest.approx(20.0)),
    ]


def test_a_word_that_is_longer_than_a_line_is_broken() -> None:
    (cue,) = cues([spoken("x" * 60)])
    assert cue.lines == ("x" * 42, "x" * 18)


@pytest.mark.parametrize("with_tokens", [True, False])
def test_a_script_without_spaces_holds_the_limits_too(with_tokens: bool) -> None:
    text = "漢字" * 60
    tokens = tuple(TimedText(letter, i / 4, (i + 1) / 4, 0.9) for i, letter in enumerate(text))
    word = TimedText(text, 0.0, 30.0, 0.9, tokens if with_tokens else ())
    found = cues([TimedText(text, 0.0, 30.0, 0.9, (word,))])
    assert "".join(line for cue in found for line in cue.lines) == text
    assert [cue.start for cue in found] == pytest.approx([0, 7, 14, 21, 28])
    assert [cue.end for cue in found] == pytest.approx([7, 14, 21, 28, 30])
    assert all(len(cue.lines) <= 2 for cue in found)


def test_signs_of_markup_are_escaped_in_webvtt() -> None:
    segment = spoken("a<b>c & --> d")
    assert "a&lt;b&gt;c &amp; --&gt; d" in vtt([segment])
    assert read_vtt(vtt([segment]))[0].lines == ("a<b>c & --> d",)


def test_times_of_hours_and_just_under_a_second() -> None:
    assert srt([TimedText("late", 3723.0049, 3725.9996, 1.0)]) == "1\n01:02:03,005 --> 01:02:06,000\nlate\n"


def test_nothing_said_makes_files_that_are_whole() -> None:
    assert (srt([]), vtt([]), ctm("a", 1, [])) == ("", "WEBVTT\n", "")
    assert read_textgrid(textgrid({"words": []}, 1.5)) == (1.5, {"words": [(0.0, 1.5, "")]})


def test_ctm_fields() -> None:
    words = [TimedText("three", 0.2, 0.55, 0.98765), TimedText("five", 1.0, 1.25, 1.0)]
    assert (
        ctm("my file", 2, words) == "my_file 2 0.200 0.350 three 0.9877\nmy_file 2 1.000 0.250 five 1.0000\n"
    )


@pytest.mark.parametrize(
    ("name", "channel", "expected"),
    [
        ("calls/en_4156.wav", 0, ("en_4156", 1)),  # as sclite joins it with en_4156 of an STM
        ("calls/en_4156.wav", 1, ("en_4156", 2)),
        ("calls/en_4156.wav#1", 0, ("en_4156", 2)),
        ("my.talk.2024", 0, ("my.talk.2024", 1)),
        ("take#1", 0, ("take#1", 1)),
        ("a.wav#b", 0, ("a.wav#b", 1)),
    ],
)
def test_recordings_are_named_as_tools_of_nist_name_them(
    name: str, channel: int, expected: tuple[str, int]
) -> None:
    assert recording_and_channel(name, channel) == expected
    line = transcripts_as_text([replace(transcript(name), channel=channel)], "ctm").splitlines()[0]
    assert line.split()[:2] == [expected[0], str(expected[1])]


def test_files_of_one_name_make_no_ctm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a/x.wav and b/x.flac are both called x"):
        transcript_files(["a/x.wav", "b/x.flac"], "ctm", None)
    assert transcript_files(["a/x.wav", "b/x.flac"], "jsonl", None) is None
    assert transcript_files(["a/x.wav#0", "a/x.wav#1"], "srt", tmp_path) == [
        tmp_path / "x#0.srt",
        tmp_path / "x#1.srt",
    ]


# Files of several recordings.


def transcript(name: str, text: str = "one two") -> Transcript:
    return Transcript(name, 3.0, (spoken(text),))


def test_several_recordings_in_one_text() -> None:
    found = [transcript("a.wav"), Transcript("b.wav", 1.0, ())]
    assert transcripts_as_text(found, "text") == "a.wav\tone two\nb.wav\t\n"
    assert [line.split()[4] for line in transcripts_as_text(found, "ctm").splitlines()] == ["one", "two"]


def test_a_textgrid_of_a_transcript_has_three_tiers() -> None:
    _, tiers = read_textgrid(transcripts_as_text([transcript("a.wav")], "textgrid"))
    assert {name: [i[2] for i in tier if i[2]] for name, tier in tiers.items()} == {
        "segments": ["one two"],
        "words": ["one", "two"],
        "tokens": [],
    }


def test_a_folder_gets_a_file_for_each(tmp_path: Path) -> None:
    write_transcripts([transcript("x/a.wav"), transcript("b.2", "five")], "srt", tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.srt", "b.2.srt"]
    assert read_srt((tmp_path / "new" / "b.2.srt").read_text())[0].lines == ("five",)
    write_transcripts([transcript("a.wav")], "textgrid", tmp_path)
    assert (tmp_path / "a.TextGrid").is_file()
    write_transcripts([transcript("a.wav"), transcript("b.wav")], "ctm", tmp_path / "all.ctm")
    assert len((tmp_path / "all.ctm").read_text().splitlines()) == 4


def test_files_that_would_be_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a folder with --output"):
        transcript_files(["a.wav", "b.wav"], "srt", tmp_path / "one.srt")
    with pytest.raises(UserError, match=r"y/a\.flac would both be written to .*a\.vtt"):
        transcript_files(["x/a.wav", "y/a.flac"], "vtt", tmp_path)


def test_a_name_with_a_tab_or_an_end_of_a_line_stays_in_its_line() -> None:
    """As a terminal may be given it; JSON and CSV have their own way."""
    found = Transcript("a\tb\nc\x1b.wav", 1.0, ())
    assert transcripts_as_text([found], "text") == "a\\tb\\nc\\x1b.wav\t\n"
    assert json.loads(transcripts_as_text([found], "jsonl"))["file"] == found.id
    row = dict.fromkeys(("file",), found.id)
    assert "\x1b" not in as_table([row], ["file"], to_terminal=False)
