"""What there is on the command line: the programs, and the groups of those that take overrides."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from lightning_audio.cli.arguments import OVERRIDDEN, PROGRAMS
from lightning_audio.errors import UserError, did_you_mean


def usage(name: str) -> None:
    """Prints what a program that takes overrides takes, or else the programs.

    Raises:
        UserError: there is no program of this name, and it is no flag that asks for help.
    """
    if name in OVERRIDDEN:
        print(usage_of(name))
        return
    asked = name in ("-h", "--help")
    lines = ["usage: lightning-audio PROGRAM ...", *(f"  {one:<14}{what}" for one, what in PROGRAMS.items())]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    if not asked:
        raise UserError(f"There is no program {name!r}{did_you_mean(name, PROGRAMS)}.")


def usage_of(name: str) -> str:
    """The groups and choices of a program that takes overrides, by the names of files."""
    package = Path(__file__).resolve().parents[1]
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
