"""One command for whoever has the corpus: fetches it, checks it, trains, compares, and writes a row.

`make reproduce EXP=esc50_resnet`, with more options in ARGS. The release is taken where it is, or fetched and
compared with its SHA-256; the experiment runs as its header says, over its folds or once; the scores are put
beside those that were published (anchors.json) and those that are kept (scores/), and kept themselves.

With --made the release is made up, of the true size and layout: that shows the way, its time and its memory,
and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_releases
import tables

from lightning_audio import build, config
from lightning_audio.cli.folds import cross_validate
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.results import score_text

ANCHORS = Path(__file__).with_name("anchors.json")


class Stages:
    """Prints what each stage took, and the peak of memory up to its end."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def end(self, what: str) -> None:
        now, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        megabytes = peak / (1024 if tables.record.platform.system() == "Linux" else 1024**2)
        print(f"-- {what}: {now - self.last:.1f} s, peak memory {megabytes:.0f} MB", flush=True)
        self.last = now


def runs_folds(experiment: str) -> bool:
    """Whether the header of an experiment says that it is run over folds."""
    text = (tables.ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    return f"make folds EXP={experiment}" in text


def compared(entry: dict[str, Any], known: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """A sentence for each published anchor, and one for what is kept of the same command."""
    lines = []
    for anchor in json.loads(ANCHORS.read_text(encoding="utf-8")):
        if anchor["experiment"] == entry["experiment"] and anchor["score"] in entry["scores"]:
            score = Score(**entry["scores"][anchor["score"]])
            published = anchor["value"]
            where = "below" if score.high < published else "above" if score.low > published else "as"
            text = f"{anchor['score']} {score_text(anchor['score'], score)}"
            lines.append(f"{text} is {where} {100 * published:.1f}: {anchor['of']}")
    for runs in known:
        if runs[0]["command"] == entry["command"]:
            names = [name for name in (*tables.SCORED, *tables.TRANSCRIBED) if name in runs[0]["scores"]]
            lines += [f"kept so far: {name} {tables.cell(runs, name)}" for name in names]
    return lines or ["Nothing is published or kept that this could be compared with."]


def reproduce(experiment: str, overrides: Sequence[str], made: bool, folder: Path) -> None:
    """All stages, each with its time and memory.

    Raises:
        UserError: there is no such experiment, release or made release, or a stage ended in one.
    """
    stages, command = Stages(), [f"experiment={experiment}", *overrides]
    cfg = config.compose_config(command)
    corpus = build.corpus(cfg)
    if made:
        kind = type(corpus).__name__
        if kind not in made_releases.RELEASES:
            raise UserError(f"There is no made release of {kind}: leave out --made.")
        count = made_releases.RELEASES[kind](folder / kind)
        stages.end(f"{count} clips made in the layout of {kind}")
        places = {"data.root": kind, "paths.cache": "cache", "paths.logs": "logs"}
        command += [f"{option}={folder / name}" for option, name in places.items()]
    elif "download" in cfg.data and not any(line.startswith("data.download=") for line in overrides):
        command.append("data.download=true")
    corpus = build.corpus(config.compose_config(command))
    corpus.prepare()
    stages.end("the release found, or fetched and its SHA-256 checked")
    clips = corpus.clips()
    stages.end(f"{len(clips)} clips listed")
    result = cross_validate(command) if runs_folds(experiment) else launch(command)
    assert result is not None
    stages.end("stored, trained and tested")
    entry = tables.entry_of(result)
    print("\n".join(compared(entry, tables.kept())))
    if made:
        print(tables.written([[entry]]))
        return
    tables.keep([entry])
    tables.write_tables()


@cli_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("experiment", help="one of conf/experiment")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in train")
    parser.add_argument(
        "--made", action="store_true", help="on a made release of the true size; keeps nothing"
    )
    given = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        reproduce(given.experiment, given.overrides, given.made, Path(folder))


if __name__ == "__main__":
    main()
