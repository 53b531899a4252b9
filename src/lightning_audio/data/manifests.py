"""Manifests: tables of clips as JSONL or CSV. Written, and read with every bad row named at once."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_audio.data.clip import SPLIT_NAMES, Clip, problems
from lightning_audio.errors import UserError

AUDIO = ("audio_filepath", "path")
GROUP = ("group", "speaker")
ANSWERS = ("label", "labels", "text")
CSV_SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", ";", "\t")
MOST_SHOWN = 50  # bad rows in one error


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """One JSON object a line, with the fields of `Clip`; what is None is left out."""
    lines = (json.dumps({k: v for k, v in asdict(clip).items() if v is not None}) for clip in clips)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_manifest(path: Path, **options: Any) -> list[Clip]:
    """The clips of one manifest: `read_manifests` with its name before the ids."""
    return read_manifests([(path, None)], **options)


def read_manifests(
    files: Sequence[tuple[Path, str | None]],
    audio: Path | None = None,
    group: Sequence[str] = GROUP,
    separator: str | None = None,
) -> list[Clip]:
    """Clips of manifests, each in the split beside it or, with None, in the one that the row names.

    CSV (`.csv`, `.tsv`, `.txt`; its delimiter a comma, a semicolon or a tab) with names in the first line, or
    one JSON object a line; UTF-8. Fields: `audio_filepath` or `path`; at least one of `label`, `labels` (a
    JSON list, or names with separators between) and `text`; optional `offset` or `start` and `duration` in
    seconds, `split`, `fold`, `group` or `speaker`, `id`. Others are left alone. A row without an id is named
    after its line.

    Args:
        files: paths with their splits.
        audio: folder that relative audio paths are taken from; by default that of the manifest.
        group: the fields of which the first that a row has is its group.
        separator: between the names in `labels`; by default a semicolon or a vertical bar.

    Raises:
        UserError: a file is missing or has no rows, or rows are bad; all of them are listed, up to 50.
    """
    clips, bad = [], []
    seen: dict[str, str] = {}
    for path, split in files:
        if not path.is_file():
            raise UserError(f"There is no manifest {path}: give a JSONL or CSV file with one clip a row.")
        for line, values in _rows(path):
            place = f"{path.name}, line {line}"
            row = _Row(values, split, separator)
            clip = row.clip(f"{split or path.stem}-{line:06d}", audio or path.parent, group)
            if (first := seen.setdefault(clip.id, place)) != place:
                row.problems.append(f"its id {clip.id!r} stands in {first} too")
            if row.problems:
                bad.append(f"{place}: {' '.join('; '.join(row.problems).split())}")
            clips.append(clip)
    names = ", ".join(str(path) for path, _ in files)
    if bad:
        more = [f"and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        listed = "".join(f"\n  {line}" for line in bad[:MOST_SHOWN] + more)
        raise UserError(f"{len(bad)} bad rows in {names}: mend them or take them out.{listed}")
    if not clips:
        raise UserError(f"{names} holds no clips: check that it is the file that you meant.")
    return sorted(clips, key=lambda clip: clip.id)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Line numbers and what stands there: values by their field, or what is wrong with all of the row."""
    return (_csv_rows if path.suffix.lower() in CSV_SUFFIXES else _json_rows)(path)


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    # Bytes: only a newline ends a row, not all that Unicode takes for one.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8-sig"))
            yield number, values if isinstance(values, dict) else "it is no JSON object"
        except UnicodeDecodeError:
            yield number, "it is not UTF-8"
        except ValueError as error:
            yield number, f"it is no JSON ({error})"


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    # What is not UTF-8 becomes lone surrogates, so that each such row can be named.
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    text = text if "\n" in text else text.replace("\r", "\n")  # as old spreadsheets write it
    delimiter = _delimiter(text.partition("\n")[0].rstrip("\r"), path)
    # Strict: otherwise a quote that is left open would swallow the rows behind it without a word.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader)]
    except csv.Error as error:
        raise UserError(f"The first line of {path} is no CSV ({error}): is a quote left open?") from None
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
        if any(name.strip().lower() in AUDIO for name in names):
            return delimiter
    raise UserError(
        f"{path} has no column `audio_filepath` or `path`: let its first line name the columns, separated by "
        f"commas, semicolons or tabs (it is {header[:80]!r})."
    )


class _Row:
    """The values of one row by their field; what is wrong with them gathers in `problems`."""

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
        clip = Clip(
            id=name if (given := self._first("id")) is None else str(given),
            path=self._path(folder),
            start=self._number("start", "offset") or 0.0,
            duration=self._number("duration"),
            labels=self._labels(),
            text=self._text(),
            split=self._split(),
            fold=int(fold) if fold is not None and fold.is_integer() else None,
            group=None if (found := self._first(*group)) is None else str(found),
        )
        self.problems += problems(clip)
        return clip

    def _first(self, *fields: str) -> Any:
        """The first of these that is there; an empty cell is not."""
        return next((v for field in fields if (v := self.values.get(field)) not in (None, "")), None)

    def _number(self, *fields: str) -> float | None:
        value = self._first(*fields)
        try:
            return None if value is None else float(value)
        except (TypeError, ValueError):
            field = next(field for field in fields if self.values.get(field) == value)
            self.problems.append(f"{field} {value!r} is no number")
            return None

    def _path(self, folder: Path) -> str:
        audio = self._first(*AUDIO)
        if audio is None:
            self.problems.append("neither `audio_filepath` nor `path` is there")
        elif not isinstance(audio, str):
            self.problems.append(f"the audio path {audio!r} is no text")
        elif not os.path.isfile(path := folder / audio):  # noqa: PTH113 - Path's raises for a text that is too long
            self.problems.append(f"there is no audio file {path}")
        else:
            return str(path)
        return ""

    def _labels(self) -> tuple[str, ...]:
        if all(self.values.get(field) is None for field in ANSWERS):
            self.problems.append("neither `label`, `labels` nor `text` is there")
        found = self.values.get("labels")
        if found is None:
            found = self.values.get("label")
            found = [] if found is None else found if isinstance(found, list) else [found]
        elif isinstance(found, str):
            found = self._separated(found)
        if not isinstance(found, list) or not all(type(label) in (str, int) for label in found):
            self.problems.append(f"the labels {found!r} are no names")
            return ()
        # Written on different systems, what looks the same may be different letters.
        labels = [unicodedata.normalize("NFC", str(label).strip()) for label in found]
        if "" in labels:
            self.problems.append("a label is empty")
        return tuple(dict.fromkeys(labels))

    def _separated(self, cell: str) -> Any:
        """The labels of one cell: a JSON list, or names with separators between; an empty cell has none."""
        if cell.startswith("["):
            try:
                return json.loads(cell)
            except ValueError:
                return cell
        return re.split(self.separator, cell) if cell else []

    def _text(self) -> str | None:
        text = self.values.get("text")
        if text is not None and not isinstance(text, str):
            self.problems.append(f"text {text!r} is no text")
            return None
        return text

    def _split(self) -> str | None:
        value = self._first("split")
        split = SPLIT_NAMES.get(str(value).lower(), str(value)) if value is not None else None
        if self.split and split not in (None, self.split):
            self.problems.append(f"split {value!r} stands in the manifest of {self.split}")
        return self.split or split
