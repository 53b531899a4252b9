"""Transcripts as files and tables: alignments, confusions, the worst utterances, the sources of errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from lightning_audio.io import terminal, write_atomically
from lightning_audio.metrics.transcripts import (
    EDITS,
    ErrorSources,
    Rows,
    align_words,
    aligned_pairs,
    edit_counts,
    error_sources,
    errors_and_lengths,
    per_group,
    transcript_counts,
)
from lightning_audio.reports.results import RunResult
from lightning_audio.reports.tables import print_table, write_csv

Pairs = Sequence[tuple[str, str, str]]

SHORT = {"substitutions": "sub", "deletions": "del", "insertions": "ins"}
KINDS = {"S": "substitution", "D": "deletion", "I": "insertion"}
CONFUSION_COLUMNS = ("kind", "reference", "hypothesis", "count")
WORST_COLUMNS = ("id", "group", "errors", *EDITS[1:], "words", "reference", "hypothesis")
GROUP_COLUMNS = ("group", "wer", "cer", *EDITS[1:], "words", "utterances")
WORST = 100  # utterances that are listed
LINE_WIDTH = 100  # columns of an alignment


def has_transcripts(run: RunResult) -> bool:
    """Whether the answers of a run are transcripts, as its scores tell."""
    return "test/sentence_error_rate" in run.scores


def write_transcript_report(folder: Path, rows: Rows) -> None:
    """Writes alignments.txt, confusions.csv, worst.csv, and of several groups groups.csv, worst first.

    Rows hold `id`, `reference`, `hypothesis` and optionally `group`.
    """
    alignment = align_words(rows)
    pairs, edits = list(aligned_pairs(alignment)), edit_counts(alignment)
    write_atomically(folder / "alignments.txt", alignments_text(rows, pairs))
    write_csv(folder / "confusions.csv", confusions(pairs), CONFUSION_COLUMNS)
    listed = []
    for row, counts in zip(rows, edits, strict=True):
        errors, words = errors_and_lengths(counts).tolist()
        kinds = dict(zip(EDITS, counts.tolist(), strict=True))
        listed.append({**row, **kinds, "errors": errors, "words": words})
    write_csv(folder / "worst.csv", worst(listed), WORST_COLUMNS)
    if has_groups(rows):
        write_csv(folder / "groups.csv", per_group(rows), GROUP_COLUMNS)


def has_groups(rows: Rows) -> bool:
    """Whether there are several groups, of two utterances and more on average."""
    return 1 < len({row.get("group") for row in rows}) <= len(rows) / 2


def confusions(pairs: Sequence[Pairs]) -> list[dict[str, Any]]:
    """What was heard for what, the most frequent first: kind, reference, hypothesis, count."""
    counts = Counter(pair for utterance in pairs for pair in utterance if pair[0])
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"kind": KINDS[mark], "reference": true, "hypothesis": said, "count": count}
        for (mark, true, said), count in ranked
    ]


def worst(listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the most errors, at most 100; of equally many the shorter reference first."""
    wrong = (row for row in listed if row["errors"])
    return sorted(wrong, key=lambda row: (-row["errors"], row["words"], row["id"]))[:WORST]


def alignments_text(rows: Rows, pairs: Sequence[Pairs]) -> str:
    """The wrong utterances, hypothesis below reference, with a mark below each error."""
    wrong = [(row, own) for row, own in zip(rows, pairs, strict=True) if any(mark for mark, *_ in own)]
    head = (
        f"{len(wrong)} of {len(rows)} utterances have errors: S is another word, D a word left out, "
        "I one too many.\n"
    )
    return "\n".join([head, *("\n".join(_aligned(str(row["id"]), own)) + "\n" for row, own in wrong)])


def _aligned(name: str, pairs: Pairs) -> Iterator[str]:
    counts = Counter(mark for mark, *_ in pairs)
    yield f"{name}: {counts['S']} S, {counts['D']} D, {counts['I']} I"
    for part in _parts(pairs):
        cells = [
            (true or "*" * cell_len(said), said or "*" * cell_len(true), mark) for mark, true, said in part
        ]
        widths = [max(map(cell_len, cell)) for cell in cells]
        for title, line in zip(("REF", "HYP", "   "), zip(*cells, strict=True), strict=True):
            words = (word + " " * (width - cell_len(word)) for word, width in zip(line, widths, strict=True))
            yield f"{title}  {' '.join(words)}".rstrip()


def _parts(pairs: Pairs) -> Iterator[Pairs]:
    """The pairs in lines that fit."""
    start, used = 0, 0
    for i, (_, true, said) in enumerate(pairs):
        width = max(cell_len(true), cell_len(said)) + 1
        if i > start and used + width > LINE_WIDTH:
            yield pairs[start:i]
            start, used = i, 0
        used += width
    yield pairs[start:]


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, str]]:
    """`transcript_counts` as rows of text, with the rate of errors in percent; they fit 80 columns."""
    return [
        {
            "": unit,
            "reference": str(found["reference"]),
            **{SHORT.get(kind, kind): str(found.get(kind, "")) for kind in EDITS},
            "errors": str(found["errors"]),
            "percent": f"{100 * found['errors'] / found['reference']:.2f}" if found["reference"] else "",
        }
        for unit, found in counts.items()
    ]


def sources_text(sources: ErrorSources) -> list[str]:
    """A sentence on search and model errors where they are known, and one on the oracle."""
    lines = []
    if sources.search + sources.model:
        unknown = f", {sources.unknown} without a score of the reference" if sources.unknown else ""
        lines.append(
            f"Of {sources.wrong} wrong utterances {sources.search} are search errors (the model prefers the "
            f"reference, which was not found) and {sources.model} model errors{unknown}."
        )
    if sources.search > sources.model:
        lines.append("A wider search mends those of the first kind: lightning-audio evaluate RUN --beam 16.")
    if sources.oracle_wer is not None:
        lines.append(f"The best of each n-best list: WER {100 * sources.oracle_wer:.2f} %.")
    return lines


def remarks_text(rows: Rows) -> list[str]:
    """A sentence where a decoder with attention went wrong by itself."""
    loops, unended = (sum(bool(row.get(name)) for row in rows) for name in ("loops", "unended"))
    if not loops + unended:
        return []
    return [
        f"In {loops} of {len(rows)} utterances the decoder went round in a loop, in {unended} it found no "
        "end within the audio: see `loops` and `unended` in predictions.jsonl."
    ]


def print_transcript_report(rows: Rows, console: Console | None = None) -> None:
    """Prints the counts behind the rates, the worst group of several, and where errors come from."""
    console = console or terminal()
    print_table(counts_table(transcript_counts(rows)), "Errors against the references", console)
    groups = per_group(rows) if has_groups(rows) else []
    worst_group = [
        f"Worst of {len(groups)} groups: {row['group']}, WER {100 * row['wer']:.2f} %."
        for row in groups[:1]
        if row["wer"] is not None
    ]
    for line in worst_group + sources_text(error_sources(rows)) + remarks_text(rows):
        console.print(line, soft_wrap=True)
