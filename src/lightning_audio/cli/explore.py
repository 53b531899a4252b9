"""Writes a page of a corpus to hear and see before training, with what `check` finds on top.

lightning-audio explore experiment=esc10_cnn2d
lightning-audio explore data=audio_folder data.root=recordings --output recordings.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_audio import config
from lightning_audio.cli import arguments
from lightning_audio.cli.check import check
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.inference.formats import refuse_output
from lightning_audio.reports.html.corpus import write_corpus_page


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page of a corpus and says where it is."""
    options = arguments.explore(argv)
    cfg = config.compose_config(options.overrides)
    if config.is_sweep(options.overrides):
        raise UserError("One corpus is looked at at a time: give every option one value.")
    refuse_output(options.output)
    report = check(cfg)
    page = options.output or Path(cfg.paths.logs) / f"explore_{report['corpus']}.html"
    print(f"Page: {write_corpus_page(page, report, options.clips, options.megabytes, cfg.seed)}")


if __name__ == "__main__":
    main()
