"""Says what a trained run hears in files, folders or globs, at what times, or on a stream.

lightning-audio predict logs/demo/2026-01-31_12-00-00_a1b2 recordings/ "more/*.mp3" --format csv
lightning-audio predict RUN long.wav --events --format audacity --output labels.txt
lightning-audio predict SPEECH_RUN lecture.mp3 --format srt --output subtitles/
lightning-audio predict RUN unlabelled/ --pseudo-labels 0.95 --output sure.jsonl
lightning-audio predict SPEECH_RUN call.wav --channel each --format ctm
lightning-audio predict RUN OTHER_RUN FOLDS recordings/      (by the mean of the probabilities of all)
lightning-audio predict model.onnx recordings/               (of `export`: torch is not imported)
arecord -t raw -f S16_LE -r 16000 | lightning-audio predict RUN --stream --rate 16000
"""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lightning_audio.cli import arguments, live
from lightning_audio.cli.arguments import SOUND_FORMATS
from lightning_audio.cli.option_groups import given
from lightning_audio.cli.search import decoder_of
from lightning_audio.data.audio_file import HIGHEST_RATE, LOWEST_RATE
from lightning_audio.data.decode import audio_files, channels_of
from lightning_audio.errors import UserError, cli_errors, printable
from lightning_audio.export.card import PROGRAM, SUFFIX
from lightning_audio.inference.events import timelines
from lightning_audio.inference.formats import (
    TRANSCRIPTS,
    answers_as_text,
    events_as_text,
    refuse_output,
    transcript_files,
    write_transcripts,
)
from lightning_audio.inference.labels import LabelsAbove
from lightning_audio.inference.names import refuse_same_recordings
from lightning_audio.inference.prediction import EACH, Prediction, read_recordings, window_and_hop
from lightning_audio.inference.segments import LONGEST
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.io import to_json, write_atomically

T = TypeVar("T")

EVENT_FORMATS = ("audacity", "rttm")  # that say when, and so need --events
STREAM_FORMATS = ("table", "jsonl")


class Recordings:
    """`(file, samples)` of every file that can be read; the others are named on standard error."""

    def __init__(self, files: Sequence[Path], sample_rate: int, channel: str) -> None:
        self.files, self.sample_rate, self.channel = files, sample_rate, channel
        self.failed: set[Path] = set()
        self.begun = False

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for file in self.files:
            if file not in self.failed:
                yield from self._of(file)

    def _of(self, file: Path) -> Iterator[tuple[str, np.ndarray]]:
        self.begun = True
        try:
            yield from read_recordings([file], self.sample_rate, None, self.channel)
        except UserError as error:
            self._fail(file, str(error))

    def _fail(self, file: Path, sentence: str) -> None:
        self.failed.add(file)
        print(f"error: {printable(sentence)}", file=sys.stderr)

    def answers(self, answer: Callable[[Iterable[tuple[str, np.ndarray]]], Iterable[T]]) -> list[T]:
        """What is said of them together; where that fails, of each by itself: one that has no answer does not
        cost the others theirs.

        Raises:
            UserError: there is one alone, or it is for no recording that it fails.
        """
        try:
            return list(answer(self))
        except UserError:
            if not self.begun or len(self.files) < 2:
                raise
        found: list[T] = []
        for file in self.files:
            try:
                found += answer(self._of(file) if file not in self.failed else ())
            except UserError as error:
                self._fail(file, f"{file}: {error}")
        return found

    def names(self) -> list[str]:
        """What the recordings are called; a file that can't be read is told when it is."""
        names = []
        for file in map(str, self.files):
            try:
                channels = channels_of(file) if self.channel == EACH else 0
            except UserError:
                channels = 0
            names += [f"{file}#{number}" for number in range(channels)] or [file]
        return names

    @property
    def number(self) -> int:
        """The channel that is taken of all files, as far as one is, from 0 on."""
        return int(self.channel) if self.channel.isdecimal() else 0

    def refuse_unanswered(self) -> None:
        """Raises UserError where some files could not be read, or could but have no answer."""
        if self.failed:
            raise UserError(f"{len(self.failed)} of {len(self.files)} files have no answer: see above why.")


def found_in(task: Any, recordings: Recordings, options: argparse.Namespace, to_terminal: bool) -> str:
    """All answers in the format that was asked for."""
    window, hop, batch_size = options.window, options.hop, options.batch_size
    if options.events:
        rules = given(options, "ignore", "on", "off", "min_seconds", "max_gap")
        timed = recordings.answers(lambda some: timelines(task, some, window, hop, batch_size, **rules))
        return events_as_text(timed, options.format, to_terminal, recordings.number)
    answers = recordings.answers(lambda some: task.predict_recordings(some, window, hop, batch_size))
    return answers_as_text(answers, options.format, options.top, options.windows, to_terminal)


def refuse_misfits(options: argparse.Namespace) -> None:
    """Raises UserError where options are out of range or do not go together."""
    if options.batch_size < 1 or options.top < 1:
        raise UserError("--batch-size and --top count something: set them to 1 or more.")
    if options.rate is not None and not LOWEST_RATE <= options.rate <= HIGHEST_RATE:
        raise UserError(
            f"--rate {options.rate} is no rate between {LOWEST_RATE} and {HIGHEST_RATE} Hz: give that of the "
            "raw audio."
        )
    refuse_unread(options)
    if options.stream and (options.events or options.output or options.format not in (*STREAM_FORMATS, None)):
        raise UserError(
            "--stream prints line by line what it hears: leave out --events and --output, and take no "
            f"--format but {' or '.join(STREAM_FORMATS)}."
        )
    if options.pseudo_labels is not None:
        if not 0 < options.pseudo_labels <= 1 or options.output is None:
            raise UserError("--pseudo-labels takes a score from 0 to 1, and --output FILE.jsonl beside it.")
        if options.format or options.events or options.stream or options.channel != "mean":
            raise UserError(
                "--pseudo-labels writes a manifest of whole files: leave out --format, --events, --stream "
                "and --channel."
            )
    if options.channel not in ("mean", EACH) and not options.channel.isdecimal():
        raise UserError(f"--channel {options.channel} is none: take mean, each, or a number from 0 on.")
    if options.stream and options.channel != "mean":
        raise UserError("--stream takes raw audio of one channel: leave out --channel.")
    if options.format in EVENT_FORMATS and not options.events:
        raise UserError(f"--format {options.format} says what sounds when: add --events.")


def refuse_unread(options: argparse.Namespace) -> None:
    """Raises UserError for an option that nothing would read: the answers would be others than one thinks."""
    read_by = {
        "--events": ("min_seconds", "max_gap"),
        "--stream": ("rate", "smooth", "min_gap"),
        "--events or --stream": ("on", "off", "ignore"),
    }
    for needed, names in read_by.items():
        asked = any(getattr(options, word.removeprefix("--")) for word in needed.split(" or "))
        if not asked and (unread := list(given(options, *names))):
            raise UserError(
                f"--{unread[0].replace('_', '-')} belongs to {needed}: add that, or leave it out."
            )
    windows = [name for name in ("window", "hop", "windows") if getattr(options, name)]
    if options.stream and windows:
        raise UserError(f"--{windows[0]} is of whole recordings: leave it out beside --stream.")


def keep_what_is_read(options: argparse.Namespace, runs: Sequence[Path], files: Sequence[Path]) -> None:
    """Raises UserError where an answer would be written over the audio, or over what a model is made of."""
    if options.output is None:
        return
    models = [file for run in runs for file in (run.rglob("*") if run.is_dir() else beside(run))]
    words = [] if options.hotwords is None else [options.hotwords, options.hotwords.rpartition(":")[0]]
    kept = [*files, *models, *map(Path, words), *filter(None, (options.lm, options.lexicon))]
    refuse_output(options.output, kept, folder=options.output.is_dir())


def beside(model: Path) -> list[Path]:
    """An exported model, its card and its parts."""
    return [model, *model.parent.glob(f"{glob.escape(model.stem)}.*")]


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Prints, or writes to a file, what the run hears in audio files or on standard input."""
    options = arguments.predict(argv)
    runs = runs_of(options)
    refuse_misfits(options)
    if options.stream and len(runs) > 1:
        raise UserError(f"--stream listens with one run, not with {len(runs)}: name one.")
    files = [] if options.stream else audio_files(options.audio)
    if options.format == "audacity" and len(files) > 1:
        raise UserError(
            f"A label track belongs to one file, not to {len(files)}: give one, or --format rttm."
        )
    if options.format == "rttm":
        refuse_same_recordings(map(str, files))
    keep_what_is_read(options, runs, files)
    task = loaded(runs, options)
    decoder = decoder_of(options, task)
    recordings = Recordings(files, task.sample_rate, options.channel)
    if task.transcribes:
        task.decoder = decoder or task.decoder
    if options.pseudo_labels is not None:
        write_pseudo_labels(task, recordings, options)
        recordings.refuse_unanswered()
        return
    if task.transcribes and options.stream:
        live.listen_to_speech(task, options)
        return
    if task.transcribes:
        write_speech(task, recordings, options)
        recordings.refuse_unanswered()
        return
    if options.format in TRANSCRIPTS and options.format not in SOUND_FORMATS:
        raise UserError(
            f"{options.run} transcribes nothing: take one of --format {', '.join(SOUND_FORMATS)}."
        )
    options.format = options.format or "table"
    if options.stream:
        rules = given(options, "ignore", "on", "off", "min_gap", "smooth")
        live.listen(task, options, rules)
        return
    window_and_hop(task, options.window, options.hop)  # refused once, not for every file
    refuse_output(options.output, files)
    to_terminal = sys.stdout.isatty() and options.output is None
    text = found_in(task, recordings, options, to_terminal)
    if len(recordings.failed) < len(files):  # else a table without a row
        if options.output:
            write_atomically(options.output, text)
        else:
            print(text, end="")
    recordings.refuse_unanswered()


def write_pseudo_labels(task: Any, recordings: Recordings, options: argparse.Namespace) -> None:
    """Writes a manifest of the files whose answer is sure enough to be learned from, and says how many are.

    Raises:
        UserError: an option is of another format, or the file can't be written.
    """
    refuse_output(options.output, recordings.files)
    how = (options.window, options.hop, options.batch_size)
    answers = recordings.answers(lambda some: task.predict_recordings(some, *how))
    several = not task.transcribes and isinstance(task.rule, LabelsAbove)
    rows = [pseudo_label(answer, options.pseudo_labels, several, task.transcribes) for answer in answers]
    sure = [row for row in rows if row is not None]
    write_atomically(options.output, "".join(f"{to_json(row)}\n" for row in sure))
    print(f"{len(sure)} of {len(rows)} files are sure by {options.pseudo_labels:g}: {options.output}")


def pseudo_label(
    answer: Prediction, least: float, several: bool = False, transcribed: bool = False
) -> dict[str, Any] | None:
    """The row of a manifest for what a run says of a file; None where it is not sure.

    Of `several` labels each has to be there or not there with a probability of `least`; of what is
    transcribed the score of the text counts.
    """
    path = {"path": str(Path(answer.id).absolute())}
    if several:
        sure = all(score >= least or score <= 1 - least for score in answer.scores.values())
        labels = [label for label, score in answer.scores.items() if score >= least]
        return {**path, "labels": labels} if sure and labels else None
    if answer.score < least or not answer.hypothesis:
        return None
    return {**path, "text" if transcribed else "label": answer.hypothesis}


def write_speech(task: Any, recordings: Recordings, options: argparse.Namespace) -> None:
    """Writes what is said in the files, or prints it.

    Raises:
        UserError: an option is for runs that name sounds, or a format does not fit the files.
    """
    form = options.format or "text"
    if form not in TRANSCRIPTS or options.events or options.hop or options.windows:
        raise UserError(
            f"The run transcribes speech: take one of --format {', '.join(TRANSCRIPTS)}, without --events, "
            "--windows and --hop."
        )
    transcript_files(recordings.names(), form, options.output)  # refused before the work
    longest = LONGEST if options.window is None else options.window
    found = recordings.answers(lambda some: transcribe(task, some, longest, options.batch_size))
    if found:
        write_transcripts([replace(one, channel=recordings.number) for one in found], form, options.output)


def is_exported(run: str) -> bool:
    """Whether it is a file that `export` wrote: answered for without torch."""
    return Path(run).suffix == SUFFIX


def runs_of(options: argparse.Namespace) -> list[Path]:
    """The runs that are to answer; those that were taken for audio at first are no longer among it."""
    if Path(options.run).suffix == PROGRAM:
        raise UserError(
            f"{options.run} is for torch.export.load, which may run what it brings: export as .onnx."
        )
    if exported := next(filter(is_exported, options.audio), None):
        raise UserError(f"{exported} answers by itself, named first, and with no other model: leave it out.")
    if is_exported(options.run):
        return [Path(options.run)]
    from lightning_audio.cli import ensembles  # here, since torch takes seconds to import

    places, options.audio = ensembles.runs_first([options.run, *options.audio])
    return ensembles.members(places)


def loaded(runs: Sequence[Path], options: argparse.Namespace) -> Any:
    """What answers: a task of torch, or the runtime of an exported file.

    Raises:
        UserError: it can't be loaded, or an option is for runs alone.
    """
    if not is_exported(options.run):
        from lightning_audio.cli import ensembles

        return ensembles.load_all(runs, device_of(options.device), options.allow)
    if options.device != "cpu":
        raise UserError(f"{options.run} answers on the CPU: leave out --device.")
    from lightning_audio.export.runtime import Runtime

    return Runtime(options.run)


def device_of(name: str) -> Any:
    """Raises UserError for a device that torch does not know or that is not there."""
    import torch

    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"There is no device {name!r} here: use --device cpu.") from error


if __name__ == "__main__":
    main()
