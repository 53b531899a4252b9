"""Runs every benchmark, or those that are named, and writes the tables of the results.

What is measured goes to benchmarks/results as JSON, unless with --quick, and from there between the marks
`<!-- targets -->` and `<!-- results -->` of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import record

from lightning_audio.io import write_atomically

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
PAGE = FOLDER / "README.md"
HELPERS = ("made_releases", "record", "reproduce", "run", "tables", "timing")


def programs() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in HELPERS)


def run(names: list[str], options: list[str]) -> list[str]:
    """Runs benchmarks one after another; returns those that failed."""
    environment = {**os.environ, record.AT_START: json.dumps(record.at_start())}
    failed = []
    for name in names:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
        if subprocess.run(command, env=environment).returncode:
            failed.append(name)
    return failed


def write_tables(results: Path) -> None:
    contents = record.read(results)
    old = PAGE.read_text(encoding="utf-8")
    new = record.replace_between(old, "targets", record.targets_table(contents))
    new = record.replace_between(new, "results", record.all_tables(contents))
    if new != old:
        write_atomically(PAGE, new)
        print(f"Tables written to {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(programs()))
    parser.add_argument("--quick", action="store_true", help="smaller, and nothing is kept")
    parser.add_argument("--repeats", type=int, help="times that each contender runs")
    parser.add_argument("--tables", action="store_true", help="run nothing: only write the tables anew")
    given = parser.parse_args()
    if unknown := set(given.names) - set(programs()):
        parser.error(
            f"there is no benchmark {', '.join(sorted(unknown))}: name some of {', '.join(programs())}"
        )
    failed = []
    if not given.tables:
        options = ["--quick"] if given.quick else ["--results", str(RESULTS)]
        options += ["--repeats", str(given.repeats)] if given.repeats else []
        failed = run(given.names or programs(), options)
    if not given.quick:
        write_tables(RESULTS)
    if failed:
        sys.exit(f"These benchmarks failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
