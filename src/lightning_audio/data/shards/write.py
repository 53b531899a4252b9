"""Writing a set of shards: decoded samples or files as they are, by any number of jobs, each resumable."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.audio_file import Audio, AudioError, read_audio
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode_clips, odd_sentences
from lightning_audio.data.shards import table as tables
from lightning_audio.data.shards.shard_set import (
    DIGITS,
    INDEX,
    SUFFIXES,
    Addition,
    Index,
    ShardSet,
    parts_of,
    read_index,
)
from lightning_audio.data.shards.storage import Storage
from lightning_audio.data.shards.table import Row
from lightning_audio.data.threads import in_threads
from lightning_audio.data.wave_store import progress
from lightning_audio.errors import UserError, counted, printable

MEGABYTE = 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """What a command has done: clips of this part, bytes of its shards, clips that can't be read."""

    clips: int
    bytes: int
    unreadable: Sequence[str]


def write_shards(
    clips: Sequence[Clip], root: Path, storage: Storage, wanted: Index, part: tuple[int, int], size: int
) -> Written:
    """Adds the clips that a set lacks, or one part of them; a set that is not there is begun.

    Clips lie in the order of a digest of their names, so that each shard is a sample of its split.

    Args:
        clips: validated.
        root: of the corpus; below it, the set has the paths relative to it.
        wanted: what the set is to hold, without additions.
        part: number from 1 on, and how many there are.
        size: bytes at which a shard is full.

    Raises:
        UserError: the place holds something else, another addition is not finished, or a clip stands in the
            set with other answers; or another command wrote the index of the set at the same time.
    """
    number, count = part
    clips = [*map(tables.storable, clips)]
    fresh, addition = _begin(clips, root, storage, wanted, count)
    if addition is None or storage.size(addition.part(number)) is not None:
        return Written(0, 0, ())
    mine = _share(_in_order(fresh, wanted.content), wanted.content, number, count)
    prefix = f"{addition.name}/.part-{number:04d}-"
    done = [*_done(storage, prefix)]
    rows = [row for one in done for row in one]
    for written in _shards(storage, addition.name, mine[len(rows) :], wanted, size):
        written = [replace(row, clip=below(row.clip, root)) for row in written]
        storage.write(f"{prefix}{len(done):05d}.rows", tables.to_parquet(written))
        done.append(written)
        rows += written
    # In the order of their ids, in which they are read.
    storage.write(addition.part(number), tables.to_parquet(sorted(rows, key=lambda row: row.clip.id)))
    for place in range(len(done)):
        storage.remove(f"{prefix}{place:05d}.rows")
    if (index := read_index(storage)) is None or addition not in index.additions:
        raise UserError(
            f"{storage}/{INDEX} does not know of these clips: another command has added others at the same "
            "time; run this one again, which writes nothing twice."
        )
    size = sum(max(row.offset + row.bytes for row in one) for one in done)
    return Written(len(rows), size, [f"{row.clip.id}: {row.reason}" for row in rows if row.reason])


def _begin(
    clips: Sequence[Clip], root: Path, storage: Storage, wanted: Index, parts: int
) -> tuple[Sequence[Clip], Addition | None]:
    """The clips that are to be added, and the addition, which stands in the index then; None: there is
    nothing to add."""
    index = read_index(storage)
    if index is None:
        others = [name for name in storage.names() if not name.startswith(".")]
        index = read_index(storage) if others else wanted  # another part may have begun meanwhile
        if index is None:
            raise UserError(
                f"{storage} holds {others[0]} and no {INDEX}: name an empty place, for nothing of it is "
                "overwritten."
            )
    if replace(index, additions=()) != wanted:
        raise UserError(
            f"{storage} holds {_kind(index)}, and this would be {_kind(wanted)}: name another place."
        )
    known: dict[str, Clip] = {}
    unfinished = []
    for addition in index.additions:
        contents = [*parts_of(storage, addition)]
        if None in contents:
            unfinished.append(addition)
        else:
            known |= {clip.id: clip for clip in tables.clips(tables.Table(contents, str(storage)))}  # type: ignore[arg-type]
    fresh = [clip for clip in clips if clip.id not in known]
    _refuse_changed([clip for clip in clips if clip.id in known], known, storage)
    if not fresh and not unfinished:
        return fresh, None
    addition = Addition(_name(below(clip, root) for clip in fresh), parts, len(fresh))
    if unfinished and addition not in unfinished:
        raise UserError(
            f"{storage} has an addition of {unfinished[0].clips} clips in {unfinished[0].parts} parts that "
            f"is not finished, and this is one of {len(fresh)} in {parts}: finish that by its own command."
        )
    if not unfinished:
        whole = replace(index, additions=(*index.additions, addition))
        storage.write(INDEX, whole.to_json())
    return fresh, addition


def below(clip: Clip, root: Path) -> Clip:
    """The clip with its path as it stands in a set."""
    path = Path(clip.path)
    return replace(clip, path=path.relative_to(root).as_posix()) if path.is_relative_to(root) else clip


def _kind(index: Index) -> str:
    rate = f" at {index.sample_rate} Hz" if index.sample_rate else ""
    return f"{index.content} of {index.corpus}{rate}"


def _refuse_changed(clips: Sequence[Clip], known: dict[str, Clip], storage: Storage) -> None:
    changed = [clip.id for clip in clips if replace(clip, path="") != replace(known[clip.id], path="")]
    if changed:
        raise UserError(
            f"{counted(len(changed), 'clips stand')} in {storage} with other labels, text, times or split, "
            f"such as {changed[0]}: what is written stays, so name another place."
        )


def _name(clips: Iterable[Clip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(clip).encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def _in_order(clips: Sequence[Clip], content: str) -> list[Clip]:
    """By split or fold, and within by a digest of the name; of files by that of the path, so that clips of
    one file follow each other."""

    def key(clip: Clip) -> tuple[str, bytes, str]:
        name = clip.path if content == "files" else clip.id
        side = f"fold {clip.fold}" if clip.fold is not None else str(clip.split)
        return side, hashlib.sha256(name.encode(errors="surrogatepass")).digest(), clip.id

    return sorted(clips, key=key)


def _share(clips: Sequence[Clip], content: str, number: int, count: int) -> list[Clip]:
    """What one of `count` parts takes: every count-th clip, or all clips of every count-th file."""
    if content != "files":
        return [*clips[number - 1 :: count]]
    place = {path: place for place, path in enumerate(dict.fromkeys(clip.path for clip in clips))}
    return [clip for clip in clips if place[clip.path] % count == number - 1]


def _done(storage: Storage, prefix: str) -> Iterator[list[Row]]:
    """The rows of the shards that an earlier process of this part has written."""
    number = 0
    while storage.size(name := f"{prefix}{number:05d}.rows") is not None:
        yield tables.rows(tables.Table([storage.read(name)], str(storage), sort=False))
        number += 1


def _shards(
    storage: Storage, folder: str, clips: Sequence[Clip], wanted: Index, size: int
) -> Iterator[list[Row]]:
    """Writes one shard after another; the rows of each."""
    rows: list[Row] = []
    content: list[Any] = []
    filled = 0

    def close() -> list[Row]:
        whole = b"".join(content)
        name = f"{hashlib.sha256(whole).hexdigest()[:DIGITS]}{SUFFIXES[wanted.content]}"
        if whole:
            storage.write(f"{folder}/{name}", whole)
        return [row if row.reason else replace(row, shard=f"{folder}/{name}") for row in rows]

    encoded = _files if wanted.content == "files" else _samples
    shown = progress(encoded(clips, wanted.sample_rate), "Writing shards", len(clips))
    for row, data in shown:
        side = rows and (rows[-1].clip.split, rows[-1].clip.fold) != (row.clip.split, row.clip.fold)
        if data is not None and (filled >= size or side):
            yield close()
            rows, content, filled = [], [], 0
        if data is not None:
            content.append(data)
            filled += row.bytes
        offset = filled - row.bytes if row.bytes else 0
        rows.append(replace(row, offset=offset))
    if rows:
        yield close()


def _samples(clips: Sequence[Clip], sample_rate: int) -> Iterator[tuple[Row, bytes | None]]:
    for clip, found in zip(clips, decode_clips(clips, sample_rate), strict=True):
        if isinstance(found, AudioError):
            yield Row(clip, reason=_lasting(found)), b""
        else:
            data = found.tobytes()
            yield Row(clip, "", 0, len(data), sample_rate, len(found), zlib.crc32(data)), data


def _files(clips: Sequence[Clip], sample_rate: int) -> Iterator[tuple[Row, bytes | None]]:
    """Each file once, before the first clip of it; all are decoded once, to know that they can be."""

    def read(clip: Clip) -> Audio | AudioError:
        try:
            audio = read_audio(clip.path, clip.start, clip.duration, clip.channel)
            if audio.cut:
                raise AudioError(clip.path, audio.cut)
            return audio
        except AudioError as error:
            return error

    odd: dict[str, list[str]] = defaultdict(list)
    path, data, crc32 = "", b"", 0
    for clip, found in zip(clips, in_threads(read, clips), strict=True):
        if isinstance(found, AudioError):
            # Clips of a file that is there already follow: their shard stays open.
            yield Row(clip, reason=_lasting(found)), None if path == clip.path else b""
            continue
        again, path = path == clip.path, clip.path
        if not again:
            data = Path(path).read_bytes()
            crc32 = zlib.crc32(data)
        for kind, remark in found.remarks().items():
            odd[kind].append(f"{clip.id}: {remark}")
        yield Row(clip, "", 0, len(data), found.rate, len(found.samples), crc32), None if again else data
    for sentence in odd_sentences(odd):
        _log.warning("%s", sentence)


def _lasting(error: AudioError) -> str:
    """Why a clip can't be read; raises UserError where that may be other the next time."""
    if not error.lasting:
        raise UserError(f"Cannot read {printable(str(error.path))}: {error.reason}; see to it and resume.")
    return error.reason


def verify(shards: ShardSet) -> list[str]:
    """What is wrong with the shards of a set, a sentence each: every byte is read."""
    found: list[str] = []
    order = np.argsort(shards.shards, kind="stable")
    starts = np.searchsorted(shards.shards[order], np.arange(len(shards.names) + 1))
    for number, name in enumerate(progress(shards.names, "Verifying", len(shards.names))):
        if name and (content := _content(shards.storage, name, found)) is not None:
            for row in order[starts[number] : starts[number + 1]]:
                first = shards.offset[row]
                if zlib.crc32(content[first : first + shards.bytes[row]]) != shards.crc32[row]:
                    found.append(f"{name}: clip {shards.clips.column('id')[int(row)]} is damaged")
    return found


def _content(storage: Storage, name: str, found: list[str]) -> bytes | None:
    try:
        content = storage.read(name)
    except UserError as error:
        found.append(str(error))
        return None
    if hashlib.sha256(content).hexdigest()[:DIGITS] != Path(name).stem:
        found.append(f"{name} is damaged: its {len(content):,} bytes are not those that were written")
        return None
    return content
