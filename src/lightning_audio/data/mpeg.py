"""The frames of an MP3: how many there are, how many its header counts, what to read in place of the file.

libsndfile reads an MP3 without a Xing or Info header up to an estimate from its first frames, and of several
behind each other the first alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from lightning_audio.data.containers import Damaged

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


def frames_of(data: bytes) -> Mpeg:
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


def sources_of(data: bytes) -> tuple[Mpeg, list[io.BytesIO], int]:
    """The frames of an MP3; what to read in place of the file, and the samples that this must give.

    Nothing where the header counts all frames. Else a source for each header, since it also says what to cut
    off at the ends.

    Raises:
        Damaged: its parts differ in rate or channels.
    """
    mpeg = frames_of(data)
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
