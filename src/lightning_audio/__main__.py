"""`lightning-audio PROGRAM ...` is `python -m lightning_audio.PROGRAM ...`."""

from __future__ import annotations

import importlib
import sys

PROGRAMS = {
    "train": "trains, tests and reports a run, or a multirun (-m)",
    "evaluate": "scores a run again",
    "predict": "says what a run hears in audio files",
    "folds": "cross-validation over the folds of a corpus",
    "find-lr": "looks for a learning rate",
    "compare": "asks whether one run is better than another",
    "align": "says when each word of a known text is spoken",
    "ngram": "makes an n-gram language model from text",
    "doctor": "asks whether a speech experiment can learn at all",
    "check": "looks at every clip of a corpus before training",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in PROGRAMS:
        lines = [f"  {program:<10}{what}" for program, what in PROGRAMS.items()]
        print("usage: lightning-audio PROGRAM ...\n" + "\n".join(lines))
        sys.exit(0 if name in ("-h", "--help") else 2)
    module = importlib.import_module(f"lightning_audio.{name.replace('-', '_')}")
    # Processes that Lightning starts for other devices run this file again with the same arguments.
    sys.argv = [str(module.__file__), *sys.argv[2:]]
    module.main()


if __name__ == "__main__":
    main()
