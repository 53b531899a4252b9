"""Writes a trained run as one file that answers without torch: front end, normalisation and network.

lightning-audio export logs/demo/2026-01-31_12-00-00_a1b2 --output demo.onnx
lightning-audio export RUN --output small.onnx --format int8_weights --max-loss 0.5
lightning-audio export RUN --output demo.pt2 --format torch_export     (for torch.export.load)
lightning-audio export TRIGGER_RUN --output words.onnx --streaming
lightning-audio predict demo.onnx recordings/
lightning-audio evaluate demo.onnx --run logs/demo/2026-01-31_12-00-00_a1b2
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_audio import build
from lightning_audio.checkpoint import find_checkpoint, load
from lightning_audio.cli import arguments
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.export.agreement import agreement, drop, stream_agreement
from lightning_audio.export.card import PROGRAM, SUFFIX, VERSION, card_of, part_of
from lightning_audio.export.onnx import is_ragged, onnx_graph, stream_graph
from lightning_audio.export.parts import parts_of
from lightning_audio.export.program import Program, exported_program, least_samples
from lightning_audio.export.quantize import CALIBRATED_BY, quantized
from lightning_audio.export.runtime import Runtime
from lightning_audio.inference.formats import refuse_output
from lightning_audio.io import sha256_of, to_json, write_together
from lightning_audio.reports.results import commit, versions
from lightning_audio.tasks.attention import Attention
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transducer import Transducer
from lightning_audio.training import saved_config
from lightning_audio.training.run import quiet

TORCH = "torch_export"
MOST_LOST = 0.5  # points of the validation score, in eight bits
COMPARED = 64  # real clips on which the exported model has to say what the run says


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Exports a run, and says how well the file agrees with it; where it does not, nothing is written."""
    options = arguments.export(argv)
    quiet()
    for file in (options.output, card_of(options.output)):
        refuse_output(file)
    refuse_misfits(options)
    task = load(options.run, allow=options.allow)
    if options.streaming:
        write_streaming(task, options)
        return
    # What can't be exported is refused before any clip is looked at.
    content = program_of(task, options) if options.format == TORCH else onnx_graph(task, options.opset)
    data = data_of(options, task)
    parts, behind = signed_parts(task, options)
    card = {**described(task, options.run), **behind}
    if options.format.startswith("int8"):
        write_quantized(content, card, parts, task, data, options)
        return
    if options.format == TORCH:
        card |= {"format": TORCH, "least_samples": least_samples(task)}
    clips = some_clips(data, "val" if data and data.has_validation else "train", COMPARED) if data else []
    runtime = Program(content, card) if options.format == TORCH else tried(content, card, parts)
    found = agreement(task, runtime, clips)
    found.refuse_other()
    write(options.output, content, {**card, "agreement": found.as_dict()}, parts)
    what = f"{len(clips)} clips and {found.made} made ones" if clips else f"{found.made} made clips"
    print(
        f"{found.same_answers} of {found.clips} answers are the same ({what}); probabilities differ by at "
        f"most {found.difference:.1e}, by padding {found.by_padding:.1e}."
    )
    names = [*(part_of(options.output, name).name for name in parts), card_of(options.output).name]
    print(f"Written: {options.output} ({len(content) / 1e6:.2f} MB) and {', '.join(names)}")


def refuse_misfits(options: argparse.Namespace) -> None:
    """Raises UserError where options are out of range or do not go together."""
    suffix = PROGRAM if options.format == TORCH else SUFFIX
    if options.output.suffix != suffix:
        raise UserError(f"--output {options.output} is no name for such a model: let it end in {suffix}.")
    if options.run.suffix in (SUFFIX, PROGRAM) and options.run.is_file():
        raise UserError(f"{options.run} is exported already: give the run that it is of.")
    if others := [word for word in options.overrides if "=" not in word]:
        raise UserError(f"One run becomes one file, and {others[0]} is a second one: export them one by one.")
    if options.overrides and not (options.run / saved_config.CONFIG_FILE).is_file():
        raise UserError(
            f"{options.overrides[0]} changes an option of a run folder, which {options.run} is not: leave it "
            "out, or give the folder."
        )
    if options.max_loss is not None and not options.format.startswith("int8"):
        raise UserError("--max-loss is what eight bits may cost: add --format int8, or leave it out.")
    if options.max_loss is not None and math.isnan(options.max_loss):
        raise UserError("--max-loss nan is no number of points: set it to one, such as 0.5.")


def program_of(task: AudioTask, options: argparse.Namespace) -> bytes:
    """The program of a task; raises UserError where it has none, or an option is for ONNX alone."""
    if options.opset is not None:
        raise UserError("--opset is of ONNX: leave it out, or take --format onnx.")
    if isinstance(task, Transducer | Attention):
        name = type(task).__name__.lower()
        raise UserError(f"Runs of task={name} are exported in parts: take --format onnx.")
    return exported_program(task)


def write_streaming(task: AudioTask, options: argparse.Namespace) -> None:
    """Writes a file that takes a stream chunk by chunk, where it hears what the run hears.

    Raises:
        UserError: the run needs whole recordings, or another format is asked for, or the two do not agree.
    """
    if options.format != "onnx":
        raise UserError(f"--streaming is exported as ONNX in float: leave out --format {options.format}.")
    content, told = stream_graph(task, options.opset)
    parts, behind = signed_parts(task, options)
    card = {**described(task, options.run), **told, **behind}
    card["stream"]["detection"] = getattr(task, "detection", {})
    found = stream_agreement(task, tried(content, card, parts))
    found.refuse_other()
    write(options.output, content, {**card, "agreement": found.as_dict()}, parts)
    chunk = 1000 * told["stream"]["frames"] * told["stream"]["hop"] / task.sample_rate
    print(
        f"{found.same_answers} of {found.clips} streams of noise are heard alike; probabilities differ by at "
        f"most {found.difference:.1e}."
    )
    names = [*(part_of(options.output, name).name for name in parts), card_of(options.output).name]
    print(f"Written: {options.output} (chunks of {chunk:g} ms) and {', '.join(names)}")


def signed_parts(
    task: AudioTask, options: argparse.Namespace
) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The graphs behind that of the network, and what the card says of them, if there are any."""
    parts, told = parts_of(task, options.opset)
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    return parts, {"parts": {**told, "sha256": digests}} if parts else {}


def write_quantized(
    content: bytes,
    card: dict[str, Any],
    parts: Mapping[str, bytes],
    task: AudioTask,
    data: AudioDataModule | None,
    options: argparse.Namespace,
) -> None:
    """Writes the network in eight bits, where it loses no more than it may; its `parts` stay in float.

    Raises:
        UserError: there are no data to calibrate it and to score it on, or it loses more.
    """
    if data is None or not data.has_validation:
        raise UserError(
            f"--format {options.format} is scored on validation clips, and the run has none here: train with "
            "loader.val_fraction=0.1, or say where its data are by data.root=FOLDER."
        )
    small, kind = quantized(content, options.format, some_clips(data, "train", CALIBRATED_BY))
    lost = drop(task, data, tried(small, card, parts))
    sign = 1 if task.monitor[1] == "max" else -1
    points = 100 * sign * lost.difference + 0.0  # not -0
    ends = sorted(100 * sign * end + 0.0 for end in (lost.low, lost.high))
    told = f"{lost.name} {100 * lost.run:.2f} % by the run, {100 * lost.other:.2f} % in eight bits"
    print(f"On validation: {told}; lost {points:.2f} points ({ends[0]:.2f} to {ends[1]:.2f}).")
    most = MOST_LOST if options.max_loss is None else options.max_loss
    if not points <= most:
        raise UserError(
            f"That is more than --max-loss {most:g} points: export in float, or allow more. "
            "Nothing is written."
        )
    score = {
        "metric": lost.name,
        "run": lost.run,
        "int8": lost.other,
        "lost_points": points,
        "interval": ends,
    }
    write(options.output, small, {**card, "format": f"{options.format} ({kind})", "validation": score}, parts)
    sizes = f"{len(small) / 1e3:.0f} kB, {len(content) / 1e3:.0f} in float"
    print(f"Written: {options.output} ({sizes}) and {card_of(options.output).name}")


def data_of(options: argparse.Namespace, task: AudioTask) -> AudioDataModule | None:
    """The data of a run, set up; None, and a sentence, where they are not here or it is a bare checkpoint.

    Raises:
        UserError: options that say where the data are do not fit, or do not lead to them.
    """
    if not (options.run / saved_config.CONFIG_FILE).is_file():
        return None
    cfg = saved_config.changed(saved_config.saved_config(options.run, options.allow), options.overrides)
    try:
        return build.prepared(cfg, task.description["facts"])
    except UserError as error:
        if options.overrides:
            raise
        print(f"The data of the run can't be looked at: {error}", flush=True)
        return None


def some_clips(data: AudioDataModule, split: str, most: int) -> list[np.ndarray]:
    """At most so many clips `(T,)` of a split, int16, evenly taken from all of it."""
    rows = data.splits[split].rows
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    waveforms, lengths = data.store.gather(rows[places])
    return [row[:n].cpu().numpy() for row, n in zip(waveforms, lengths.tolist(), strict=True)]


def described(task: Any, run: Path) -> dict[str, Any]:
    """The card of a model: all that its numbers mean, and where it comes from."""
    checkpoint = find_checkpoint(run) if run.exists() else None
    meaning = (
        {"frame_seconds": task.frame_seconds, "text": task.description["config"]["task"].get("text")}
        if task.transcribes
        else {"rule": task.rule.state()}
    )
    return {
        "version": VERSION,
        "format": "onnx",
        "task": type(task).__name__.lower(),
        "facts": task.info.facts(),
        **meaning,
        "inputs": {
            "waveforms": "float32 (clips, samples) in [-1, 1]",
            "lengths": "int64 (clips,) in samples",
        },
        "outputs": list(task.answers),
        "ragged": is_ragged(task),
        "normalize": task.description["config"]["normalize"],
        "run": run.name,
        "checkpoint": {"name": checkpoint.name, "sha256": sha256_of(checkpoint)} if checkpoint else None,
        "commit": commit(),
        "versions": versions(),
    }


def tried(content: bytes, card: dict[str, Any], parts: Mapping[str, bytes] = MappingProxyType({})) -> Runtime:
    """The runtime of a model that is not written yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{SUFFIX}"
        write(file, content, card, parts)
        return Runtime(file)


def write(
    file: Path, content: bytes, card: dict[str, Any], parts: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """The model, its parts and its card, together; digests tell of what does not fit."""
    signed = {**card, "sha256": hashlib.sha256(content).hexdigest()}
    behind = {part_of(file, name): part for name, part in parts.items()}
    write_together({card_of(file): to_json(signed, 2) + "\n", **behind, file: content})


if __name__ == "__main__":
    main()
