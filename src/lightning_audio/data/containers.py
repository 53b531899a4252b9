"""What an audio file says of its own length and wholeness, where libsndfile does not look or only estimates.

libsndfile reads an MP3 without a Xing header up to an estimate, the first link of a chained Ogg alone, and
an Ogg with a damaged page past the hole; it reads what is left of a file that was cut and says nothing. Here
the frames of an MP3, the pages of an Ogg and the chunks of WAV, AIFF and CAF are walked.

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
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

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


# MPEG

MOST_CUT_OFF = 4 * 1152  # samples of the delay and the padding of an encoder, which its header tells of


@dataclass(slots=True)
class Piece:
    """Frames of an MP3: their Xing or Info header, if they have one, and the number of frames that it counts;
    how many follow it, their samples, and the ranges of bytes in which they lie, without tags and rubbish."""

    header: bytes = b""
    counted: int | None = None
    frames: int = 0
    samples: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, end: int, samples: int) -> None:
        self.frames, self.samples = self.frames + 1, self.samples + samples
        if self.ranges and self.ranges[-1][1] == start:
            start = self.ranges.pop()[0]
        self.ranges.append((start, end))


@dataclass(frozen=True, slots=True)
class Mpeg:
    """The pieces of an MP3, each with an own Xing or Info header, and whether its last frame is not whole."""

    pieces: list[Piece]
    ends_within: bool

    @property
    def doubt(self) -> str | None:
        """That the last frame is not whole where nothing says how many there were, as recorded radio ends."""
        is_counted = any(piece.counted for piece in self.pieces)
        return "it ends within a frame: was it cut?" if self.ends_within and not is_counted else None

    @property
    def cut(self) -> str | None:
        missing = sum(max((piece.counted or 0) - piece.frames, 0) for piece in self.pieces)
        if missing > (0 if self.ends_within else 1):  # encoders differ on whether the header counts itself
            there = sum(piece.frames for piece in self.pieces)
            return f"{missing:,} frames of {missing + there:,} are missing"
        return None


_KBITS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@cache
def _frame(first: int, second: int, third: int) -> tuple[int, int, int] | None:
    """Bytes, samples and rate in Hz of the frame whose header has these bytes; None where it is none."""
    version, layer = (second >> 3) & 3, 4 - ((second >> 1) & 3)
    if first != 0xFF or second < 0xE0 or version == 1 or layer == 4 or not 0 < third >> 4 < 15:
        return None
    if (third >> 2) & 3 == 3:
        return None
    rate = (44100, 48000, 32000)[(third >> 2) & 3] >> {3: 0, 2: 1, 0: 2}[version]
    bits = 1000 * _KBITS[1 if version == 3 else 2, layer][third >> 4]
    padding = (third >> 1) & 1
    if layer == 1:
        return 4 * (12 * bits // rate + padding), 384, rate
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // rate + padding, samples, rate


def mpeg_frames(data: bytes) -> Mpeg:
    """The frames of an MPEG stream, also within a WAV; tags and what is no frame are passed over.

    Raises:
        Damaged: its parts differ in rate or channels.
    """
    pieces = [Piece()]
    forms, end = set(), 0
    for at, length, samples, rate in _walk(data):
        end = at + length
        if end > len(data):
            break
        is_mono = data[at + 3] >> 6 == 3
        forms.add(f"{rate} Hz {'mono' if is_mono else 'stereo'}")
        frame = data[at:end]
        is_header, counted = _xing(frame)
        if is_header:
            pieces.append(Piece(frame, counted))
        else:
            pieces[-1].add(at, end, samples)
    if len(forms) > 1:
        raise Damaged(f"its parts differ in rate or channels ({', '.join(sorted(forms))})")
    # Also within the header of a frame.
    ends_within = end > len(data) or (len(data) - end < 4 and data[end : end + 1] == b"\xff")
    return Mpeg([piece for piece in pieces if piece.frames or piece.counted], ends_within)


def _walk(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Place, bytes, samples and rate of each frame."""
    at, size = 0, len(data)
    while at + 4 <= size:
        found = _frame(data[at], data[at + 1], data[at + 2])
        if found:
            yield at, *found
            at += found[0]
        elif data[at : at + 3] == b"ID3" and at + 10 <= size:
            # The length of an ID3v2 tag is in four bytes of seven bits.
            at += 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[at + 6 : at + 10]))
        else:
            at = _next_frame(data, at + 1)


def _next_frame(data: bytes, at: int) -> int:
    """Where the next two frames of one rate follow each other: bytes of samples may look like a header."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        if found := _frame(data[at], data[at + 1], data[at + 2]):
            next_ = at + found[0]
            if next_ + 4 <= len(data):
                after = _frame(data[next_], data[next_ + 1], data[next_ + 2])
                if after and after[2] == found[2]:
                    return at
        at += 1
    return len(data)


def _xing(frame: bytes) -> tuple[bool, int | None]:
    """Whether a frame is a Xing or Info header, and the number of frames that it counts."""
    place = max(frame[:64].find(b"Xing"), frame[:64].find(b"Info"))
    if place < 0:
        return False, None
    has_count = frame[place + 7] & 1 if len(frame) > place + 7 else 0
    return True, int.from_bytes(frame[place + 8 : place + 12], "big") if has_count else None


def mpeg_sources(data: bytes) -> tuple[Mpeg, list[io.BytesIO], int]:
    """The frames of an MP3; what to read in place of the file, and the samples that this must give.

    Nothing where the header counts all frames. Else a source for each header, since it also says what to cut
    off at the ends.

    Raises:
        Damaged: its parts differ in rate or channels.
    """
    mpeg = mpeg_frames(data)
    sources: list[io.BytesIO] = []
    samples = 0
    for piece in mpeg.pieces:
        frames = b"".join(data[start:end] for start, end in piece.ranges)
        if piece.counted and piece.frames <= piece.counted + 1:  # some encoders count the header
            sources.append(io.BytesIO(piece.header + frames))
            samples += max(piece.samples - MOST_CUT_OFF, 0)
        else:
            sources.append(Endless(frames))
            samples += piece.samples
    whole = len(sources) == 1 and not isinstance(sources[0], Endless)
    return mpeg, [] if whole and len(mpeg.pieces[0].ranges) == 1 else sources, samples


class Endless(io.BytesIO):
    """Bytes that claim to be far longer than they are: libsndfile then reads an MP3 to its real end."""

    TIMES = 64  # the largest bit rate against the smallest is 40
    ID3V1 = 128  # bytes at the end that may be a tag

    def _claimed(self) -> int:
        return max(self.TIMES * len(self.getbuffer()), 2**16)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return (
            super().seek(self._claimed() + offset) if whence == io.SEEK_END else super().seek(offset, whence)
        )

    def readinto(self, buffer: Any) -> int:
        if self.tell() < self._claimed() - self.ID3V1:
            return super().readinto(buffer)
        size = min(len(buffer), self._claimed() - self.tell())
        buffer[:size] = bytes(size)
        super().seek(size, io.SEEK_CUR)
        return size


# FLAC


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
    """Raises Damaged where the samples of a WAV, AIFF or AU end before its header means them to.

    Behind the samples of WAV and AIFF come other chunks, up to the size of the whole that stands at the
    beginning. What lies behind that is anybody's. Behind those of AU comes nothing.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b".snd":
            there, end = path.stat().st_size, sum(int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
            if end + SMALL_TAG < there:
                raise Damaged(f"by its header the samples end at byte {end:,} of {there:,}")
        order: Literal["little", "big"] = "big" if head[:4] == b"FORM" else "little"
        declared = 8 + int.from_bytes(head[4:8], order)
        if head[:4] not in (b"FORM", b"RIFF") or declared > PLACEHOLDER:
            return
        if _read_at(file, declared, 4) == head[:4]:
            raise Damaged(f"another file follows at byte {declared:,}, which would not be read")
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
    at, size = 8, file.seek(0, io.SEEK_END)
    while len(header := _read_at(file, at, 12)) == 12 and at < size:
        length = int.from_bytes(header[4:], "big", signed=True)
        if header[:4] == b"data":
            return at, length
        at += 12 + max(length, 0)
    return size, 0


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
    file.seek(min(at, 2**62))  # what a header says may be more than a system takes
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
