"""Manifests: tables of clips as JSONL, CSV or TSV. Written, and read with every bad row named at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable, order_of
from lightning_audio.data.growing_columns import GrowingTable
from lightning_audio.data.manifest_columns import ManifestReader
from lightning_audio.data.manifest_rows import COLUMNS, group_names, rows_of
from lightning_audio.errors import UserError, did_you_mean

MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
GROUP = ("group", "speaker")
MOST_LINES = 2**40  # of a file
MOST_SHOWN = 50  # bad rows in one error
MOST_LOOKED_AT = 10_000  # rows of a JSONL file in which fields that nothing reads are looked for


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """One JSON object a line, with the fields of `Clip`; what is None is left out."""
    lines = (json.dumps({k: v for k, v in asdict(clip).items() if v is not None}) for clip in clips)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_manifest(path: Path, **options: Any) -> ClipTable:
    """The clips of one manifest: `read_manifests` with its name before the ids."""
    return read_manifests([(path, None)], **options)


def read_manifests(
    files: Sequence[tuple[Path, str | None]],
    audio: Path | None = None,
    group: Sequence[str] = GROUP,
    separator: str | None = None,
    bad: list[str] | None = None,
) -> ClipTable:
    """Clips of manifests, each in the split beside it or, with None, in the one that the row names.

    CSV (`.csv`, `.tsv`, `.txt`; its delimiter a comma, a semicolon or a tab; a `.tsv` has no quoting) with
    names in the first line, or one JSON object a line; UTF-8. A field may have any of its names in `COLUMNS`,
    in any case; two that contradict each other in a row are refused. `offset` is the start, but the end where
    there is an `onset`. Each row has a path and a label, labels (a JSON list, or names with separators
    between) or a text. A row without an id is named after its line.

    Args:
        files: paths with their splits.
        audio: folder that relative audio paths are taken from; by default that of the manifest.
        group: the fields of which the first that a row has is its group; `speaker` may be called otherwise.
        separator: between the names in `labels`; by default a semicolon or a vertical bar.
        bad: takes what is wrong with rows, which are left out then, as long as there are others.

    Raises:
        UserError: a file is missing or has no rows, or rows are bad; all of them are listed, up to 50.
    """
    growing, problems = GrowingTable(), dict[int, list[str]]()
    for number, (path, split) in enumerate(files):
        reader = ManifestReader(path, split, audio or path.parent, group, separator)
        for lines, columns in reader.parts():
            growing.add(number * MOST_LINES + np.asarray(lines), columns)
        problems |= {number * MOST_LINES + line: told for line, told in reader.problems.items()}
    places, clips = growing.table()

    def named(place: int) -> str:
        return f"{files[place // MOST_LINES][0].name}, line {place % MOST_LINES}"

    order = order_of(ids := clips.column("id"))
    for row, first in _repeated(ids.codes, order) if not ids.is_rising else ():
        told = f"its id {ids[row]!r} stands in {named(int(places[first]))} too"
        problems.setdefault(int(places[row]), []).append(told)
    refused = [f"{named(n)}: {' '.join('; '.join(told).split())}" for n, told in sorted(problems.items())]
    if bad is not None:
        bad += refused
    names = ", ".join(str(path) for path, _ in files)
    if refused and (bad is None or len(refused) == len(clips)):
        raise UserError(_described(refused, names))
    if not len(clips):
        raise UserError(f"{names} holds no clips: check that it is the file that you meant.")
    sound = not refused and ids.is_rising
    return clips if sound else clips.sorted(order[~np.isin(places[order], [*problems])])


def _described(refused: Sequence[str], names: str) -> str:
    more = [f"and {len(refused) - MOST_SHOWN} more"] if len(refused) > MOST_SHOWN else []
    lines = "".join(f"\n  {line}" for line in [*refused[:MOST_SHOWN], *more])
    return f"{len(refused)} bad rows in {names}: mend them or take them out.{lines}"


def _repeated(codes: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows whose value an earlier row has, and the first that has it; `order` puts equal ones together."""
    first: dict[int, int] = {}
    again = np.flatnonzero(codes[order[1:]] == codes[order[:-1]])
    for before, row in zip(order[again].tolist(), order[again + 1].tolist(), strict=True):
        first[row] = first.get(before, before)
        yield row, first[row]


def unused_columns(path: Path, group: Sequence[str] = GROUP) -> list[str]:
    """The columns of a manifest that `read_manifests` does not read, in their order."""
    present: dict[str, None] = {}
    for _, values in islice(rows_of(path), MOST_LOOKED_AT):
        present.update(dict.fromkeys(() if isinstance(values, str) else values))
    known = {name for names in (*COLUMNS.values(), group_names(group)) for name in names}
    return [name or "(without a name)" for name in present if name not in known]


def describe_unused(path: Path, group: Sequence[str] = GROUP) -> str:
    """A sentence on the columns that nothing reads, with what may have been meant; empty without any."""
    known = [name for names in (*COLUMNS.values(), group_names(group)) for name in names]
    meant = {name: get_close_matches(name, known, 1, cutoff=0.75) for name in unused_columns(path, group)}
    names = [f"{name} ({close[0]}?)" if close else name for name, close in meant.items()]
    return f"Nothing reads these columns of {path.name}: {', '.join(names)}." if names else ""


def refuse_absent_group(files: Iterable[Path], group: Sequence[str]) -> None:
    """Raises UserError where no manifest has any of the fields that are to name the groups."""
    present: set[str] = set()
    for path in files:
        for _, values in islice(rows_of(path), MOST_LOOKED_AT):
            present |= set() if isinstance(values, str) else values.keys()
    if not present.intersection(group_names(group)):
        raise UserError(
            f"data.group={', '.join(group)} names no column{did_you_mean(group[0], present)}: set it to some "
            f"of {', '.join(sorted(present))}, or to null."
        )
