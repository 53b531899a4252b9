"""What benchmarks measured: kept as JSON with machine, versions and commit, and as Markdown made of that."""

from __future__ import annotations

import json
import operator
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightning_audio.io import to_json, write_atomically
from lightning_audio.reports.results import commit, versions
from lightning_audio.reports.tables import markdown_table

AT_START = "BENCHMARKS_AT_START"  # the variable in which run.py hands on how things stood before the first
LOADED = 0.5  # processes that want to run, for each core
SIGNS = {"<=": operator.le, ">=": operator.ge}
SECONDS = " s"  # what a target ends with that is no ratio


def at_start() -> dict[str, Any]:
    """Load average, commit and time before the first benchmark ran, which is itself a load for the next."""
    known = os.environ.get(AT_START)
    if known:
        return json.loads(known)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"load": load, "commit": commit(), "date": f"{datetime.now():%Y-%m-%d %H:%M}"}


def warning(load: float | None) -> str:
    """A sentence for a machine that is busy with something else; empty for one that is idle."""
    cores = os.cpu_count() or 1
    if load is None or load <= LOADED * cores:
        return ""
    return (
        f"warning: the load was {load:.1f} on {cores} cores at the start: run this again on an idle machine."
    )


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def machine_line(known: Mapping[str, Any] | None = None) -> str:
    """Machine, versions, commit, date and load in one line: of what `write` wrote, or as they are now."""
    content = known or {"machine": machine(), "versions": versions(), **at_start()}
    parts, head = content["machine"], content["commit"] or "unknown"
    texts = [
        f"{parts['cores']} cores of {parts['processor'] or 'unknown make'}, {parts['threads']} threads",
        *([parts["gpu"]] if parts["gpu"] else []),
        parts["system"],
        f"torch {content['versions']['torch']}",
        f"commit {head[:7]}{'-dirty' if head.endswith('-dirty') else ''}",
        content["date"],
        "load unknown" if content["load"] is None else f"load {content['load']:.1f} at the start",
    ]
    return ", ".join(texts) + (", quick" if content.get("quick") else "")


def entry(
    title: str,
    seconds: Mapping[str, Sequence[float]],
    clips: int,
    targets: Mapping[str, str],
    columns: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    """One comparison as it is kept: seconds per round, ratios to the first contender, and the targets.

    A target is for the median ratio (`<= 1.3`), or for the median seconds (`<= 8 s`).

    Raises:
        ValueError: a target is no sign and number, or is for a contender that did not run.
    """
    first = next(iter(seconds.values()))
    ratios = {
        name: [value / own for value, own in zip(values, first, strict=True)]
        for name, values in seconds.items()
    }
    return {
        "title": title,
        "clips": clips,
        "seconds": {name: list(values) for name, values in seconds.items()},
        "ratios": {name: _summary(values) for name, values in ratios.items()},
        "targets": {
            name: _target(wanted, (seconds if wanted.endswith(SECONDS) else ratios).get(name, []))
            for name, wanted in targets.items()
        },
        "columns": {head: {n: list(v) for n, v in of.items()} for head, of in columns.items()},
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def _target(wanted: str, measured: Sequence[float]) -> dict[str, Any]:
    sign, _, bound = wanted.removesuffix(SECONDS).partition(" ")
    if sign not in SIGNS or not measured:
        raise ValueError(f"{wanted!r} is no target of a contender: write '<= 1.3', '>= 4' or '<= 8 s'.")
    return {"wanted": wanted, "met": SIGNS[sign](median(measured), float(bound))}


def heading(entry: Mapping[str, Any]) -> str:
    """The title with what a reader of the table has to know."""
    rounds = len(next(iter(entry["seconds"].values())))
    return f"{entry['title']}: {entry['clips']} clips, median (min to max) of {rounds} rounds"


def table(entry: Mapping[str, Any]) -> str:
    """One comparison as a Markdown table."""
    rows = []
    for name, values in entry["seconds"].items():
        row = {
            "": name,
            "ms a clip": _spread(_summary([1000 * value / entry["clips"] for value in values])),
            "times the first": _spread(entry["ratios"][name]),
        }
        for head, of in entry["columns"].items():
            row[head] = _spread(_summary(of[name])) if name in of else ""
        if name in entry["targets"]:
            row["target"] = _verdict(entry["targets"][name])
        rows.append(row)
    return markdown_table(rows)


def _spread(summary: Mapping[str, float]) -> str:
    return f"{summary['median']:.3g} ({summary['min']:.3g} to {summary['max']:.3g})"


def _verdict(target: Mapping[str, Any]) -> str:
    return f"{target['wanted']}: {'met' if target['met'] else '**missed**'}"


def write(folder: Path, program: str, quick: bool, entries: Sequence[Mapping[str, Any]]) -> None:
    """Writes PROGRAM.json: where, with what and when the comparisons were made, and what they gave."""
    content = {"program": program, "quick": quick, **at_start(), "machine": machine(), "versions": versions()}
    write_atomically(folder / f"{program}.json", to_json({**content, "reports": list(entries)}, 2) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """All that `write` wrote into a folder, by program."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def targets_table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Every figure that has a target, as one Markdown table, with the machines below it."""
    rows = [
        {"figure": f"{entry['title']}: {name}", **_figure(entry, name), "benchmark": content["program"]}
        for content in contents
        for entry in content["reports"]
        for name in entry["targets"]
    ]
    return f"{markdown_table(rows)}\n{_machines(contents)}" if rows else _machines(contents)


def _figure(entry: Mapping[str, Any], name: str) -> dict[str, str]:
    """What a contender took, in seconds or in times of what the first took, and whether that is enough."""
    target = entry["targets"][name]
    if target["wanted"].endswith(SECONDS):
        against, measured = "", f"{_spread(_summary(entry['seconds'][name]))} s"
    else:
        against, measured = next(iter(entry["seconds"])), f"{_spread(entry['ratios'][name])} times"
    return {"against": against, "measured": measured, "target": _verdict(target)}


def all_tables(contents: Sequence[Mapping[str, Any]]) -> str:
    """Every comparison of every benchmark."""
    entries = [(content["program"], entry) for content in contents for entry in content["reports"]]
    parts = [f"`{program}`: {heading(entry)}.\n\n{table(entry)}" for program, entry in entries]
    return "\n".join(parts)


def _machines(contents: Sequence[Mapping[str, Any]]) -> str:
    programs: dict[str, list[str]] = {}
    for content in contents:
        programs.setdefault(machine_line(content), []).append(content["program"])
    lines = [f"{', '.join(names)}: {line}." for line, names in programs.items()]
    return "\n".join(f"- {line}\n" if len(lines) > 1 else f"{line[0].upper()}{line[1:]}\n" for line in lines)


def replace_between(text: str, name: str, content: str) -> str:
    """The text with `content` between `<!-- NAME -->` and `<!-- end of NAME -->`, where it has these."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.S)
    return pattern.sub(lambda _: f"{marks[0]}\n{content}\n{marks[1]}", text)
