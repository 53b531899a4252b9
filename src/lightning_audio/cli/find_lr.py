"""Looks for a learning rate: raises it step by step over short training and watches the loss (Smith 2017).

lightning-audio find-lr experiment=demo
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import DictConfig
from pytorch_lightning.tuner import Tuner

from lightning_audio import build, config
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import to_json, write_atomically
from lightning_audio.training import run_folder
from lightning_audio.training.normalizer import fit_normalizer
from lightning_audio.training.run import quiet
from lightning_audio.training.schedule import constant
from lightning_audio.training.trainer import build_trainer

STEPS = 100
SMALLEST, LARGEST = 1e-6, 1.0


def find_lr(cfg: DictConfig, folder: Path) -> float:
    """The suggested rate; writes lr_find.png and lr_find.json into the folder.

    Raises:
        UserError: the loss never fell, so that no rate can be suggested.
    """
    quiet()
    cfg.callbacks, cfg.logger = {}, {}
    cfg.trainer.max_epochs = STEPS  # of one step at least: an epoch of few batches does not end the search
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    build.keep_features(cfg, task, data)
    fit_normalizer(task, data)
    assert task.recipe is not None
    task.recipe = replace(task.recipe, factor=constant)
    trainer = build_trainer(cfg, folder, data, task.monitor)
    finder = Tuner(trainer).lr_find(
        task, data, min_lr=SMALLEST, max_lr=LARGEST, num_training=STEPS, update_attr=False
    )
    suggestion = finder.suggestion() if finder is not None else None
    if finder is None or suggestion is None:
        raise UserError("The loss never fell while the learning rate rose: check the data, or start lower.")
    write_atomically(
        folder / "lr_find.json", to_json({"suggestion": suggestion, **finder.results}, indent=2) + "\n"
    )
    plot(finder.results["lr"], finder.results["loss"], suggestion, folder / "lr_find.png")
    return suggestion


def plot(rates: list[float], losses: list[float], suggestion: float, path: Path) -> None:
    """The smoothed loss over the learning rate, the suggestion marked."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="smoothed loss")
    axes.plot(rates, losses)
    axes.axvline(suggestion, color="tab:red", linestyle="--", label=f"suggestion {suggestion:.2g}")
    axes.legend()
    figure.savefig(path, dpi=120)


@cli_errors
def main() -> None:
    cfg = config.compose_config(sys.argv[1:])
    if config.is_sweep(sys.argv[1:]):
        raise UserError("A learning rate is looked for with one value for every option: give one of each.")
    run_folder.refuse_unwritable(Path(cfg.paths.logs))
    folder = run_folder.new_run_folder(cfg, "lr")
    print(f"Suggested: optimizer.lr={find_lr(cfg, folder):.2g} (plot: {folder / 'lr_find.png'})")


if __name__ == "__main__":
    main()
