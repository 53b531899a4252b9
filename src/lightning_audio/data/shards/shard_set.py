"""ShardSet: what a set of shards says of itself, read from its index and its tables.

    shards.json                          what the set holds, and its additions
    ADDITION/part-0003-of-0016.parquet   the rows of one job, written when all of its shards are there
    ADDITION/DIGEST.int16                samples of many clips, one after another (DIGEST.files: their files)

A shard is named by the first half of its SHA-256 and never changes. All names are known from the index, so
that nothing has to be listed: an object store, or a plain web server, will do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from lightning_audio.data.arrow_columns import is_null
from lightning_audio.data.shards import table as tables
from lightning_audio.data.shards.storage import NotThere, Storage
from lightning_audio.errors import UserError
from lightning_audio.io import from_json, to_json

INDEX, FORMAT = "shards.json", "lightning-audio shards, 1"
SUFFIXES = {"int16": ".int16", "files": ".files"}  # by what shards hold: samples, or files as they were
CHUNK = 2**20  # rows whose digest is taken at a time
DIGITS = 32  # of the SHA-256 of a shard, in its name
NAMED = re.compile(r"[0-9a-f]{16}")  # additions
MOST_PARTS = 100_000  # of an addition


@dataclass(frozen=True)
class Addition:
    """What one command added, in so many parts."""

    name: str
    parts: int
    clips: int

    def part(self, number: int) -> str:
        return f"{self.name}/part-{number:04d}-of-{self.parts:04d}.parquet"


@dataclass(frozen=True)
class Index:
    """The file `shards.json`.

    Attributes:
        content: a key of SUFFIXES.
        sample_rate: in Hz; of files 0, each has its own.
        corpus: whose clips they are.
        folds: of the corpus, where its clips are split by folds.
    """

    content: str
    sample_rate: int
    corpus: str
    folds: bool
    additions: tuple[Addition, ...] = field(default=())

    def to_json(self) -> bytes:
        return to_json({"format": FORMAT, **asdict(self)}, indent=1).encode()


def read_index(storage: Storage) -> Index | None:
    """That of a set, or None where there is none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        told = from_json(storage.read(INDEX))
    except NotThere:
        return None
    except ValueError as error:
        raise UserError(f"{storage}/{INDEX} is damaged ({error}): put it back, or shard again.") from None
    if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
        raise UserError(f"{storage}/{INDEX} is none of {FORMAT!r}: name a folder that `shard` has written.")
    try:
        additions = tuple(Addition(**one) for one in told.pop("additions"))
        index = Index(**told, additions=additions)
        _refuse_odd_index(index)
        return index
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{storage}/{INDEX} is damaged ({error}): put it back, or shard again.") from None


def _refuse_odd_index(index: Index) -> None:
    """Raises ValueError for names and numbers that `shard` does not write."""
    for one in index.additions:
        if not NAMED.fullmatch(one.name) or type(one.parts) is not int or not 0 < one.parts <= MOST_PARTS:
            raise ValueError(f"an addition is {str(one.name)[:40]!r} in {one.parts} parts")
    if index.content not in SUFFIXES or type(index.sample_rate) is not int:
        raise ValueError("it names no content, or no rate")


def parts_of(storage: Storage, addition: Addition) -> Iterator[bytes | None]:
    """The tables of the parts; None for one that is not done."""
    for number in range(1, addition.parts + 1):
        try:
            yield storage.read(addition.part(number))
        except NotThere:
            yield None


class ShardSet:
    """All rows of a set in the order of the ids, as columns, and where its shards are.

    Attributes:
        clips: the rows.
        reasons: why some can't be read, in their order.
        names: of the shards.
        shards: `(N,)`, which of them each row is in; -1 of clips that can't be read.
        offset, bytes, rate, length, crc32: `(N,)` as in Row.
        sizes, digests: of the shards, in bytes and as far as they are known.
        checksums: `(N,)` bool, whether the CRC-32 of a clip is known.
        hash: a digest of all that clips sound like.
    """

    def __init__(self, storage: Storage, index: Index, table: tables.Table) -> None:
        self.storage, self.index, self.clips = storage, index, tables.clips(table)
        self.names, self.shards = tables.coded(table, "shard")
        reasons = table["reason"]
        self.is_sound = tables.once(is_null(reasons))
        self.reasons: list[str] = reasons.drop_null().to_pylist()
        if self.reasons:
            self.shards = np.where(self.is_sound, self.shards, -1)
        self.offset, self.bytes, self.rate, self.length, self.crc32 = (
            tables.numbers(table, name) for name in ("offset", "bytes", "rate", "length", "crc32")
        )
        self.sizes = np.zeros(len(self.names), dtype=np.int64)
        np.maximum.at(self.sizes, self.shards[self.is_sound], (self.offset + self.bytes)[self.is_sound])
        # Of a set that somebody else made, nobody knows the digests.
        paths = [Path(name) for name in self.names]
        self.digests = [path.stem if path.suffix in SUFFIXES.values() else "" for path in paths]
        self.checksums = tables.once(~is_null(table["crc32"]))
        self._refuse_odd_rows()

    def _refuse_odd_rows(self) -> None:
        """Raises UserError for places that no shard has, as a table may say that somebody sent."""
        odd = (self.offset < 0) | (self.bytes < 0) | (self.length < 0)
        if self.index.content == "int16":
            odd |= self.bytes != 2 * self.length
        paths = [Path(name) for name in self.names]
        outside = [path for path in paths if path.is_absolute() or ".." in path.parts]
        if odd[self.is_sound].any() or outside:
            what = f"the shard {outside[0]}" if outside else "stretches that can't be"
            raise UserError(f"A table of {self.storage} is damaged (it has {what}): shard again.")

    @property
    def hash(self) -> str:
        """Names what is in the shards and where, whatever their address."""
        digest = hashlib.sha256(self.index.content.encode())
        for column in (self.shards, self.offset, self.length):
            for start in range(0, len(column), CHUNK):
                digest.update(column[start : start + CHUNK].astype(np.int64).data)
        digest.update(json.dumps(self.names).encode())
        if not all(self.digests):  # names of its own say nothing of what is in a shard
            digest.update(self.crc32.astype(np.uint32).data)
        return digest.hexdigest()[:16]

    @classmethod
    def open(cls, address: str) -> ShardSet:
        """The set at an address.

        Raises:
            UserError: there is none, or a part of it is not done.
        """
        storage = Storage(address)
        index = read_index(storage)
        if index is None:
            raise UserError(
                f"{storage} holds no {INDEX}: make shards by `lightning-audio shard data=NAME {storage}`."
            )
        contents = []
        for addition in index.additions:
            parts = [*parts_of(storage, addition)]
            _refuse_missing(storage, addition, parts)
            contents += [part for part in parts if part is not None]
        return cls(storage, index, tables.Table(contents, str(storage)))


def _refuse_missing(storage: Storage, addition: Addition, parts: Sequence[bytes | None]) -> None:
    missing = [str(number) for number, part in enumerate(parts, start=1) if part is None]
    if missing:
        raise UserError(
            f"{storage} is not whole: of the addition of {addition.clips} clips, part "
            f"{', '.join(missing[:5])} of {addition.parts} is not done: run the same `lightning-audio shard` "
            f"with --part {missing[0]}/{addition.parts}."
        )


def sample_counts(shards: ShardSet, sample_rate: int) -> np.ndarray:
    """How long each clip is at this rate, `(N,)`: soxr rounds to the nearest whole number."""
    if not shards.rate.any() or (shards.rate == sample_rate).all():
        return shards.length
    rate = np.where(shards.rate == 0, sample_rate, shards.rate)
    return np.floor(shards.length * (sample_rate / rate) + 0.5).astype(np.int64)
