"""Real-time factors on one core of runs of speech recognition: their networks, greedy decoders and beams.

    python benchmarks/recognisers.py RUN [RUN ...] [--beam 8] [--quick]

Of the test utterances of each, by CPU seconds. The network hears them one by one, front end and all; decoders
get them one by one, or 16 at once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.reports.tables import markdown_table
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.training import saved_config

TOGETHER = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="their folders")
    parser.add_argument("--beam", type=int, default=8, help="hypotheses that a beam keeps [8]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the utterances")
    options, _ = parser.parse_known_args()
    if not options.runs:
        print("Left out: name runs of speech recognition.")
        return
    torch.set_num_threads(1)
    print(markdown_table([measured(run, options.beam, options.quick) for run in options.runs]))


def measured(run: Path, beam: int, quick: bool) -> dict[str, str]:
    task = cast(Transcription, load(run))
    cfg = saved_config.saved_config(run, [])
    clips = build.prepared(cfg, task.description["facts"]).splits["test"]
    waveforms, lengths = clips.store.gather(clips.rows[:: 10 if quick else 1])
    samples = [row[:n].numpy() for row, n in zip(waveforms, lengths.tolist(), strict=True)]
    seconds = sum(map(len, samples)) / task.sample_rate
    took, utterances = timed(lambda: [task.frame_outputs([one])[0] for one in samples])
    groups = [utterances[i : i + TOGETHER] for i in range(0, len(utterances), TOGETHER)]
    found = {"network": took}
    for name, decoder in {"greedy": task.greedy, f"beam {beam}": task.beam(beam=beam)}.items():
        found[name], _ = timed(partial(list, map(decoder, utterances)))
        found[f"{name}, {TOGETHER} at once"], _ = timed(partial(list, map(decoder.many, groups)))
    row = {name: f"{took / seconds:.4f}" for name, took in found.items()}
    return {"": str(cfg.name), "parameters": f"{sum(p.numel() for p in task.parameters()):,}"} | row


def timed(work: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """CPU seconds, and what was made."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


if __name__ == "__main__":
    main()
