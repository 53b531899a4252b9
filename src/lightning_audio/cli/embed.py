"""Writes one vector for each audio file: by a pretrained encoder, or by a network that was trained.

lightning-audio embed yamnet recordings/ --output embeddings.npz
lightning-audio embed logs/demo/2026-01-31_12-00-00_a1b2 "*.wav" --similar 3 --plot plane.png
lightning-audio embed path/of/wav2vec2 recordings/ --output embeddings.parquet
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.cli import arguments
from lightning_audio.cli.predict import Recordings, device_of
from lightning_audio.config import CONF, compose_config
from lightning_audio.data.decode import audio_files
from lightning_audio.errors import UserError, cli_errors, encodable, printable
from lightning_audio.frontend.frozen import Frozen
from lightning_audio.inference.embeddings import (
    Embed,
    embeddings,
    in_a_plane,
    nearest,
    of_front_end,
    of_task,
    stacked,
)
from lightning_audio.inference.formats import refuse_output
from lightning_audio.io import write_atomically
from lightning_audio.reports.plots import plane_figure, write_png

FORMATS = (".npz", ".parquet")


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes, compares or draws the embeddings of audio files."""
    options = arguments.embed(argv)
    if not (options.output or options.plot or options.similar is not None):
        raise UserError("Nothing is asked of the embeddings: give --output, --similar or --plot.")
    if options.similar is not None and options.similar < 1:
        raise UserError(f"--similar {options.similar} counts files: set it to 1 or more.")
    if options.output and options.output.suffix not in FORMATS:
        raise UserError(f"{options.output} is of no format for embeddings: end it in {' or '.join(FORMATS)}.")
    files = audio_files(options.audio)
    refuse_output(options.output, files)
    refuse_output(options.plot, files)
    embed, rate, device = embedder(options.encoder, options.device, options.allow)
    recordings = Recordings(files, rate, options.channel)
    names, seconds, vectors = stacked(embeddings(embed, recordings, rate, device))
    if options.output:
        write_embeddings(options.output, names, seconds, vectors)
    if options.similar:
        for name, others in zip(names, nearest(vectors, options.similar), strict=True):
            alike = "  ".join(f"{names[other]} {cosine:.3f}" for other, cosine in others)
            print(printable(f"{name}: {alike}"))
    if options.plot:
        groups = [Path(name).parent.name for name in names]
        write_png(plane_figure(in_a_plane(vectors, options.projection), groups), options.plot)
    recordings.refuse_unanswered()


def embedder(encoder: str, device: str, allow: Sequence[str]) -> tuple[Embed, int, torch.device]:
    """What makes a vector of waveforms, their rate, and where it runs.

    Raises:
        UserError: there is no such run or encoder.
    """
    place, where = Path(encoder).expanduser(), device_of(device)
    overrides = []
    if place.suffix == ".onnx":
        overrides = ["encoder=onnx", f"encoder.file={encoder}"]
    elif (place / "config.json").is_file():
        overrides = ["encoder=huggingface", f"encoder.weights={encoder}"]
    elif not place.exists() and (CONF / "encoder" / f"{encoder}.yaml").is_file():
        overrides = [f"encoder={encoder}"]
    if overrides:
        built = build.instantiate(compose_config(overrides).encoder, "encoder")
        frozen = Frozen(built.sample_rate, built).to(where)
        return of_front_end(frozen), built.sample_rate, where
    task = load(encoder, where, allow)
    return of_task(task), task.sample_rate, where


def write_embeddings(file: Path, names: list[str], seconds: list[float], vectors: np.ndarray) -> None:
    """`id`, `seconds` and `embedding` of each recording, as arrays or as columns."""
    content = io.BytesIO()
    if file.suffix == ".npz":
        np.savez(content, id=np.array(names), seconds=np.array(seconds), embedding=vectors)
    else:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(
                f"{file} needs a package that is not installed: run pip install pyarrow, or end it in .npz."
            ) from error
        listed = list(vectors.astype(np.float32))
        columns = {"id": [*map(encodable, names)], "seconds": seconds, "embedding": listed}
        parquet.write_table(pa.table(columns), content)
    write_atomically(file, content.getvalue())


if __name__ == "__main__":
    main()
