"""Whether one run is better than another, by their answers to the same clips.

lightning-audio compare logs/prompts_bilstm/RUN logs/prompts_bilstm/OTHER
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_audio.cli import arguments
from lightning_audio.errors import cli_errors
from lightning_audio.reports.comparison import compare_runs, print_comparison
from lightning_audio.reports.results import read_run


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = arguments.compare(argv)
    print_comparison(compare_runs(read_run(options.run), read_run(options.other)))


if __name__ == "__main__":
    main()
