"""The decoder that options ask for, of a task or of an exported one: torch is not imported here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_audio.cli.option_groups import given
from lightning_audio.decoding import Decoder, Hotwords, LanguageModel
from lightning_audio.errors import UserError

# Options of the search, and what they are without a word of the user's.
SEARCH = {"beam": 16, "nbest": 1, "word_bonus": 0.0, "length_norm": 0.0}
BOOST = 5.0  # of a hotword
ATTENTION = ("ctc_weight", "coverage")  # of task=attention alone


def transcribing(task: Any, what: str) -> Any:
    """The task; raises UserError where it transcribes nothing, which is what it takes for `what`."""
    if not task.transcribes:
        raise UserError(
            f"{what} for runs that transcribe, and this one names sounds: leave that "
            "out, or give one of speech recognition (task=ctc)."
        )
    return task


def decoder_of(options: argparse.Namespace, task: Any) -> Decoder | None:
    """The decoder that the options ask for; None where they ask for none.

    Raises:
        UserError: the run transcribes nothing, or options are out of range or do not go together.
    """
    asked, model = given(options, *SEARCH, *ATTENTION), given(options, "lexicon", "unit", "lm_weight")
    if not (asked or model or options.lm or options.hotwords or options.rescore):
        return None
    task = transcribing(task, "--beam, --lm and what belongs to them are")
    search: dict[str, Any] = {**SEARCH, **task.search, **asked}
    if foreign := [name for name in ATTENTION if name in asked and name not in task.search]:
        own = task.card["task"] if hasattr(task, "card") else type(task).__name__.lower()
        raise UserError(
            f"--{foreign[0].replace('_', '-')} is for runs of task=attention, and this one is of task={own}: "
            "leave it out."
        )
    if options.hotwords:
        search["hotwords"] = hotwords_of(options.hotwords, task)
    if options.lm:
        if "lm_weight" in model:
            search["lm_weight"] = model.pop("lm_weight")
        if options.rescore:
            search["rescore"] = True
        return task.beam(model=model_of(options.lm, task, model), **search)
    if options.rescore:
        raise UserError("--rescore asks a language model: add --lm FILE or --lm RUN.")
    if model:
        raise UserError(
            f"--{next(iter(model)).replace('_', '-')} belongs to a language model: add --lm FILE."
        )
    return task.beam(**search)


def model_of(lm: Path, task: Any, options: Mapping[str, Any]) -> Any:
    """The n-gram model of a file, or the neural one of a run; `options` are those of `LanguageModel`.

    Raises:
        UserError: it cannot be read, or is over something else.
    """
    if not (lm.is_dir() or lm.suffix == ".ckpt"):
        return LanguageModel(task.tokenizer, lm, **options)
    from lightning_audio.checkpoint import find_checkpoint, load
    from lightning_audio.decoding.neural import NeuralModel
    from lightning_audio.tasks.language_model import LanguageModel as LanguageTask

    path = find_checkpoint(lm)
    loaded = load(path)
    if not isinstance(loaded, LanguageTask):
        raise UserError(f"{lm} is no language model: give a run of task=language_model, or an ARPA file.")
    if loaded.tokenizer.state() != task.tokenizer.state():
        raise UserError(
            f"{lm} is a language model of other tokens than the run writes: train it with the data and "
            "the task.text of that run."
        )
    if options:
        raise UserError(
            f"--{next(iter(options))} is for n-gram models of words: leave it out, {lm} is over tokens."
        )
    return NeuralModel(loaded.predictor, path)


def hotwords_of(asked: str, task: Any) -> Hotwords:
    """The words of `FILE[:BOOST]`, normalised as the transcripts.

    Raises:
        UserError: there is no such file, it has no words or unknown characters, or the boost is none.
    """
    name, colon, boost = asked.rpartition(":")
    try:
        file, favour = (Path(name), float(boost)) if colon else (Path(asked), BOOST)
    except ValueError:
        file, favour = Path(asked), BOOST
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The hotwords {file} cannot be read ({error}): give a UTF-8 file with one word a line."
        ) from None
    # An exported model has no normaliser.
    normal = task.normalizer.leniently if hasattr(task, "normalizer") else str
    words = dict.fromkeys(word for line in lines for word in normal(line).split())
    return Hotwords([*words], task.tokenizer, favour, str(file))
