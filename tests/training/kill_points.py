"""Kills a run over and over at random points, resumes it each time, and compares it with one never killed.

python tests/training/kill_points.py FOLDER --kills 20 --workers 2 --asks --signal TERM

A point is a call of one of the functions where something happens: a training or a validation step, the end of
an epoch, a file that is renamed. Everything that may differ is compared: the clips of every step, the weights
and the optimizer's state bit for bit, the scores, the predictions, the rows of metrics.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_audio.checkpoint import LAST
from lightning_audio.cli import train
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training.callbacks.checkpointing import Saver

# 60 training and 20 validation clips: 5 to 6 batches an epoch, that differ in their number of clips.
EVERYTHING = (
    "experiment=demo",
    "network=cnn2d",
    "network.widths=[4,8]",
    "data.clips_per_class=2",
    "data.seconds=0.5",
    "loader.val_fraction=0.25",
    "loader.batch_size=16",
    "loader.max_batch_duration=6.5",
    "augment.mix={_target_:lightning_audio.augment.mix.Mix,mode:power}",
    "callbacks=ema",
    "callbacks.early_stopping={_target_:pytorch_lightning.callbacks.EarlyStopping,monitor:val/accuracy,mode:max,patience:3}",
    "trainer.max_epochs=6",
    "trainer.log_every_n_steps=1",
    "saving.every_n_steps=2",
)
STATE = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "global_step")
MOMENTS = (
    (AudioTask, "training_step"),
    (AudioTask, "validation_step"),
    (AudioTask, "on_validation_epoch_end"),
    (Saver, "on_train_batch_end"),
    (Saver, "on_train_epoch_end"),
    (pathlib.Path, "replace"),
)


def in_child(work: Callable[[], Any]) -> int:
    """Runs it in a fork of this process, and gives its exit code, below 0 for the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watch(folder: Path, last_point: int, signum: int, asks: bool) -> None:
    """Sends this process the signal at its so many-eth point (0: never), and writes down every step."""
    points = [0]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            points[0] += 1
            (folder / "points").write_text(str(points[0]))
            if points[0] == last_point:
                os.kill(os.getpid(), signum)
            return function(*args, **kwargs)

        return counted

    step, configure = AudioTask.training_step, AudioTask.configure_optimizers

    def noted(self: AudioTask, batch: Any, batch_idx: int) -> Any:
        with (folder / "steps.jsonl").open("a") as file:
            file.write(json.dumps([self.current_epoch, batch_idx, os.getpid(), batch.ids]) + "\n")
        return step(self, batch, batch_idx)

    def asking(self: AudioTask) -> Any:
        assert self.trainer.estimated_stepping_batches == self.total_steps
        return configure(self)

    AudioTask.training_step = noted  # type: ignore[method-assign]
    if asks:
        AudioTask.configure_optimizers = asking  # type: ignore[method-assign]
    for owner, name in MOMENTS:
        setattr(owner, name, wrapped(getattr(owner, name)))


def start(
    folder: Path,
    overrides: tuple[str, ...],
    last_point: int,
    signum: int = signal.SIGKILL,
    asks: bool = False,
) -> int:
    """Starts a run below `folder`, or resumes the one there, and ends it at a point; its exit code."""
    folder.mkdir(exist_ok=True)
    there = list((folder / "demo").glob("*/config.yaml"))
    arguments = ["experiment=demo", "resume=latest"] if there else list(overrides)

    def run() -> None:
        torch.set_num_threads(1)
        sys.argv[1:] = [*arguments, f"paths.logs={folder}"]
        log = (folder / "log").open("a", buffering=1)
        sys.stdout = sys.stderr = log
        watch(folder, last_point, signum, asks)
        train.main()

    return in_child(run)


def steps_of(folder: Path) -> list[list[Any]]:
    lines = (folder / "steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def sequence(folder: Path) -> dict[tuple[int, int], list[str]]:
    """The clips of every step; a step that was made again after a kill had the same ones."""
    seen: dict[tuple[int, int], list[str]] = {}
    for epoch, batch, _, ids in steps_of(folder):
        assert seen.setdefault((epoch, batch), ids) == ids, f"other clips in step {epoch}, {batch}"
    return seen


def equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def run_folder(folder: Path) -> Path:
    """The one run below `folder`; one that was cut before its first file has left an empty folder."""
    (found,) = (folder / "demo").glob("*/config.yaml")
    return found.parent


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(cut: Path, whole: Path) -> None:
    """Raises AssertionError where a run that was cut differs from one that was not."""
    assert sequence(cut) == sequence(whole)
    one, other = run_folder(cut), run_folder(whole)
    states = [torch.load(run / "checkpoints" / LAST, weights_only=True) for run in (one, other)]
    for part in STATE:
        assert equal(*(state.get(part) for state in states)), f"{part} differs"
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    for key in ("scores", "epochs", "checkpoint"):
        assert metrics[0][key] == metrics[1][key]
    assert (one / "predictions.jsonl").read_bytes() == (other / "predictions.jsonl").read_bytes()
    ours, theirs = rows_of(one), rows_of(other)
    assert ours == theirs, [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]][:3]


def cut_often(
    folder: Path, overrides: tuple[str, ...], kills: int, draw: random.Random, signum: int, asks: bool
) -> list[int]:
    """Cuts a run so many times, or until it ends; the points of its processes at which that happened."""
    cut = -signum if signum == signal.SIGKILL else 128 + signum
    points: list[int] = []
    while len(points) < kills:
        point = draw.randint(1, 40)
        code = start(folder, overrides, point, signum, asks)
        if code == 0:
            return points
        assert code == cut, f"ended with {code} before point {point}: {(folder / 'log').read_text()}"
        points.append(point)
    code = start(folder, overrides, 0, asks=asks)
    assert code == 0, (folder / "log").read_text()
    return points


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT"])
    parser.add_argument(
        "--asks", action="store_true", help="the task asks the trainer for its number of steps"
    )
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(arguments)
    overrides = (*EVERYTHING, f"loader.workers={options.workers}", *options.overrides)
    folder, signum = options.folder.resolve(), signal.Signals[f"SIG{options.signal}"]
    folder.mkdir(parents=True, exist_ok=True)
    assert start(folder / "whole", overrides, 0) == 0, (folder / "whole" / "log").read_text()
    points: list[list[int]] = []
    draw = random.Random(options.seed)
    while (left := options.kills - sum(map(len, points))) > 0:
        cut = folder / f"cut{len(points)}"
        points.append(cut_often(cut, overrides, left, draw, signum, options.asks))
        assert_same(cut, folder / "whole")
        made = len(steps_of(cut))
        print(f"{len(points[-1])} cuts at points {points[-1]}: the same; {made} steps made", flush=True)
    print(json.dumps({"cuts": sum(map(len, points)), "steps": len(sequence(folder / "whole"))}))


if __name__ == "__main__":
    main()
