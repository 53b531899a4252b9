"""Cross-validation as the corpus prescribes it: one run for every fold, then one result.

lightning-audio folds experiment=esc10_cnn2d
lightning-audio folds experiment=esc10_cnn2d resume=latest
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_audio import build, config
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.reports import sweep
from lightning_audio.reports.cross_validation import print_fold_report, summarise_folds, write_fold_report
from lightning_audio.reports.results import read_run
from lightning_audio.training.resume import without_force


def cross_validate(overrides: list[str]) -> None:
    """Runs all folds of the corpus as a multirun, then writes and prints folds.md and folds.json.

    Raises:
        UserError: the corpus has no folds, a run failed, or other options vary as well.
    """
    cfg = config.compose_config(without_force(overrides)[0])
    folds = build.corpus(cfg).folds
    if not folds:
        raise UserError(
            f"{cfg.data._target_} has no folds: use `train`, a corpus that has them, or data.num_folds=5 of "
            "your own recordings."
        )
    if config.is_sweep(without_force(overrides)[0]):
        raise UserError("Folds are what varies here: give every other option one value, or use `train -m`.")
    launch(["-m", *overrides, f"data.fold={','.join(map(str, folds))}"])
    assert sweep.last_folder is not None, "Hydra ends a multirun with its callback"
    runs = [read_run(folder) for folder in sweep.run_folders(sweep.last_folder)]
    summary = summarise_folds(runs, build.metrics(cfg))
    write_fold_report(sweep.last_folder, summary)
    print_fold_report(summary)
    print(f"Folder: {Path(sweep.last_folder)}")


@cli_errors
def main() -> None:
    cross_validate(sys.argv[1:])


if __name__ == "__main__":
    main()
