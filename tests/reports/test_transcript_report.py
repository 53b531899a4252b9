"""What is written of transcripts: alignments, confusions, the worst utterances, and folds pooled to a WER."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_audio.errors import UserError
from lightning_audio.io import terminal
from lightning_audio.metrics.base import metrics_of, scores
from lightning_audio.metrics.transcripts import ErrorSources, Transcripts, transcript_counts
from lightning_audio.reports.cross_validation import print_fold_report, summarise_folds, write_fold_report
from lightning_audio.reports.results import read_run, write_metrics, write_predictions
from lightning_audio.reports.transcripts import (
    counts_table,
    has_transcripts,
    print_transcript_report,
    sources_text,
    write_transcript_report,
)

ROWS = [
    {"id": "theo-1", "group": "theo", "reference": "one two three", "hypothesis": "one too three"},
    {"id": "theo-2", "group": "theo", "reference": "two two nine", "hypothesis": "too two nine two"},
    {"id": "anna-1", "group": "anna", "reference": "four five", "hypothesis": "four"},
    {"id": "anna-2", "group": "anna", "reference": "six", "hypothesis": "six"},
    {"id": "anna-3", "group": "anna", "reference": "", "hypothesis": ""},
]


def console() -> Console:
    return terminal(width=100, record=True, file=io.StringIO())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_by_hand(tmp_path: Path) -> None:
    write_transcript_report(tmp_path, ROWS)
    ranked = [tuple(row.values()) for row in table(tmp_path / "confusions.csv")]
    assert ranked[0] == ("substitution", "two", "too", "2")
    assert set(ranked[1:]) == {
        ("deletion", "five", "", "1"),
        ("insertion", "", "two", "1"),
    }
    listed = table(tmp_path / "worst.csv")
    assert [(row["id"], row["errors"], row["words"]) for row in listed] == [
        ("theo-2", "2", "3"),
        ("anna-1", "1", "2"),
        ("theo-1", "1", "3"),
    ]
    assert listed[0]["hypothesis"] == "too two nine two"
    groups = table(tmp_path / "groups.csv")
    assert [(row["group"], float(row["wer"])) for row in groups] == [("theo", 3 / 6), ("anna", 1 / 3)]
    text = (tmp_path / "alignments.txt").read_text(encoding="utf-8")
    assert text.startswith("3 of 5 utterances have errors")
    assert ("theo-1: 1 S, 0 D, 0 I\nREF  one two three\nHYP  one too three\n         S\n") in text
    assert "REF  four five\nHYP  four ****\n          D\n" in text


def test_without_an_error_the_files_say_so(tmp_path: Path) -> None:
    write_transcript_report(tmp_path, ROWS[3:4])
    assert (tmp_path / "alignments.txt").read_text().startswith("0 of 1 utterances have errors")
    assert (tmp_path / "confusions.csv").read_text() == "kind,reference,hypothesis,count\n"
    assert table(tmp_path / "worst.csv") == []
    assert not (tmp_path / "groups.csv").exists()


def test_long_and_wide_words_keep_their_columns(tmp_path: Path) -> None:
    words = [f"word{i:03d}" for i in range(40)]
    rows = [
        {"id": "long", "reference": " ".join(words), "hypothesis": " ".join(words[:-1])},
        {"id": "wide", "reference": "日本 a b", "hypothesis": "日 a c"},
    ]
    write_transcript_report(tmp_path, rows)
    lines = (tmp_path / "alignments.txt").read_text(encoding="utf-8").split("\n")
    assert max(map(len, lines)) <= 106
    references = [line[5:] for line in lines if line.startswith("REF")]
    assert " ".join(references[:-1]).split() == words
    assert lines[-4:-1] == ["REF  日本 a b", "HYP  日   a c", "     S      S"]


def test_counts_as_a_table() -> None:
    words, characters, utterances = counts_table(transcript_counts(ROWS))
    assert words["percent"] == f"{100 * 4 / 9:.2f}"
    kinds = [words[kind] for kind in ("hits", "sub", "del", "ins")]
    assert kinds == ["6", "2", "1", "1"]
    assert characters["reference"] == str(sum(len(row["reference"]) for row in ROWS))
    assert (utterances["reference"], utterances["errors"], utterances["sub"]) == ("5", "3", "")


def test_the_report_on_the_screen_names_the_worst_speaker() -> None:
    rows = [
        row
        | {
            "score": -5.0,
            "reference_score": -4.0,
            "nbest": [{"text": row[k]} for k in ("hypothesis", "reference")],
        }
        for row in ROWS
    ]
    screen = console()
    print_transcript_report(rows, screen)
    text = screen.export_text()
    assert "Worst of 2 groups: theo, WER 50.00 %." in text
    assert "Of 3 wrong utterances 3 are search errors" in text
    assert "The best of each n-best list: WER 0.00 %." in text
    assert sources_text(ErrorSources(3, 0, 0, 3, None)) == []
    assert sources_text(ErrorSources(3, 1, 1, 1, None))[0].endswith("1 without a score of the reference.")


def write_fold(folder: Path, speaker: str, rows: list[dict[str, Any]]) -> Path:
    """A run whose held-out fold is a speaker; its vocabulary is its own."""
    write_predictions(folder / "predictions.jsonl", [row | {"group": speaker} for row in rows])
    found = scores(list(metrics_of(Transcripts).values()), Transcripts(rows))
    data = {"labels": [speaker], "fold": speaker, "folds": ["anna", "theo"]}
    tested = {f"test/{name}": score for name, score in found.items()}
    write_metrics(folder, tested, seconds=60.0, data=data)
    return folder


def test_folds_of_speakers_are_pooled_to_a_wer(tmp_path: Path) -> None:
    runs = [
        read_run(write_fold(tmp_path / name, name, [row for row in ROWS if row["group"] == name]))
        for name in ("theo", "anna")
    ]
    assert all(map(has_transcripts, runs))
    summary = summarise_folds(runs)
    assert summary.values()["test/wer"] == pytest.approx([1 / 3, 1 / 2])
    assert summary.pooled["test/wer"].value == pytest.approx(4 / 9)
    assert summary.pooled["test/wer"].n == 9
    write_fold_report(tmp_path, summary)
    content = json.loads((tmp_path / "folds.json").read_text(encoding="utf-8"))
    assert content["mean"]["test/wer"] == pytest.approx(5 / 12)
    assert content["worst"] == {"fold": "theo", "test/wer": 0.5}
    assert [row["group"] for row in content["classes"]] == ["theo", "anna"]
    assert content["confusion"] is None
    markdown = (tmp_path / "folds.md").read_text(encoding="utf-8")
    assert "Worst fold: theo, WER 50.0 %." in markdown
    assert "| theo | 50.0 |" in markdown
    assert not list(tmp_path.glob("*.png"))
    screen = console()
    print_fold_report(summary, screen)
    assert "Worst fold: theo, WER 50.0 %." in screen.export_text()
    with pytest.raises(UserError, match=r"folds \['anna'\] are missing"):
        summarise_folds(runs[:1])
