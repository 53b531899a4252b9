"""Options that several programs take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those options that were set."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps [cpu]")
    add_allow(parser)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that a run may build, which somebody sent; may be given several times",
    )


def add_times(parser: argparse.ArgumentParser) -> None:
    """The options of what happens when."""
    both = parser.add_argument_group("events and streams")
    both.add_argument("--on", type=float, help="a label goes on with this score [0.5]")
    both.add_argument("--off", type=float, help="and off below this one [0.3]")
    both.add_argument(
        "--ignore", action="append", metavar="LABEL", help="no event, as _silence_; several times"
    )
    events = parser.add_argument_group("events")
    events.add_argument("--events", action="store_true", help="what sounds from when to when, in long files")
    events.add_argument("--min-seconds", type=float, help="drop shorter events [0]")
    events.add_argument("--max-gap", type=float, help="close gaps up to so many seconds [0]")
    stream = parser.add_argument_group("streams", "a run that detects words has defaults of its own")
    stream.add_argument(
        "--stream",
        action="store_true",
        help="detect in raw audio (signed 16-bit little-endian, one channel) of one file, or of - or none: "
        "standard input",
    )
    stream.add_argument("--rate", type=int, help="of the raw audio in Hz [that of the run]")
    stream.add_argument("--smooth", type=int, help="rows of scores to average [1]")
    stream.add_argument("--min-gap", type=float, help="seconds until a label counts again [1]")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Options of runs that transcribe; without any the best path is taken."""
    group = parser.add_argument_group("transcripts", "without any of these: the best output of each frame")
    group.add_argument("--beam", type=int, help="beam search with so many prefixes [16 where another is set]")
    group.add_argument("--nbest", type=int, help="how many hypotheses to keep of each utterance [1]")
    group.add_argument(
        "--lm",
        type=Path,
        help="language model: an ARPA file of `lightning-audio ngram`, or a run of task=language_model; "
        "{fold} is the fold",
    )
    group.add_argument(
        "--rescore", action="store_true", help="the language model ranks what the beam found without it"
    )
    group.add_argument(
        "--lexicon", type=Path, help="file of the only words there are; the model is over words"
    )
    group.add_argument("--unit", choices=("tokens", "words"), help="what the model is over [tokens]")
    group.add_argument(
        "--hotwords", metavar="FILE[:BOOST]", help="words to favour, one a line, each by so much [5]"
    )
    group.add_argument("--lm-weight", type=float, help="what its log-probabilities count [0.5]")
    group.add_argument("--word-bonus", type=float, help="added for each word [0]")
    group.add_argument("--length-norm", type=float, help="above 0 favours long hypotheses [0]")
    own = parser.add_argument_group(
        "transcripts by attention", "their beam search is that of the run: task.search"
    )
    own.add_argument("--ctc-weight", type=float, help="of CTC beside the decoder [as in training]")
    own.add_argument(
        "--coverage", type=float, help="for each frame that is listened to, against early ends [0]"
    )
