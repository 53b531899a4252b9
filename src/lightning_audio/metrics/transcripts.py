"""Scores of transcripts: word and character error rates of a corpus with their doubt, and where errors arise.

A row is a mapping with `reference` and `hypothesis`, both as the normaliser left them, and optionally a
`group`: the speaker, or the recording that the utterance was cut from. Words are what stands between white
space; characters are code points, the space between two words among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from jiwer import CharacterOutput, WordOutput, process_characters, process_words
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from lightning_audio.metrics.intervals import Score, group_numbers, group_weights, proportion, wilson

Rows = Sequence[Mapping[str, Any]]
Alignment = WordOutput | CharacterOutput

EDITS = ("hits", "substitutions", "deletions", "insertions")
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}
COLUMNS = {"equal": 0, "substitute": 1, "delete": 2, "insert": 3}
DRAWS = 4  # of 1,000 resamples each, so that the weights of a large corpus fit into memory
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


def transcript_values(rows: Rows) -> dict[str, float]:
    """The values of `transcript_scores` without their intervals."""
    counts = transcript_counts(rows)
    names = {"wer": "words", "cer": "characters", "sentence_error_rate": "utterances"}
    return {
        name: counts[unit]["errors"] / counts[unit]["reference"]
        for name, unit in names.items()
        if counts[unit]["reference"]
    }


def transcript_scores(rows: Rows) -> dict[str, Score]:
    """`wer`, `cer` and `sentence_error_rate` of a corpus, with 95 % intervals over the groups of utterances.

    A rate is all errors over all words (characters, utterances) of the references, never a mean over
    utterances; it may be above 1, and `n` is the number below the line. Insertions into an empty reference
    count. Without any reference word WER and CER are not defined and left out. An utterance is wrong where
    one of its words is. Where all are of one group, or nothing tells the groups apart (no error at all), each
    utterance stands for itself.

    Source of the intervals: Bisani and Ney, ICASSP 2004, 409-412; see `percentiles_of_groups`.
    """
    edits = {"wer": edit_counts(align_words(rows)), "cer": edit_counts(align_characters(rows))}
    counts = {name: errors_and_lengths(found) for name, found in edits.items()}
    groups = utterance_groups(rows)
    numbers = group_numbers(groups, len(rows))
    scores = {name: ratio_score(found, numbers) for name, found in counts.items() if found[:, 1].any()}
    wrong = counts["wer"][:, 0] > 0
    apart = groups if 0 < wrong.sum() < len(rows) else [None] * len(rows)
    return scores | {"sentence_error_rate": proportion(wrong, apart)}


def utterance_groups(rows: Rows) -> list[str | None]:
    """The group of each row; None for all where there is but one, so that utterances stand for themselves."""
    groups = [row.get("group") for row in rows]
    return groups if len(set(groups)) > 1 else [None] * len(groups)


def ratio_score(counts: NDArray, numbers: NDArray[np.intp]) -> Score:
    """The ratio of the sums of `counts` `(N, 2)` with its interval; `n` is the sum below the line.

    Args:
        counts: of each utterance, what is above and below the line.
        numbers: `(N,)`, the group of each utterance from 0 on.
    """
    above, below = counts.sum(0).tolist()
    value, sums = above / below, sums_of_groups(counts, numbers)
    low, high = percentiles_of_groups(ratios(resampled(sums)), len(sums))
    if high - low < 1e-9:
        # Groups that do not differ show no doubt when drawn anew: that of a share of the utterances.
        low, high = wilson(min(value, 1.0), len(counts))
    return Score(value, min(low, value), max(high, value), int(below))


def sums_of_groups(counts: NDArray, numbers: NDArray[np.intp]) -> NDArray[np.float64]:
    """Counts of utterances `(N, ...)` summed over each group, `(G, ...)`."""
    sums = np.zeros((int(numbers.max()) + 1, *counts.shape[1:]))
    np.add.at(sums, numbers, counts)
    return sums


def resampled(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Totals `(4000, ...)` of groups `(G, ...)` drawn with replacement, as many as there are."""
    draws = (group_weights(len(sums), seed=seed).astype(float) for seed in range(DRAWS))
    return np.concatenate([np.tensordot(weights, sums, axes=1) for weights in draws])


def ratios(counts: NDArray) -> NDArray[np.float64]:
    """The first over the second of the last axis, `(..., 2)` to `(...)`; NaN over 0."""
    above, below = np.moveaxis(counts, -1, 0)
    return np.where(below > 0, above / np.maximum(below, 1e-300), np.nan)


def percentiles_of_groups(values: NDArray[np.float64], group_count: int) -> tuple[float, float]:
    """The 95 % interval of a statistic from its bootstrap values `(R,)` over so many groups.

    Of few groups the bootstrap shows too little spread, by sqrt((G - 1) / G), and no Student's t. So the
    levels of the percentiles are moved outwards by both: of six speakers they are 0.2 and 99.8 %, of a
    thousand 2.5 and 97.5 %. Source: Hesterberg, The American Statistician 69 (2015) 371-386.
    """
    level = expanded_tail(0.025, group_count)
    low, high = np.nanquantile(values, (level, 1 - level))
    return float(low), float(high)


def expanded_tail(tail: float, group_count: int) -> float:
    """The tail of the bootstrap distribution that stands for a `tail` of the truth; a half for one group."""
    if group_count < 2:
        return 0.5
    spread = math.sqrt(group_count / (group_count - 1))
    return float(ndtr(spread * stdtrit(group_count - 1, tail)))


def per_group(rows: Rows) -> list[dict[str, Any]]:
    """A row for each group, the highest WER first: WER and CER (None where not defined), counts of words."""
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        members.setdefault(str(row.get("group") or ""), []).append(row)
    found = [_group_row(group, own) for group, own in sorted(members.items())]
    return sorted(found, key=lambda row: -math.inf if row["wer"] is None else row["wer"], reverse=True)


def _group_row(group: str, rows: Rows) -> dict[str, Any]:
    values, words = transcript_values(rows), transcript_counts(rows)["words"]
    rates = {name: values.get(name) for name in ("wer", "cer")}
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

    def as_dict(self) -> dict[str, int | float | None]:
        return asdict(self)


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
