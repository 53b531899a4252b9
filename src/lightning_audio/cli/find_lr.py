"""Looks for a learning rate: raises it step by step over short training and watches the loss (Smith 2017).

lightning-audio find-lr experiment=demo
lightning-audio find-lr resume=logs/demo/2026-01-31_12-00-00_a1b2
lightning-audio find-lr experiment=esc10_transfer init=RUN --stage blocks.6
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import DictConfig

from lightning_audio import config
from lightning_audio.checkpoint import LAST
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import to_json, write_atomically
from lightning_audio.reports.plots import write_png
from lightning_audio.training import resume, run_folder
from lightning_audio.training.run import quiet
from lightning_audio.training.updates import learner

STEPS = 100
SMALLEST, LARGEST = 1e-6, 1.0
MEMORY = 0.95  # of the running mean of the loss: about twenty steps
SKIPPED = 10  # steps at the start, in which the loss is that of few batches
DIVERGED = 4.0  # times the lowest loss, from which on no step is made any more


@dataclass(frozen=True)
class Rates:
    """What the losses at rising rates suggest; `loss` is the running mean at each of the rates `lr`.

    `valley` is the middle of the longest fall of the loss, as fastai finds it, `steepest` where it falls
    fastest over the logarithm of the rate, `minimum_tenth` a tenth of where it is lowest.
    """

    valley: float
    steepest: float
    minimum_tenth: float
    lr: list[float]
    loss: list[float]


def find_lr(cfg: DictConfig, folder: Path, checkpoint: Path | None = None, stage: str | None = None) -> Rates:
    """Of the start of a run, or of the state that a checkpoint holds; writes lr_find.png and lr_find.json.

    Of a `stage` it is the rate at which that learns while all others are frozen.

    Raises:
        UserError: the loss never fell, so that no rate can be suggested.
    """
    quiet()
    learning = learner(cfg, folder, checkpoint, stage)
    batches, lowest = learning.batches(), math.inf
    rates = np.geomspace(SMALLEST, LARGEST, STEPS).tolist()
    losses: list[float] = []
    for rate in rates:
        loss = learning.update(
            list(itertools.islice(batches, learning.trainer.accumulate_grad_batches)), rate
        )
        if not math.isfinite(loss):
            break
        losses.append(loss)
        lowest = min(lowest, running_mean(losses)[-1])
        if running_mean(losses)[-1] > DIVERGED * lowest:
            break
    found = suggest(rates[: len(losses)], running_mean(losses))
    content = {"suggestion": found.valley, **found.__dict__}
    write_atomically(folder / "lr_find.json", to_json(content, indent=2) + "\n")
    plot(found, folder / "lr_find.png")
    return found


def running_mean(losses: list[float]) -> list[float]:
    """Exponential, over about twenty values; without a bias towards 0 at the start (as in Adam)."""
    mean, means = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        means.append(mean / (1 - MEMORY**number))
    return means


def suggest(rates: list[float], losses: list[float]) -> Rates:
    """The three rates that these smoothed losses suggest.

    Raises:
        UserError: they never fall.
    """
    loss = np.array(losses)
    length, last = longest_fall(loss)
    if length < 3:
        raise UserError("The loss never fell while the learning rate rose: check the data, or start lower.")
    # The mean of a few losses says little, and past the lowest one a fall is only noise.
    begin = min(SKIPPED, max(len(loss) - 2, 0))
    lowest = begin + int(loss[begin:].argmin())
    slopes = np.gradient(loss, np.log(rates))[begin : max(lowest, begin + 1)]
    steepest = begin + int(slopes.argmin())
    return Rates(rates[last - length // 2], rates[steepest], rates[lowest] / 10, rates, losses)


def longest_fall(loss: NDArray[np.floating]) -> tuple[int, int]:
    """The length of the longest falling subsequence of losses `(N,)`, and the place of its last one."""
    lengths = np.ones(len(loss), dtype=int)
    for here in range(len(loss)):
        lengths[here] += lengths[:here][loss[:here] > loss[here]].max(initial=0)
    return int(lengths.max(initial=0)), int(lengths.argmax()) if len(loss) else 0


def plot(found: Rates, path: Path) -> None:
    """The smoothed loss over the learning rate, with what it suggests."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    axes.plot(found.lr, found.loss)
    marks = {"valley": found.valley, "steepest": found.steepest, "minimum / 10": found.minimum_tenth}
    for (name, rate), style in zip(marks.items(), ("-", "--", ":"), strict=True):
        axes.axvline(rate, color="tab:red", linestyle=style, label=f"{name} {rate:.2g}")
    axes.legend()
    write_png(figure, path)


@cli_errors
def main() -> None:
    """Of the state of a new run, or of one that is named by `resume`, in a folder of its own."""
    parser = argparse.ArgumentParser("lightning-audio find-lr", add_help=False, allow_abbrev=False)
    parser.add_argument("--stage")
    options, overrides = parser.parse_known_args(sys.argv[1:])
    if config.is_sweep(overrides):
        raise UserError("A learning rate is looked for with one value for every option: give one of each.")
    command = replace(config.Command.read(overrides), force=True)  # nothing is written to a run
    cfg, checkpoint = resume.composed(command).cfg, None
    if cfg.resume:
        cfg, run = resume.resumed_config(cfg, command)
        checkpoint = run / "checkpoints" / LAST
        if not checkpoint.is_file():
            raise UserError(f"There is no {checkpoint}: give the folder of a run that has saved one.")
    run_folder.refuse_unwritable(Path(cfg.paths.logs))
    folder = run_folder.new_run_folder(cfg, "lr")
    found = find_lr(cfg, folder, checkpoint, options.stage)
    option = f"finetune.lr={{{options.stage}: {found.valley:.2g}}}"
    option = option if options.stage else f"optimizer.lr={found.valley:.2g}"
    print(f"Suggested: {option} (plot: {folder / 'lr_find.png'})")


if __name__ == "__main__":
    main()
