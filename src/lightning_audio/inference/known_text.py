"""When the words of a known text are spoken: recordings with their texts as transcripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode
from lightning_audio.decoding.alignment import BoundaryRule, TimedText, align, from_parts
from lightning_audio.errors import UserError, printable
from lightning_audio.inference.transcribe import Transcribing, Transcript, posteriors
from lightning_audio.text.normalizer import Normalizer
from lightning_audio.text.numbers import UnreadableNumber
from lightning_audio.text.tokenizers import UnknownCharacter

BAD_SCORE = 0.05  # of a segment: below it the text is hardly what was said


class Aligning(Transcribing, Protocol):
    """What is asked of a task here; see tasks/transcription.py."""

    normalizer: Normalizer


def aligned(task: Aligning, clip: Clip, rule: BoundaryRule) -> tuple[TimedText, float]:
    """The text of a clip, as the task's normaliser leaves it, as one segment, and where the clip ends.

    Times are in seconds of the clip's file. Memory grows as `align` says.

    Raises:
        UserError: the text has no word or an unknown character, or needs more frames than its audio gives, or
            the file can't be read.
    """
    tokens = _tokens(task, clip)
    samples = decode(clip.path, task.sample_rate, clip.start, clip.duration, channel=clip.channel)
    rows = posteriors(task, samples)
    frames_of = task.decoder.token_frames
    words = align(rows, tokens, task.tokenizer, task.frame_seconds, clip.start, rule, clip.id, frames_of)
    found = from_parts(" ".join(word.text for word in words), words)
    if found.score < BAD_SCORE:
        print(
            f"warning: the text of {printable(clip.id)} fits its audio badly (score {found.score:.4f}): "
            "check that it is what is said there.",
            file=sys.stderr,
        )
    return found, clip.start + len(samples) / task.sample_rate


def beside_truth(
    task: Aligning,
    clips: Iterable[Clip],
    truth: Mapping[str, Sequence[tuple[str, float, float]]],
    rule: BoundaryRule,
) -> list[tuple[TimedText, tuple[float, float]]]:
    """Each word of the clips as it is aligned, with its true start and end.

    `fit_boundary_rule` and `boundary_errors` take them.

    Args:
        task: in eval mode.
        clips: with their texts.
        truth: word, start and end in seconds of the words of each clip, as `boundaries()` of a corpus gives.
        rule: `FRAMES_ALONE` to fit one.

    Raises:
        UserError: as `aligned`; or a clip has other words than are true of it.
    """
    pairs = []
    for clip in clips:
        words = aligned(task, clip, rule)[0].parts
        if [word.text for word in words] != [word for word, *_ in truth[clip.id]]:
            raise UserError(f"The true words of {clip.id} are not those of its text: mend its boundaries.")
        pairs += [(word, (start, end)) for word, (_, start, end) in zip(words, truth[clip.id], strict=True)]
    return pairs


def _tokens(task: Aligning, clip: Clip) -> list[int]:
    try:
        text = task.normalizer(clip.text or "")
        if not text.strip():
            raise UserError(f"The text of {clip.id} has no word to align, as it is {clip.text!r}: write one.")
        return task.tokenizer.encode(text)
    except UnreadableNumber as error:
        raise UserError(
            f"The text of {clip.id} can't be aligned ({error.reason}): write it in words."
        ) from None
    except UnknownCharacter as error:
        raise UserError(
            f"The text of {clip.id} has {error.named}, which the run does not know: "
            "write it another way, or train with it in task.text.tokenizer.alphabet."
        ) from None


def transcripts(
    task: Aligning, clips: Sequence[Clip], rule: BoundaryRule
) -> tuple[list[Transcript], list[UserError]]:
    """Of every channel of a file the segments of its clips in order, and what is wrong with other clips."""
    found: list[Transcript] = []
    errors: list[UserError] = []
    files: dict[tuple[str, int | None], list[Clip]] = {}
    for clip in clips:
        channel = clip.channel if isinstance(clip.channel, int) else None
        files.setdefault((clip.path, channel), []).append(clip)
    for (path, channel), own in files.items():
        timed = []
        for clip in sorted(own, key=lambda clip: clip.start):
            try:
                timed.append(aligned(task, clip, rule))
            except UserError as error:
                errors.append(error)
        if not timed:
            continue
        # One channel of several is named as by `predict --channel each`.
        name = path if channel is None else f"{path}#{channel}"
        segments, ends = zip(*timed, strict=True)
        found.append(Transcript(name, max(ends), segments))
    return found, errors
