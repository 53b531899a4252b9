"""Timing of contenders that do the same work: in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from lightning_audio.tables import markdown_table


def arguments(description: str, repeats: int) -> argparse.Namespace:
    """`--quick` (a third of the repeats, less work each) and `--repeats`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="less work and fewer repeats: seconds, not minutes"
    )
    parser.add_argument("--repeats", type=int, help=f"times that each contender runs [{repeats}]")
    options = parser.parse_args()
    options.repeats = options.repeats or (max(repeats // 3, 3) if options.quick else repeats)
    return options


def interleaved(contenders: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; a round before the first warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def report(title: str, seconds: Mapping[str, Sequence[float]], clips: int) -> None:
    """Prints a Markdown table: milliseconds a clip, and the ratio to what the first took in that round."""
    first = next(iter(seconds.values()))
    rows = [
        {
            "": name,
            "ms a clip": _spread([1000 * value / clips for value in values]),
            "times the first": _spread([value / own for value, own in zip(values, first, strict=True)]),
        }
        for name, values in seconds.items()
    ]
    machine = f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads, load {_load()}"
    print(f"{title}: {clips} clips, median (min to max) of {len(first)} rounds")
    print(f"({machine}, torch {torch.__version__})\n\n{markdown_table(rows)}")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
