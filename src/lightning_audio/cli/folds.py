"""Cross-validation as the corpus prescribes it: one run for every fold, then one result.

lightning-audio folds experiment=esc10_cnn2d
lightning-audio folds experiment=esc10_cnn2d resume=latest
lightning-audio folds experiment=esc10_cnn2d data.validation_fold=next optimizer.lr=1e-3,2e-3   (nested)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_audio import build, config
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError, cli_errors, outlive_terminal
from lightning_audio.reports import sweep
from lightning_audio.reports.cross_validation import (
    best_of_each_fold,
    print_fold_report,
    summarise_folds,
    write_fold_report,
)
from lightning_audio.reports.html.several import write_folds
from lightning_audio.reports.results import read_run


def cross_validate(arguments: Sequence[str]) -> Path | None:
    """Runs all folds of the corpus as a multirun, then writes and prints folds.md and folds.json.

    Where options vary as well, each fold is tested with the run that is best on its validation fold.
    Returns their folder.

    Raises:
        UserError: the corpus has no folds, a run failed, or other options vary without a validation fold.
    """
    cfg = config.compose_config(arguments)
    folds = build.corpus_as_read(cfg).folds
    if not folds:
        raise UserError(
            f"{cfg.data._target_} has no folds: use `train`, a corpus that has them, or data.num_folds=5 of "
            "your own recordings."
        )
    nested = config.is_sweep(arguments)
    if nested and cfg.data.get("validation_fold") is None:
        raise UserError(
            "Folds are what varies here: give every other option one value, use `train -m`, or choose among "
            "the values for each fold by data.validation_fold=next."
        )
    folder = launch(["-m", *arguments, f"data.fold={','.join(map(str, folds))}"])
    if folder is None:  # something was shown instead
        return None
    runs = best_of_each_fold([read_run(one) for one in sweep.run_folders(folder)])
    summary = summarise_folds(runs, build.metrics(cfg))
    write_fold_report(folder, summary)
    print_fold_report(summary)
    for run in summary.runs if nested else ():
        told = " ".join(f"{key}={value}" for key, value in run.overrides.items() if key != "data.fold")
        print(f"Fold {run.data['fold']}, chosen on its validation fold: {told}")
    if cfg.report:
        print(f"Report: {write_folds(folder, summary)}")
    print(f"Folder: {folder}")
    return folder


@cli_errors
def main() -> None:
    outlive_terminal()
    cross_validate(sys.argv[1:])


if __name__ == "__main__":
    main()
