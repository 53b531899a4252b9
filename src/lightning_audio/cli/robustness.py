"""How scores fall with noise, speed, rooms and codecs: what `evaluate --noise`, `--speed`, `--room` and
`--codec` measure."""

from __future__ import annotations

import argparse
import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_audio.augment.base import Transform
from lightning_audio.augment.channel import Telephone
from lightning_audio.augment.noise import EXPONENTS, BackgroundNoise
from lightning_audio.augment.recode import Recode, Recoder
from lightning_audio.augment.room import Reverb
from lightning_audio.augment.waveform import Speed
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.io import to_json, write_atomically
from lightning_audio.metrics.base import scores
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.html.run import ROBUSTNESS
from lightning_audio.reports.results import score_text
from lightning_audio.reports.tables import print_table
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import seed_draws

# Against what, the unit of its levels, and each level as a transform.
Curve = tuple[str, str, list[tuple[float, Transform]]]
LONGEST_ROOM = 2.0  # seconds of a response that are heard
OPTIONS = "--noise, --speed, --room and --codec"


def is_asked(options: argparse.Namespace) -> bool:
    """Whether `evaluate` is to disturb the clips."""
    return bool(options.noise or options.speed or options.room or options.codec)


def planned_curves(options: argparse.Namespace, task: AudioTask) -> list[Curve]:
    """What `evaluate` is asked to try, nothing if nothing.

    Raises:
        UserError: several runs are to answer, a level or a codec does not fit, or a folder holds no audio.
    """
    curves = list(disturbances(options, task.sample_rate))
    # Others that answer with it have front ends of their own.
    if curves and {"forward", "forward_tta"} & vars(task).keys():
        raise UserError(f"{OPTIONS} are what one run hears: leave out other runs, or the .onnx file.")
    return curves


def measure_robustness(
    trainer: pl.Trainer,
    task: AudioTask,
    data: AudioDataModule,
    planned: Sequence[Curve],
    output: Path,
    undisturbed: Mapping[str, Score],
) -> None:
    """Scores the test clips of the data again at each level of noise and each speed, prints a table and
    writes robustness.json, with their scores `undisturbed`. What is drawn depends on the level alone, so that
    runs hear the same noise."""
    curves = []
    for against, unit, transforms in planned:
        points = []
        for level, transform in transforms:
            seed_draws(zlib.crc32(f"{against} {level}".encode()), trainer.strategy.root_device)
            with disturbed(task, transform):
                trainer.test(task, data, verbose=False)
            points.append((level, scores(task.metrics, task.predictions(data.splits["test"].clips))))
        rows = [
            {unit: f"{level:g}"} | {name: score_text(name, score) for name, score in found.items()}
            for level, found in points
        ]
        print_table(rows, f"Robustness against {against}")
        listed = [{"level": level, "scores": found} for level, found in points]
        curves.append({"against": against, "unit": unit, "points": listed, "undisturbed": undisturbed})
    write_atomically(output / ROBUSTNESS, to_json(curves, indent=1) + "\n")


def disturbances(options: argparse.Namespace, rate: int) -> Iterator[Curve]:
    """What is to be tried."""
    if options.noise:
        source: dict[str, Any] = {"folder": options.noise, "sample_rate": rate}
        if options.noise in EXPONENTS:
            source = {"colour": options.noise}
        levels: list[tuple[float, Transform]] = [
            (snr, BackgroundNoise(snr, snr, **source)) for snr in options.snr
        ]
        name = f"{options.noise} noise" if options.noise in EXPONENTS else f"noise of {options.noise}"
        yield name, "signal-to-noise ratio in dB", levels
    if options.speed:
        if min(options.speed) <= 0:
            raise UserError(
                f"--speed {min(options.speed):g} is no speed: give numbers above 0, such as 0.9,1.1."
            )
        yield "speed", "speed", [(speed, Speed(speed, speed, p=1.0)) for speed in options.speed]
    if options.room:
        yield rooms(options.room, rate)
    if options.codec:
        yield from codecs(options.codec, rate)


def rooms(asked: str, rate: int) -> Curve:
    """Made rooms by their reverberation times, the direct sound as strong as all that follows; or measured
    rooms out of a folder, beside the clips as they are.

    Raises:
        UserError: it is neither, or a time is not above 0.
    """
    try:
        times = [float(time) for time in asked.split(",")]
    except ValueError:
        levels: list[tuple[float, Transform]] = [
            (share, Reverb(rate, folder=asked, seconds=LONGEST_ROOM, p=share)) for share in (0.0, 1.0)
        ]
        return f"rooms of {asked}", "share of the clips in a room", levels
    made = [(time, Reverb(rate, time, time, 0.0, 0.0, seconds=LONGEST_ROOM, p=1.0)) for time in times]
    return "rooms", "reverberation time in seconds", list(made)


def codecs(asked: str, rate: int) -> Iterator[Curve]:
    """A curve for each codec, its levels kbit/s."""
    curves: dict[str, list[tuple[float, Transform]]] = {}
    for name in asked.split(","):
        if name == "telephone":
            curves.setdefault("a telephone line (G.711)", []).append((64.0, Telephone(rate, p=1.0)))
        else:
            recoder = Recoder.parse(name)
            level = recoder.kbps, Recode(rate, [name], p=1.0)
            curves.setdefault(f"{recoder.name.upper()}", []).append(level)
    yield from ((name, "kbit/s", levels) for name, levels in curves.items())


@contextlib.contextmanager
def disturbed(task: AudioTask, transform: Transform) -> Iterator[None]:
    """Puts a transform before the front end."""
    transform.train()
    hook = task.frontend.register_forward_pre_hook(lambda module, inputs: transform(*inputs))
    try:
        yield
    finally:
        hook.remove()
