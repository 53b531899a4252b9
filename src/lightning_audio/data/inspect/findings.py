"""What about the clips of a corpus would spoil a training or its score, and what else one should know."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from lightning_audio.data.clip import SPLITS, Clip, look_alikes, visible
from lightning_audio.data.decode import LATE_SECONDS
from lightning_audio.data.inspect.clips import SILENT_PEAK, ClipReport
from lightning_audio.data.splits import leaks
from lightning_audio.errors import counted

CLIPPED_SHARE = 1e-3  # of the samples at full scale
SHORT_SECONDS = 0.1
LONG_TIMES = 10  # the median duration
FEW_CLIPS = 10  # of a label in training
UNEVEN_TIMES = 10  # the most frequent label against the rarest

# Of `ClipReport.remarks`: whether it is grave, and what such clips do.
REMARKS = {
    "cancelling": (
        False,
        "have channels that cancel each other in their mean, which is what is learned: set data.channel to "
        "one of them",
    ),
    "faint": (True, "are too faint for 16 bits, in which they are kept: raise their level (see each peak)"),
    "may_be_cut": (
        False,
        "may have been cut short: they end within a frame, and nothing says how long they were",
    ),
    "over_full_scale": (
        False,
        "go beyond full scale: each is scaled down to it, so that levels between clips are not kept",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend (`grave`: training would fail, or its score would be a lie) or to know of."""

    kind: str
    grave: bool
    sentence: str
    items: tuple[str, ...] = ()


class Inspection:
    """What is to be said of a corpus.

    Args:
        heard: of every clip.
        runs: the table of clips of each run that the corpus is made for: one, or one for each test fold.
        labels: those that a network is to know.
        sample_rate: in Hz, at which the clips are to be read.
        name: says which clip is meant.
        drawn: the training clips of an epoch, where it does not take all of them.
    """

    def __init__(
        self,
        heard: Sequence[ClipReport],
        runs: Sequence[Sequence[Clip]],
        labels: Sequence[str],
        sample_rate: int,
        name: Callable[[Clip], str],
        drawn: Sequence[Clip] | None = None,
    ) -> None:
        self.read = [one for one in heard if not one.problem]
        self.unreadable = [one for one in heard if one.problem]
        self.runs, self.labels, self.sample_rate, self.name = runs, labels, sample_rate, name
        self.drawn = runs[0] if drawn is None else drawn
        splits = [{clip.id: clip.split for clip in clips} for clips in runs]
        self._splits = {clip.id: tuple(run.get(clip.id) for run in splits) for clip in runs[0]}

    def findings(self) -> list[Finding]:
        """All of them, the grave ones first."""
        found = [
            *self._unreadable(),
            *self._leaks(),
            *self._twice(),
            *self._cut_files(),
            *self._one_file(),
            *self._classes(),
            *self._remarks(),
            *self._clips(),
        ]
        return sorted(found, key=lambda finding: not finding.grave)

    def _divided(self, clips: Iterable[Clip]) -> bool:
        """Whether some run trains on one of these clips and validates or tests on another one."""
        different = {self._splits[clip.id] for clip in clips}
        return any(
            one and other and one != other
            for pair in combinations(different, 2)
            for one, other in zip(*pair, strict=True)
        )

    def _place(self, clip: Clip) -> str:
        place = f"fold {clip.fold}" if len(self.runs) > 1 else clip.split or "no split"
        return f"{self.name(clip)} ({', '.join((place, *clip.labels))})"

    def _unreadable(self) -> Iterator[Finding]:
        items = tuple(f"{self.name(one.clip)}: {one.problem}" for one in self.unreadable)
        if items:
            yield Finding(
                "unreadable", True, counted(len(items), "clips can't be read: mend or remove them."), items
            )

    def _leaks(self) -> Iterator[Finding]:
        found = {group: splits for clips in self.runs for group, splits in leaks(clips).items()}
        items = tuple(f"{group} ({' and '.join(splits)})" for group, splits in sorted(found.items()))
        if items:
            yield Finding(
                "leak",
                True,
                counted(len(items), "groups stand in two splits: give all clips of a group the same split."),
                items,
            )

    def _twice(self) -> Iterator[Finding]:
        """The same audio twice; silent clips are all alike, and named as such elsewhere."""
        same: dict[str, list[Clip]] = defaultdict(list)
        for one in self.read:
            if not one.is_silent:
                same[one.digest].append(one.clip)
        across: list[str] = []
        within: list[str] = []
        for clips in same.values():
            if len(clips) > 1:
                found = across if self._divided(clips) else within
                found.append(" = ".join(map(self._place, clips)))
        if across:
            text = counted(len(across), "recordings stand in two splits: leave out all but one of each.")
            yield Finding("duplicate_across_splits", True, text, tuple(across))
        if within:
            text = counted(len(within), "recordings stand twice within a split: counted double.")
            yield Finding("duplicate_within_split", False, text, tuple(within))

    def _cut_files(self) -> Iterator[Finding]:
        """Stretches of one file in two splits: a lie where they overlap, a question where they do not."""
        files: dict[str, list[ClipReport]] = defaultdict(list)
        for one in self.read:
            files[os.path.realpath(one.clip.path)].append(one)  # which may go by several names
        overlapping, parted = [], []
        for ones in files.values():
            if not self._divided(one.clip for one in ones):
                continue
            over = [pair for pair in _overlapping(ones) if self._divided(one.clip for one in pair)]
            overlapping += [f"{self._place(a.clip)} and {self._place(b.clip)}" for a, b in over]
            parted += [] if over else [self._place(ones[0].clip)]
        if overlapping:
            text = counted(
                len(overlapping),
                "pairs of stretches of a file overlap in two splits: give them the same split.",
            )
            yield Finding("overlap_across_splits", True, text, tuple(overlapping))
        if parted:
            text = counted(len(parted), "files are cut into two splits: does each hold several recordings?")
            yield Finding("file_across_splits", False, text, tuple(parted))

    def _one_file(self) -> Iterator[Finding]:
        clips = self.runs[0]
        if len(clips) > 1 and len({clip.path for clip in clips}) == 1:
            text = (
                f"All {len(clips)} clips are of one file, {Path(clips[0].path).name}: the test is of the "
                "recording that is trained on, and says nothing of other ones."
            )
            yield Finding("one_file", False, text)

    def _classes(self) -> Iterator[Finding]:
        counts = {split: _label_counts(self.runs[0], split) for split in SPLITS}
        for split in ("train", "test"):
            if not any(clip.split == split for clip in self.runs[0]):
                yield Finding("no_split", True, f"There are no {split} clips: check the split.")
        alike = tuple(look_alikes(self.labels))
        if alike:
            text = counted(
                len(alike), "labels stand under names that look alike, each as a label of its own."
            )
            yield Finding("alike_labels", True, text, alike)
        train = {label: counts["train"][label] for label in self.labels}
        asked = counts["val"] | counts["test"]
        untaught = tuple(label for label, n in train.items() if not n)
        if untaught:
            text = counted(len(untaught), "labels have no training clip: add some, or leave the labels out.")
            grave = any(asked[label] for label in untaught)
            yield Finding("untaught_label", grave, text, tuple(map(visible, untaught)))
        untested = tuple(label for label in self.labels if not counts["test"][label])
        if untested:
            text = counted(len(untested), "labels have no test clip: the test says nothing of them.")
            yield Finding("untested_label", False, text, untested)
        few = tuple(f"{visible(label)} ({n})" for label, n in train.items() if 0 < n < FEW_CLIPS)
        if few:
            yield Finding(
                "few_clips",
                False,
                counted(len(few), f"labels have less than {FEW_CLIPS} training clips."),
                few,
            )
        present = [*_label_counts(self.drawn, "train").values()] or [1]
        if max(present) >= UNEVEN_TIMES * min(present):
            text = (
                f"The most frequent label has {max(present)} clips in training, the rarest {min(present)}: "
            )
            yield Finding("imbalance", False, f"{text}loader.balance=true draws them alike.")

    def _remarks(self) -> Iterator[Finding]:
        """What reading found odd about files; grave where what is learned would not be what was recorded."""
        for kind, (grave, what) in REMARKS.items():
            odd = [one for one in self.read if kind in one.remarks]
            labels = Counter(label for one in odd for label in one.clip.labels)
            all_ = Counter(label for one in self.read for label in one.clip.labels)
            whole = tuple(label for label, n in labels.items() if n == all_[label])
            more = f" These are all clips of {', '.join(whole)}." if kind == "cancelling" and whole else ""
            if odd:
                items = tuple(f"{self.name(one.clip)}: {one.remarks[kind]}" for one in odd)
                grave |= bool(more) or (kind == "cancelling" and len(odd) == len(self.read))
                yield Finding(kind, grave, counted(len(odd), f"clips {what}.{more}"), items)

    def _clips(self) -> Iterator[Finding]:
        """What is odd about single clips."""
        typical = median([one.seconds for one in self.read] or [0.0])
        for kind, (what, is_odd, says) in _oddities(self.sample_rate, typical).items():
            items = tuple(f"{self.name(one.clip)}: {says(one)}" for one in self.read if is_odd(one))
            if items:
                yield Finding(kind, False, counted(len(items), f"clips {what}."), items)


Oddity = tuple[str, Callable[[ClipReport], bool], Callable[[ClipReport], str]]


def _oddities(sample_rate: int, typical: float) -> dict[str, Oddity]:
    """By their kind: what such clips are, which ones are, and the number that shows it."""
    return {
        "silent": (
            f"are silent (no sample above {SILENT_PEAK:g} of full scale)",
            # What is silent by its channels or its level is told as such.
            lambda one: one.is_silent and not {"cancelling", "faint"} & one.remarks.keys(),
            lambda one: f"{one.peak:.5f}",
        ),
        "clipped": (
            f"are clipped (more than {CLIPPED_SHARE:.1%} of the samples at full scale)",
            lambda one: one.clipped > CLIPPED_SHARE,
            lambda one: f"{one.clipped:.2%}",
        ),
        "short": (
            f"are shorter than {SHORT_SECONDS:g} s",
            lambda one: one.seconds < SHORT_SECONDS,
            lambda one: f"{one.seconds:.4f} s",
        ),
        "long": (
            f"are more than {LONG_TIMES} times as long as the median of {typical:.2f} s: their batches are "
            "mostly padding, unless loader.max_batch_duration is set",
            lambda one: one.seconds > LONG_TIMES * typical,
            lambda one: f"{one.seconds:.1f} s",
        ),
        "ends_early": (
            "end before their stated duration",
            lambda one: one.seconds < (one.clip.duration or 0.0) - LATE_SECONDS,
            lambda one: f"{one.seconds:.2f} s of {one.clip.duration} s",
        ),
        "low_rate": (
            f"have a lower rate than data.sample_rate={sample_rate}: nothing is above half of theirs",
            lambda one: one.rate < sample_rate,
            lambda one: f"{one.rate} Hz",
        ),
        "empty_text": (
            "have an empty transcript",
            lambda one: one.clip.text is not None and not one.clip.text.strip(),
            lambda one: repr(one.clip.text),
        ),
    }


def _overlapping(ones: Sequence[ClipReport]) -> Iterator[tuple[ClipReport, ClipReport]]:
    """The pairs of stretches of one file that share some of it, but are not the same."""
    ones = sorted(ones, key=lambda one: one.clip.start)
    for number, one in enumerate(ones):
        end = one.clip.start + one.seconds
        for other in ones[number + 1 :]:
            if other.clip.start >= end:
                break
            if other.digest != one.digest:
                yield one, other


def _label_counts(clips: Iterable[Clip], split: str) -> Counter[str]:
    return Counter(label for clip in clips if clip.split == split for label in clip.labels)
