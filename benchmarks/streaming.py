"""Speech on a stream, by a trained run of digits_streaming: real-time factor, latency of words, text and WER.

The test utterances are pushed 20 ms at a time into `LiveText`, as `predict --stream` does, on one core. The
latency of a word is the time from its true end to when it was printed: its text for the last time that it
changed (no token is taken back), and its line as final. Time of computing is in it, as the core counts it,
whatever else it does. Words count where an utterance is right.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from lightning_audio import build
from lightning_audio.checkpoint import load
from lightning_audio.inference.live import LiveText
from lightning_audio.metrics.transcripts import Transcripts, wer
from lightning_audio.reports.tables import markdown_table
from lightning_audio.training import saved_config

PIECE = 0.02  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="its folder [the newest of digits_streaming]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the utterances")
    options, _ = parser.parse_known_args()
    logs = Path(os.environ.get("LIGHTNING_AUDIO_LOGS", "logs")) / "digits_streaming"
    runs = [options.run] if options.run else sorted(path.parent for path in logs.glob("*/metrics.json"))
    if not runs:
        print(f"Left out: there is no run in {logs} (make train EXP=digits_streaming).")
        return
    torch.set_num_threads(1)
    task = load(runs[-1])
    data = build.prepared(saved_config.saved_config(runs[-1], []), task.description["facts"])
    clips, truth = data.splits["test"], data.corpus.boundaries()  # type: ignore[attr-defined]
    text = LiveText(task)  # type: ignore[arg-type]
    rows, to_text, to_final, computed, heard, same = [], [], [], 0.0, 0, 0
    for place in range(0, len(clips), 10 if options.quick else 1):
        samples = clips.store.gather([int(clips.rows[place])])[0][0].numpy()
        words, took = streamed(text, samples, round(PIECE * task.sample_rate))
        computed, heard = computed + took, heard + len(samples)
        said, reference = " ".join(word.text for word in words), task.name_target(clips.encoded[place])
        rows.append({"reference": reference, "hypothesis": said})
        whole = task.decoder(task.frame_outputs([samples])[0])[0].text  # type: ignore[operator]
        same += said.split() == whole.split()
        if said == reference:
            ends = [end for _, _, end in truth[clips.clips[place].id]]
            to_text += [word.shown - end for word, end in zip(words, ends, strict=True)]
            to_final += [word.told - end for word, end in zip(words, ends, strict=True)]
    table = {
        "WER": f"{100 * wer.value(Transcripts(rows)):.1f} %",
        "same text as the whole": f"{same} of {len(rows)}",
        "real-time factor": f"{computed * task.sample_rate / heard:.3f}",
        "seconds to its text": spread(to_text),
        "seconds to its final line": spread(to_final),
    }
    print(markdown_table([{"": name, runs[-1].name: value} for name, value in table.items()]))


@dataclass
class Word:
    """Its text as it is in the end, and at how many seconds that was shown, and told as final."""

    text: str
    shown: float
    told: float = 0.0


def streamed(text: LiveText, samples: np.ndarray, size: int) -> tuple[list[Word], float]:
    """The words of a recording that comes in pieces of this size, and the seconds of computing."""
    words: list[Word] = []
    computed, is_open, before = 0.0, False, ""
    for start in range(0, len(samples) + 1, size):
        begun = time.process_time()
        news = text.push(samples[start : start + size])
        if start + size > len(samples):
            news += text.finish()
        took = time.process_time() - begun
        computed += took
        for one in news:
            if not is_open:
                before = words[-1].text if one.joins else ""  # a pause had ended it too early
                words += [] if one.joins else [Word("", 0.0)]
            if words[-1].text != before + one.word.text:
                words[-1].text, words[-1].shown = before + one.word.text, one.heard + took
            words[-1].told, is_open = one.heard + took, not one.final
    return words, computed


def spread(values: list[float]) -> str:
    """The median, and what 9 of 10 are below."""
    ranked = sorted(values)
    return f"{median(ranked):.2f} (90 %: {ranked[9 * len(ranked) // 10]:.2f})" if ranked else "-"


if __name__ == "__main__":
    main()
