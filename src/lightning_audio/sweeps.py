"""The one table at the end of a Hydra multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lightning_audio.reports import print_sweep_report, summarise_sweep, write_sweep_report

# Of the last multirun in this process: Hydra returns nothing of it.
last_folder: Path | None = None
failed: list[str] = []


def run_folders(folder: Path) -> list[Path]:
    """The folders of the runs of a multirun."""
    return sorted(file.parents[1] for file in folder.glob("*/.hydra/overrides.yaml"))


class SweepTable(Callback):
    """Written and printed by Hydra when the last run has ended; `conf/train.yaml` names it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        global last_folder
        last_folder = Path(config.hydra.sweep.dir)
        summary = summarise_sweep(run_folders(last_folder))
        write_sweep_report(last_folder, summary)
        failed[:] = [row["folder"] for row in summary.rows if row["error"] is not None]
        print_sweep_report(summary)
