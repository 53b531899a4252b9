"""What programs find as text: tables, CSV, JSON lines, label tracks of Audacity, RTTM-like lines, and
transcripts as text, JSON lines, subtitles, TextGrids and CTM."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_audio.data.decode import AUDIO_SUFFIXES
from lightning_audio.decoding.alignment import TimedText
from lightning_audio.errors import UserError, printable
from lightning_audio.inference.detections import Detection
from lightning_audio.inference.events import Event
from lightning_audio.inference.names import file_stem, recording_and_channel, refuse_same_recordings
from lightning_audio.inference.prediction import Prediction
from lightning_audio.inference.subtitles import ctm, srt, textgrid, vtt
from lightning_audio.inference.transcribe import Transcript
from lightning_audio.io import refuse_device, terminal, to_csv, to_json, write_atomically

if TYPE_CHECKING:  # torch takes seconds to import
    from lightning_audio.inference.live import LiveWord

Row = Mapping[str, str]
Timelines = Sequence[tuple[str, Sequence[Event]]]

ANSWER_COLUMNS = ("file", "from", "to", "label", "score", "next")
EVENT_COLUMNS = ("file", "start", "end", "label", "score")
TABLE_WIDTH = 200  # characters, where no terminal says


def as_table(rows: Sequence[Row], columns: Sequence[str], to_terminal: bool) -> str:
    """Rows under their columns, as wide as the terminal that they go to; raises UserError without rich."""
    try:
        from rich.table import Table  # here, since programs that print no table need not wait for it
    except ImportError:
        raise UserError(
            "A table needs rich, which is not installed: take --format csv or jsonl, or run pip install rich."
        ) from None

    table = Table(*columns)
    for row in rows:
        table.add_row(*(printable(row[column]) for column in columns))
    content = io.StringIO()
    width = None if to_terminal else TABLE_WIDTH
    terminal(file=content, width=width, force_terminal=to_terminal).print(table)
    return content.getvalue()


def json_line(fields: Mapping[str, object]) -> str:
    return to_json(fields) + "\n"


def rows_of_answers(found: Sequence[Prediction], top: int, windows: bool) -> list[Row]:
    """Rows of text: file, from, to, label, score, and the next best labels."""
    rows: list[Row] = []
    for answer in found:
        ranked = sorted(answer.scores.items(), key=lambda item: -item[1])
        # Several labels, or none, are an answer of their own: then the best ones are named with their scores.
        best = [item for item in ranked if item[0] != answer.hypothesis][: top - 1]
        others = ", ".join(f"{label} {score:.2f}" for label, score in best)
        looks = [(0.0, answer.seconds, answer.hypothesis, answer.score, others)]
        looks += [(*window, "") for window in answer.windows if windows]
        rows += [
            {
                "file": answer.id,
                "from": f"{start:.2f}",
                "to": f"{end:.2f}",
                "label": label,
                "score": f"{score:.4f}",
                "next": following,
            }
            for start, end, label, score, following in looks
        ]
    return rows


def answers_as_text(
    found: Sequence[Prediction], form: str, top: int, windows: bool, to_terminal: bool
) -> str:
    """All answers as `table`, `csv` or `jsonl`."""
    if form == "jsonl":
        return "".join(json_line(asdict(answer)) for answer in found)
    rows = rows_of_answers(found, top, windows)
    return to_csv(rows, ANSWER_COLUMNS) if form == "csv" else as_table(rows, ANSWER_COLUMNS, to_terminal)


def rows_of_events(found: Timelines) -> list[Row]:
    """A row for each event: file, start and end in seconds, label and score, as texts."""
    return [
        {
            "file": name,
            "start": f"{event.start:.3f}",
            "end": f"{event.end:.3f}",
            "label": event.label,
            "score": f"{event.score:.4f}",
        }
        for name, timeline in found
        for event in timeline
    ]


def audacity_line(name: str, event: Event) -> str:
    """Start and end in seconds and the label; the file is the one that the track is opened beside."""
    return f"{event.start:.6f}\t{event.end:.6f}\t{' '.join(event.label.split())}\n"


def rttm_line(name: str, event: Event, channel: int = 0) -> str:
    """NIST's Rich Transcription Time Marked with a type of its own: start, duration, label and score.

    Fields end at a space: those within names become `_`.
    """
    recording, number = recording_and_channel(name, channel)
    file, label = ("_".join(text.split()) for text in (recording, event.label))
    length = event.end - event.start
    return f"EVENT {file} {number} {event.start:.3f} {length:.3f} <NA> <NA> {label} {event.score:.4f} <NA>\n"


def event_json_line(name: str, event: Event) -> str:
    return json_line({"file": name, **rounded(asdict(event))})


LINES: dict[str, Callable[[str, Event], str]] = {"jsonl": event_json_line, "audacity": audacity_line}


def events_as_text(found: Timelines, form: str, to_terminal: bool, channel: int = 0) -> str:
    """All events, file by file, as `table`, `csv`, `jsonl`, `audacity` or `rttm`, `channel` that of all."""
    if form == "rttm":
        return "".join(rttm_line(name, event, channel) for name, timeline in found for event in timeline)
    if form in LINES:
        return "".join(LINES[form](name, event) for name, timeline in found for event in timeline)
    rows = rows_of_events(found)
    return to_csv(rows, EVENT_COLUMNS) if form == "csv" else as_table(rows, EVENT_COLUMNS, to_terminal)


def transcript_json_line(found: Transcript) -> str:
    """Segments, words and tokens with their times and scores, and n-best lists where there is a choice."""
    segments = [_nested(segment, ("words", "tokens")) for segment in found.segments]
    for segment, others in zip(segments, found.nbest, strict=False):
        if len(others) > 1:
            segment["nbest"] = [rounded(other.as_dict()) for other in others]
    seconds = round(found.seconds, 6)
    return json_line({"file": found.id, "seconds": seconds, "text": found.text, "segments": segments})


def _nested(span: TimedText, names: Sequence[str]) -> dict[str, object]:
    fields: dict[str, object] = {"text": span.text, "start": span.start, "end": span.end, "score": span.score}
    parts = {names[0]: [_nested(part, names[1:]) for part in span.parts]} if names else {}
    return rounded(fields) | parts


def _transcript_tiers(found: Transcript) -> str:
    tokens = [token for word in found.words for token in word.parts]
    tiers = {"segments": found.segments, "words": found.words, "tokens": tokens}
    return textgrid(tiers, found.seconds)


def in_a_line(name: str) -> str:
    """The name of a file where a tab or the end of a line would begin something else."""
    return printable(name).replace("\t", r"\t").replace("\n", r"\n")


TRANSCRIPTS: dict[str, Callable[[Transcript], str]] = {
    "text": lambda found: f"{in_a_line(found.id)}\t{found.text}\n",
    "jsonl": transcript_json_line,
    "ctm": lambda found: ctm(*recording_and_channel(found.id, found.channel), found.words),
    "srt": lambda found: srt(found.segments),
    "vtt": lambda found: vtt(found.segments),
    "textgrid": _transcript_tiers,
}
OF_ONE_FILE = ("srt", "vtt", "textgrid")  # the others take several recordings, one behind the other
SUFFIXES = {"text": ".txt", "textgrid": ".TextGrid"}  # of the others their name


def transcripts_as_text(found: Sequence[Transcript], form: str) -> str:
    """All transcripts as `text`, `jsonl` or `ctm`; one as `srt`, `vtt` or `textgrid`."""
    return "".join(TRANSCRIPTS[form](transcript) for transcript in found)


def transcript_files(names: Sequence[str], form: str, output: Path | None) -> list[Path] | None:
    """The file of each recording where `output` is a folder, which is one that exists or has no suffix.

    Raises:
        UserError: several recordings would be written into one file that takes but one, or over one another.
    """
    refuse_output(output, names, folder=output is not None and output.is_dir())
    if output is None or not (output.is_dir() or not output.suffix):
        if form in OF_ONE_FILE and len(names) > 1:
            raise UserError(
                f"--format {form} makes a file for each recording, and there are {len(names)}: name a folder "
                "with --output."
            )
        if form == "ctm":
            refuse_same_recordings(names)
        return None
    files = [output / f"{file_stem(name)}{SUFFIXES.get(form, f'.{form}')}" for name in names]
    for i, file in enumerate(files):
        if file in files[:i]:
            raise UserError(
                f"{names[files.index(file)]} and {names[i]} would both be written to {file}: give them one "
                "after another, with an --output of their own."
            )
    return files


def write_transcripts(found: Sequence[Transcript], form: str, output: Path | None) -> None:
    """To the files that `transcript_files` names, otherwise all to one, or to the terminal."""
    files = transcript_files([transcript.id for transcript in found], form, output)
    if files is not None:
        for file, transcript in zip(files, found, strict=True):
            write_atomically(file, transcripts_as_text([transcript], form))
    elif output is not None:
        write_atomically(output, transcripts_as_text(found, form))
    else:
        sys.stdout.write(transcripts_as_text(found, form))


def detection_line(detection: Detection, form: str) -> str:
    """A detection as `table` (time, label and score behind tabs) or `jsonl`."""
    if form == "jsonl":
        return json_line(rounded(asdict(detection)))
    return f"{detection.time:.3f}\t{detection.label}\t{detection.score:.4f}\n"


def live_line(said: LiveWord, form: str | None) -> str:
    """A word of a stream as `table` or `jsonl`: when it was known, whether it is final, from when to when."""
    if form == "jsonl":
        return json_line(live_fields(said))
    word = said.word
    state, mark = "final" if said.final else "partial", "-" if said.joins else ""
    return f"{said.heard:.2f}\t{state}\t{word.start:.3f}\t{word.end:.3f}\t{mark}{word.text}\n"


def live_fields(said: LiveWord) -> dict[str, object]:
    """A word of a stream as JSON has it."""
    word = said.word
    told: dict[str, object] = {"heard": said.heard, "final": said.final, "text": word.text}
    times = {"start": word.start, "end": word.end, "score": word.score}
    return rounded(told | times | ({"joins": True} if said.joins else {}))


def rounded(fields: Mapping[str, object]) -> dict[str, object]:
    """Times and scores to a millionth: what adding up steps left behind it is no information."""
    return {key: _rounded(value) if isinstance(value, float) else value for key, value in fields.items()}


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None  # -inf is what can't be said at all


def refuse_output(output: Path | None, inputs: Iterable[str | Path] = (), folder: bool = False) -> None:
    """Raises UserError where a file, or a `folder`, can't be written, or would take the place of an input."""
    if output is None:
        return
    there = next(place for place in (output, *output.absolute().parents) if place.exists())
    if not there.is_dir() and (folder or there != output):
        raise UserError(f"{output} can't be made, since {there} is a file: give another --output.")
    if output.is_dir() and not folder:
        raise UserError(f"{output} is a folder: name a file with --output.")
    if output.suffix.lower() in AUDIO_SUFFIXES and not folder:
        raise UserError(f"{output} is named as audio, and what is written is text: give another --output.")
    refuse_device(output)
    if any(output.resolve() == Path(one).resolve() for one in inputs):
        raise UserError(f"{output} is read, and would be written over: give another --output.")
