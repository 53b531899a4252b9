"""What `predict --stream` prints of raw audio as it comes: detections, or the words of speech."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lightning_audio.errors import Interrupted, UserError
from lightning_audio.inference.detections import Detector, raw_audio
from lightning_audio.inference.formats import detection_line, live_line
from lightning_audio.inference.live import LiveText, stream_of


def listen(task: Any, options: argparse.Namespace, rules: Mapping[str, Any]) -> None:
    """Prints what is detected in a stream by these rules, as soon as it is heard, until the stream ends."""
    stream = stream_of(task)
    detector = detector_of(task, stream, **rules)

    def lines(scores: Any) -> list[str]:
        return [detection_line(detection, options.format) for detection in detector.push(scores)]

    hear(task, options, stream, lines)


def listen_to_speech(task: Any, options: argparse.Namespace) -> None:
    """Prints the words of a stream: as they grow, and once they are final.

    Raises:
        UserError: the task or its search needs the whole recording, or an option is for sounds.
    """
    for name in ("on", "off", "ignore", "smooth", "min_gap"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is not for streams of speech: leave it out.")
    hear(task, options, LiveText(task), lambda news: [live_line(word, options.format) for word in news])


def hear(task: Any, options: argparse.Namespace, stream: Any, lines: Callable[[Any], Iterable[str]]) -> None:
    """Prints the lines that are made of what a stream gives for raw audio, piece by piece and at its end."""

    def tell(found: Any) -> None:
        for line in lines(found):
            print(line, end="", flush=True)

    rate = task.sample_rate if options.rate is None else options.rate
    with raw_source(options.audio) as file:
        try:
            for samples in raw_audio(file, rate, task.sample_rate):
                tell(stream.push(samples))
        except Interrupted as stopped:
            if stopped.signum != signal.SIGINT:  # Ctrl-C is how a microphone is stopped
                raise
    tell(stream.finish())


def raw_source(audio: Sequence[str]) -> contextlib.AbstractContextManager[BinaryIO]:
    """The one file of raw audio, or standard input.

    Raises:
        UserError: there are several, there is none of this name, or nothing is piped in.
    """
    if len(audio) > 1:
        raise UserError(f"A stream is one, not {len(audio)}: name one file of raw audio, or none.")
    if audio and audio[0] != "-":
        if not Path(audio[0]).exists() or Path(audio[0]).is_dir():  # a pipe has a name, too
            raise UserError(
                f"There is no file {audio[0]}: name one of raw audio, or none for standard input."
            )
        return Path(audio[0]).open("rb")
    if sys.stdin.isatty():
        raise UserError(
            "Nothing is piped in: try `arecord -t raw -f S16_LE -r RATE | ... --stream --rate RATE`."
        )
    return contextlib.nullcontext(sys.stdin.buffer)


def detector_of(task: Any, stream: Any, **rules: Any) -> Detector:
    """What finds events in the scores of a stream: by the rules of the task, if any, but for those given."""
    own = getattr(stream, "detector", None) or getattr(task, "detector", None)
    return own(**rules) if own else Detector(task.labels, stream.frame_seconds, **rules)
