"""How scores fall with noise and with speed: what `evaluate --noise`, `--snr` and `--speed` measure."""

from __future__ import annotations

import argparse
import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_audio.augment.base import Transform
from lightning_audio.augment.noise import EXPONENTS, BackgroundNoise
from lightning_audio.augment.waveform import Speed
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.io import to_json, write_atomically
from lightning_audio.metrics.base import scores
from lightning_audio.reports.html.run import ROBUSTNESS
from lightning_audio.reports.results import score_text
from lightning_audio.reports.tables import print_table
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.recipe import seed_draws


def measure_robustness(
    trainer: pl.Trainer, task: AudioTask, data: AudioDataModule, options: argparse.Namespace, output: Path
) -> None:
    """Scores the test clips of the data again at each level of noise and each speed, prints a table and
    writes robustness.json. What is drawn depends on the level alone, so that runs hear the same noise.

    Raises:
        UserError: a level does not fit, or a folder of noise holds no audio.
    """
    if {"forward", "forward_tta"} & vars(
        task
    ).keys():  # answered by others, too, with front ends of their own
        raise UserError(
            "--noise and --speed are what one run hears: leave out other runs, or the .onnx file."
        )
    curves = []
    for against, unit, transforms in disturbances(options, task.sample_rate):
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
        curves.append({"against": against, "unit": unit, "points": listed})
    write_atomically(output / ROBUSTNESS, to_json(curves, indent=1) + "\n")


def disturbances(
    options: argparse.Namespace, rate: int
) -> Iterator[tuple[str, str, list[tuple[float, Transform]]]]:
    """What is to be tried: against what, the unit of its levels, and each level as a transform."""
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


@contextlib.contextmanager
def disturbed(task: AudioTask, transform: Transform) -> Iterator[None]:
    """Puts a transform before the front end."""
    transform.train()
    hook = task.frontend.register_forward_pre_hook(lambda module, inputs: transform(*inputs))
    try:
        yield
    finally:
        hook.remove()
