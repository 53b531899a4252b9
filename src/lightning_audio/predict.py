"""Says what a trained run hears in files, folders or globs.

python -m lightning_audio.predict logs/demo/2026-01-31_12-00-00_a1b2 recordings/ "more/*.mp3" --format csv
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_audio.checkpoint import load
from lightning_audio.data.decode import audio_files
from lightning_audio.errors import UserError, ends_in_one_sentence
from lightning_audio.results import write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.prediction import Prediction, window_and_hop


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("lightning-audio predict", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="run folder or checkpoint")
    parser.add_argument("audio", nargs="+", help="files, folders or globs; WAV, FLAC, Ogg, MP3")
    parser.add_argument("--format", choices=["table", "csv", "jsonl"], default="table")
    parser.add_argument("--output", type=Path, help="write to this file instead of the terminal")
    parser.add_argument(
        "--window", type=float, help="seconds of a look at longer files [length of a training clip]"
    )
    parser.add_argument("--hop", type=float, help="seconds from one window to the next [half a window]")
    parser.add_argument("--top", type=int, default=3, help="labels to name for a file [3]")
    parser.add_argument("--windows", action="store_true", help="a row for every window of longer files, too")
    parser.add_argument("--batch-size", type=int, default=16, help="windows that run together [16]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps [cpu]")
    parser.add_argument(
        "--allow", nargs="*", default=[], help="packages of your own that the checkpoint may build"
    )
    return parser.parse_args(argv)


def predictions(task: AudioTask, files: Sequence[Path], options: argparse.Namespace) -> Iterator[Prediction]:
    """An answer for every file that can be read; the others are named on standard error."""
    for file in files:
        try:
            yield from task.predict(file, None, options.window, options.hop, options.batch_size)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)


def rows_of(found: Sequence[Prediction], top: int, windows: bool) -> list[dict[str, str]]:
    """Rows of text: file, from, to, label, score, and the next best labels."""
    rows = []
    for answer in found:
        best = sorted(answer.scores.items(), key=lambda item: -item[1])[1:top]
        others = ", ".join(f"{label} {score:.2f}" for label, score in best)
        looks = [(0.0, answer.seconds, answer.hypothesis, answer.score, others)]
        looks += [(*window, "") for window in answer.windows if windows]
        rows += [
            {
                "file": answer.id,
                "from": f"{start:.2f}",
                "to": f"{end:.2f}",
                "label": label,
                "score": f"{score:.4f}",
                "next": following,
            }
            for start, end, label, score, following in looks
        ]
    return rows


def as_text(found: Sequence[Prediction], options: argparse.Namespace) -> str:
    """All answers in the format that was asked for."""
    if options.format == "jsonl":
        return "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in found)
    rows = rows_of(found, options.top, options.windows)
    content = io.StringIO()
    if options.format == "csv":
        writer = csv.DictWriter(
            content, ["file", "from", "to", "label", "score", "next"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        return content.getvalue()
    table = Table(*(rows[0] if rows else ["file"]))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    to_terminal = sys.stdout.isatty() and options.output is None
    Console(file=content, width=None if to_terminal else 200, force_terminal=to_terminal).print(table)
    return content.getvalue()


@ends_in_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    if options.batch_size < 1 or options.top < 1:
        raise UserError("--batch-size and --top count something: set them to 1 or more.")
    files = audio_files(options.audio)
    task = load(options.run, device_of(options.device), options.allow)
    window_and_hop(task, options.window, options.hop)  # refused once, not for every file
    found = list(predictions(task, files, options))
    text = as_text(found, options)
    if options.output:
        write_atomically(options.output, text)
    else:
        print(text, end="")
    if len(found) < len(files):
        raise UserError(
            f"{len(files) - len(found)} of {len(files)} files could not be read: they are named above."
        )


def device_of(name: str) -> torch.device:
    """Raises UserError for a device that torch does not know or that is not there."""
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"There is no device {name!r} here: use --device cpu.") from error


if __name__ == "__main__":
    main()
