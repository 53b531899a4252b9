"""Says when each word of a known text was said, by a trained run of speech recognition.

lightning-audio align logs/digits_bilstm/2026-01-31_12-00-00_a1b2 one.wav "three five five zero"
lightning-audio align RUN one.wav "three five" --format textgrid --output one.TextGrid
lightning-audio align RUN --manifest texts.jsonl --format ctm --output texts.ctm
lightning-audio align RUN --fit
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import arguments
from lightning_audio.cli.decoder_options import transcribing
from lightning_audio.cli.option_groups import given
from lightning_audio.cli.predict import device_of
from lightning_audio.data.clip import Clip
from lightning_audio.data.manifests import read_manifest
from lightning_audio.decoding.alignment import (
    FRAMES_ALONE,
    BoundaryRule,
    boundary_errors,
    fit_boundary_rule,
)
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.inference.formats import refuse_output, transcript_files, write_transcripts
from lightning_audio.inference.known_text import beside_truth, transcripts
from lightning_audio.io import from_json, to_json, write_atomically
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.training import saved_config

EXTENT = "extent.json"  # in the run folder
CLOSE = 0.02  # seconds, the usual tolerance of a phone's boundary


def clips_to_align(options: argparse.Namespace) -> tuple[Sequence[Clip], list[str]]:
    """Those of the manifest, and what is wrong with its other rows.

    Raises:
        UserError: no row of the manifest has a text, or the output would be written over it.
    """
    if options.manifest is None:
        return [Clip(id=options.audio, path=options.audio, text=options.text)], []
    refuse_output(options.output, [options.manifest], options.output is not None and options.output.is_dir())
    bad: list[str] = []
    clips = read_manifest(options.manifest, bad=bad)
    if all(clip.text is None for clip in clips):
        raise UserError(f"{options.manifest} has no texts: add them to its rows.")
    return clips, bad


def _fitted(file: Path) -> BoundaryRule:
    try:
        told = from_json(file.read_text(encoding="utf-8"))
        return BoundaryRule(**{name: float(value) for name, value in told.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, or run align --fit again.") from None


def boundary_rule_of(options: argparse.Namespace) -> BoundaryRule:
    """What was set, else what was fitted for the run, else the default.

    Raises:
        UserError: words would end before they begin.
    """
    file = Path(options.run) / EXTENT
    known = _fitted(file) if file.is_file() else BoundaryRule()
    found = replace(known, **given(options, "shift", "reach"))
    if not 0 <= found.reach < math.inf:
        raise UserError(f"--reach {found.reach:g} would end words before they begin: set it to 0 or more.")
    if not math.isfinite(found.shift):
        raise UserError(f"--shift {found.shift:g} is no time: give seconds.")
    return found


def fit(task: Transcription, run: Path, allow: Sequence[str] = ()) -> tuple[BoundaryRule, list[float]]:
    """The rule of the smallest errors on the validation utterances of a run, kept in its folder, and by how
    many seconds the boundaries of their words are off with it.

    Raises:
        UserError: its corpus does not know when words are said, or there is no validation.
    """
    cfg = saved_config.saved_config(run, allow)
    data = build.prepared(cfg, task.description["facts"])
    boundaries = getattr(data.corpus, "boundaries", None)
    if boundaries is None or not data.has_validation:
        raise UserError(
            f"The corpus of {run} does not know when its validation words are said: fit on a run of "
            "digit_strings or timit, or set --shift and --reach."
        )
    clips, truth = data.splits["val"].clips, boundaries()
    rule = fit_boundary_rule(beside_truth(task, clips, truth, FRAMES_ALONE))
    write_atomically(run / EXTENT, to_json(asdict(rule)) + "\n")
    return rule, boundary_errors(beside_truth(task, clips, truth, rule))


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Aligns a transcript or a table of them, or fits where words begin; prints or writes what was found."""
    options = arguments.align(argv)
    rule = boundary_rule_of(options)
    device = device_of(options.device)
    clips, bad = ([], []) if options.fit else clips_to_align(options)
    # Refused before the work, which may be long.
    transcript_files(list(dict.fromkeys(clip.path for clip in clips)), options.format, options.output)
    task = transcribing(load(options.run, device, options.allow), "The times of words are")
    if options.fit:
        rule, errors_s = fit(task, Path(options.run), options.allow)
        within = sum(error <= CLOSE for error in errors_s) / len(errors_s)
        print(
            f"Fitted on validation: --shift {rule.shift:.3f} --reach {rule.reach:.3f}, kept for it. "
            f"Boundaries are off by {1000 * median(errors_s):.0f} ms in the median, "
            f"{within:.1%} of them within 20 ms."
        )
        return
    found, errors = transcripts(task, clips, rule)
    if errors and len(clips) == 1 and not bad:
        raise errors[0]
    write_transcripts(found, options.format, options.output)
    lost, total = len(bad) + len(errors), len(bad) + len(clips)
    for told in dict.fromkeys([*bad, *map(str, errors)]):  # what is wrong with a file is so for all its texts
        print(f"error: {told}", file=sys.stderr)
    if lost:
        raise UserError(f"{lost} of {total} texts could not be aligned: they are named above.")


if __name__ == "__main__":
    main()
