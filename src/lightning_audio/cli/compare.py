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
from lightning_audio.reports.results import RunResult, read_run
from lightning_audio.training.saved_config import CONFIG_FILE, saved_config


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = arguments.compare(argv)
    run, other = read_run(options.run), read_run(options.other)
    print_comparison(compare_runs(run, other, metrics_of_run(run, options.allow)))


def metrics_of_run(run: RunResult, allow: Sequence[str]) -> list[Metric]:
    """What the configuration of a run scores by; nothing, told, where that can't be built."""
    if not (run.folder / CONFIG_FILE).is_file():  # of what evaluate wrote
        return []
    try:
        return build.metrics(saved_config(run.folder, allow))
    except UserError as error:
        print(f"warning: compared without metrics of one's own: {error}", file=sys.stderr)
        return []


if __name__ == "__main__":
    main()
