"""What a run said of the clips of a split: the clips themselves, and what they come to together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from lightning_audio.metrics.base import values
from lightning_audio.metrics.calibration import ece, label_errors, reliability
from lightning_audio.metrics.classification import ClassPredictions, confusion_matrix, per_class
from lightning_audio.metrics.multilabel import LabelPredictions, best_thresholds, per_label
from lightning_audio.metrics.transcripts import (
    Transcripts,
    align_words,
    aligned_pairs,
    error_sources,
    per_group,
    wer,
)
from lightning_audio.reports.html.charts import line_chart
from lightning_audio.reports.html.clips import Shelf
from lightning_audio.reports.results import score_text
from lightning_audio.reports.tables import per_class_table
from lightning_audio.reports.transcripts import confusions, has_groups, sources_text

Row = Mapping[str, Any]
Rows = Sequence[Row]

SMALLEST = 1e-6  # of a probability, as predictions keep it
LISTED = 1000  # clips in a page, with sound or without
TOP = 4  # labels that are named for a clip
LARGEST_MATRIX = 40  # classes; of more the most frequent confusions are listed
ROWS = 20  # of a table that goes on without end
FEW = 5  # answers of a bin at least, of which a share says something
PARTS = 4  # into which utterances are sorted, by speed and noise
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34)  # words, from which on a row counts utterances


def has_labels(rows: Rows) -> bool:
    return bool(rows) and "scores" in rows[0] and bool(rows[0]["scores"])


def has_several(rows: Rows) -> bool:
    return bool(rows) and "hypothesis_labels" in rows[0]


def predictions_of(rows: Rows, labels: Sequence[str]) -> ClassPredictions | LabelPredictions:
    return (LabelPredictions if has_several(rows) else ClassPredictions).from_rows(rows, labels)


def loss_of(row: Row) -> float:
    """Cross-entropy of a clip; of several labels their mean; of a transcript by its characters.

    Infinite where a reference has no probability at all.
    """
    if row.get("scores"):
        if "reference_labels" not in row:
            return -math.log(max(row["scores"][row["reference"]], SMALLEST))
        present = set(row["reference_labels"])
        right = (p if label in present else 1 - p for label, p in row["scores"].items())
        return float(np.mean([-math.log(max(p, SMALLEST)) for p in right]))
    score = row.get("reference_score")
    return math.inf if score is None else -score / max(len(row["reference"]), 1)


def doubts(rows: Rows, labels: Sequence[str]) -> dict[str, str]:
    """By the id of a clip what its label should perhaps be, the likeliest first: `cat`, `cat missing`.

    A network that is wrong more often than right vouches for none; of several labels one that misses a label
    more often than it hears it, not for that one.
    """
    predictions = predictions_of(rows, labels)
    if isinstance(predictions, ClassPredictions):
        if np.mean(predictions.hits) < 0.5:
            return {}
        assert predictions.scores is not None
        found = label_errors(predictions.scores, predictions.targets)
        return {rows[clip]["id"]: labels[other] for clip, other in found}
    marked: dict[str, str] = {}
    for number, label in enumerate(labels):
        there = predictions.scores[:, number]
        heard = there[predictions.targets[:, number]] >= 0.5
        if not heard.any() or np.mean(heard) < 0.5:
            continue
        for clip, other in label_errors(
            np.stack([1 - there, there], 1), predictions.targets[:, number].astype(int)
        ):
            marked.setdefault(rows[clip]["id"], f"{label} {'is missing' if other else 'is not there'}")
    return marked


def card(name: str, split: str, reference: str, hypothesis: str | None, **more: Any) -> dict[str, Any]:
    """A clip as the templates show it; without a hypothesis nothing was said of it."""
    wrong = hypothesis is not None and reference != hypothesis
    known = {"id": name, "split": split, "reference": reference, "hypothesis": hypothesis, "wrong": wrong}
    texts = dict.fromkeys(("loss", "problem", "group", "doubt", "audio", "picture", "why", "reason"), "")
    return {**known, **texts, "scores": [], "pairs": [], "tags": [], **more}


def ranked(rows: Rows, first: Sequence[str] = ()) -> Rows:
    """Clips by their loss, the largest first; before them those whose ids are in `first`."""
    return sorted(rows, key=lambda row: (row["id"] not in first, -loss_of(row)))


def cards(
    rows: Rows, split: str, shelf: Shelf, most: int, doubtful: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The first `most` of ranked clips, with sound as long as the shelf has room; behind them, without sound,
    those others that are wrong."""
    kept = [row for n, row in enumerate(rows) if n < most or row["reference"] != row["hypothesis"]][:LISTED]
    pairs: Iterable[Any] = (
        [()] * len(kept) if has_labels(rows) else aligned_pairs(align_words(kept)) if kept else ()
    )
    found = []
    for number, (row, pair) in enumerate(zip(kept, pairs, strict=True)):
        scores = sorted((row.get("scores") or {}).items(), key=lambda item: -item[1])[:TOP]
        found.append(
            card(
                row["id"],
                split,
                row["reference"],
                row["hypothesis"],
                loss=f"{loss_of(row):.2f}",
                scores=[f"{label} {value:.2f}" for label, value in scores],
                pairs=list(pair),
                problem=row.get("problem") or "",
                group=row.get("group") or "",
                doubt=doubtful.get(row["id"], ""),
                tags=_tags(row, pair, row["id"] in doubtful),
                **(shelf.take(split, row["id"]) if number < most else {}),
            )
        )
    return found


def _tags(row: Row, pairs: Sequence[tuple[str, str, str]], doubtful: bool) -> list[str]:
    """What the buttons of a page may ask for."""
    if has_several([row]):
        true, said = set(row["reference_labels"]), set(row["hypothesis_labels"])
        own = [f"label {label}" for label in true | said]
        own += [f"missed {label}" for label in true - said] + [f"false {label}" for label in said - true]
    elif has_labels([row]):
        own = [f"label {row['reference']}", f"pair {row['reference']} → {row['hypothesis']}"]
    else:
        own = [f"{mark} {true} → {said}" for mark, true, said in pairs if mark]
    return [
        *own,
        f"group {row.get('group')}",
        *(["wrong"] if row["reference"] != row["hypothesis"] else []),
        *(["doubt"] if doubtful else []),
    ]


def of_labels(rows: Rows, labels: Sequence[str]) -> dict[str, Any]:
    """Confusion, a table of the classes and calibration."""
    predictions = predictions_of(rows, labels)
    content: dict[str, Any] = {"labels": list(labels), "confusion": None, "confused": [], "several": False}
    if isinstance(predictions, LabelPredictions):
        table = per_label(predictions.scores, predictions.targets, predictions.said, labels)
        best = best_thresholds(predictions.scores, predictions.targets).tolist()
        classes = per_class_table(table)
        missed, false = predictions.targets & ~predictions.said, predictions.said & ~predictions.targets
        for n, row in enumerate(classes):
            row["missed"] = linked(missed[:, n].sum(), f"missed {labels[n]}" if missed[:, n].any() else "")
            row["false"] = linked(false[:, n].sum(), f"false {labels[n]}" if false[:, n].any() else "")
            row["best threshold here"] = f"{best[n]:.2f}"
        content |= {"several": True, "threshold_chart": threshold_chart(predictions)}
    else:
        confusion = confusion_matrix(predictions.targets, predictions.predictions, len(labels))
        classes = per_class_table(per_class(confusion, labels))
        content["confused"] = most_confused(confusion, labels)
        if len(labels) <= LARGEST_MATRIX:
            shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
            content["confusion"] = [
                list(zip(*pair, strict=True))
                for pair in zip(confusion.tolist(), shares.round(3).tolist(), strict=True)
            ]
        content["threshold_chart"] = refusal_chart(predictions)
    for row in classes:
        row["label"] = linked(row["label"], f"label {row['label']}")
    return content | {"classes": classes} | calibration(predictions)


def linked(text: object, tag: str) -> dict[str, str]:
    """A cell of a table that shows the clips with this tag, where it is not empty and the page has them."""
    return {"text": str(text), "tag": tag}


def most_confused(confusion: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of labels that are taken for one another most often, from counts `(C, C)` by reference."""
    wrong = confusion * (1 - np.eye(len(labels), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:ROWS]
    cells = (divmod(int(cell), len(labels)) for cell in order)
    return [
        {
            "reference": labels[i],
            "prediction": labels[j],
            "clips": linked(wrong[i, j], f"pair {labels[i]} → {labels[j]}"),
        }
        for i, j in cells
        if wrong[i, j]
    ]


def calibration(predictions: ClassPredictions | LabelPredictions) -> dict[str, Any]:
    """The reliability diagram, ECE with its interval, and what follows from it."""
    confidence = predictions.confidence
    error = ece.score(predictions)
    if confidence is None or error is None:
        return {"reliability": None}
    bins = reliability(confidence, predictions.hits)
    excess = float(np.mean(confidence) - np.mean(predictions.hits))
    way, mend = (
        ("surer", "task.label_smoothing and augment.mix lower confidence")
        if excess > 0
        else ("less sure", "less of task.label_smoothing and augment.mix raises confidence")
    )
    chart = line_chart(
        "Reliability: what was right, by confidence",
        {"share that is right": [(mean, right) for mean, right, count in bins if count >= FEW]},
        "confidence",
        "share that is right",
        unit_square=True,
    )
    return {
        "reliability": chart,
        "ece": score_text("ece", error),
        "calibrated": f"Answers are {way} than they are right by {100 * abs(excess):.1f} points on average; "
        f"{mend}. A point stands for {FEW} answers or more.",
    }


def threshold_chart(predictions: LabelPredictions) -> Markup:
    """Precision, recall and F1 of all labels together, by a threshold that all share."""
    curves: dict[str, list[tuple[float, float]]] = {"precision": [], "recall": [], "F1": []}
    for threshold in np.linspace(0.02, 0.98, 49).tolist():
        said = predictions.scores >= threshold
        right, true, claimed = (said & predictions.targets).sum(), predictions.targets.sum(), said.sum()
        for name, below in (("precision", claimed), ("recall", true), ("F1", (true + claimed) / 2)):
            if below:
                curves[name].append((threshold, float(right / below)))
    return line_chart("Threshold", curves, "threshold of all labels", "share")


def refusal_chart(predictions: ClassPredictions) -> Markup | None:
    """What is answered, and how much of that is right, where answers below a confidence are refused."""
    if predictions.confidence is None:
        return None
    curves: dict[str, list[tuple[float, float]]] = {"answered": [], "right of these": []}
    for threshold in np.linspace(0.0, 1.0, 51).tolist():
        kept = predictions.confidence >= threshold
        curves["answered"].append((threshold, float(kept.mean())))
        if kept.sum() >= FEW:
            curves["right of these"].append((threshold, float(predictions.hits[kept].mean())))
    return line_chart("Threshold", curves, "least confidence that is answered", "share")


def by_part(rows: Rows, measured: Mapping[str, float], name: str) -> list[dict[str, str]]:
    """Error rates of utterances sorted into parts of equal size by what was measured of them, by id."""
    known = sorted((row for row in rows if row["id"] in measured), key=lambda row: measured[row["id"]])
    if len(known) < PARTS * FEW:
        return []
    found = []
    for part in np.array_split(np.arange(len(known)), PARTS):
        own = [known[n] for n in part.tolist()]
        low, high = (measured[own[n]["id"]] for n in (0, -1))
        rate = 100 * values([wer], Transcripts(own))["wer"]
        found.append({name: f"{low:.1f} to {high:.1f}", "utterances": str(len(own)), "WER": f"{rate:.1f}"})
    return found


def speeds(rows: Rows) -> dict[str, float]:
    """Words a second of each utterance, by id."""
    return {row["id"]: len(row["reference"].split()) / row["seconds"] for row in rows if row.get("seconds")}


def of_transcripts(rows: Rows, snr: Mapping[str, float]) -> dict[str, Any]:
    """Confusions, the worst speakers, rates by length, speed and noise (`snr` in dB, by id), and where errors
    come from."""
    pairs = list(aligned_pairs(align_words(rows)))
    groups = per_group(rows)[:ROWS] if has_groups(rows) else []
    lengths = [len(row["reference"].split()) for row in rows]
    by_length = []
    for low, high in zip(LENGTHS, (*LENGTHS[1:], 10**9), strict=True):
        own = [row for row, length in zip(rows, lengths, strict=True) if low <= length < high]
        if own:
            rate = 100 * values([wer], Transcripts(own))["wer"]
            words = (
                f"{low}" if high == low + 1 else f"{low} or more" if high == 10**9 else f"{low} to {high - 1}"
            )
            by_length.append({"words": words, "utterances": str(len(own)), "WER": f"{rate:.1f}"})
    return {
        "confusions": [
            row | {"reference": linked(row["reference"] or "(none)", tag)}
            for row in confusions(pairs)[:ROWS]
            for tag in [f"{row['kind'][0].upper()} {row['reference']} → {row['hypothesis']}"]
        ],
        "groups": [
            row | {"group": linked(row["group"], f"group {row['group']}")} for row in per_class_table(groups)
        ],
        "rates": [
            ("length of the reference", by_length),
            ("speed", by_part(rows, speeds(rows), "words a second")),
            ("signal-to-noise ratio", by_part(rows, snr, "dB, estimated")),
        ],
        "sources": sources_text(error_sources(rows)),
    }
