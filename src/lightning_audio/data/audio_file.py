"""The one place that reads audio files: by libsndfile, in blocks, to their real end, mixed to one channel.

`read_audio` opens a file (with a length of our own in its header where that leaves it open), asks
`containers` and `mpeg` where its samples end in truth, reads them block by block, and mixes the channels
(`channels.Mix`). `decode` makes of that the 16 bits at one rate that a store keeps.

Whatever libsndfile raises becomes the file's own reason. What a header says of a length is held against what
was read, and no header makes the reader allocate more than the file can hold.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from lightning_audio.data import containers, mpeg
from lightning_audio.data.channels import INT16_SCALE, Mix, channel_number
from lightning_audio.errors import UserError, printable

BLOCK = 2**18  # samples of all channels that are read at once
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
PREROLL = 2**14  # samples before the start from which an MP3 is decoded: its frames lean on those before
OPEN_ENDED = 2**63 - 1  # frames that libsndfile gives a stream whose header leaves its length open
# libsndfile's own text for this code speaks of a missing file, but it comes for any .mp3 without MPEG frames.
NOT_AN_MP3 = 7
SYSTEM = 2  # the file could not be opened or read at all

CHUNKED = ("WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF")
FLOAT = ("FLOAT", "DOUBLE")
# Subtypes that hold more than 16 bits do.
DEEP = (*FLOAT, "PCM_24", "PCM_32", "ALAC_20", "ALAC_24", "ALAC_32")
LOUDEST = 16.0  # times full scale: above it a float file was not meant to lie in [-1, 1]
FAINT = 1e-3  # of full scale, -60 dB: 16 bits have 65 levels there


class AudioError(UserError):
    """An audio file that cannot be read: `path`, and the `reason` as a clause.

    `lasting` says whether it stays so until the file changes, unlike a missing permission or a broken disk.
    """

    def __init__(self, path: str | Path, reason: str, lasting: bool = True) -> None:
        super().__init__(path, reason)
        self.path, self.reason, self.lasting = path, reason, lasting

    def __str__(self) -> str:
        return f"Cannot read {printable(str(self.path))}: {self.reason}; put it right or leave it out."


@dataclass(frozen=True, slots=True)
class Audio:
    """A stretch of a file as one channel, at the file's own rate.

    Attributes:
        samples: `(T,)`, int16 where the file holds one channel of them, else float32 in [-1, 1]; lossy
            formats may go a little beyond.
        rate: in Hz.
        channels, format: of the file.
        peak: the largest sample of any channel that is taken, 1 at full scale, before mixing and scaling.
        mix_db: power of the mean of the channels against the mean of their powers; 0 for one channel, -3 for
            two without relation, minus infinity where nothing is left of them.
        cancelling: which channels cancel each other in their mean, or for how long, as a clause.
        deep: whether the file holds more than 16 bits.
        scaled: what float samples beyond full scale were multiplied by.
        cut, doubt: how the file shows that its end is missing, or may be, as clauses.
    """

    samples: np.ndarray
    rate: int
    channels: int
    format: str
    peak: float
    mix_db: float = 0.0
    cancelling: str | None = None
    deep: bool = False
    scaled: float = 1.0
    cut: str | None = None
    doubt: str | None = None

    @property
    def faint(self) -> bool:
        """Whether 16 bits keep less than the file has."""
        return self.deep and 0 < self.peak < FAINT

    def remarks(self) -> dict[str, str]:
        """What training and answers should not pass over in silence: by its kind, a clause about the file."""
        found = {}
        if self.cut:
            found["cut"] = f"{self.cut}; what is there is read"
        if self.doubt:
            found["may_be_cut"] = self.doubt
        if self.scaled != 1:
            found["over_full_scale"] = (
                f"its peak is {self.peak:.5g} times full scale, so it is scaled down to that"
            )
        if self.cancelling:
            found["cancelling"] = f"its {self.cancelling}: take one of them"
        if self.faint:
            found["faint"] = (
                f"its peak is {20 * math.log10(self.peak):.0f} dB, where 16 bits have "
                f"{2 * round(self.peak * INT16_SCALE) + 1} levels: raise its level"
            )
        return found


def read_audio(
    path: str | Path,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | str | None = None,
) -> Audio:
    """A stretch of an audio file; one that ends earlier gives what it has.

    Args:
        path: WAV, FLAC, Ogg, MP3, or what else libsndfile reads.
        start: seconds from the beginning of the file.
        duration: seconds, or None for all that follows.
        channel: which one, from 0 on; "mean" or None for the mean of all.

    Raises:
        AudioError: the file is missing, damaged, holds no samples or samples that can't be meant, ends before
            `start`, or has no such channel.
    """
    path = Path(path)
    try:
        status = path.stat()  # once: short WAV files take little longer than this
    except (OSError, ValueError):
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise AudioError(path, "there is no such file", lasting=False)
    if status.st_size == 0:
        raise AudioError(path, "it is empty")
    try:
        return _Reader(path, status.st_size, start, duration, channel_number(channel)).read()
    except UserError:
        raise
    except containers.Damaged as error:
        raise AudioError(path, str(error)) from None
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"it cannot be decoded ({_why(error)})", error.code != SYSTEM) from None
    except OSError as error:
        raise AudioError(path, f"it cannot be read ({error.strerror or error})", lasting=False) from None
    except Exception as error:  # one bad file never costs the others, whatever a library makes of it
        raise AudioError(path, f"it cannot be decoded ({type(error).__name__}: {error})") from None


def channels_of(path: str | Path) -> int:
    """How many channels a file has.

    Raises:
        AudioError: it can't be read.
    """
    return read_audio(path, duration=1 / LOWEST_RATE).channels


def _why(error: soundfile.LibsndfileError) -> str:
    if error.code == NOT_AN_MP3:
        return "Format not recognised"
    # It has no words for a FLAC file that was cut in the middle of a frame.
    said = error.error_string.removeprefix("Error : ").rstrip(".").strip()
    return said if said and not said.startswith("Error opening") else "its data is damaged or cut short"


class _Sound(soundfile.SoundFile):
    """A file that is read in one pass: soundfile would seek after every block, which some formats can't, and
    others do wrong at the end of a file whose header lies."""

    def __init__(self, source: Path | BytesIO) -> None:
        # As bytes, for a name need not be UTF-8.
        super().__init__(os.fsencode(source) if isinstance(source, Path) else source)
        self.can_seek = super().seekable()

    def seekable(self) -> bool:
        return False


class _Reader:
    """One reading of a stretch of a file."""

    def __init__(
        self, path: Path, size: int, start: float, duration: float | None, channel: int | None
    ) -> None:
        self.path, self.size, self.start, self.duration, self.channel = path, size, start, duration, channel
        self.mix = Mix()
        self.header_is_ours = False
        self.cut: str | None = None
        self.doubt: str | None = None

    def read(self) -> Audio:
        with self._opened() as file:
            self._refuse_odd(file)
            parts = []
            for block in self._blocks(file):
                taken = block if self.channel is None else block[:, self.channel, None]
                parts.append(self.mix.add(taken))
                if not self.mix.peak <= LOUDEST:
                    self._refuse_beyond(file.subtype)
            rate, channels, subtype = file.samplerate, file.channels, file.subtype
            form = f"{file.format} {subtype}"
        if not parts:
            raise AudioError(self.path, "it holds no samples")
        samples, peak, scaled = np.concatenate(parts), self.mix.peak, 1.0
        if subtype in FLOAT and peak > 1:
            scaled = 1 / peak
            samples *= np.float32(scaled)
        mixed, kept = (self.mix.db, self.mix.cancelling), (subtype in DEEP, scaled)
        return Audio(samples, rate, channels, form, peak, *mixed, *kept, self.cut, self.doubt)

    def _opened(self) -> _Sound:
        try:
            file = _Sound(self.path)
            if file.frames or not (data := containers.with_length(self.path)):
                return file
            file.close()
        except soundfile.LibsndfileError:
            if not (data := containers.with_length(self.path)):
                raise
        self.header_is_ours = True
        return _Sound(BytesIO(data))

    def _refuse_odd(self, file: _Sound) -> None:
        if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
            raise containers.Damaged(
                f"its rate of {file.samplerate} Hz is outside {LOWEST_RATE} to {HIGHEST_RATE} Hz"
            )
        if self.channel is not None and self.channel >= file.channels:
            raise containers.Damaged(f"it has no channel {self.channel}, but {file.channels}, counted from 0")

    def _blocks(self, file: _Sound) -> Iterator[np.ndarray]:
        """The samples `(n, channels)` of the stretch, int16, int32 or float32."""
        first = round(self.start * file.samplerate)
        count = None if self.duration is None else round(self.duration * file.samplerate)
        is_whole = (first, count) == (0, None)
        digest = containers.FlacDigest(self.path) if file.format == "FLAC" and is_whole else None
        # A stretch that lies well within what libsndfile takes for the length is read without more ado.
        sources: list[BytesIO] = []
        total = file.frames
        if count is None or first + count > total:
            sources, total = self._sources(file)
        got = 0
        with contextlib.ExitStack() as stack:
            parts = [stack.enter_context(_Sound(source)) for source in sources] or [file]
            if {(part.samplerate, part.channels) for part in parts} != {(file.samplerate, file.channels)}:
                raise containers.Damaged("its parts differ in rate or channels")
            for block in _stretch(parts, first, count):
                got += len(block)
                if digest:
                    digest.update(block)
                yield block
        if not got and first and (file.frames or sources):
            end = "" if sources else f" at {file.frames / file.samplerate:g} s,"
            raise containers.Damaged(f"it ends{end} before the start at {self.start:g} s")
        if digest and digest.agrees():
            return  # whatever length the header says
        if got < min(total - first, OPEN_ENDED if count is None else count) and total < OPEN_ENDED:
            self.cut = self.cut or f"it is cut short: of {total:,} samples {first + got:,} are there"
        elif digest and digest.stated:
            raise containers.Damaged("its samples are not those that its checksum is of")

    def _sources(self, file: _Sound) -> tuple[list[BytesIO], int]:
        """What to read in place of the file, where libsndfile would not read all of it, and the samples that
        there must be; notes a missing end.

        Raises:
            Damaged: the file contradicts itself.
        """
        missing: str | None = None
        sources: list[BytesIO] = []
        total = file.frames
        if file.format == "OGG":
            data = self.path.read_bytes()
            links = containers.ogg_links(data)
            missing = links.cut
            if len(links.ranges) > 1:
                sources, total = [BytesIO(data[a:b]) for a, b in links.ranges], 0  # each page was looked at
        elif file.subtype.startswith("MPEG"):
            found, sources, samples = mpeg.sources_of(self.path.read_bytes())
            missing, self.doubt = found.cut, found.doubt
            total = samples if sources else max(total, samples)
        elif lacking := containers.missing_bytes(file.extra_info):
            missing = f"at least {lacking:,} bytes of its end are missing"
        elif file.format == "FLAC" and (at := containers.second_flac(self.path)):
            raise containers.Damaged(f"another file follows at byte {at:,}, which would not be read")
        elif file.format == "CAF" and (lacking := containers.caf_missing_bytes(self.path)):
            missing = f"{lacking:,} bytes of its end are missing"
        elif file.format == "W64" or (file.format in CHUNKED and self._has_more(file)):
            containers.refuse_odd_end(self.path)
        self.cut = f"it is cut short: {missing}" if missing else None
        return sources, total

    def _refuse_beyond(self, subtype: str) -> None:
        peak = self.mix.peak
        if not np.isfinite(peak):
            raise containers.Damaged("it holds samples that are no numbers (NaN or infinite)")
        full = next((scale for scale in (2**15, 2**23, 2**31) if peak <= scale), None)
        mend = f": divide them by {full} when writing it" if full and subtype in FLOAT else ""
        raise containers.Damaged(f"its samples reach {peak:.5g}, where float audio lies in [-1, 1]{mend}")

    def _has_more(self, file: _Sound) -> bool:
        """Whether there may be samples behind those that the header tells of."""
        header = self.size - 2 * file.channels * file.frames if file.subtype == "PCM_16" else self.size
        return header > containers.SMALL_TAG and not self.header_is_ours


def _stretch(parts: Sequence[_Sound], first: int, count: int | None) -> Iterator[np.ndarray]:
    """`count` samples from `first` on of files that follow each other, in blocks `(n, channels)`."""
    skip = first
    # Of several files only sequential reading says how long each is.
    if first and len(parts) == 1 and parts[0].can_seek and parts[0].frames < OPEN_ENDED:
        early = PREROLL if parts[0].subtype.startswith("MPEG") else 0
        skip = first - parts[0].seek(min(max(first - early, 0), parts[0].frames))
    left = OPEN_ENDED if count is None else count
    for part in parts:
        # What stands behind the last one may be a tag, at which a decoder fails.
        there = part.frames - (first - skip if len(parts) == 1 else 0)
        # Integers where they are kept, or where a checksum is of them.
        kept = part.channels == 1 or part.format == "FLAC"
        dtype = {"PCM_16": "int16", "PCM_24": "int32"}.get(part.subtype if kept else "", "float32")
        while (asked := min(max(BLOCK // part.channels, 1), skip + left, there)) > 0 and left:
            block = part.read(asked, dtype=dtype, always_2d=True)
            taken = block[skip:]
            skip, there = max(skip - len(block), 0), there - len(block)
            left -= len(taken)
            if len(taken):
                yield taken
            if len(block) < asked:
                break
