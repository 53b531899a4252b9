"""Writes report.html anew: of a run, of folds or a sweep, or of two runs side by side.

lightning-audio report logs/demo/2026-01-31_12-00-00_a1b2
lightning-audio report RUN --target 0.95 --clips 100 --explain 20
lightning-audio report RUN --explain 5-195710-A-10      (what the answer to one clip hangs on)
lightning-audio report RUN OTHER        (which clips flip)
lightning-audio report SWEEP_FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import arguments
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.html.clips import sounds_of
from lightning_audio.reports.html.occlusion import Explained, explainer
from lightning_audio.reports.html.run import write_run_report
from lightning_audio.reports.html.several import write_comparison, write_folds, write_sweep
from lightning_audio.reports.results import changed_results, predictions_file, read_metrics, write_metrics
from lightning_audio.reports.sweep import STUDY
from lightning_audio.training import saved_config
from lightning_audio.training.run import quiet
from lightning_audio.training.scoring import score_split
from lightning_audio.training.trainer import build_trainer

TRAIN_CLIPS = 1000
COST = (
    "--test shows clips of the test split: whoever chooses anything by them has no test left, and its score "
    "is one of a dev split from then on."
)


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page and says where it is."""
    options = arguments.report(argv)
    quiet()
    if options.test:
        print(COST)
    several = any((options.runs[0] / name).is_file() for name in (saved_config.MULTIRUN_FILE, STUDY))
    if len(options.runs) > 2 or (several and len(options.runs) > 1):
        raise UserError("Give one run, the folder of folds or of a sweep, or two runs to hold side by side.")
    if several:
        folder = options.runs[0]
        page = write_folds(folder) if (folder / "folds.json").is_file() else write_sweep(folder)
    elif len(options.runs) == 2:
        run, other = options.runs
        data = data_of(run, options.allow)
        sound = sounds_of(data) if data else None
        page = write_comparison(run, other, sound, options.clips, options.megabytes, options.test)
    else:
        page = report(options.runs[0], options)
    print(f"Report: {page}")


def report(run: Path, options: argparse.Namespace) -> Path:
    """The page of one run; scores of training and validation clips that it does not have yet are added."""
    if problem := changed_results(run):
        raise UserError(problem)
    data = data_of(run, options.allow)
    if data:
        _add_missing_splits(run, data, options.allow)
    sound = sounds_of(data) if data else None
    counts = [int(word) for word in options.explain if word.isdecimal()]
    chosen = [word for word in options.explain if not word.isdecimal()]
    explain = explainer(load(run, allow=options.allow)) if options.explain else None
    return write_run_report(
        run,
        sound,
        options.clips,
        options.megabytes,
        options.target,
        options.test,
        Explained(explain, max(counts, default=len(chosen)), chosen),
    )


def data_of(run: Path, allow: Sequence[str], without: str = "a page without sound") -> AudioDataModule | None:
    """The data of a run; None, and told what follows, where they are not to be had any more."""
    try:
        cfg = saved_config.saved_config(run, allow)
        return build.prepared(cfg, load(run, allow=allow).description["facts"])
    except UserError as error:
        print(f"warning: {without}: {error}")
        return None


def _add_missing_splits(run: Path, data: AudioDataModule, allow: Sequence[str]) -> None:
    """Scores training clips and validation where the run lacks their predictions."""
    wanted = ["train", *(["val"] if data.has_validation else [])]
    missing = [split for split in wanted if not (run / predictions_file(split)).is_file()]
    if not missing:
        return
    cfg, task = saved_config.saved_config(run, allow), load(run, allow=allow)
    task.check(data)
    trainer, known = build_trainer(cfg, run, data, task), read_metrics(run)["scores"]
    found: dict[str, Score] = {}
    for split in missing:
        found |= score_split(trainer, task, data, split, run, TRAIN_CLIPS if split == "train" else None)
    write_metrics(run, {name: score for name, score in found.items() if name not in known})


if __name__ == "__main__":
    main()
