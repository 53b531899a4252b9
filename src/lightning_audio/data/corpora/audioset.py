"""AudioSet: ten seconds of videos with 527 labels (J. Gemmeke et al., ICASSP 2017)."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.decode import AUDIO_SUFFIXES
from lightning_audio.data.folders import files_below
from lightning_audio.errors import UserError, did_you_mean

WEAK = {name: f"{name}_segments.csv" for name in ("balanced_train", "unbalanced_train", "eval")}
STRONG = {"train": "audioset_train_strong.tsv", "test": "audioset_eval_strong.tsv"}
NAMES = {False: "class_labels_indices.csv", True: "mid_to_display_name.tsv"}
SECONDS = 10.0
# By video and start in it, the labels of a segment, each with its start and end in seconds of the segment.
Segments = dict[tuple[str, float], list[tuple[str, float, float]]]


class AudioSet(Corpus):
    """The release's tables in `root`, and what you have of the videos' audio below `audio`, in any format.

    The audio is not released, and videos vanish: clips are those that are there, a remark says how many are
    not, and a score belongs to them. Files are named `VIDEO`, `VIDEO_START` or `VIDEO_START_END`, with times
    in seconds or milliseconds, also with a `Y` before. The protocol: train on `balanced_train`,
    `unbalanced_train` or both and test on `eval`, which has other videos; mean average precision over the
    labels. For task=multilabel. `group` is the video.

    Args:
        root: folder of the tables, of the labels (`class_labels_indices.csv`; of strong ones
            `mid_to_display_name.tsv`) and of `audio`.
        cache: folder for the decoded audio.
        sample_rate: the rate in Hz at which the clips are to be read.
        train: the tables to train on, of the weak labels.
        whole_videos: a file that is named as the video alone is all of it, and not the segment.
        strong: labels with times (S. Hershey et al., ICASSP 2021): each segment is parted into clips of
            `seconds`, whose labels are those that sound for half of the clip, or with half of their own time.
            A label that only one of the two tables has is left out, and so is what remains of a segment.
        seconds: of a clip with strong labels.

    Raises:
        UserError: there is no such table, or `seconds` is no part of a segment.
    """

    title = "AudioSet"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 32000,
        train: Iterable[str] = ("balanced_train",),
        whole_videos: bool = False,
        strong: bool = False,
        seconds: float = 1.0,
    ) -> None:
        super().__init__(root, cache, sample_rate)
        self.train = [train] if isinstance(train, str) else list(train)
        for name in self.train:
            if name not in WEAK:
                raise UserError(
                    f"There is no table {name!r} of AudioSet{did_you_mean(name, WEAK)}: set data.train to "
                    f"some of {', '.join(WEAK)}."
                )
        if not 0 < seconds <= SECONDS:
            raise UserError(f"data.seconds={seconds} is no part of a segment: set it above 0, to 10 or less.")
        self.whole_videos, self.strong, self.seconds = whole_videos, strong, seconds

    @cached_property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]  # known once the tables are read
        """Those of the release in its order; of the strong ones those of both tables, by the alphabet."""
        if not self.strong:
            return tuple(dict.fromkeys(self._names.values()))
        train, test = (
            {label for found in segments.values() for label, *_ in found}
            for segments in self._segments.values()
        )
        return tuple(sorted(train & test))

    def clips(self) -> list[Clip]:
        """The segments, or with strong labels the clips that they are parted into, whose audio is there.

        Raises:
            UserError: a table is missing or damaged, or no audio is there.
        """
        clips, known = [], set(self.labels)
        for split, segments in self._segments.items():
            for (video, start), found in segments.items():
                if (path := self._files.get((video, start))) is None:
                    continue
                # Where in the file the segment begins.
                at = start if self.whole_videos and path.stem in (video, f"Y{video}") else 0.0
                span = self.seconds if self.strong else SECONDS
                for begin in (number * span for number in range(int(SECONDS / span + 1e-9))):
                    labels = {
                        label for label, first, last in found if _sounds(first, last, begin, begin + span)
                    }
                    clips.append(
                        Clip(
                            id=f"{video}_{round(1000 * (start + begin))}",
                            path=str(path),
                            start=at + begin,
                            duration=span if self.strong or self.whole_videos else None,
                            labels=tuple(sorted(labels & known)),
                            split=split,
                            group=video,
                        )
                    )
        if not clips:
            raise UserError(
                f"There is no audio of AudioSet's segments in {self.root / 'audio'}: fetch it, "
                "and name it by the video, as VIDEO.wav or VIDEO_START_END.wav."
            )
        return clips

    @cached_property
    def _files(self) -> dict[tuple[str, float], Path]:
        """The audio of each segment that has some, by its video and start."""
        below = files_below(self.root / "audio") if (self.root / "audio").is_dir() else ()
        files = {path.stem: path for path in below if path.suffix.lower() in AUDIO_SUFFIXES}
        named = {
            segment: next((files[name] for name in _file_names(*segment) if name in files), None)
            for segments in self._segments.values()
            for segment in segments
        }
        return {segment: path for segment, path in named.items() if path}

    @cached_property
    def _segments(self) -> dict[str, Segments]:
        """The segments of each split."""
        found: dict[str, Segments] = {"train": defaultdict(list), "test": defaultdict(list)}
        tables = [(name, "train") for name in self.train] + [("eval", "test")]
        files = [(name, split) for split, name in STRONG.items()]
        for name, split in files if self.strong else [(WEAK[name], split) for name, split in tables]:
            for number, row in self._rows(name):
                try:
                    video, start, times = row[0], float(row[1]), (0.0, SECONDS)
                    if self.strong:  # VIDEO_MILLISECONDS, then the times in the segment
                        video, _, begin = row[0].rpartition("_")
                        start, times = int(begin) / 1000, (float(row[1]), float(row[2]))
                    labels = [self._names[label] for label in row[3].split(",")]
                except (IndexError, KeyError, ValueError):
                    raise UserError(
                        f"{self.root / name} is damaged at line {number}, or names a label that is not in "
                        f"{NAMES[self.strong]}: put the release's own tables there."
                    ) from None
                found[split][video, start] += [(label, *times) for label in labels]
        return found

    @cached_property
    def _names(self) -> dict[str, str]:
        """The name of each label by its id."""
        rows = [row for _, row in self._rows(NAMES[self.strong])]
        return {row[0]: row[1] for row in rows} if self.strong else {row[1]: row[2] for row in rows}

    def _rows(self, name: str) -> Iterator[tuple[int, list[str]]]:
        """The rows of a table with their numbers, without comments and headers."""
        path = self.root / name
        if not path.is_file():
            raise self.missing(path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file, delimiter="\t" if self.strong else ",", skipinitialspace=True)
            for number, row in enumerate(rows, start=1):
                if row and not row[0].startswith("#") and row[0] not in ("index", "segment_id"):
                    yield number, row

    def remarks(self) -> list[str]:
        """How many segments have no audio."""
        total = sum(map(len, self._segments.values()))
        absent = total - len(self._files)
        return [f"{absent} of {total} segments have no audio here."] if absent else []


def _file_names(video: str, start: float) -> Iterator[str]:
    """What the file of a segment may be called, without its suffix."""
    for scale, digits in ((1, 0), (1, 3), (1000, 0)):
        begin, end = (f"{scale * time:.{digits}f}" for time in (start, start + SECONDS))
        for name in (video, f"Y{video}"):
            yield from (f"{name}_{begin}_{end}", f"{name}_{begin}", name)


def _sounds(start: float, end: float, begin: float, until: float) -> bool:
    """Whether a label is one of a clip: it sounds for half of the clip, or with half of its own duration."""
    return min(end, until) - max(start, begin) >= min(end - start, until - begin) / 2 > 0
