"""What an audio file says of its own length and wholeness, where libsndfile does not look or only estimates.

libsndfile reads the first link of a chained Ogg alone, and an Ogg with a damaged page past the hole; it reads
what is left of a file that was cut and says nothing. Here the pages of an Ogg and the chunks of WAV, AIFF and
CAF are walked; `mpeg` has the frames of an MP3.

A cut can't be told where nothing says how long the file was: an MP3 without Xing or Info header, a WAV, AU or
CAF whose header has the placeholder of a writer to a pipe, a FLAC without length and MD5, other formats. An
MP3 that ends within a frame is told as one that may have been cut.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

# How libsndfile notes a chunk that is larger than what is left of the file.
LARGER = re.compile(
    r"^\s*(?:data|SSND|Data Size|BODY|RIFF|riff|Riff size|FORM)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
PLACEHOLDER = 2**31 - 2**16  # a stream of unknown length is declared as about 2 or 4 GiB
PADDING = 1  # byte that some writers count as samples


class Damaged(Exception):
    """What is wrong with a file, as a clause: what it holds can't be trusted."""


def missing_bytes(notes: str) -> int:
    """Bytes that the largest chunk lacks, by what libsndfile notes (`SoundFile.extra_info`)."""
    pairs = [(int(declared), int(there)) for declared, there in LARGER.findall(notes)]
    return max((d - t for d, t in pairs if d - t > PADDING and d < PLACEHOLDER), default=0)


# Ogg


@dataclass(frozen=True, slots=True)
class Links:
    """The streams of an Ogg file one behind the other, as ranges of its bytes; `cut` says what lacks."""

    ranges: list[tuple[int, int]]
    cut: str | None


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_links(data: bytes) -> Links:
    """The links of a chained Ogg, every page held against its checksum and its number.

    Raises:
        Damaged: a page is damaged or missing.
    """
    starts: list[int] = []
    numbers: dict[bytes, int] = {}  # of the last page of each logical stream
    open_streams: set[bytes] = set()
    at, beginning = data.find(b"OggS"), False
    while at >= 0 and data[at : at + 4] == b"OggS":
        segments = data[at + 26] if at + 27 <= len(data) else 0
        end = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if end > len(data) or at + 27 + segments > len(data):
            return Links(_ranges(starts, at), "its last page is not whole")
        page = data[at:end]
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise Damaged(f"its data is damaged at byte {at:,}")
        kind, stream, number = page[5], page[14:18], int.from_bytes(page[18:22], "little")
        if kind & 2 and not beginning:
            starts.append(at)
        if not kind & 2 and number != numbers.get(stream, number - 1) + 1:
            raise Damaged(f"pages are missing before byte {at:,}")
        numbers[stream], beginning = number, bool(kind & 2)
        open_streams.add(stream)
        if kind & 4:
            open_streams.discard(stream)
        at = end
    if data.find(b"OggS", max(at, 0)) >= 0:
        raise Damaged(f"its data is damaged at byte {at:,}")
    return Links(_ranges(starts, max(at, 0)), "its last page is missing" if open_streams else None)


def _ranges(starts: list[int], end: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], end], strict=True))


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of RFC 3533: zlib's polynomial with the bits the other way round, and nothing inverted."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")


# FLAC


def second_flac(path: Path) -> int:
    """Where in a FLAC file another one begins, in bytes, or 0; a tag (ID3) may stand before the first."""
    data = path.read_bytes()
    return max(data.find(b"fLaC\0\0\0\x22", data.find(b"fLaC") + 1), 0)


class FlacDigest:
    """The MD5 of a FLAC's samples, held against the one in its header."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            head = file.read(42)
        bits = ((head[20] & 1) << 4 | head[21] >> 4) + 1 if head[:4] == b"fLaC" and len(head) == 42 else 0
        # Zeros are of a writer that did not know it.
        self.stated = head[26:42].strip(b"\0") and head[26:42] if bits in (16, 24) else b""
        self.found = hashlib.md5(usedforsecurity=False)

    def update(self, block: np.ndarray) -> None:
        if block.dtype == np.int32:  # 24 bits, in the upper ones of 32
            block = np.ascontiguousarray(block).view(np.uint8).reshape(-1, 4)[:, 1:]
        self.found.update(block.tobytes())

    def agrees(self) -> bool:
        return self.found.digest() == self.stated


# Chunks

SMALL_TAG = 256  # bytes behind the samples that are none
FREE = b"\0\0\0\0"  # what some writers fill up a file with


def refuse_odd_end(path: Path) -> None:
    """Raises Damaged where the samples of a WAV, AIFF or AU end before its header means them to, or where
    another file of the kind follows, also of W64, RF64 and CAF.

    Behind the samples of WAV and AIFF come other chunks, up to the size of the whole that stands at the
    beginning. What lies behind that is anybody's. Behind those of AU comes nothing.
    """
    with path.open("rb") as file:
        head = file.read(28)
        if head[:4] == b".snd":
            there, end = path.stat().st_size, sum(int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
            if end + SMALL_TAG < there:
                raise Damaged(f"by its header the samples end at byte {end:,} of {there:,}")
        order: Literal["little", "big"] = "big" if head[:4] == b"FORM" else "little"
        declared = 8 + int.from_bytes(head[4:8], order)
        if head[:4] == b"riff":  # of W64, in steps of 8 bytes
            declared = -(-int.from_bytes(head[16:24], "little") // 8) * 8
        elif head[:4] == b"RF64":
            declared = 8 + int.from_bytes(head[20:28], "little")
        elif head[:4] == b"caff":
            size = path.stat().st_size
            declared = max((end for _, at, end in _caf_chunks(file) if at < end <= size), default=size)
        if _read_at(file, declared, 4) == head[:4]:
            raise Damaged(f"another file follows at byte {declared:,}, which would not be read")
        if head[:4] not in (b"FORM", b"RIFF") or declared > PLACEHOLDER:
            return
        seen = False
        for name, at in _chunks(file, order):
            if seen and not _is_name(name) and name != FREE and at + 8 <= declared:
                raise Damaged(f"by its header the samples end at byte {at:,} of {declared:,}")
            seen |= name in (b"data", b"SSND")


def caf_missing_bytes(path: Path) -> int:
    """Bytes that the samples of a CAF lack."""
    with path.open("rb") as file:
        return max(sum(_caf_samples(file)) + 12 - path.stat().st_size, 0)


def _caf_samples(file: BinaryIO) -> tuple[int, int]:
    """Where the header of the samples stands, and their bytes by it; -1 where the writer did not know it."""
    for name, at, end in _caf_chunks(file):
        if name == b"data":
            return at, end - at - 12
    return file.seek(0, io.SEEK_END), 0


def _caf_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the chunks of a CAF, up to what is none."""
    at, size = 8, file.seek(0, io.SEEK_END)
    while len(header := _read_at(file, at, 12)) == 12 and at < size and header[:4] != b"caff":
        length = int.from_bytes(header[4:], "big", signed=True)
        yield header[:4], at, at + 12 + length
        at += 12 + max(length, 0)


def with_length(path: Path) -> bytearray | None:
    """The file with its length in its header, where a writer to a pipe left that open and libsndfile takes it
    for nothing or for an error: 0 bytes in a WAV, RF64 or AU, 0 or -1 in a CAF; None where it is not so."""
    with path.open("rb") as file:
        kind, size = file.read(4), path.stat().st_size
        if kind == b".snd":
            return _replaced(path, 8, b"\xff" * 4) if file.read(8)[4:] == FREE else None
        if kind == b"caff":
            at, length = _caf_samples(file)
            if length in (-1, 0) and size > at + 16:
                return _replaced(path, at + 4, (size - at - 12).to_bytes(8, "big"))
        if kind in (b"RIFF", b"RF64"):
            at = next((at for name, at in _chunks(file, "little") if name == b"data"), size)
            declared = _read_at(file, at + 4, 4)
            if kind == b"RF64" and declared == b"\xff" * 4 and _read_at(file, 28, 8) == bytes(8):
                return _replaced(path, 28, (size - at - 8).to_bytes(8, "little"))
            if declared == bytes(4) and size > at + 8 and not _is_name(_read_at(file, at + 8, 4)):
                return _replaced(path, at + 4, b"\xff" * 4)
    return None


def _replaced(path: Path, at: int, by: bytes) -> bytearray:
    data = bytearray(path.read_bytes())
    data[at : at + len(by)] = by
    return data


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(min(at, file.seek(0, io.SEEK_END)))  # what a header says may be more than a system takes
    return file.read(size)


def _chunks(file: BinaryIO, order: Literal["little", "big"]) -> Iterator[tuple[bytes, int]]:
    """Name and place of the chunks of a RIFF or FORM file; the last one may be no chunk."""
    at = 12
    while len(header := _read_at(file, at, 8)) == 8:
        yield header[:4], at
        if not _is_name(header[:4]):
            return
        size = int.from_bytes(header[4:], order)
        # Behind an odd chunk stands a byte that some writers leave out.
        at += 8 + size + (size % 2 and not _is_name(_read_at(file, at + 8 + size, 4)))


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)
