"""How transcripts are looked for: greedily, by beam search, or with a language model, as options say it."""

from __future__ import annotations

import argparse
import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_audio.cli.search import ATTENTION, transcribing
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.decoding import BeamSearch, Decoder
from lightning_audio.decoding.lm import WordModel, refuse_unknown_words, token_name
from lightning_audio.decoding.ngram import NGramModel, order_of
from lightning_audio.decoding.tuning import WEIGHTS, tune
from lightning_audio.errors import UserError
from lightning_audio.io import sha256_of, to_json, write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transcription import Transcription

DECODING = "decoding.json"
OWN_MODEL = "lm.arpa"  # of --lm-from-training, beside the scores
FOLD = "{fold}"  # in the names of language models and lexicons


def of_fold(options: argparse.Namespace, fold: object) -> argparse.Namespace:
    """The options with the fold's own language model and lexicon where their names are patterns."""
    own = copy.copy(options)
    for name in ("lm", "lexicon"):
        if (path := getattr(own, name)) is not None:
            setattr(own, name, Path(str(path).replace(FOLD, str(fold))))
    return own


def warn_of_one_model(options: argparse.Namespace) -> None:
    """Says where one language model decodes all folds: it may be made of what other folds test on."""
    if options.lm is not None and FOLD not in str(options.lm):
        print(
            f"warning: {options.lm} decodes every fold. Made of transcripts of this corpus, it holds what "
            "other folds test on, and the scores are too good: take --lm-from-training, or a model for "
            f"each fold by a pattern such as --lm lm-{FOLD}.arpa.",
            file=sys.stderr,
            flush=True,
        )


def with_own_model(
    options: argparse.Namespace, task: AudioTask, data: AudioDataModule, folder: Path
) -> argparse.Namespace:
    """The options with a language model of the run's own training transcripts, written to the folder.

    Raises:
        UserError: the run transcribes nothing, or there is no text.
    """
    tokenizer = transcribing(task, "--lm-from-training is").tokenizer
    unit = options.unit or ("tokens" if options.lexicon is None else "words")
    order, texts = order_of(options.order, unit), _training_texts(task, data)
    if unit == "words":
        model = NGramModel((text.split() for text in texts), order)
    else:
        names = [token_name(token) for token in tokenizer.vocabulary]
        model = NGramModel(([names[token] for token in tokenizer.encode(text)] for text in texts), order)
    own = copy.copy(options)
    own.lm = folder / OWN_MODEL
    write_atomically(own.lm, model.arpa())
    return own


def description(decoder: Decoder) -> dict[str, Any]:
    """What a score has to say of the decoder that it is of."""
    if not isinstance(decoder, BeamSearch):
        return {"search": "greedy"}
    names = ("beam", "word_bonus", "length_norm", *ATTENTION)
    kept = {name: getattr(decoder, name) for name in names if hasattr(decoder, name)}
    if hotwords := decoder.hotwords:
        kept |= {"hotwords": list(hotwords.words), "boost": hotwords.boost}
    if model := decoder.model:
        kept |= {"lm": str(model.path.resolve()), "lm_sha256": sha256_of(model.path)}
        kept |= {"lm_weight": decoder.lm_weight, "unit": model.unit, "lexicon": model.lexicon}
        kept |= {"rescore": True} if decoder.guide is not decoder.fusion else {}
    return {"search": "beam", **kept}


def refuse_foreign_model(decoder: Decoder | None, task: AudioTask, data: AudioDataModule) -> None:
    """Raises UserError where a model of words knows no word of the training transcripts."""
    if isinstance(decoder, BeamSearch) and isinstance(decoder.fusion, WordModel):
        words = sorted({word for text in _training_texts(task, data) for word in text.split()})
        if words:
            refuse_unknown_words(words, decoder.fusion.ngram, "of the training transcripts")


def _training_texts(task: AudioTask, data: AudioDataModule) -> list[str]:
    """As the normaliser leaves them."""
    return [task.name_target(tokens) for tokens in data.splits["train"].encoded]


@torch.inference_mode()
def _validation(task: Transcription, data: AudioDataModule) -> tuple[list[np.ndarray], list[str]]:
    """What decoders take of each validation utterance, `(T, D)`, and its normalised transcript."""
    found: list[np.ndarray] = []
    references: list[str] = []
    for batch in data.loader("val"):
        outputs, lengths = task.outputs(batch.waveforms.to(task.device), batch.lengths.to(task.device))
        found += [row[:n] for row, n in zip(outputs.cpu().numpy(), lengths.tolist(), strict=True)]
        references += map(task.name_target, batch.targets)
    return found, references


def tuned(decoder: Decoder | None, task: AudioTask, data: AudioDataModule, folder: Path) -> BeamSearch:
    """The decoder with the LM weight and word bonus of the lowest WER on validation; says what was tried.

    Writes all that was tried to decoding.json in the folder.

    Raises:
        UserError: the decoder has nothing to tune, or there is no validation data.
    """
    if not (isinstance(decoder, BeamSearch) and isinstance(task, Transcription)):
        raise UserError("The best path has no weights to tune: add --beam 16, or --lm FILE.")
    if not data.has_validation:
        raise UserError(
            "Weights are tuned on validation, and this run has none: set loader.val_fraction=0.1."
        )
    found, references = _validation(task, data)
    weights = WEIGHTS if decoder.model else (0.0,)
    search = partial(tune, found, references, as_scored=task.info.as_scored)
    weight, bonus, tried = search(decoder.weighted, weights)
    best = next(row for row in tried if (row["lm_weight"], row["word_bonus"]) == (weight, bonus))
    greedy = search(lambda *_: task.greedy, (0.0,), (0.0,), rounds=0)[2][0]
    found_weight = f"--lm-weight {weight:g} " if decoder.model else ""
    print(
        f"Tuned on validation: {found_weight}--word-bonus {bonus:g} (WER {100 * best['wer']:.1f} %, "
        f"greedy {100 * greedy['wer']:.1f} %)"
    )
    content = {"lm_weight": weight, "word_bonus": bonus, "greedy": greedy, "tried": tried}
    write_atomically(folder / DECODING, to_json(content, indent=2) + "\n")
    return decoder.weighted(weight, bonus)
