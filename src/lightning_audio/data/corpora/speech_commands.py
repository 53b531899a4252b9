"""Speech Commands: single words in clips of a second (P. Warden 2018, https://arxiv.org/abs/1804.03209)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_audio.data.audio_file import read_audio
from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.corpora.base import Corpus, audio_in
from lightning_audio.data.corpora.speech_commands_rules import (
    DIGITS,
    KEYWORDS,
    NEW_IN_002,
    OTHERS,
    RELEASES,
    SILENCE,
    TEST_SETS,
    UNKNOWN,
    draw_evenly,
    silence_stretches,
    speaker_of,
    split_by_hash,
)
from lightning_audio.errors import UserError

VARIANTS = (12, 20, 35)
CONVENTIONS = ("tensorflow", "balanced")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"
CUT, HALVES = "_cut_", ("/before", "/behind")  # of training words, and what the ids of both halves end with


class SpeechCommands(Corpus):
    """Words said by many speakers, each speaker in one split: the release's lists, or else its SHA-1 rule.

    Variants, and the order of their labels:

    - 35: all words (30 in v0.01): the ten keywords, the ten digits, the others by the alphabet, those that
      came with v0.02.
    - 20: the core words, which are the keywords and the digits; other words are left out. Some papers (de
      Andrade et al. 2018, https://arxiv.org/abs/1808.08929) give all other words to a 21st class: their
      scores answer another question.
    - 12: the ten keywords, `_unknown_` and `_silence_`. Unknowns are drawn evenly over the other words, and
      silence evenly over the recordings of `_background_noise_`, in one-second stretches at the level they
      were recorded at. In training both are drawn afresh for every epoch; in validation and test `seed`
      decides once. Of each recording the first 80 % are for training, then 10 % each for validation and test
      (of recordings under 30 s more).

    Conventions of the 12 classes:

    - tensorflow: `silence_share` and `unknown_share` of the number of keyword clips (in TensorFlow's tutorial
      and Warden's paper 0.1 each); the test is that of the release's testing list.
    - balanced: as many of each as a keyword has clips in the mean; the test is Google's separate archive of
      4,890 clips, which has its own `_silence_` and `_unknown_` (Kim et al. 2021,
      https://arxiv.org/abs/2106.04140).

    Scores of the two are not to be compared: the same network is asked about other unknown and other silent
    clips, and these two classes are the hardest and the easiest, so that which clips they hold, and how many,
    moves the accuracy by more than many papers differ. (With shares of 0.1 the two count alike, and it is the
    test clips that differ.) Nothing keeps the archive's silence apart from the noise that is trained on.

    Where a split has fewer other words or stretches than its share asks for, training takes each as often as
    it needs, and validation and test take all there are.

    Args:
        root: folder of the release: `WORD/SPEAKER_nohash_N.wav`, the two lists, `_background_noise_`. The
            audio may be in any format that is read; clips are named as in the release all the same.
        cache: folder for the download.
        sample_rate: the rate in Hz at which the clips are to be read; the release has 16,000.
        download: fetch the release, and the test archive where it is needed and is one of v0.02.
        version: "0.01" or "0.02".
        variant: 12, 20 or 35.
        convention: `tensorflow` or `balanced`, of the 12 classes.
        silence_share, unknown_share: of the number of keyword clips; only `tensorflow` reads them.
        cut_share: of the number of keyword clips, too: halves of training clips of keywords, cut where half
            of a clip's energy has passed, so that windows over a stream learn that half a word is unknown.
            An epoch draws them beside the other words, of the 12 classes alone.
        test_root: folder of the test archive (its unknown files end in `.wav.wav`), in which case the
            testing list is in no split; None takes the testing list. Only `balanced` reads it.
        keywords: other ones than the ten, of the variant 12: then all other words are unknown.
        clips_per_keyword: so many training clips of each keyword, drawn by `seed`; others are in no split.
        seed: names the unknowns and silences of validation and test.

    Raises:
        UserError: an option is none of those that there are.
    """

    licence = "CC BY 4.0"

    def __init__(
        self,
        root: str,
        cache: str,
        sample_rate: int = 16000,
        download: bool = False,
        version: str | float = "0.02",
        variant: int = 12,
        convention: str = "tensorflow",
        silence_share: float = 0.1,
        unknown_share: float = 0.1,
        cut_share: float = 0.0,
        test_root: str | None = None,
        keywords: Sequence[str] | None = None,
        clips_per_keyword: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(root, cache, sample_rate, download)
        self.version, self.variant, self.convention, self.seed = str(version), variant, convention, seed
        keywords = [keywords] if isinstance(keywords, str) else keywords
        self.keywords, self.clips_per_keyword = tuple(keywords or KEYWORDS), clips_per_keyword
        self.shares = {UNKNOWN: unknown_share, SILENCE: silence_share, CUT: cut_share}
        self._refuse_bad_options()
        self.release = RELEASES[self.version]
        has_archive = variant == 12 and convention == "balanced" and test_root is not None
        self.test_root = Path(str(test_root)).expanduser() if has_archive else None
        words = {
            12: (*self.keywords, UNKNOWN, SILENCE),
            20: KEYWORDS + DIGITS,
            35: KEYWORDS + DIGITS + OTHERS,
        }
        self.labels = words[variant]
        if variant == 35 and self.version == "0.02":
            self.labels += NEW_IN_002

    def _refuse_bad_options(self) -> None:
        known = {"version": tuple(RELEASES), "variant": VARIANTS, "convention": CONVENTIONS}
        for key, options in known.items():
            if getattr(self, key) not in options:
                raise UserError(
                    f"There is no {key} {getattr(self, key)!r} of Speech Commands: set data.{key} to one of "
                    f"{', '.join(map(str, options))}."
                )
        for kind, share in self.shares.items():
            if not 0 <= share < math.inf:
                key = f"data.{kind.strip('_')}_share"
                raise UserError(f"{key}={share} is no share of the keyword clips: set it to 0 or more.")
        if self.keywords != KEYWORDS and (self.variant != 12 or self.convention != "tensorflow"):
            raise UserError("data.keywords is for data.variant=12 and data.convention=tensorflow: set these.")
        if len({*self.keywords, UNKNOWN, SILENCE}) < len(self.keywords) + 2:
            raise UserError(
                f"data.keywords={list(self.keywords)} has a name twice, or one of {UNKNOWN} and {SILENCE}, "
                "which are classes of their own: name each word once."
            )
        few = self.clips_per_keyword
        if few is not None and (not isinstance(few, int) or few < 1):
            raise UserError(
                f"data.clips_per_keyword={few} is no number of clips: set it to 1 or more, or null."
            )

    def prepare(self) -> None:
        """Fetches what is not there, if that is wanted."""
        super().prepare()
        if self.wants_download and self.test_root is not None and self.version in TEST_SETS:
            TEST_SETS[self.version].fetch(self.test_root, self.cache)

    def clips(self) -> list[Clip]:
        """All clips of the variant, named as in the release's lists; `group` is the speaker.

        Of 12 classes the unknown and silent clips of training are all that an epoch can draw; those of
        validation and test that were not drawn are in no split. The group of a silent clip is its recording
        and split.

        Raises:
            UserError: words, lists, clips that these name, noise or the test archive are missing.
        """
        paths = self._paths()
        splits = self._splits(paths)
        words = {name: name.partition("/")[0] for name in paths}
        other = UNKNOWN if self.variant == 12 else None
        labels = {name: word if word in self.labels else other for name, word in words.items()}
        clips = [
            Clip(name, str(paths[name]), labels=(label,), split=splits[name], group=speaker_of(name))
            for name, label in labels.items()
            if label is not None
        ]
        clips = self._few(clips) if self.clips_per_keyword else clips
        return self._twelve(clips) if self.variant == 12 else clips

    def _few(self, clips: list[Clip]) -> list[Clip]:
        """With `clips_per_keyword` clips of each keyword in training."""
        rng, left_out = np.random.default_rng((self.seed, len(SPLITS))), set()
        for word in (label for label in self.labels if label not in (UNKNOWN, SILENCE)):
            rows = [row for row, c in enumerate(clips) if c.split == "train" and c.labels == (word,)]
            if len(rows) < (self.clips_per_keyword or 0):
                raise UserError(
                    f"data.clips_per_keyword={self.clips_per_keyword} is more than the {len(rows)} training "
                    f"clips of {word}: set it to {len(rows)} or less, or null."
                )
            left_out |= set(rng.permutation(rows)[self.clips_per_keyword :].tolist())
        return [replace(clip, split=None) if row in left_out else clip for row, clip in enumerate(clips)]

    def draw(self, clips: Sequence[Clip], rng: np.random.Generator) -> np.ndarray:
        """All words; of 12 classes all keywords, and the share of unknown and silent clips, drawn afresh."""
        if self.variant != 12:
            return super().draw(clips, rng)
        kinds = np.array([CUT if clip.id.endswith(HALVES) else clip.labels[0] for clip in clips])
        keywords = np.flatnonzero(~np.isin(kinds, list(self.shares)))
        drawn = [keywords]
        for kind in self.shares:
            pool = np.flatnonzero(kinds == kind)
            # The word, the recording, or the clip that was cut.
            sources = [clips[position].id.rpartition("/")[0] for position in pool.tolist()]
            drawn.append(pool[draw_evenly(sources, self._count(kind, len(keywords)), rng)])
        return np.concatenate(drawn)

    def _count(self, kind: str, keywords: int) -> int:
        """How many unknown, silent or cut clips go with so many of the keywords."""
        balanced = self.convention == "balanced" and kind != CUT
        share = 1 / len(KEYWORDS) if balanced else self.shares[kind]
        return math.ceil(round(share * keywords, 6))  # rounded first: 0.1 * 30 is a little more than 3

    def _paths(self) -> dict[str, Path]:
        """By the name that the release has for it, WORD/FILE, the path of every clip of a word."""
        words = self.folder.iterdir() if self.folder.is_dir() else ()
        folders = sorted(path for path in words if path.is_dir() and not path.name.startswith(("_", ".")))
        paths = {f"{one.name}/{name}": path for one in folders for name, path in _recordings(one).items()}
        found = {name.partition("/")[0] for name in paths}
        wanted = set(self.labels) - {UNKNOWN, SILENCE}
        if not found & wanted:
            raise UserError(
                f"{self.root} has no words of Speech Commands: put the release v{self.version} there, or "
                "fetch it with data.download=true, or set LIGHTNING_AUDIO_DATA to the folder above "
                "SpeechCommands."
            )
        if self.variant == 12 and not found - wanted and self._count(UNKNOWN, len(paths)):
            raise UserError(
                f"{self.folder} holds no words but the keywords, so that nothing is unknown: put the other "
                "words of the release there, or set data.convention=tensorflow and data.unknown_share=0."
            )
        if missing := sorted(wanted - found):
            raise UserError(
                f"{self.folder} has no clips of {', '.join(missing)}: put the whole release "
                f"v{self.version} there, or set data.version to the one that it is."
            )
        if self.version == "0.01" and (newer := sorted(found & set(NEW_IN_002))):
            raise UserError(f"{self.folder} is not v0.01, it holds {newer[0]}: set data.version=0.02.")
        return paths

    def _splits(self, names: Iterable[str]) -> dict[str, str]:
        """The split of each name, by the two lists, or by the SHA-1 rule where there is neither."""
        lists = {split: self.folder / name for split, name in LISTS.items()}
        absent = [path for path in lists.values() if not path.is_file()]
        if len(absent) == len(lists):
            return {name: split_by_hash(name.rpartition("/")[2]) for name in names}
        if absent:
            raise UserError(
                f"There is no {absent[0]}, but its twin is there: put both lists of the release there, or "
                "remove both, and the SHA-1 rule of the release splits the clips."
            )
        listed = {  # a mirror may have converted the names in the lists, too
            f"{name.rpartition('.')[0]}.wav": split
            for split, path in lists.items()
            for name in path.read_text("utf-8").split()
        }
        if missing := sorted(listed.keys() - set(names)):
            raise UserError(
                f"{len(missing)} of the {len(listed)} clips that the lists in {self.folder} name are not "
                f"there, such as {', '.join(missing[:3])}: put the whole release there."
            )
        return {name: listed.get(name, "train") for name in names}

    def _twelve(self, clips: list[Clip]) -> list[Clip]:
        """With silence and the test archive; what validation and test did not draw is in no split."""
        halves = [half for clip in clips for half in self._halves(clip)] if self.shares[CUT] else []
        clips = clips + halves + (self._silence() if self._count(SILENCE, len(clips)) else [])
        if self.test_root is not None:
            clips = self._drawn([clip for clip in clips if clip.split != "test"], "val")
            return clips + self._test_set(self.test_root)
        return self._drawn(self._drawn(clips, "val"), "test")

    def _drawn(self, clips: list[Clip], split: str) -> list[Clip]:
        rows = [row for row, clip in enumerate(clips) if clip.split == split]
        rng = np.random.default_rng((self.seed, SPLITS.index(split)))
        kept = {rows[position] for position in self.draw([clips[row] for row in rows], rng)}
        left_out = set(rows) - kept
        return [replace(clip, split=None) if row in left_out else clip for row, clip in enumerate(clips)]

    def _halves(self, clip: Clip) -> list[Clip]:
        """A training clip of a keyword, cut where half of its energy has passed."""
        if clip.split != "train" or clip.labels[0] not in self.keywords:
            return []
        audio = read_audio(clip.path)
        passed = np.cumsum(np.square(audio.samples, dtype=float))
        if len(passed) < 2 or not passed[-1]:
            return []
        middle = min(int(np.searchsorted(passed, passed[-1] / 2)) + 1, len(passed) - 1) / audio.rate
        before, behind = (clip.id + half for half in HALVES)
        unknown = replace(clip, labels=(UNKNOWN,))
        return [replace(unknown, id=before, duration=middle), replace(unknown, id=behind, start=middle)]

    def _silence(self) -> list[Clip]:
        folder = self.folder / NOISE
        clips = [
            Clip(
                f"{NOISE}/{name}/{start:.2f}",
                str(path),
                start,
                duration=1.0,
                labels=(SILENCE,),
                split=split,
                group=f"{NOISE}/{name}, {split}",
            )
            for name, path in _recordings(folder).items()
            # Read to its end: what a header says of its length need not be so.
            for audio in [read_audio(path)]
            for start, split in silence_stretches(len(audio.samples) / audio.rate)
        ]
        if {clip.split for clip in clips} != set(SPLITS):
            raise UserError(
                f"Silence is cut from the recordings in {folder}, but there is none of 3 s or more: put the "
                "release's there, or set data.convention=tensorflow and data.silence_share=0."
            )
        return clips

    def _test_set(self, root: Path) -> list[Clip]:
        folder = TEST_SETS[self.version].find(root, self.cache) if self.version in TEST_SETS else root
        found = {label: _recordings(folder / label) for label in self.labels}
        if missing := [label for label, paths in found.items() if not paths]:
            raise UserError(
                f"The test archive in {root} has no {', '.join(missing)}: unpack speech_commands_test_set_v"
                f"{self.version}.tar.gz there, or set data.test_root=null to test on the testing list."
            )
        return [
            Clip(
                id=(id_ := f"{folder.name}/{label}/{name}"),
                path=str(path),
                labels=(label,),
                split="test",
                group=id_ if label == SILENCE else speaker_of(name),
            )
            for label, paths in found.items()
            for name, path in paths.items()
        ]


def _recordings(folder: Path) -> dict[str, Path]:
    """The audio files of a folder, whatever their format, by the names that the release has for them."""
    return {f"{stem}.wav": folder / names[0] for stem, names in sorted(audio_in(folder).items())}
