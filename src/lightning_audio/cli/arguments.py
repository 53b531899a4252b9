"""What every program takes on the command line; so little is imported that help waits for no torch."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_audio.cli.option_groups import add_allow, add_loading, add_search, add_times

PROGRAMS = {
    "train": "trains, tests and reports a run, or a multirun (-m)",
    "sweep": "looks for good settings: runs whose options are drawn",
    "evaluate": "scores a run again",
    "predict": "says what a run hears in audio files",
    "export": "writes a run as one file that answers without torch",
    "card": "writes a folder for a model hub: weights, configuration and a model card",
    "demo": "opens a page on this machine in which a run hears files and the microphone",
    "serve": "answers over HTTP and WebSocket with what export wrote",
    "embed": "writes embeddings of audio files, and which are alike",
    "folds": "cross-validation over the folds of a corpus",
    "find-lr": "looks for a learning rate (--stage NAME: of one stage of the network)",
    "report": "writes the page of a run, of folds or a sweep, or of two runs",
    "explore": "writes a page of a corpus, to hear and see before training",
    "compare": "asks whether one run is better than another",
    "align": "says when each word of a known text is spoken",
    "ngram": "makes an n-gram language model from text",
    "doctor": "asks whether a speech experiment can learn at all",
    "check": "looks at every clip of a corpus before training",
    "shard": "writes a corpus as shards, to train from a bucket or a disk that is elsewhere",
    "check-cluster": "asks whether processes of torchrun or srun can train together",
    "slurm": "writes a file for sbatch: an experiment, or a sweep",
}
# What they take are Hydra's overrides.
OVERRIDDEN = ("train", "sweep", "folds", "find-lr", "doctor", "check-cluster")

SOUND_FORMATS = ("table", "csv", "jsonl", "audacity", "rttm")  # of runs that name sounds
TRANSCRIPT_FORMATS = ("text", "jsonl", "ctm", "srt", "vtt", "textgrid")  # of runs that transcribe speech


def evaluate(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, what is other than in training, and how transcripts are decoded."""
    parser = _parser("evaluate")
    parser.add_argument(
        "run", type=Path, help="run folder, or the folder of all folds; several: an ensemble; an .onnx file"
    )
    parser.add_argument("overrides", nargs="*", help="more runs; KEY=VALUE: what is other than in training")
    parser.add_argument(
        "--run", dest="exported_from", type=Path, help="the run that an exported .onnx file is of"
    )
    parser.add_argument("--output", type=Path, help="folder for predictions and plots [RUN/evaluation]")
    parser.add_argument(
        "--split",
        type=lambda word: {"dev": "val", "train-dev": "train_dev"}.get(word, word),
        choices=("train", "train_dev", "val", "test"),
        default="test",
        help="clips to score, as in a test; dev is val [test]",
    )
    group = parser.add_argument_group("robustness", "scores once more at each level, in a table and a curve")
    group.add_argument("--noise", help="white, pink, brown, or a folder of recordings")
    group.add_argument("--snr", type=_numbers, default=[20.0, 10.0, 0.0], help="dB of the noise [20,10,0]")
    group.add_argument("--speed", type=_numbers, help="such as 0.9,1.1")
    group.add_argument("--room", help="reverberation times in s, or a folder of impulse responses")
    group.add_argument("--codec", help="such as mp3@32k,opus@12k,gsm,telephone")
    add_allow(parser)
    add_search(parser)
    parser.add_argument(
        "--lm-from-training",
        action="store_true",
        help="an n-gram model of the run's own training transcripts; of folds, one for each",
    )
    parser.add_argument("--order", type=int, help="of that model, 2 to 6 [3 of words, 6 of tokens]")
    parser.add_argument("--tune", action="store_true", help="LM weight and word bonus by validation, first")
    # Intermixed: overrides may stand before and behind options.
    options = parser.parse_intermixed_args(argv)
    if options.lm and options.lm_from_training:
        parser.error("--lm and --lm-from-training are two language models: leave one out")
    if options.order and not options.lm_from_training:
        parser.error("--order is that of --lm-from-training: add it, or leave the order out")
    return options


def predict(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, the audio, the format of what is said, and how transcripts are decoded."""
    parser = _parser("predict")
    parser.add_argument(
        "run", help="run folder or checkpoint, the folder of several: an ensemble, or an exported .onnx file"
    )
    parser.add_argument(
        "audio", nargs="*", help="more runs; files, folders or globs; WAV, FLAC, Ogg, MP3, AIFF"
    )
    every = dict.fromkeys([*SOUND_FORMATS, *TRANSCRIPT_FORMATS])
    parser.add_argument("--format", choices=every, help="[table, or text where the run transcribes speech]")
    parser.add_argument("--output", type=Path, help="write to this file instead of the terminal")
    parser.add_argument(
        "--window",
        type=float,
        help="seconds of a look at longer files [length of a training clip; of speech: 20]",
    )
    parser.add_argument(
        "--hop", type=float, help="seconds from one window to the next [half a window, for events a quarter]"
    )
    parser.add_argument("--top", type=int, default=3, help="labels to name for a file [3]")
    parser.add_argument("--windows", action="store_true", help="a row for every window of longer files, too")
    parser.add_argument("--batch-size", type=int, default=16, help="windows that run together [16]")
    parser.add_argument(
        "--pseudo-labels",
        type=float,
        metavar="SCORE",
        help="write a manifest to --output of the files whose answer has this score, to train on",
    )
    parser.add_argument(
        "--channel", default="mean", help="of files with several: mean, a number from 0 on, or each [mean]"
    )
    add_loading(parser)
    add_times(parser)
    add_search(parser)
    # Intermixed: files may stand before and behind options, and a stream needs none.
    options = parser.parse_intermixed_args(argv)
    if not options.audio and not options.stream:
        parser.error("the following arguments are required: audio")
    return options


def export(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, the file that it becomes, and of which kind."""
    parser = _parser("export")
    parser.add_argument("run", type=Path, help="run folder or checkpoint")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE: where its data are, as data.root=FOLDER")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the .onnx file, or .pt2 of torch_export; a .json is written beside it",
    )
    parser.add_argument(
        "--format",
        choices=("onnx", "torch_export", "int8", "int8_weights"),
        default="onnx",
        help="torch_export: for torch.export.load; int8: the network computes in eight bits; int8_weights: "
        "its weights have eight bits [onnx]",
    )
    parser.add_argument("--streaming", action="store_true", help="for `predict --stream`: chunk by chunk")
    parser.add_argument("--opset", type=int, help="of ONNX, 17 to 20 [17]")
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="POINTS",
        help="that eight bits may cost of the validation score [0.5]",
    )
    add_allow(parser)
    return parser.parse_intermixed_args(argv)


def card(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, the new folder, licences, and where it is published if at all."""
    parser = _parser("card")
    parser.add_argument("run", type=Path, help="folder of a run that has ended")
    parser.add_argument("folder", type=Path, help="that is written; a new or an empty one")
    parser.add_argument("--licence", help="of the weights, as hubs name it: cc-by-4.0 [none stated]")
    parser.add_argument("--data-licence", help="of the data [that of the corpus, where it is known]")
    what = "publish it on the Hugging Face hub, private at first (extra hub, and its own login)"
    parser.add_argument("--push", metavar="OWNER/NAME", help=what)
    add_allow(parser)
    return parser.parse_args(argv)


def demo(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, where its page is, and what it takes."""
    parser = _parser("demo")
    parser.set_defaults(audio=[])
    parser.add_argument("run", help="as for predict: a run folder, one of several, or an .onnx file")
    parser.add_argument("--port", type=int, help="of the page, on this machine alone [from 7860 on]")
    parser.add_argument("--max-seconds", type=float, default=600.0, help="of a recording [600]")
    parser.add_argument("--max-megabytes", type=float, default=50.0, help="of a file [50]")
    parser.add_argument("--examples", type=int, default=6, help="clips of the run's own data to try [6]")
    add_loading(parser)
    return parser.parse_args(argv)


def serve(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The model, where it listens, and what it takes at most."""
    parser = _parser("serve")
    parser.add_argument("model", type=Path, help="an .onnx file of `export`")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: to be reached from outside [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free [8000]")
    parser.add_argument("--threads", type=int, help="of onnxruntime [one for each core]")
    parser.add_argument("--megabytes", type=float, default=10.0, help="of a file at most [10]")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="of audio in a file [60]")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=256,
        help="requests and streams at once; more have to wait [256]",
    )
    return parser.parse_args(argv)


def embed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run or encoder, the audio, and what is made of it."""
    parser = _parser("embed")
    parser.add_argument(
        "encoder",
        help="run folder or checkpoint; an encoder of conf/encoder, such as yamnet; a folder of "
        "transformers; an ONNX file",
    )
    parser.add_argument("audio", nargs="+", help="files, folders or globs; WAV, FLAC, Ogg, MP3, AIFF")
    parser.add_argument("--output", type=Path, help="write embeddings to this file: .npz or .parquet")
    parser.add_argument("--similar", type=int, metavar="N", help="print the N files that are most like each")
    parser.add_argument("--plot", type=Path, help="draw all files in a plane, coloured by folder: .png")
    parser.add_argument("--projection", choices=("pca", "tsne"), default="pca", help="of the picture [pca]")
    parser.add_argument(
        "--channel", default="mean", help="of files with several: mean, a number from 0 on, or each [mean]"
    )
    add_loading(parser)
    return parser.parse_intermixed_args(argv)


def compare(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Two runs."""
    parser = _parser("compare")
    parser.add_argument("run", type=Path, help="run folder, or the folder that evaluate wrote")
    parser.add_argument("other", type=Path, help="another one, tested on the same clips")
    add_allow(parser)
    return parser.parse_intermixed_args(argv)


def report(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, or two, or the folder of several; how much of it can be heard."""
    parser = _parser("report")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, or that of folds or a sweep"
    )
    _add_page(parser)
    parser.add_argument(
        "--target", type=float, help="score that could be reached, such as that of people: 0.95"
    )
    parser.add_argument(
        "--test", action="store_true", help="show clips of the test, which then is one no more"
    )
    parser.add_argument(
        "--explain",
        action="append",
        default=[],
        metavar="N or ID",
        help="show what the answers to the first N clips hang on, or that to one clip; may be repeated",
    )
    add_allow(parser)
    return parser.parse_intermixed_args(argv)


def explore(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What corpus to look at, as training would be told, and where the page goes."""
    parser = _parser("explore")
    _add_corpus(parser)
    parser.add_argument("--output", type=Path, help="the page [explore_CORPUS.html in paths.logs]")
    parser.add_argument("--encoder", help="find near-duplicates by it, as for embed [by their spectra]")
    _add_page(parser)
    return _with_config_dir(parser.parse_intermixed_args(argv))


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=int, default=40, help="that can be heard [40]")
    parser.add_argument("--megabytes", type=float, default=15.0, help="of the page at most [15]")


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", help="as for train: experiment=NAME, data=NAME, data.root=..."
    )
    parser.add_argument("--config-dir", type=Path, help="a conf folder of your own, beside conf/")


def _with_config_dir(options: argparse.Namespace) -> argparse.Namespace:
    if options.config_dir:
        options.overrides.insert(0, f"--config-dir={options.config_dir}")
    return options


def align(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The run, and a recording with its text or a table of them; or, to fit, the run alone."""
    parser = _parser("align")
    parser.add_argument("run", help="run folder or checkpoint of speech recognition")
    parser.add_argument("audio", nargs="?", help="WAV, FLAC, Ogg, MP3, AIFF")
    parser.add_argument("text", nargs="?", help="what is said in it")
    parser.add_argument(
        "--manifest", type=Path, help="JSONL or CSV with audio_filepath and text, in their place"
    )
    parser.add_argument("--format", choices=[f for f in TRANSCRIPT_FORMATS if f != "text"], default="ctm")
    parser.add_argument(
        "--output", type=Path, help="a file, or a folder for a file of each recording [the terminal]"
    )
    parser.add_argument("--shift", type=float, help="seconds by which words are later [as fitted, or 0.03]")
    parser.add_argument(
        "--reach", type=float, help="seconds of a word beyond its frames [as fitted, or 0.045]"
    )
    parser.add_argument(
        "--fit", action="store_true", help="fit both on validation, where the corpus knows the true times"
    )
    add_loading(parser)
    options = parser.parse_intermixed_args(argv)
    if options.fit:
        return options
    if (options.manifest is None) == (options.text is None) or (options.manifest and options.audio):
        parser.error("give either AUDIO and its TEXT, or --manifest FILE")
    return options


def ngram(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The texts, the order and unit of the model, and where it goes."""
    parser = _parser("ngram")
    parser.add_argument(
        "texts", nargs="+", type=Path, metavar="TEXTS", help="text files, manifests or run folders"
    )
    parser.add_argument("--output", type=Path, required=True, help="the ARPA file to write")
    parser.add_argument("--order", type=int, help="longest n-gram, 2 to 6 [3; of characters and tokens 6]")
    unit = parser.add_mutually_exclusive_group()
    for name, what in {"characters": "characters", "tokens": "the tokens of the run"}.items():
        unit.add_argument(
            f"--{name}", dest="unit", action="store_const", const=name, help=f"over {what}, not over words"
        )
    parser.add_argument(
        "--run", type=Path, help="run whose normaliser and tokens count [the first among TEXTS]"
    )
    add_allow(parser)
    parser.add_argument("--words", type=Path, help="write the words here too, one a line: a lexicon")
    return parser.parse_intermixed_args(argv)


def check(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What corpus to look at, as training would be told, and where the whole report goes."""
    parser = _parser("check")
    _add_corpus(parser)
    parser.add_argument("--json", type=Path, help="write the whole report, with every clip, to this file")
    return _with_config_dir(parser.parse_intermixed_args(argv))


def shard(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What corpus, as training would be told, and where its shards go."""
    parser = _parser("shard")
    _add_corpus(parser)
    parser.add_argument("out", help="a folder, or an address as s3://BUCKET/NAME")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="this job's share of the clips [1/1]")
    parser.add_argument("--as-is", action="store_true", help="keep files, FLAC or Opus, and not samples")
    parser.add_argument("--megabytes", type=float, default=64.0, help="of a shard [64]")
    parser.add_argument("--verify", action="store_true", help="read all shards that are there; write none")
    return _with_config_dir(parser.parse_intermixed_args(argv))


def slurm(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The experiment, what it is given of the cluster, and where the file goes."""
    parser = _parser("slurm")
    parser.add_argument("experiment", metavar="EXP", help="of conf/experiment")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as for train; sweep=NAME: a sweep")
    parser.add_argument("--config-dir", type=Path, help="a conf folder of your own, beside conf/")
    parser.add_argument("--nodes", type=int, default=1, help="[1]")
    parser.add_argument("--gpus", type=int, default=1, help="of a node, one process each; 0: the CPU [1]")
    parser.add_argument("--cpus", type=int, default=4, help="of a process [4]")
    parser.add_argument("--workers", type=int, default=1, help="jobs that share the trials of a sweep [1]")
    parser.add_argument("--time", default="4:00:00", help="of a job, until it is requeued [4:00:00]")
    parser.add_argument("--partition", help="[that of the cluster]")
    parser.add_argument("--account", help="[your own]")
    parser.add_argument("--output", type=Path, help="the file [NAME.sbatch]")
    return _with_config_dir(parser.parse_intermixed_args(argv))


# How each program that takes no bare overrides reads its arguments; the others hand theirs to Hydra.
READERS: dict[str, Callable[[Sequence[str]], argparse.Namespace]] = {
    name: globals()[name] for name in PROGRAMS if name not in OVERRIDDEN
}


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} holds what is no number: give some such as 20,10,0")
    return numbers


def _parser(name: str) -> argparse.ArgumentParser:
    what = PROGRAMS[name]
    return argparse.ArgumentParser(f"lightning-audio {name}", description=f"{what[0].upper()}{what[1:]}.")
