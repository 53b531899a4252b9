"""Clip: one row of a corpus. Tables of clips: validated, split by fold or by group, held against leaks."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lightning_audio.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of one audio file and what is known of it.

    `start` and `duration` are in seconds; a duration of None reaches to the end of the file. `group` names
    what must not be split over train and test: the recording that a clip was cut from, or the speaker.
    """

    id: str
    path: str
    start: float = 0.0
    duration: float | None = None
    labels: tuple[str, ...] = ()
    text: str | None = None
    split: str | None = None
    fold: int | None = None
    group: str | None = None


def problems(clip: Clip) -> list[str]:
    """What is wrong with a row by itself, each in a few words; the files are not opened."""
    found = []
    if not clip.id:
        found.append("its id is empty")
    if not 0 <= clip.start < math.inf:
        found.append(f"start {clip.start} is not a time from 0 on")
    if clip.duration is not None and not 0 < clip.duration < math.inf:
        found.append(f"duration {clip.duration} is not a time above 0")
    if clip.split is not None and clip.split not in SPLITS:
        found.append(f"split {clip.split!r} is none of {', '.join(SPLITS)}")
    return found


def validated(clips: Iterable[Clip], source: str) -> list[Clip]:
    """The rows in the order of their ids; every bad row is named in one error.

    Raises:
        UserError: a row is bad, two rows share an id, or there is none.
    """
    rows = sorted(clips, key=lambda clip: clip.id)
    if not rows:
        raise UserError(f"{source} holds no clips: check that it is the folder or file that you meant.")
    found = [f"{clip.id!r}: {problem}" for clip in rows for problem in problems(clip)]
    found += [f"{name!r}: stands {n} times" for name, n in Counter(c.id for c in rows).items() if n > 1]
    if found:
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(f"{source} has {len(found)} bad rows to mend: {'; '.join(found[:10])}{more}.")
    return rows


def write_manifest(clips: Iterable[Clip], path: Path) -> None:
    """One JSON object a line, with the fields of `Clip`; what is None is left out."""
    lines = (json.dumps({k: v for k, v in asdict(clip).items() if v is not None}) for clip in clips)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_manifest(path: Path) -> list[Clip]:
    """Clips of a JSONL manifest: the fields of `Clip`, or NeMo's (`audio_filepath`, `offset`, `text`).

    Relative audio paths are taken from the manifest's folder; a row without an id is named after its line.

    Raises:
        UserError: the file is missing, or rows are bad; all of them are named at once with their line.
    """
    if not path.is_file():
        raise UserError(f"There is no manifest {path}: give a JSONL file with one clip a line.")
    clips, found = [], []
    # Bytes: only a newline ends a row, not all that Unicode takes for one; json says which row is no UTF-8.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            clips.append(_clip_of_row(json.loads(line), path, number))
        except (ValueError, TypeError, KeyError) as error:
            found.append(f"line {number}: {error}")
    if found:
        raise UserError(f"{path} has {len(found)} unreadable rows to mend: {'; '.join(found)}.")
    return validated(clips, str(path))


def _clip_of_row(row: dict, manifest: Path, number: int) -> Clip:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    row = dict(row)
    audio = row.pop("audio_filepath", None) or row.pop("path", None)
    if not audio:
        raise ValueError("neither `path` nor `audio_filepath` is there")
    labels = row.pop("labels", None) or row.pop("label", None) or []
    duration, fold, group = row.get("duration"), row.get("fold"), row.get("group", row.get("speaker"))
    clip = Clip(
        id=str(row.get("id", f"{manifest.stem}-{number:06d}")),
        path=str(manifest.parent / audio),
        start=float(row.get("start", row.get("offset", 0.0))),
        duration=None if duration is None else float(duration),
        labels=tuple(str(label) for label in (labels if isinstance(labels, list) else [labels])),
        text=row.get("text"),
        split=row.get("split"),
        fold=None if fold is None else int(fold),
        group=None if group is None else str(group),
    )
    if found := problems(clip):
        raise ValueError(", ".join(found))
    return clip


def split_by_fold(clips: Iterable[Clip], test_fold: int) -> list[Clip]:
    """The clips of one fold become the test split, all others train.

    Raises:
        UserError: no clip stands in that fold.
    """
    clips = list(clips)
    folds = sorted({clip.fold for clip in clips if clip.fold is not None})
    if test_fold not in folds:
        raise UserError(f"There is no fold {test_fold}: set data.fold to one of {folds}.")
    return [replace(clip, split="test" if clip.fold == test_fold else "train") for clip in clips]


def hold_out(clips: Sequence[Clip], share: float, seed: int) -> list[Clip]:
    """Moves about `share` of the training clips of every label to val, whole groups at a time.

    The draw depends on the seed and the groups alone, not on the order of the clips. Clips without a label
    count as of one.
    """
    groups: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.split == "train":
            groups[clip.group or clip.id].append(clip)
    counts_of = {name: Counter((clip.labels or ("",))[0] for clip in group) for name, group in groups.items()}
    wanted: Counter[str] = sum(counts_of.values(), Counter())
    taken: Counter[str] = Counter()
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    chosen = set()
    for name in order:
        if all(taken[label] + n <= round(share * wanted[label]) for label, n in counts_of[name].items()):
            chosen.add(name)
            taken += counts_of[name]
    return [
        replace(clip, split="val") if clip.split == "train" and (clip.group or clip.id) in chosen else clip
        for clip in clips
    ]


def refuse_leaks(clips: Iterable[Clip]) -> None:
    """Raises UserError where one group (recording, speaker) stands in more than one split."""
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.group is not None and clip.split is not None:
            splits[clip.group].add(clip.split)
    leaking = sorted(group for group, found in splits.items() if len(found) > 1)
    if leaking:
        shown = ", ".join(f"{group} ({' and '.join(sorted(splits[group]))})" for group in leaking[:5])
        raise UserError(
            f"The split leaks: {len(leaking)} groups stand in more than one split, such as {shown}; "
            "give all clips of a group the same split."
        )
