"""Writes a page of a corpus to hear and see before training, with what `check` finds on top.

lightning-audio explore experiment=esc10_cnn2d
lightning-audio explore data=audio_folder data.root=recordings --output recordings.html
lightning-audio explore data=audio_folder data.root=recordings --encoder yamnet   (near-duplicates by it)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_audio import config
from lightning_audio.cli import arguments
from lightning_audio.cli.check import check
from lightning_audio.data.decode import resample
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.inference.formats import refuse_output
from lightning_audio.reports.html.corpus import Embed, write_corpus_page


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page of a corpus and says where it is."""
    options = arguments.explore(argv)
    cfg = config.compose_config(options.overrides)
    if config.is_sweep(options.overrides):
        raise UserError("One corpus is looked at at a time: give every option one value.")
    refuse_output(options.output)
    embed = embedder_of(options.encoder) if options.encoder else None  # refused before all is listened to
    report = check(cfg)
    page = options.output or Path(cfg.paths.logs) / f"explore_{report['corpus']}.html"
    written = write_corpus_page(page, report, options.clips, options.megabytes, cfg.seed, embed)
    print(f"Page: {written}")


def embedder_of(encoder: str) -> Embed:
    """What near-duplicates are found by: an encoder as `embed` takes it."""
    from lightning_audio.cli.embed import embedder
    from lightning_audio.inference.embeddings import embeddings

    embed, rate, device = embedder(encoder, "cpu", ())

    def vector(samples: np.ndarray, source_rate: int) -> np.ndarray:
        ((_, _, found),) = embeddings(embed, [("", resample(samples, source_rate, rate))], rate, device)
        return found

    return vector


if __name__ == "__main__":
    main()
