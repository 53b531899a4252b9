"""Whether an audio file ends before its own headers say: a copy or a transfer that was cut.

libsndfile reads what is there and says nothing. What headers only estimate is no promise here, so that an
ordinary file is never called cut: an MP3 counts by the bytes that its encoder noted, an Ogg by its last page,
which has to be whole, and WAV, AIFF and AU by the size of their samples, unless it is the placeholder of a
writer that could not know it.
"""

from __future__ import annotations

import re
from pathlib import Path

import soundfile

# How libsndfile notes a chunk of samples that is larger than what is left of the file.
LARGER = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
PLACEHOLDER = 2**31 - 2**16  # a stream of unknown length is declared as about 2 or 4 GiB
PADDING = 1  # byte that some writers count as samples
OGG_PAGE = b"OggS\x00"
LARGEST_OGG_PAGE = 65_307  # bytes: RFC 3533
LARGEST_MP3_FRAME = 1_441  # bytes


def missing_end(file: soundfile.SoundFile) -> str | None:
    """How a file shows that its end is missing, as a clause; None where it does not."""
    if file.format == "OGG":
        missing = _of_ogg(Path(file.name))
    elif file.format == "MP3":
        missing = _of_mp3(Path(file.name))
    else:
        found = LARGER.search(file.extra_info)
        declared, there = (int(found[1]), int(found[2])) if found else (0, 0)
        missing = declared - there if declared - there > PADDING and declared < PLACEHOLDER else 0
    return f"it is cut short: at least {missing:,} bytes of its end are missing" if missing else None


def _of_ogg(path: Path) -> int:
    """Bytes that the last page lacks; one that was cut between two pages can't be told from a whole one."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2 * LARGEST_OGG_PAGE, 0))
        tail = file.read()
    page = tail.rfind(OGG_PAGE)
    if page < 0:
        return 0
    segments = tail[page + 26 : page + 27] or b"\x00"
    table = tail[page + 27 : page + 27 + segments[0]]
    return max(page + 27 + segments[0] + sum(table) - len(tail), 0)


def _of_mp3(path: Path) -> int:
    """Bytes that the stream lacks of those that its Xing header counts, where a whole frame is missing."""
    with path.open("rb") as file:
        tag = file.read(10)
        # The length of an ID3v2 tag is in four bytes of seven bits.
        skipped = 10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(tag[6:])) if tag[:3] == b"ID3" else 0
        file.seek(skipped)
        first = file.read(64)
    place = max(first.find(b"Xing"), first.find(b"Info"))
    flags = int.from_bytes(first[place + 4 : place + 8], "big")
    if place < 0 or not flags & 2:
        return 0
    start = place + (12 if flags & 1 else 8)  # behind the number of frames
    missing = int.from_bytes(first[start : start + 4], "big") - path.stat().st_size
    return missing if missing > LARGEST_MP3_FRAME else 0
