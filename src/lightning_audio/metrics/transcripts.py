"""Scores of transcripts: word and character error rates of a corpus with their doubt, and where errors arise.

A row is a mapping with `reference` and `hypothesis`, both as the normaliser left them, and optionally a
`group`: the speaker, or the recording that the utterance was cut from. Words are what stands between white
space; characters are code points, the space between two words among them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self

import numpy as np
from jiwer import CharacterOutput, WordOutput, process_characters, process_words
from numpy.typing import NDArray

from lightning_audio.metrics.base import Predictions, metric, share, values
from lightning_audio.metrics.intervals import Draws

Rows = Sequence[Mapping[str, Any]]
Alignment = WordOutput | CharacterOutput

EDITS = ("hits", "substitutions", "deletions", "insertions")
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}
COLUMNS = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3}
SCORE_SLACK = 1e-4  # of the log-probability: what rounding may make of equal ones


def align_words(rows: Rows) -> WordOutput:
    """The words of the rows aligned by jiwer with as few errors as possible."""
    return process_words(*_texts(rows))


def align_characters(rows: Rows) -> CharacterOutput:
    """The characters of the rows aligned by jiwer with as few errors as possible."""
    return process_characters(*_texts(rows))


def _texts(rows: Rows) -> tuple[list[str], list[str]]:
    if not rows:
        raise ValueError("transcripts are scored from one utterance on")
    references, hypotheses = (
        [" ".join(row[key].split()) for row in rows] for key in ("reference", "hypothesis")
    )
    return references, hypotheses


def edit_counts(alignment: Alignment) -> NDArray[np.int64]:
    """Hits, substitutions, deletions and insertions of each utterance, `(N, 4)`."""
    counts = np.zeros((len(alignment.alignments), len(EDITS)), dtype=np.int64)
    for row, chunks in zip(counts, alignment.alignments, strict=True):
        for chunk in chunks:
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            row[COLUMNS[chunk.type]] += length
    return counts


def aligned_pairs(alignment: Alignment) -> Iterator[list[tuple[str, str, str]]]:
    """For each utterance its pairs in order, as `(mark, reference, hypothesis)`.

    The mark of a hit is empty, others are S, D or I. The side that has nothing to pair is empty.
    """
    everything = zip(alignment.alignments, alignment.references, alignment.hypotheses, strict=True)
    for chunks, reference, hypothesis in everything:
        pairs = []
        for chunk in chunks:
            said = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
            true = reference[chunk.ref_start_idx : chunk.ref_end_idx]
            pairs += [(MARKS[chunk.type], *pair) for pair in zip_longest(true, said, fillvalue="")]
        yield pairs


def errors_and_lengths(edits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Errors and reference length `(..., 2)` of edit counts `(..., 4)`."""
    return np.stack([edits[..., 1:].sum(-1), edits[..., :3].sum(-1)], axis=-1)


def transcript_counts(rows: Rows) -> dict[str, dict[str, int]]:
    """For `words`, `characters` and `utterances` the counts behind the rates.

    Each has `reference` (how many there are) and `errors`; words and characters also `hits`, `substitutions`,
    `deletions` and `insertions`.
    """
    words, characters = edit_counts(align_words(rows)), edit_counts(align_characters(rows))
    wrong = int(errors_and_lengths(words)[:, 0].astype(bool).sum())
    return {
        "words": _summed(words),
        "characters": _summed(characters),
        "utterances": {"reference": len(rows), "errors": wrong, "hits": len(rows) - wrong},
    }


def _summed(edits: NDArray[np.int64]) -> dict[str, int]:
    total = edits.sum(0)
    errors, length = errors_and_lengths(total).tolist()
    return {"reference": length, "errors": errors, **dict(zip(EDITS, total.tolist(), strict=True))}


class Transcripts(Predictions):
    """Errors and reference lengths `(N, 2)` of each utterance, in `words` and `characters`."""

    alone = True

    def __init__(self, rows: Rows) -> None:
        super().__init__([row.get("group") for row in rows])
        self.words, self.characters = (
            errors_and_lengths(edit_counts(align(rows))) for align in (align_words, align_characters)
        )

    @classmethod
    def from_rows(cls, rows: Rows, labels: Sequence[str] = ()) -> Self:
        return cls(rows)

    @property
    def independent(self) -> int:
        return len(self)


@metric(counted=lambda transcripts: int(transcripts.words[:, 1].sum()))
def wer(transcripts: Transcripts, draws: Draws) -> NDArray:
    """All word errors over all words of the references, never a mean over utterances; it may be above 1.

    Insertions into an empty reference count. Without any reference word it is not defined.
    """
    return ratios(draws.sums(transcripts.words))


per = wer("per")  # the same of phones, each of which is a word


@metric(counted=lambda transcripts: int(transcripts.characters[:, 1].sum()))
def cer(transcripts: Transcripts, draws: Draws) -> NDArray:
    """The same of characters."""
    return ratios(draws.sums(transcripts.characters))


@share()
def sentence_error_rate(transcripts: Transcripts) -> NDArray:
    """The share of utterances of which a word is wrong."""
    return transcripts.words[:, 0] > 0


def ratios(counts: NDArray) -> NDArray[np.float64]:
    """The first over the second of the last axis, `(..., 2)` to `(...)`; NaN over 0."""
    above, below = np.moveaxis(counts, -1, 0)
    return np.where(below > 0, above / np.maximum(below, 1e-300), np.nan)


def word_counts(rows: Rows, words: Sequence[str]) -> dict[str, int]:
    """How often these words were `said`, how many of them were `found` in their utterances, and how many more
    there are that were not said, `false`."""
    total = Counter[str]()
    for row in rows:
        said, found = (Counter(row[key].split()) for key in ("reference", "hypothesis"))
        for word in words:
            both = min(said[word], found[word])
            total.update(said=said[word], found=both, false=found[word] - both)
    return {name: total[name] for name in ("said", "found", "false")}


def per_group(rows: Rows) -> list[dict[str, Any]]:
    """A row for each group, the highest WER first: WER and CER (None where not defined), counts of words."""
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        members.setdefault(str(row.get("group") or ""), []).append(row)
    found = [_group_row(group, own) for group, own in sorted(members.items())]
    return sorted(found, key=lambda row: -math.inf if row["wer"] is None else row["wer"], reverse=True)


def _group_row(group: str, rows: Rows) -> dict[str, Any]:
    found, words = values((wer, cer), Transcripts(rows)), transcript_counts(rows)["words"]
    rates = {name: None if math.isnan(rate) else rate for name, rate in found.items()}
    kinds = {name: words[name] for name in EDITS[1:]}
    return {"group": group, **rates, **kinds, "words": words["reference"], "utterances": len(rows)}


@dataclass(frozen=True)
class ErrorSources:
    """What lay behind the wrong utterances, and what the best choice from the n-best lists would have given.

    A `search` error is one where the model scores the reference above the hypothesis, so that a wider search
    would mend it; `model` errors are the others; `unknown` are those without a score of the reference.
    """

    wrong: int
    search: int
    model: int
    unknown: int
    oracle_wer: float | None


def error_sources(rows: Rows) -> ErrorSources:
    """Search errors and model errors among the wrong utterances, and the WER of an n-best oracle.

    Rows hold besides the texts, where they are known, `score` and `reference_score` (natural logarithms by
    the same model and decoder) and `nbest` (each with its `text`). See `oracle_wer`.
    """
    wrong = errors_and_lengths(edit_counts(align_words(rows)))[:, 0] > 0
    kinds = [_source(row) for row, is_wrong in zip(rows, wrong, strict=True) if is_wrong]
    search, model = kinds.count("search"), kinds.count("model")
    return ErrorSources(len(kinds), search, model, len(kinds) - search - model, oracle_wer(rows))


def _source(row: Mapping[str, Any]) -> str:
    score, reference = row.get("score"), row.get("reference_score")
    if score is None or reference is None:
        return "unknown"
    slack = SCORE_SLACK * max(1.0, abs(score)) if math.isfinite(score) else 0.0
    return "search" if reference > score + slack else "model"


def oracle_wer(rows: Rows) -> float | None:
    """The WER of the text with the fewest word errors among the hypothesis and the n-best list of each row.

    None where no list has a choice, or no reference a word.
    """
    if not any(len(row.get("nbest") or ()) > 1 for row in rows):
        return None
    candidates = [
        (number, {"reference": row["reference"], "hypothesis": text})
        for number, row in enumerate(rows)
        for text in (row["hypothesis"], *(other["text"] for other in row.get("nbest") or ()))
    ]
    numbers, texts = zip(*candidates, strict=True)
    errors, words = errors_and_lengths(edit_counts(align_words(texts))).T
    fewest, lengths = np.full(len(rows), np.iinfo(np.int64).max), np.zeros(len(rows), dtype=np.int64)
    np.minimum.at(fewest, list(numbers), errors)
    lengths[list(numbers)] = words
    return float(fewest.sum() / lengths.sum()) if lengths.any() else None
