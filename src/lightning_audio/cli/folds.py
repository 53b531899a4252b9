"""Cross-validation as the corpus prescribes it: one run for every fold, then one result.

lightning-audio folds experiment=esc10_cnn2d
lightning-audio folds experiment=esc10_cnn2d resume=latest
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_audio import build, config
from lightning_audio.cli.train import launch
from lightning_audio.errors import UserError, cli_errors, outlive_terminal
from lightning_audio.reports import sweep
from lightning_audio.reports.cross_validation import print_fold_report, summarise_folds, write_fold_report
from lightning_audio.reports.html.several import write_folds
from lightning_audio.reports.results import read_run


def cross_validate(arguments: Sequence[str]) -> None:
    """Runs all folds of the corpus as a multirun, then writes and prints folds.md and folds.json.

    Raises:
        UserError: the corpus has no folds, a run failed, or other options vary as well.
    """
    cfg = config.compose_config(arguments)
    folds = build.corpus(cfg).folds
    if not folds:
        raise UserError(
            f"{cfg.data._target_} has no folds: use `train`, a corpus that has them, or data.num_folds=5 of "
            "your own recordings."
        )
    if config.is_sweep(arguments):
        raise UserError("Folds are what varies here: give every other option one value, or use `train -m`.")
    folder = launch(["-m", *arguments, f"data.fold={','.join(map(str, folds))}"])
    if folder is None:  # something was shown instead
        return
    summary = summarise_folds([read_run(one) for one in sweep.run_folders(folder)], build.metrics(cfg))
    write_fold_report(folder, summary)
    print_fold_report(summary)
    if cfg.report:
        print(f"Report: {write_folds(folder, summary)}")
    print(f"Folder: {folder}")


@cli_errors
def main() -> None:
    outlive_terminal()
    cross_validate(sys.argv[1:])


if __name__ == "__main__":
    main()
