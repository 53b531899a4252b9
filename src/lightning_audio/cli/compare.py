"""Whether one run is better than another, by their answers to the same clips.

lightning-audio compare logs/prompts_bilstm/RUN logs/prompts_bilstm/OTHER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning_audio import build
from lightning_audio.cli import arguments
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.metrics.base import Metric
from lightning_audio.reports.comparison import compare_runs, print_comparison
from lightning_audio.reports.results import read_run
from lightning_audio.training.saved_config import CONFIG_FILE, saved_config


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = arguments.compare(argv)
    run, other = read_run(options.run), read_run(options.other)
    metrics: list[Metric] = []
    try:
        if (run.folder / CONFIG_FILE).is_file():  # there is none in what evaluate wrote
            metrics = build.metrics(saved_config(run.folder, options.allow))
    except UserError as error:
        print(f"warning: compared without metrics of one's own: {error}", file=sys.stderr)
    print_comparison(compare_runs(run, other, metrics))


if __name__ == "__main__":
    main()
