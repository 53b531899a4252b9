"""How transcripts are looked for: greedily, by beam search, or with a language model, as options say it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.targets import PAD
from lightning_audio.decoding import Beam, Decoder, Greedy, LMDecoder, tune
from lightning_audio.decoding.lm import WordModel, refuse_unknown_words
from lightning_audio.decoding.tuning import WEIGHTS
from lightning_audio.errors import UserError
from lightning_audio.io import sha256_of, to_json, write_atomically
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.ctc import CTC

DECODING = "decoding.json"
# Options of the search, and what they are without a word of the user's.
SEARCH = {"beam": 16, "nbest": 1, "word_bonus": 0.0, "length_norm": 0.0}


def decoder_of(options: argparse.Namespace, task: AudioTask) -> Decoder | None:
    """The decoder that the options ask for; None where they ask for none.

    Raises:
        UserError: the run transcribes nothing, or options are out of range or do not go together.
    """
    given = {name: getattr(options, name) for name in SEARCH if getattr(options, name) is not None}
    model = {name: getattr(options, name) for name in ("lexicon", "unit", "lm_weight")}
    model = {name: value for name, value in model.items() if value is not None}
    if not (given or model or options.lm):
        return None
    if not isinstance(task, CTC):
        raise UserError("--beam, --lm and what belongs to them are for runs that transcribe (task=ctc).")
    if options.lm:
        return LMDecoder(task.tokenizer, options.lm, **{**SEARCH, **given, **model})
    if model:
        raise UserError(
            f"--{next(iter(model)).replace('_', '-')} belongs to a language model: add --lm FILE."
        )
    search: dict[str, Any] = {**SEARCH, **given}
    return Beam(task.tokenizer, **search)


def description(decoder: Decoder) -> dict[str, Any]:
    """What a score has to say of the decoder that it is of."""
    if not isinstance(decoder, Beam):
        return {"search": "greedy"}
    kept = {name: getattr(decoder, name) for name in ("beam", "word_bonus", "length_norm")}
    if isinstance(decoder, LMDecoder):
        kept |= {"lm": str(decoder.lm.resolve()), "lm_sha256": sha256_of(decoder.lm)}
        kept |= {name: getattr(decoder, name) for name in ("lm_weight", "unit", "lexicon")}
    return {"search": "beam", **kept}


def refuse_foreign_model(decoder: Decoder | None, task: CTC, data: AudioDataModule) -> None:
    """Raises UserError where a model of words knows no word of the training transcripts."""
    if isinstance(decoder, LMDecoder) and isinstance(decoder.fusion, WordModel):
        texts = (_text(task, tokens) for tokens in data.splits["train"].encoded)
        words = sorted({word for text in texts for word in text.split()})
        if words:
            refuse_unknown_words(words, decoder.fusion.ngram, "of the training transcripts")


@torch.inference_mode()
def posteriors(task: CTC, data: AudioDataModule, split: str) -> tuple[list[Tensor], list[str]]:
    """Log-probabilities `(T, C)` of each utterance of a split, and its normalised transcript."""
    found, references = [], []
    for batch in data.loader(split):
        log_probs, lengths = task.log_probs(batch.waveforms.to(task.device), batch.lengths.to(task.device))
        rows = zip(log_probs.cpu(), lengths.tolist(), batch.targets, strict=True)
        for row, length, target in rows:
            found.append(row[:length])
            references.append(_text(task, target))
    return found, references


def _text(task: CTC, target: Iterable[int]) -> str:
    return task.tokenizer.decode([int(token) - 1 for token in target if token != PAD])  # 0 is the blank


def tuned(decoder: Decoder | None, task: AudioTask, data: AudioDataModule, folder: Path) -> Beam:
    """The decoder with the LM weight and word bonus of the lowest WER on validation; says what was tried.

    Writes all that was tried to decoding.json in the folder.

    Raises:
        UserError: the decoder has nothing to tune, or there is no validation data.
    """
    if not (isinstance(decoder, Beam) and isinstance(task, CTC)):
        raise UserError("The best path has no weights to tune: add --beam 16, or --lm FILE.")
    if not data.has_validation:
        raise UserError(
            "Weights are tuned on validation, and this run has none: set loader.val_fraction=0.1."
        )
    found, references = posteriors(task, data, "val")
    weights = WEIGHTS if isinstance(decoder, LMDecoder) else (0.0,)
    weight, bonus, tried = tune(found, references, decoder.weighted, weights)
    best = next(row for row in tried if (row["lm_weight"], row["word_bonus"]) == (weight, bonus))
    greedy = tune(found, references, lambda *_: Greedy(task.tokenizer), (0.0,), (0.0,), rounds=0)[2][0]
    found_weight = f"--lm-weight {weight:g} " if isinstance(decoder, LMDecoder) else ""
    print(
        f"Tuned on validation: {found_weight}--word-bonus {bonus:g} (WER {100 * best['wer']:.1f} %, "
        f"greedy {100 * greedy['wer']:.1f} %)"
    )
    content = {"lm_weight": weight, "word_bonus": bonus, "greedy": greedy, "tried": tried}
    write_atomically(folder / DECODING, to_json(content, indent=2) + "\n")
    return decoder.weighted(weight, bonus)
