"""`lightning-audio PROGRAM ...` is `python -m lightning_audio.PROGRAM ...`."""

from __future__ import annotations

import importlib
import sys
import textwrap
from pathlib import Path

PROGRAMS = {
    "train": "trains, tests and reports a run, or a multirun (-m)",
    "evaluate": "scores a run again",
    "predict": "says what a run hears in audio files",
    "folds": "cross-validation over the folds of a corpus",
    "find-lr": "looks for a learning rate",
    "compare": "asks whether one run is better than another",
    "align": "says when each word of a known text is spoken",
    "ngram": "makes an n-gram language model from text",
    "doctor": "asks whether a speech experiment can learn at all",
    "check": "looks at every clip of a corpus before training",
}


OVERRIDDEN = ("train", "folds", "find-lr", "doctor")  # what they take are Hydra's overrides


def usage_of(name: str) -> str:
    """The groups and choices that a program takes, by the names of files: Hydra takes a second to import."""
    package = Path(__file__).resolve().parent
    conf = next(
        (place for place in (package.parents[1] / "conf", package / "conf") if place.is_dir()), package
    )
    groups = sorted(folder for folder in conf.glob("*/") if any(folder.glob("*.yaml")))
    lines = [
        textwrap.fill(
            " ".join(sorted(path.stem for path in group.glob("*.yaml"))),
            width=100,
            initial_indent=f"  {group.name:<11}",
            subsequent_indent=" " * 13,
        )
        for group in groups
    ]
    return "\n".join(
        [
            f"usage: lightning-audio {name} [GROUP=CHOICE ...] [OPTION=VALUE ...]",
            f"{PROGRAMS[name]}\n",
            *lines,
            "\nAll options and their values: lightning-audio train --cfg job",
        ]
    )


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in PROGRAMS:
        lines = [f"  {program:<10}{what}" for program, what in PROGRAMS.items()]
        print("usage: lightning-audio PROGRAM ...\n" + "\n".join(lines))
        sys.exit(0 if name in ("-h", "--help") else 2)
    if name in OVERRIDDEN and {"-h", "--help"} & set(sys.argv[2:]):
        print(usage_of(name))
        sys.exit(0)
    module = importlib.import_module(f"lightning_audio.{name.replace('-', '_')}")
    # Processes that Lightning starts for other devices run this file again with the same arguments.
    sys.argv = [str(module.__file__), *sys.argv[2:]]
    module.main()


if __name__ == "__main__":
    main()
