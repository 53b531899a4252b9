"""Rows of manifests: the lines of a JSONL, CSV or TSV file as clips, with all that is wrong with each."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_audio.data.clip import SPLIT_NAMES, Clip, clean_label, problems
from lightning_audio.errors import UserError

# What each field of a clip is called in the tables that people have; the first name is ours.
COLUMNS = {
    "path": (
        *("path", "audio_filepath", "file", "filename", "filepath", "file_name", "file_path", "fname"),
        *("audio", "audio_path", "audio_file", "wav", "wav_path", "wav_file"),
    ),
    "start": (
        *("start", "offset", "begin", "onset", "start_time", "begin_time"),
        *("start_seconds", "start_sec", "start_s"),
    ),
    "end": ("end", "stop", "end_time", "stop_time", "end_seconds", "end_sec", "end_s"),
    "duration": ("duration", "duration_seconds", "duration_sec", "duration_s"),
    "label": ("label", "category", "class", "event_label"),
    "labels": ("labels", "categories", "classes", "event_labels", "tags"),
    "text": ("text", "transcript", "transcription", "sentence"),
    "split": ("split", "set", "subset", "partition"),
    "fold": ("fold",),
    "channel": ("channel",),
    "id": ("id",),
}
SPEAKER = ("speaker", "speaker_id", "spk_id", "client_id")
CSV_SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t")
SAME_TIME = 0.01  # seconds by which a duration may differ from end less start

Row = tuple[int, Mapping[str, Any] | str]  # a line's number, and its values or what is wrong with all of it


def group_names(group: Sequence[str]) -> list[str]:
    """The columns that may name a group, the first of them first."""
    fields = [column_name(field) for field in group]
    return [name for field in fields for name in (SPEAKER if field == "speaker" else (field,))]


@lru_cache(maxsize=1000)  # a manifest has few, in each of its rows
def column_name(name: str) -> str:
    """The name of a column as it is compared: `Start Time (s)` is `start_time`."""
    name = re.sub(r"\s*[(\[](s|sec|seconds)[)\]]$", "", name.strip().lower())
    return re.sub(r"[\s-]+", "_", name)


def rows_of(path: Path) -> Iterator[Row]:
    """Line numbers and what stands there: values by their column, or what is wrong with all of the row.

    Raises:
        UserError: there is no such file, or its first line names no audio or a column twice.
    """
    return (_json_rows if is_json(path) else _csv_rows)(path)


def is_json(path: Path) -> bool:
    """Whether it holds JSON and no table.

    Raises:
        UserError: there is no such file, or it is of another kind.
    """
    if not path.is_file():
        raise UserError(
            f"There is no manifest {path}: give a JSONL or CSV file with one clip a row; those of the "
            "experiments lie below LIGHTNING_AUDIO_DATA, the folder of corpora."
        )
    with path.open("rb") as file:
        start = file.read(2)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(f"{path} is UTF-16, as some spreadsheets save it: save it as UTF-8.")
    is_table = path.suffix.lower() in CSV_SUFFIXES
    if start[:1] == b"[" and not is_table:
        raise UserError(f"{path} is one JSON list: write each of its objects in a line of its own.")
    return not is_table


def _json_rows(path: Path) -> Iterator[Row]:
    # Bytes: only a newline ends a row, not all that Unicode takes for one.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, json_row(line)


def json_row(line: bytes) -> dict[str, Any] | str:
    """The values of a line by their column, or what is wrong with all of it."""
    try:
        return _object(json.loads(line.removesuffix(b"\n").decode("utf-8-sig"), object_pairs_hook=_Pairs))
    except UnicodeDecodeError:
        return "it is not UTF-8"
    except ValueError as error:
        return f"it is no JSON ({error})"
    except RecursionError:
        return "it is no JSON (too many brackets)"


class _Pairs(list):
    """The pairs of a JSON object, of which a dict would keep the last of two with one name."""


def _object(pairs: Any) -> dict[str, Any] | str:
    if not isinstance(pairs, _Pairs):
        return "it is no JSON object"
    names = [column_name(name) for name, _ in pairs]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        return f"it has `{twice[0]}` twice"
    return {name: dict(v) if isinstance(v, _Pairs) else v for name, (_, v) in zip(names, pairs, strict=True)}


def _csv_rows(path: Path) -> Iterator[Row]:
    # What is not UTF-8 becomes lone surrogates, so that each such row can be named.
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    text = text if "\n" in text else text.replace("\r", "\n")  # as old spreadsheets write it
    delimiter = _delimiter(text.partition("\n")[0].rstrip("\r"), path)
    # A quotation mark of a TSV is one of its text. Elsewhere strict: otherwise a quote that is left open
    # would swallow the rows behind it without a word.
    unquoted = delimiter == "\t" and path.suffix.lower() != ".csv"
    quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if unquoted else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **quoting)
    try:
        header = [column_name(name) for name in next(reader)]
    except csv.Error as error:
        raise UserError(f"The first line of {path} is no CSV ({error}): is a quote left open?") from None
    if twice := [name for name, times in Counter(header).items() if times > 1 and name]:
        raise UserError(f"{path} has two columns named `{twice[0]}`: take one out, or name it otherwise.")
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first, f"it is no CSV ({error}): is a quote left open?"
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if re.search("[\udc80-\udcff]", "".join(cells)):
            yield first, "it is not UTF-8"
        elif len(cells) != len(header):
            yield first, f"it has {len(cells)} cells where the first line has {len(header)}"
        else:
            yield first, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}


def _delimiter(header: str, path: Path) -> str:
    """The delimiter with which the first line names a column of audio files."""
    for delimiter in DELIMITERS:
        names = header.split(delimiter)
        with contextlib.suppress(csv.Error):  # what it can't read is told below, by what it lacks
            names = next(csv.reader([header], delimiter=delimiter), [])
        if any(column_name(name) in COLUMNS["path"] for name in names):
            return delimiter
    raise UserError(
        f"{path} has no column `path`, `audio_filepath`, `file` or the like: let its first line name the "
        f"columns, separated by commas, semicolons or tabs (it is {header[:80]!r})."
    )


class ManifestRow:
    """The values of one row by their column; what is wrong with them gathers in `problems`."""

    def __init__(self, values: Mapping[str, Any] | str, split: str | None, separator: str | None) -> None:
        self.problems = [values] if isinstance(values, str) else []
        self.values = {} if isinstance(values, str) else values
        self.split = split
        self.separator = "[;|]" if separator is None else re.escape(separator)

    def clip(self, name: str, folder: Path, group: Sequence[str]) -> Clip:
        """The clip of the row, named `name` where it has no id; of no use where there are problems."""
        if self.problems:
            return Clip(name, "")
        fold = self._number("fold")
        if fold is not None and not fold.is_integer():
            self.problems.append(f"fold {fold} is no whole number")
        (start, duration), channel = self._times(), self._channel()
        if type(given := self._one("id")) not in (str, int, type(None)):
            self.problems.append(f"its id {given!r} is no name")
        clip = Clip(
            id=name if given is None else str(given),
            path=self._path(folder),
            start=start,
            duration=duration,
            labels=self._labels(),
            text=self._text(),
            split=self._split(),
            fold=int(fold) if fold is not None and fold.is_integer() else None,
            group=self._group(group),
            channel=None if channel == "each" else channel,
        )
        self.problems += problems(clip)
        return replace(clip, channel=channel)

    def _present(self, names: Iterable[str]) -> dict[str, Any]:
        """What stands in these columns; an empty cell is not there."""
        return {name: v for name in names if (v := self.values.get(name)) not in (None, "")}

    def _agreed(self, found: Mapping[str, Any]) -> Any:
        """The value that columns for one field agree on."""
        values = list(found.items())
        for name, value in values[1:]:
            if value != values[0][1]:
                self.problems.append(
                    f"`{values[0][0]}` and `{name}` contradict each other ({values[0][1]!r}, {value!r})"
                )
        return values[0][1] if values else None

    def _one(self, field: str) -> Any:
        return self._agreed(self._present(COLUMNS[field]))

    def _number(self, field: str, leave: Sequence[str] = ()) -> float | None:
        return self._agreed_number(name for name in COLUMNS[field] if name not in leave)

    def _agreed_number(self, names: Iterable[str]) -> float | None:
        numbers = {}
        for name, value in self._present(names).items():
            try:
                numbers[name] = float("" if isinstance(value, bool) else value)
            except (TypeError, ValueError, OverflowError):
                self.problems.append(f"{name} {value!r} is no number")
        return self._agreed(numbers)

    def _times(self) -> tuple[float, float | None]:
        """Start and duration in seconds, of which an end may stand in the place of the latter."""
        by_ends = "onset" in self.values  # as in the tables of DCASE, where `offset` is the end
        start = self._number("start", ["offset"] if by_ends else []) or 0.0
        end = self._agreed_number((*COLUMNS["end"], "offset") if by_ends else COLUMNS["end"])
        duration = self._number("duration")
        if end is None:
            return start, duration
        if not end > start:
            self.problems.append(f"its end {end} is not behind its start {start}")
            return start, None
        if duration is not None and abs(end - start - duration) > SAME_TIME:
            self.problems.append(f"duration {duration} and end {end} contradict each other")
        return start, end - start if duration is None else duration

    def _path(self, folder: Path) -> str:
        audio = self._one("path")
        if audio is None:
            self.problems.append("it names no audio file, as `path` or `audio_filepath`")
        elif not isinstance(audio, str):
            self.problems.append(f"the audio path {audio!r} is no text")
        elif not os.path.isfile(path := folder / audio):  # noqa: PTH113 - Path's raises for a text that is too long
            self.problems.append(f"there is no audio file {path}")
        else:
            return str(path)
        return ""

    def _labels(self) -> tuple[str, ...]:
        names = [*COLUMNS["labels"], *COLUMNS["label"]]
        if all(self.values.get(name) is None for name in (*names, *COLUMNS["text"])):
            self.problems.append("neither `label`, `labels` nor `text` is there")
        given = {name: self.values[name] for name in names if self.values.get(name) is not None}
        # An empty cell says that a clip has no labels, unless another column says which.
        given = {name: value for name, value in given.items() if value != ""} or dict([*given.items()][:1])
        return self._agreed({name: self.names(name, value) for name, value in given.items()}) or ()

    def names(self, column: str, found: Any) -> tuple[str, ...]:
        """The labels in a column, each once; what is none is one of the row's problems."""
        if not isinstance(found, list):
            several = column in COLUMNS["labels"] and isinstance(found, str)
            found = self._separated(found) if several else [found]
        if not isinstance(found, list) or not all(type(label) in (str, int) for label in found):
            self.problems.append(f"the labels {found!r} are no names")
            return ()
        labels = [clean_label(str(label)) for label in found]
        if "" in labels:
            self.problems.append("a label is empty")
        return tuple(dict.fromkeys(labels))

    def _separated(self, cell: str) -> Any:
        """The labels of one cell: a JSON list, or names with separators between; an empty cell has none."""
        if cell.startswith("["):
            try:
                return json.loads(cell)
            except (ValueError, RecursionError):
                return cell
        return re.split(self.separator, cell) if cell else []

    def _text(self) -> str | None:
        given = {name: v for name in COLUMNS["text"] if (v := self.values.get(name)) is not None}
        # An empty text is one, too, where no other column has more.
        text = self._agreed({name: v for name, v in given.items() if v != ""} or given)
        if text is not None and not isinstance(text, str):
            self.problems.append(f"text {text!r} is no text")
            return None
        return text

    def _split(self) -> str | None:
        found = self._present(COLUMNS["split"])
        known = {name: SPLIT_NAMES.get(str(value).strip().lower()) for name, value in found.items()}
        for name, value in found.items():
            if known[name] is None:
                splits = ", ".join(dict.fromkeys(SPLIT_NAMES.values()))
                self.problems.append(f"{name} {value!r} is none of {splits}")
            elif self.split and known[name] != self.split:
                self.problems.append(f"{name} {value!r} stands in the manifest of {self.split}")
        return self.split or (self._agreed(known) if all(known.values()) else None)

    def _channel(self) -> int | str | None:
        value = self._one("channel")
        return int(value) if isinstance(value, str) and value.strip().isdecimal() else value

    def _group(self, group: Sequence[str]) -> str | None:
        found = self._present(group_names(group))
        return str(next(iter(found.values()))) if found else None
