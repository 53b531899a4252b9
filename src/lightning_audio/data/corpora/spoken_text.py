"""Texts that eSpeak NG reads aloud, and random words: speech to begin with where recordings are few."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.corpora.espeak import Espeak
from lightning_audio.data.corpora.speech import split_by_seed
from lightning_audio.data.corpora.synthesised import MadeCorpus, refuse_below, refuse_swapped, write_wav
from lightning_audio.data.decode import at_rate
from lightning_audio.data.manifests import MANIFEST_SUFFIXES, read_manifest, write_manifest
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import read_lines

VERSION = 1  # part of the name of what was written: raise it when any utterance changes
MANIFEST = "clips.jsonl"
PITCH_RANGE = (30, 80)  # of eSpeak NG, from a monotone voice to a lively one
LEVEL_DB = (-6.0, 0.0)
SILENT = 1e-3  # of full scale
BEFORE, BEHIND = 0.05, 0.1  # seconds of silence that stay around the speech


@dataclass(frozen=True)
class Reading:
    """What is read, and how; the fields are those of `Espeak.say`, and a level over its own in dB."""

    text: str
    voice: str
    words_per_minute: int
    pitch: int
    pitch_range: int
    level_db: float


class SpokenText(MadeCorpus):
    """Sentences of texts, each read by several voices, and utterances of random words.

    Words are drawn by the square root of their frequency (wordfreq, Speer 2022, doi:10.5281/zenodo.7199437),
    so that rare ones are heard too. The splits depend on `seed`; all readings of a sentence are in one.

    Args:
        cache: folder in which the utterances are written, as 16-bit WAV files.
        sample_rate: in Hz.
        texts: text files with one sentence a line, and manifests, of which validation and test are left out.
        readings: of each sentence.
        random_utterances: of `min_words` to `max_words` among the `vocabulary` most frequent of a `language`.
        voices: of eSpeak NG: a language, and behind a plus a variant. Each is as likely.
        min_rate, max_rate: words a minute.
        min_pitch, max_pitch: from 0 to 100, 50 being the voice's own.
        val_share, test_share: of the sentences.
        seed: another seed makes other utterances.

    Raises:
        UserError: an option is out of its range, or there is nothing to read.
    """

    kind = "spoken_text"
    licence = "that of the texts, read by eSpeak NG"
    labels = ()

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        texts: Sequence[str] = (),
        readings: int = 2,
        random_utterances: int = 3000,
        vocabulary: int = 20000,
        min_words: int = 2,
        max_words: int = 10,
        language: str = "en",
        voices: Sequence[str] = ("en-us",),
        min_rate: int = 110,
        max_rate: int = 165,
        min_pitch: int = 35,
        max_pitch: int = 75,
        val_share: float = 0.02,
        test_share: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__(root=cache, cache=cache, sample_rate=sample_rate)
        self.texts, self.readings, self.random_utterances = tuple(texts), readings, random_utterances
        self.vocabulary, self.words, self.language = vocabulary, (min_words, max_words), language
        self.voices, self.rates, self.pitches = tuple(voices), (min_rate, max_rate), (min_pitch, max_pitch)
        self.split, self.seed = (val_share, test_share, seed), seed
        given = {"readings": readings, "random_utterances": random_utterances, "min_words": min_words}
        lowest = {"readings": 1, "random_utterances": 0, "min_words": 1, "vocabulary": 1, "min_rate": 80}
        given |= {"vocabulary": vocabulary, "min_rate": min_rate, "min_pitch": min_pitch, "seed": seed}
        refuse_below(given, {**lowest, "min_pitch": 0, "seed": 0})
        refuse_swapped(words=self.words, rate=self.rates, pitch=self.pitches)
        if not self.voices:
            raise UserError("data.voices is empty: set it to such as [en-us+f3, en-us+m1].")
        if not self.texts and not random_utterances:
            raise UserError("There is nothing to read: set data.texts or data.random_utterances.")

    @cached_property
    def plan(self) -> list[Reading]:
        """What is read, in this order."""
        rng = np.random.default_rng(self.seed)
        sentences = [sentence for text in self.texts for sentence in sentences_of(Path(text))]
        read = [sentence for sentence in sentences for _ in range(self.readings)]
        return [self._reading(text, rng) for text in [*read, *self._random(rng)]]

    def _random(self, rng: np.random.Generator) -> Iterator[str]:
        if not self.random_utterances:
            return
        words, frequencies = frequent_words(self.language, self.vocabulary)
        for _ in range(self.random_utterances):
            count = rng.integers(self.words[0], self.words[1] + 1)
            # Positions: of words NumPy would make an array for each utterance.
            yield " ".join(words[place] for place in rng.choice(len(words), size=count, p=frequencies))

    def _reading(self, text: str, rng: np.random.Generator) -> Reading:
        ranges = (self.rates, self.pitches, PITCH_RANGE)
        rate, pitch, pitch_range = (int(rng.integers(low, high + 1)) for low, high in ranges)
        voice = str(rng.choice(self.voices))
        return Reading(text, voice, rate, pitch, pitch_range, float(rng.uniform(*LEVEL_DB)))

    def made_of(self) -> Sequence[Any]:
        return (VERSION, _version(), self.sample_rate, *map(astuple, self.plan))

    def write(self, folder: Path) -> None:
        # In a new process, since what was read before in the same one changes the samples.
        command = [sys.executable, "-m", __name__, str(folder), str(self.sample_rate)]
        ended = subprocess.run(command, input=json.dumps([*map(astuple, self.plan)]).encode(), stderr=PIPE)
        if ended.returncode:
            told = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")
            raise UserError(
                told or f"The process that reads aloud has ended by {-ended.returncode}: try again."
            )

    def clips(self) -> Sequence[Clip]:
        """All utterances, each in the group of its sentence.

        Raises:
            UserError: `prepare` was not called.
        """
        self._refuse_unprepared()
        return split_by_seed(read_manifest(self.folder / MANIFEST), *self.split)


def read_aloud(plan: Sequence[Reading], folder: Path, sample_rate: int) -> None:
    """Writes each reading as a WAV file, and a manifest of them; what makes no sound is left out.

    Raises:
        UserError: eSpeak NG is not there, or has no such voice.
    """
    espeak, clips = Espeak(), []
    before, behind = (round(seconds * espeak.sample_rate) for seconds in (BEFORE, BEHIND))
    for number, one in enumerate(plan):
        said = espeak.say(one.text, one.voice, one.words_per_minute, one.pitch, one.pitch_range)
        loud = np.flatnonzero(np.abs(said) > SILENT)
        if not len(loud):
            continue
        said = said[max(loud[0] - before, 0) : loud[-1] + behind] * np.float32(10 ** (one.level_db / 20))
        samples = at_rate(said, espeak.sample_rate, sample_rate)
        name = f"{number:06d}"
        write_wav(folder / f"{name}.wav", samples, sample_rate)
        seconds = len(samples) / sample_rate
        clips.append(Clip(name, f"{name}.wav", duration=seconds, text=one.text, group=one.text))
    write_manifest(clips, folder / MANIFEST)


def sentences_of(path: Path) -> list[str]:
    """The lines of a text file, or the transcripts of a manifest but for validation and test.

    Raises:
        UserError: it can't be read, or holds nothing of the kind.
    """
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        found = [clip.text for clip in read_manifest(path) if clip.split in (None, "train")]
    else:
        found = [*read_lines(path, "set data.texts to text files and manifests")]
    # Without a letter or a digit there is nothing to say.
    sentences = [text.strip() for text in found if text and any(map(str.isalnum, text))]
    if not sentences:
        raise UserError(
            f"{path} of data.texts has nothing to read: give it sentences, or a manifest `text`s."
        )
    return sentences


def frequent_words(language: str, count: int) -> tuple[list[str], np.ndarray]:
    """So many words of a language, the most frequent first, and how likely each is to be drawn.

    Raises:
        UserError: wordfreq is not installed, or does not know the language.
    """
    try:
        import wordfreq
    except ImportError:
        raise UserError(
            "Random words need wordfreq, which is not installed: run pip install "
            "'lightning-audio[synthesis]', or set data.random_utterances=0."
        ) from None
    if language not in wordfreq.available_languages():
        known = ", ".join(sorted(wordfreq.available_languages()))
        raise UserError(f"data.language={language} is none of wordfreq's: set it to one of {known}.")
    words = [word for word in wordfreq.top_n_list(language, count) if word.replace("'", "").isalpha()]
    likely = np.array([math.sqrt(wordfreq.word_frequency(word, language)) for word in words])
    return words, likely / likely.sum()


def _version() -> str:
    try:
        return metadata.version("espeakng-loader")
    except metadata.PackageNotFoundError:
        return ""  # which `Espeak` refuses


@cli_errors
def main() -> None:
    folder, sample_rate = sys.argv[1:]
    plan = [Reading(*fields) for fields in json.load(sys.stdin)]
    read_aloud(plan, Path(folder), int(sample_rate))


if __name__ == "__main__":
    main()
