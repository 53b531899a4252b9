"""Timing of contenders that do the same work: in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import record

_given = argparse.Namespace(results=None, quick=False)  # what the command line said
_reports: list[dict[str, Any]] = []  # of this program so far


def arguments(description: str, repeats: int) -> argparse.Namespace:
    """`--quick` (a third of the repeats, less work each), `--repeats` and `--results`.

    Says on stderr where the machine has other work to do.
    """
    global _given
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="less work and fewer repeats: seconds, not minutes"
    )
    parser.add_argument("--repeats", type=int, help=f"times that each contender runs [{repeats}]")
    parser.add_argument("--results", type=Path, help="folder in which what was measured is kept, as JSON")
    options = parser.parse_args()
    options.repeats = options.repeats or (max(repeats // 3, 3) if options.quick else repeats)
    _given = options
    _reports.clear()
    if warning := record.warning(record.at_start()["load"]):
        print(warning, file=sys.stderr, flush=True)
    return options


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    repeats: int,
    before_each: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each contender in each round; a round before the first warms up and does not count.

    `before_each` is called before each of them, and not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats + 1):
        for name, work in contenders.items():
            before_each()
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def report(
    title: str,
    seconds: Mapping[str, Sequence[float]],
    clips: int,
    target: Mapping[str, str] | None = None,
    columns: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> None:
    """Prints a Markdown table: milliseconds a clip, and the ratio to what the first took in that round.

    It is kept as JSON where `--results` names a folder.

    Args:
        title: what the work is.
        seconds: of each contender in each round.
        clips: how many there are in a round.
        target: what the median ratio of a contender, or its median seconds, have to be:
            `{"files, 2 workers": ">= 4"}`, `{"the first step": "<= 8 s"}`.
        columns: what else was measured of a contender in each round, by heading.
    """
    entry = record.entry(title, seconds, clips, target or {}, columns or {})
    print(f"{record.heading(entry)}\n({record.machine_line()})\n\n{record.table(entry)}", flush=True)
    _reports.append(entry)
    if _given.results is not None:
        record.write(_given.results, Path(sys.argv[0]).stem, _given.quick, _reports)
