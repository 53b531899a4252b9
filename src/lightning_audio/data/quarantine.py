"""Clips whose audio can't be read: a list with reasons beside the store, and how many a run goes without."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_audio.errors import UserError, listed

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A clip in quarantine, with its file and, as a clause, why that can't be read."""

    id: str
    path: str
    reason: str


def as_jsonl(quarantined: Iterable[Quarantined]) -> str:
    """One JSON object a line; what is no UTF-8 in a name is spelled out, as JSON can."""
    rows = "".join(f"{json.dumps(asdict(row), ensure_ascii=False)}\n" for row in quarantined)
    return rows.encode(errors="backslashreplace").decode()


def read_quarantine(file: Path) -> tuple[Quarantined, ...]:
    """The rows of a list; none where there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return ()
    try:
        return tuple(Quarantined(**json.loads(line)) for line in lines if line)
    except TypeError as error:
        raise ValueError(f"{file} is no list of clips") from error


def named(quarantined: Sequence[Quarantined], file: Path | str) -> str:
    """The first ones with their reasons, and where all of them are listed."""
    reasons = dict.fromkeys(f"{row.path}: {row.reason}" for row in quarantined)
    return f"{listed([*reasons])} (all of them in {file})"


def refuse_many(quarantined: Sequence[Quarantined], clips: int, share: float, file: Path | str) -> None:
    """Raises UserError where more than this share of all clips is in quarantine, or none is left."""
    allowed = int(share * clips + 1e-9)  # 0.29 * 100 is a little less than 29
    if quarantined and (len(quarantined) > allowed or len(quarantined) == clips):
        raise UserError(
            f"{len(quarantined)} of {clips} clips cannot be read, and loader.max_bad_fraction={share:g} lets "
            f"a run go without {allowed}: mend them, leave them out of the corpus, or raise it: "
            f"{named(quarantined, file)}."
        )
