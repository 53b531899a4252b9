"""What recordings are called in files of other tools."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning_audio.data.decode import AUDIO_SUFFIXES
from lightning_audio.errors import UserError


def recording_and_channel(name: str, channel: int = 0) -> tuple[str, int]:
    """What NIST's tools call a recording: its file without folder and suffix, and its channel from 1 on.

    Args:
        name: of a file; behind `#` may stand the channel, from 0 on.
        channel: the one that was taken of all files, from 0 on.
    """
    file, mark, number = name.rpartition("#")
    if mark and number.isdecimal() and _is_audio(file):
        name, channel = file, int(number)
    return Path(name).stem if _is_audio(name) else Path(name).name, channel + 1


def file_stem(name: str) -> str:
    """How a file is called that is written for a recording, without its suffix."""
    recording, channel = recording_and_channel(name, channel=-1)
    return recording if channel == 0 else f"{recording}#{channel - 1}"


def refuse_same_recordings(names: Iterable[str]) -> None:
    """Raises UserError where two files are one recording by their names: their times would be mixed."""
    known: dict[tuple[str, int], str] = {}
    for name in names:
        called = recording_and_channel(name)
        other = known.setdefault(called, name)
        if other != name:
            raise UserError(
                f"{other} and {name} are both called {called[0]} in this format: give them one after "
                "another, or rename one."
            )


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_SUFFIXES
