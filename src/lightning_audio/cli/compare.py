"""Whether one run is better than another, by their answers to the same clips.

lightning-audio compare logs/prompts_bilstm/RUN logs/prompts_bilstm/OTHER
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import bdtr, ndtri, stdtr

from lightning_audio.cli import arguments
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.metrics.intervals import group_numbers
from lightning_audio.metrics.transcripts import (
    align_characters,
    align_words,
    edit_counts,
    errors_and_lengths,
    percentiles_of_groups,
    ratios,
    resampled,
    sums_of_groups,
    utterance_groups,
)
from lightning_audio.reports.cross_validation import SEVERAL
from lightning_audio.reports.results import RunResult, read_run
from lightning_audio.reports.tables import print_table
from lightning_audio.reports.transcripts import has_transcripts

HIGHER_IS_BETTER = ("accuracy", "exact_match")
NAMED = 3  # clips in a message


@dataclass(frozen=True)
class Difference:
    """A rate of a run and of another, and their difference (run less other) with its 95 % interval.

    `p` is that of no difference, two-sided; `better` the share of resamples in which the run is the better
    one, ties halved (the probability of improvement).
    """

    name: str
    run: float
    other: float
    low: float
    high: float
    p: float
    better: float

    @property
    def difference(self) -> float:
        return self.run - self.other


@dataclass(frozen=True)
class Comparison:
    """The rates of two runs side by side, and of how many clips they say something else.

    `only_run` and `only_other` are clips of which one alone has all right; `mcnemar` is the exact p of as
    uneven a split.
    """

    differences: list[Difference]
    clips: int
    differing: int
    only_run: int
    only_other: int
    mcnemar: float


def compare_runs(run: RunResult, other: RunResult) -> Comparison:
    """The paired comparison of two runs on the same clips: by WER and CER of transcripts, or by accuracy.

    Groups of clips, speakers for instance, are drawn anew with replacement, the same for both runs, as in
    `transcript_scores`. Source: Bisani and Ney, ICASSP 2004, 409-412.

    Raises:
        UserError: the clips or their references are not the same, or there are fewer than two.
    """
    first, second = paired_rows(run, other)
    if len(first) < 2:
        raise UserError(f"{run.folder} was tested on {len(first)} clips: compare runs of two or more.")
    numbers = group_numbers(utterance_groups(first), len(first))
    if has_transcripts(run) and has_transcripts(other):
        counts = _errors(first, second)
        right = counts["wer"][..., 0] == 0
    else:
        hits = _hits(first, second)
        counts, right = {"exact_match" if SEVERAL in first[0] else "accuracy": hits}, hits[..., 0] > 0
    only_run, only_other = (int((right[:, i] > right[:, 1 - i]).sum()) for i in (0, 1))
    differing = sum(a["hypothesis"] != b["hypothesis"] for a, b in zip(first, second, strict=True))
    differences = [
        paired_difference(name, found, numbers) for name, found in counts.items() if found[..., 1].any()
    ]
    return Comparison(differences, len(first), differing, only_run, only_other, mcnemar(only_run, only_other))


def paired_rows(run: RunResult, other: RunResult) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The predictions of both runs in one order.

    Raises:
        UserError: the clips or their references are not the same.
    """
    known = {row["id"]: row for row in other.predictions}
    own = {row["id"] for row in run.predictions}
    unmatched = sorted(own ^ known.keys())
    if unmatched:
        raise UserError(
            f"{len(unmatched)} clips were tested in only one of {run.folder} and {other.folder}"
            f"{_some(unmatched)}: compare runs on the same test split."
        )
    pairs = [(row, known[row["id"]]) for row in run.predictions]
    unlike = [row["id"] for row, same in pairs if row["reference"] != same["reference"]]
    if unlike:
        raise UserError(
            f"{len(unlike)} clips have another reference in {other.folder} than in {run.folder}"
            f"{_some(unlike)}: evaluate both with the same labels and the same text normaliser."
        )
    return [row for row, _ in pairs], [same for _, same in pairs]


def _some(names: Sequence[str]) -> str:
    return f", such as {', '.join(names[:NAMED])}" if names else ""


def _hits(*sides: list[dict[str, Any]]) -> NDArray[np.int64]:
    """Right answers and answers `(N, 2 runs, 2)`."""
    right = [[row["reference"] == row["hypothesis"] for row in rows] for rows in sides]
    return np.stack([np.array(right), np.ones_like(right)], axis=-1).astype(np.int64).swapaxes(0, 1)


def _errors(*sides: list[dict[str, Any]]) -> dict[str, NDArray[np.int64]]:
    """Per rate the errors and reference lengths `(N, 2 runs, 2)`."""
    found = {
        "wer": [edit_counts(align_words(rows)) for rows in sides],
        "cer": [edit_counts(align_characters(rows)) for rows in sides],
    }
    counts = {name: errors_and_lengths(np.stack(edits, axis=1)) for name, edits in found.items()}
    wrong = (counts["wer"][..., 0] > 0).astype(np.int64)
    return counts | {"sentence_error_rate": np.stack([wrong, np.ones_like(wrong)], axis=-1)}


def paired_difference(name: str, counts: NDArray[np.int64], numbers: NDArray[np.intp]) -> Difference:
    """The difference of two ratios over the same groups.

    Args:
        name: `accuracy` and `exact_match` are better the higher, every other rate the lower.
        counts: `(N, 2, 2)`: of each clip, for the run and the other one, what is above and below the line.
        numbers: `(N,)`, the group of each clip from 0 on, at least two.
    """
    sums = sums_of_groups(counts, numbers)
    run, other = ratios(counts.sum(0).astype(float)).tolist()
    drawn = ratios(resampled(sums))
    differences = drawn[:, 0] - drawn[:, 1]
    differences = np.where(np.abs(differences) < 1e-12, 0.0, differences)[~np.isnan(differences)]
    low, high = percentiles_of_groups(differences, len(sums))
    above, below = float((differences > 0).mean()), float((differences < 0).mean())
    better = (above if name in HIGHER_IS_BETTER else below) + (1 - above - below) / 2
    p = p_value(differences, len(sums))
    return Difference(name, run, other, min(low, run - other), max(high, run - other), p, better)


def p_value(differences: NDArray[np.float64], group_count: int) -> float:
    """The two-sided p of no difference: at which level the interval of these resamples reaches zero.

    It inverts `percentiles_of_groups`, so that p is below 0.05 where zero lies outside of the 95 % interval.
    """
    tail = min((differences <= 0).sum(), (differences >= 0).sum()) + 1
    share = min(tail / (len(differences) + 1), 0.5)
    spread = math.sqrt((group_count - 1) / group_count)
    return float(min(1.0, 2 * stdtr(group_count - 1, ndtri(share) * spread)))


def mcnemar(only_run: int, only_other: int) -> float:
    """The exact two-sided p that two runs are equally often the only one that is right.

    Clips count as independent of one another. Source: McNemar, Psychometrika 12 (1947) 153-157.
    """
    fewer, both = min(only_run, only_other), only_run + only_other
    return float(min(1.0, 2 * bdtr(fewer, both, 0.5))) if both else 1.0


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Prints a row for each rate, and in how many clips the runs differ."""
    console = console or Console()
    rows = [
        {
            "percent": row.name,
            "run": f"{100 * row.run:.2f}",
            "other": f"{100 * row.other:.2f}",
            "run - other": f"{100 * row.difference:+.2f} ({100 * row.low:+.2f} to {100 * row.high:+.2f})",
            "p": p_text(row.p),
            "run is better": f"{100 * row.better:.1f}",
        }
        for row in found.differences
    ]
    print_table(rows, "Paired comparison, with 95 % intervals", console)
    sentence = (
        f"They differ in {found.differing} of {found.clips} clips; the run alone is right in "
        f"{found.only_run}, the other in {found.only_other} (McNemar's exact p {p_text(found.mcnemar)})."
    )
    console.print(sentence, soft_wrap=True, markup=False, highlight=False)


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    options = arguments.compare(argv)
    print_comparison(compare_runs(read_run(options.run), read_run(options.other)))


if __name__ == "__main__":
    main()
