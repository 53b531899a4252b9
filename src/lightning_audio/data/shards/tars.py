"""Sets of tar files that others have made: webdataset's, NeMo's tarred manifests, lhotse's shar."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import logging
import math
import tarfile
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_audio.data.audio_file import AudioError, read_audio
from lightning_audio.data.clip import SPLIT_NAMES, Clip, clean_label
from lightning_audio.data.decode import AUDIO_SUFFIXES, odd_sentences
from lightning_audio.data.download import whole_tar
from lightning_audio.data.manifest_rows import COLUMNS, SPEAKER
from lightning_audio.data.shards import table as tables
from lightning_audio.data.shards.shard_set import Index
from lightning_audio.data.shards.storage import Storage, as_file
from lightning_audio.data.shards.table import Row
from lightning_audio.data.threads import in_threads
from lightning_audio.data.wave_store import progress
from lightning_audio.errors import UserError, counted, printable
from lightning_audio.io import from_json, write_atomically

VERSION = 2  # of how tars are read: an older table is not
NEMO, SHAR = "tarred_audio_manifest.json", "cuts."
ALMOST = 0.01  # seconds by which a file may be shorter than a row says

_log = logging.getLogger(__name__)

# What a row says of the clip in a member of a tar: fields of Clip.
Said = Mapping[str, Any]
# All that is said of members, by their names.
Description = Mapping[str, Sequence[Said]]


def read_tars(storage: Storage, cache: Path) -> tuple[Index, tables.Table] | None:
    """The index and the table of the tar files at an address; None where there are none.

    They lie there, or in folders that are named as splits. All of them are read, and what is in them decoded,
    once: a header need not tell how long a file is. The table is kept in `cache` as long as they, and what
    describes them, stay the same.

    Raises:
        UserError: a tar is damaged, or no member of one is known to what describes them.
    """
    names = storage.names()
    places: dict[str, str | None] = {"": None} if any(n.endswith(".tar") for n in names) else {}
    places |= {folder: SPLIT_NAMES[folder] for folder in names if folder in SPLIT_NAMES}
    listed = {place: dict.fromkeys(storage.names(place)) for place in places}  # in their order, found at once
    tars = [f"{place}/{n}".strip("/") for place, ns in listed.items() for n in _of_recordings(ns)]
    if not tars:
        return None
    described = [f"{place}/{n}".strip("/") for place, ns in listed.items() for n in ns if _describes(n)]
    versions = {name: storage.version(name) for name in (*tars, *described)}
    told = json.dumps([VERSION, storage.address, versions])
    kept = Path(cache) / "tables" / f"tars-{hashlib.sha256(told.encode()).hexdigest()[:16]}.parquet"
    index = Index("files", 0, "Sharded", folds=False)
    if kept.is_file():
        with contextlib.suppress(UserError):  # one that is damaged is made again
            return index, tables.Table([kept.read_bytes()], str(kept)).checked()
    content = tables.to_parquet(_all_rows(storage, places, listed, tars))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, content)
    return index, tables.Table([content], str(kept))


def _all_rows(
    storage: Storage,
    places: Mapping[str, str | None],
    listed: Mapping[str, Collection[str]],
    tars: Sequence[str],
) -> list[Row]:
    """The rows of all tars, each in its split; raises UserError where there are none."""
    # One manifest describes all tars of a folder, and is as large as they are many: it is read once.
    nemo = {
        place: _nemo(storage.read(f"{place}/{NEMO}".strip("/"))) for place in listed if NEMO in listed[place]
    }
    rows: list[Row] = []
    for tar in progress(tars, "Reading tars", len(tars)):
        place = tar.rpartition("/")[0]
        rows += _rows(storage, tar, listed[place], nemo.get(place))
    for place, found in listed.items():
        _tell_lost(storage, place, found, nemo.get(place), rows)
    split_of = {place: split for place, split in places.items() if split}
    often = Counter(row.clip.id for row in rows)  # a key may stand in many tars
    rows = [_placed(row, split_of, often[row.clip.id] > 1) for row in rows]
    if not rows:
        raise UserError(f"The tars in {storage} hold no audio that is described: see docs/pages/data.md.")
    return rows


def _describes(name: str) -> bool:
    return name == NEMO or name.startswith(SHAR)


def _of_recordings(names: Collection[str]) -> list[str]:
    """The tars in a folder of these files that hold audio: shar has others of features and targets beside."""
    begin = "recording." if any(name.startswith(SHAR) for name in names) else ""
    return [name for name in names if name.endswith(".tar") and name.startswith(begin)]


def _tell_lost(
    storage: Storage, place: str, names: Collection[str], nemo: Description | None, rows: Sequence[Row]
) -> None:
    """Says what is described and in no tar: one of them may be missing."""
    prefix = f"{place}/" if place else ""
    shar = (_shar(storage.read(prefix + name), name) for name in names if name.startswith(SHAR))
    there = {row.clip.id for row in rows if row.clip.path.startswith(prefix)}
    tables_of = shar if nemo is None else [nemo]
    told = {str(one["id"]) for said in tables_of for about in said.values() for one in about}
    if lost := sorted(told - there):
        what = counted(len(lost), "recordings are")
        _log.warning(
            "%s: %s described and in no tar, such as %s.", place or storage, what, printable(lost[0])
        )


def _placed(row: Row, splits: Mapping[str, str], repeated: bool) -> Row:
    """The row in the split of its folder, with an id of its own."""
    tar = row.clip.path.partition(":")[0]
    name = f"{tar}:{row.clip.id}" if repeated else row.clip.id
    split = splits.get(tar.partition("/")[0], row.clip.split)
    return replace(row, clip=replace(row.clip, id=name, split=split))


def _rows(storage: Storage, tar: str, known: Collection[str], nemo: Description | None) -> Iterator[Row]:
    """The rows of the clips in one tar, beside which the files `known` lie, and NeMo's manifest, if any."""
    folder, _, name = tar.rpartition("/")
    prefix = f"{folder}/" if folder else ""
    with tempfile.TemporaryDirectory() as place:
        path = Path(storage.path(tar))
        if not storage.is_local:
            path = Path(place) / "shard.tar"
            storage.fetch(tar, path, "")
        try:
            with path.open("rb") as content, whole_tar(content) as opened:
                if not isinstance(opened.fileobj, io.BufferedReader):
                    raise tarfile.ReadError("it is compressed")
                members = [(one.name, one.offset_data, one.size) for one in opened if one.isfile()]
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            why = str(error).partition("\n")[0].rstrip(":")
            raise UserError(f"{storage}/{tar} is damaged ({why}): put it back.") from error
        with path.open("rb") as file:
            data = {name: (offset, size) for name, offset, size in members}
            if (cuts := f"{SHAR}{name.removeprefix('recording.').removesuffix('.tar')}.jsonl.gz") in known:
                said: Description = _shar(storage.read(prefix + cuts), cuts)
            else:
                said = _webdataset(file, data) if nemo is None else nemo
            yield from _found(file, data, said, tar)


def _found(
    file: io.BufferedReader, data: Mapping[str, tuple[int, int]], said: Description, tar: str
) -> Iterator[Row]:
    """A row for all that is said of each member that is audio; what nothing is said of is told."""
    of: dict[str, Sequence[Said]] = {}
    untold = []
    for name in data:
        path = PurePosixPath(name)
        if path.suffix.lower() in AUDIO_SUFFIXES:
            about = said.get(name) or said.get(path.stem) or said.get(str(path.with_suffix("")))
            if about:
                of[name] = about
            else:
                untold.append(name)
    if untold:
        what = counted(len(untold), "recordings have")
        _log.warning("%s: %s no description, and are left out, such as %s.", tar, what, printable(untold[0]))
    contents = ((name, _bytes(file, data[name])) for name in of)
    odd: dict[str, list[str]] = defaultdict(list)
    for name, found, crc32, remarks in in_threads(_decoded, contents):
        offset, size = data[name]
        for kind, remark in remarks.items():
            odd[kind].append(f"{name}: {remark}")
        for one in of[name]:
            clip = Clip(path=f"{tar}:{name}", **{key: one[key] for key in one if key != "reason"})
            if isinstance(found, str) or "reason" in one:
                yield Row(clip, reason=one.get("reason", found))
                continue
            frames, rate = found
            stretch, length = _stretch(one, frames, rate)
            yield Row(replace(clip, **stretch), tar, offset, size, rate, length, crc32)
    for sentence in odd_sentences(odd):
        _log.warning("%s: %s", tar, sentence)


def _decoded(member: tuple[str, bytes]) -> tuple[str, tuple[int, int] | str, int, Mapping[str, str]]:
    """The name of a member; its samples and their rate, or why it can't be read; its checksum; what is odd
    about it, by kind."""
    name, content = member
    crc32 = zlib.crc32(content)
    try:
        with as_file(content) as path:
            audio = read_audio(path)
    except AudioError as error:
        return name, error.reason, crc32, {}
    if audio.cut:
        return name, audio.cut, crc32, {}
    return name, (len(audio.samples), audio.rate), crc32, audio.remarks()


def _stretch(one: Said, frames: int, rate: int) -> tuple[Said, int]:
    """Start and duration of a clip in its file, and its samples. A file that does not reach from the start to
    the end has been cut out already."""
    start, duration = one.get("start", 0.0), one.get("duration")
    spare = 0.0 if duration is None else frames / rate - (start + duration)
    if duration is None or spare < -ALMOST or (not start and spare <= ALMOST):
        return {"start": 0.0, "duration": None}, frames
    first, count = round(start * rate), round(duration * rate)
    return {"start": start, "duration": duration}, min(count, frames - first)


def _bytes(file: io.BufferedReader, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])


def _webdataset(
    file: io.BufferedReader, data: Mapping[str, tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """By the name of the audio what stands beside it: KEY.json, KEY.txt (transcript), KEY.cls (label)."""
    neighbours: dict[str, dict[str, str]] = defaultdict(dict)
    for name in data:
        folder, _, base = name.rpartition("/")
        key, _, suffix = base.partition(".")
        neighbours[f"{folder}/{key}".lstrip("/")][suffix.lower()] = name
    found: dict[str, list[dict[str, Any]]] = {}
    for key, members in neighbours.items():
        said: dict[str, Any] = {"id": key}
        try:
            if "json" in members:
                said |= _fields(_json(_bytes(file, data[members["json"]]), members["json"]), members["json"])
            for suffix, field in (("txt", "text"), ("cls", "labels")):
                if suffix in members:
                    value = _bytes(file, data[members[suffix]]).decode("utf-8-sig").strip()
                    said[field] = value if field == "text" else (clean_label(value),)
        except UserError as error:  # one bad row never costs the others
            said["reason"] = str(error)
        except UnicodeDecodeError:
            said["reason"] = "the text beside it is not UTF-8"
        if len(said) > 1:
            found |= {name: [said] for suffix, name in members.items() if f".{suffix}" in AUDIO_SUFFIXES}
    return found


def _nemo(content: bytes) -> dict[str, list[dict[str, Any]]]:
    """By the name of the audio its rows; by its stem, too, where no other has that."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{NEMO}, line {number}"
        row = _json(line, where)
        name = str(row.get("audio_filepath"))
        stem = PurePosixPath(name).stem
        said = {"id": stem, "start": _seconds(row, "offset", where) or 0.0, **_fields(row, where)}
        if (duration := _seconds(row, "duration", where)) is not None:
            said["duration"] = duration
        if said["start"]:
            said["id"] = f"{stem}-{said['start']:g}"
        found[name].append(said)
    stems = Counter(PurePosixPath(name).stem for name in found)
    alone = {PurePosixPath(name).stem: rows for name, rows in found.items()}
    return {**{stem: rows for stem, rows in alone.items() if stems[stem] == 1}, **found}


def _seconds(row: Mapping[str, Any], name: str, where: str) -> float | None:
    if row.get(name) is None:
        return None
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{where}: {name} {row[name]!r} is no time in seconds: mend it.")
    return value


def _shar(content: bytes, cuts: str) -> dict[str, list[dict[str, Any]]]:
    """By the id of a cut what its supervisions say; its audio has been cut out."""
    try:
        lines = gzip.decompress(content).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{cuts} is damaged ({error}): put it back.") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        where = f"{cuts}, line {number}"
        cut = _json(line, where)
        if "id" not in cut:
            raise UserError(f"{where}: the cut has no id: mend it.")
        supervisions = cut.get("supervisions") or [{}]
        texts = [one["text"] for one in supervisions if one.get("text") is not None]
        said = {"id": str(cut["id"]), **_fields({**(cut.get("custom") or {}), **supervisions[0]}, where)}
        said |= {"text": " ".join(texts)} if texts else {}
        found[str(cut["id"])] = [said]
    return found


def _fields(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of Clip that a row has, by any of their names."""
    said: dict[str, Any] = {}
    for field in ("text", "labels", "label"):
        value = next((row[name] for name in COLUMNS[field] if row.get(name) is not None), None)
        if value is not None and field == "text":
            said["text"] = str(value)
        elif value is not None:
            said["labels"] = _labels(value, where)
    if "labels" not in said and row.get("command") is not None:  # as NeMo calls it
        said["labels"] = _labels(row["command"], where)
    for name in COLUMNS["split"]:
        if row.get(name):
            said["split"] = SPLIT_NAMES.get(str(row[name]).strip().lower())
            if said["split"] is None:
                splits = ", ".join(dict.fromkeys(SPLIT_NAMES.values()))
                raise UserError(f"{where}: {name} {row[name]!r} is none of {splits}: mend it.")
            break
    group = next((str(row[name]) for name in ("group", *SPEAKER) if row.get(name) is not None), None)
    return said | ({"group": group} if group else {})


def _labels(value: Any, where: str) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [value]
    labels = [clean_label(str(label)) for label in several]
    if not all(type(label) in (str, int) for label in several) or "" in labels:
        raise UserError(f"{where}: the labels {value!r} are no names: mend it.")
    return tuple(dict.fromkeys(labels))


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        row = from_json(content)
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({error}): mend it.") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is no JSON object: mend it.")
    return row
