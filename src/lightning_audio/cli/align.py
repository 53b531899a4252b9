"""Says when each word of a known text was said, by a trained run of speech recognition.

lightning-audio align logs/digits_bilstm/2026-01-31_12-00-00_a1b2 one.wav "three five five zero"
lightning-audio align RUN one.wav "three five" --format textgrid --output one.TextGrid
lightning-audio align RUN --manifest texts.jsonl --format ctm --output texts.ctm
lightning-audio align RUN --fit
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import arguments
from lightning_audio.cli.predict import device_of
from lightning_audio.data.clip import Clip
from lightning_audio.data.decode import decode
from lightning_audio.data.manifests import read_manifest
from lightning_audio.decoding.alignment import (
    FRAMES_ALONE,
    BoundaryRule,
    TimedText,
    align,
    fit_boundary_rule,
    from_parts,
)
from lightning_audio.errors import UserError, cli_errors, printable
from lightning_audio.inference.formats import transcript_files, write_transcripts
from lightning_audio.inference.transcribe import Transcript, posteriors
from lightning_audio.io import to_json, write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.ctc import CTC
from lightning_audio.text.numbers import UnreadableNumber
from lightning_audio.text.tokenizers import UnknownCharacter
from lightning_audio.training import saved_config

EXTENT = "extent.json"  # in the run folder
BAD_SCORE = 0.05  # of a segment: below it the text is hardly what was said


def clips_to_align(options: argparse.Namespace) -> list[Clip]:
    """Raises UserError where a row of the manifest has no text."""
    if options.manifest is None:
        return [Clip(id=options.audio, path=options.audio, text=options.text)]
    clips = read_manifest(options.manifest)
    if silent := [clip.id for clip in clips if clip.text is None]:
        raise UserError(f"{options.manifest} has no text for {', '.join(silent[:5])}: add it to their rows.")
    return clips


def refuse_others(task: AudioTask, run: str) -> CTC:
    """The task; raises UserError where it does not recognise speech."""
    if not isinstance(task, CTC):
        raise UserError(
            f"{run} is a run of {type(task).__name__.lower()}, which knows no words in time: give one of "
            "speech recognition (task=ctc)."
        )
    return task


def aligned(task: CTC, clip: Clip, rule: BoundaryRule) -> tuple[TimedText, float]:
    """The text of a clip, as the task's normaliser leaves it, as one segment, and where the clip ends.

    Times are in seconds of the clip's file. Memory grows as `align` says.

    Raises:
        UserError: the text has no word or an unknown character, or needs more frames than its audio gives, or
            the file can't be read.
    """
    tokens = _tokens(task, clip)
    samples = decode(clip.path, task.sample_rate, clip.start, clip.duration, channel=clip.channel)
    rows = posteriors(task, samples)
    words = align(rows, tokens, task.tokenizer, task.frame_seconds, clip.start, rule, clip.id)
    found = from_parts(" ".join(word.text for word in words), words)
    if found.score < BAD_SCORE:
        print(
            f"warning: the text of {printable(clip.id)} fits its audio badly (score {found.score:.4f}): "
            "check that it is what is said there.",
            file=sys.stderr,
        )
    return found, clip.start + len(samples) / task.sample_rate


def boundary_rule_of(options: argparse.Namespace) -> BoundaryRule:
    """What was set, else what was fitted for the run, else the default.

    Raises:
        UserError: words would end before they begin.
    """
    file = Path(options.run) / EXTENT
    known = BoundaryRule(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else BoundaryRule()
    given = {name: getattr(options, name) for name in ("shift", "reach")}
    found = replace(known, **{name: value for name, value in given.items() if value is not None})
    if not 0 <= found.reach < math.inf:
        raise UserError(f"--reach {found.reach:g} would end words before they begin: set it to 0 or more.")
    if not math.isfinite(found.shift):
        raise UserError(f"--shift {found.shift:g} is no time: give seconds.")
    return found


def fit(task: CTC, run: Path, allow: Sequence[str] = ()) -> BoundaryRule:
    """The rule of the smallest errors on the validation utterances of a run; kept in its folder.

    Raises:
        UserError: its corpus does not know when words are said, or there is no validation.
    """
    cfg = saved_config.saved_config(run, allow)
    data = build.datamodule(cfg, task.description["facts"])
    data.prepare_data()
    data.setup()
    boundaries = getattr(data.corpus, "boundaries", None)
    if boundaries is None or not data.has_validation:
        raise UserError(
            f"The corpus of {run} does not know when its validation words are said: fit on a run of "
            "digit_strings, or set --shift and --reach."
        )
    rule = fit_boundary_rule(beside_truth(task, data.splits["val"].clips, boundaries(), FRAMES_ALONE))
    write_atomically(run / EXTENT, to_json(asdict(rule)) + "\n")
    return rule


def beside_truth(
    task: CTC,
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


def _tokens(task: CTC, clip: Clip) -> list[int]:
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
            f"The text of {clip.id} has the character {error.character!r}, which the run does not know: "
            "write it another way, or train with it in task.text.tokenizer.alphabet."
        ) from None


def transcripts(task: CTC, clips: Sequence[Clip], rule: BoundaryRule) -> Iterator[Transcript | UserError]:
    """Of every channel of a file the segments of its clips in order, or what is wrong with one of them."""
    files: dict[tuple[str, int | None], list[Clip]] = {}
    for clip in clips:
        channel = clip.channel if isinstance(clip.channel, int) else None
        files.setdefault((clip.path, channel), []).append(clip)
    for (path, channel), own in files.items():
        try:
            found = [aligned(task, clip, rule) for clip in sorted(own, key=lambda clip: clip.start)]
        except UserError as error:
            yield error
            continue
        # One channel of several is named as by `predict --channel each`.
        name = path if channel is None else f"{path}#{channel}"
        yield Transcript(name, max(end for _, end in found), tuple(segment for segment, _ in found))


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Aligns a transcript or a table of them, or fits where words begin; prints or writes what was found."""
    options = arguments.align(argv)
    if options.fit:
        task = refuse_others(load(options.run, "cpu", options.allow), options.run)
        rule = fit(task, Path(options.run), options.allow)
        print(f"Fitted on validation: --shift {rule.shift:.3f} --reach {rule.reach:.3f}, kept for it.")
        return
    rule = boundary_rule_of(options)
    device, clips = device_of(options.device), clips_to_align(options)
    # Refused before the work, which may be long.
    transcript_files(list(dict.fromkeys(clip.path for clip in clips)), options.format, options.output)
    task = refuse_others(load(options.run, device, options.allow), options.run)
    answers = list(transcripts(task, clips, rule))
    found = [answer for answer in answers if isinstance(answer, Transcript)]
    errors = [answer for answer in answers if isinstance(answer, UserError)]
    if len(answers) == 1 and errors:
        raise errors[0]
    write_transcripts(found, options.format, options.output)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if errors:
        raise UserError(f"{len(errors)} of {len(answers)} files could not be aligned: they are named above.")


if __name__ == "__main__":
    main()
