"""Pages of several runs: the folds of a corpus, a sweep, two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from lightning_audio.metrics.intervals import Score, merit, unit_of
from lightning_audio.reports.comparison import compare_runs, comparison_table, flips_sentence, paired_rows
from lightning_audio.reports.cross_validation import FoldSummary, best_of_each_fold, summarise_folds
from lightning_audio.reports.html import answers
from lightning_audio.reports.html.charts import parallel_chart
from lightning_audio.reports.html.clips import Shelf, Sound
from lightning_audio.reports.html.gaps import NAMES, gaps_of, verdict
from lightning_audio.reports.html.page import section, write_sections
from lightning_audio.reports.html.run import chosen_metric, error_chart
from lightning_audio.reports.results import (
    PAGE,
    PREDICTIONS,
    RunResult,
    predictions_file,
    read_config,
    read_predictions,
    read_run,
)
from lightning_audio.reports.sweep import SweepSummary, as_written, run_folders
from lightning_audio.reports.tables import per_class_table

NO_DEV = "Both runs need predictions of dev: lightning-audio report RUN makes them, --test shows the test's."


def write_folds(folder: Path, summary: FoldSummary | None = None) -> Path:
    """Writes report.html of all folds: their scores pooled, and what the gap from train to test says."""
    summary = summary or summarise_folds(best_of_each_fold([read_run(run) for run in run_folders(folder)]))
    rows = [row for run in summary.runs for row in run.predictions]
    config = read_config(summary.runs[0].folder)
    metric = chosen_metric(config, summary.runs[0].scores)
    scores = {**_means(summary.runs), **summary.pooled}
    gaps = gaps_of(scores, metric, drawn_from_train=bool(config.get("loader", {}).get("val_fraction")))
    levers = [f"What moves {gap.kind}: {'; '.join(gap.levers)}." for gap in gaps if gap.clear]
    sections = [
        section("Scores of the folds, in percent", [summary.remark()], summary.table()),
        section(
            "Where the error comes from",
            ["Train and dev: means over the folds; test: all clips pooled.", *levers],
            [
                {
                    "gap": g.kind,
                    "between": g.between,
                    f"points of {metric}": f"{g.value:.1f} ({g.low:.1f} to {g.high:.1f})"
                    + (", clear of 0" if g.clear else ""),
                }
                for g in gaps
            ],
            [error_chart(scores, metric)],
        ),
    ]
    labelled = bool(summary.labels) and answers.has_labels(rows)
    if not labelled:
        sections.append(section("Groups, rates in percent", (), per_class_table(summary.classes)))
    of_labels = answers.of_labels(rows, summary.labels) if labelled else None
    title = f"{len(summary.runs)} folds · {folder.name}"
    counted = {"of_labels": of_labels, "counted": "test, pooled"}
    return write_sections(folder / PAGE, title, folder.name, verdict(gaps), sections, **counted)


def _means(runs: Sequence[RunResult]) -> dict[str, Score]:
    """Of each score of training and validation clips the mean over runs, and of its interval's ends."""
    names = [n for n in runs[0].scores if not n.startswith("test/") and all(n in run.scores for run in runs)]
    several: Mapping[str, list[Score]] = {name: [run.scores[name] for run in runs] for name in names}
    return {
        name: Score(
            mean(s.value for s in own),
            mean(s.low for s in own),
            mean(s.high for s in own),
            sum(s.n for s in own),
        )
        for name, own in several.items()
    }


def write_sweep(folder: Path, summary: SweepSummary | None = None) -> Path:
    """Writes report.html of a multirun: its table, and every run as a line across what varies."""
    summary = summary or as_written(folder)
    found, *rest = summary.remarks()
    monitor = str(summary.monitor)
    scored = [n for n, row in enumerate(summary.rows) if summary.monitor in row["scores"]]
    percent = {unit_of(monitor, summary.rows[n]["scores"][monitor]) for n in scored} <= {"percent"}
    lines = [
        [
            *(_value(summary.rows[n]["overrides"].get(key, "default")) for key in summary.varying),
            (100 if percent else 1) * summary.rows[n]["scores"][monitor].value,
        ]
        for n in scored
    ]
    best = scored.index(summary.best) if summary.best in scored else None
    chart = None
    if len(lines) > 1:
        axes = [*summary.varying, f"{monitor} %" if percent else monitor]
        chart = parallel_chart("Runs by what varies", axes, lines, best)
    varies = ["The thick line is the best run."] if best is not None else []
    folders = [{"run": str(row["run"]), "folder": row["folder"]} for row in summary.rows]
    sections = [
        section("Runs, the best first, scores in percent with 95 % intervals", rest, _ranked(summary)),
        section("What varies", varies, (), [chart]),
        section("Folders", (), folders),
    ]
    title = f"{len(summary.rows)} runs · {folder.name}"
    return write_sections(folder / PAGE, title, folder.name, found, sections)


def _ranked(summary: SweepSummary) -> list[dict[str, str]]:
    """The table, the best run first, the others behind it by their score, those without one last."""
    monitor = str(summary.monitor)

    def place(n: int) -> tuple[bool, bool, float]:
        score = summary.rows[n]["scores"].get(monitor)
        return n != summary.best, score is None, 0.0 if score is None else -merit(monitor, score)

    table = summary.table()
    return [table[n] for n in sorted(range(len(table)), key=place)]


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def write_comparison(
    folder: Path,
    other: Path,
    sound: Sound | None,
    clips: int = 40,
    megabytes: float = 15.0,
    test: bool = False,
) -> Path:
    """Writes report_against_OTHER.html into the folder of a run: scores, and the clips that flip.

    The scores are those of the test, or of validation where one of them was not tested; the clips those of
    validation, or with `test` those of the test.
    """
    tested = all((one / PREDICTIONS).is_file() for one in (folder, other))
    scored = "test" if tested or test else "val"
    run, second = read_run(folder, scored), read_run(other, scored)
    found, split = compare_runs(run, second, split=scored), "test" if test else "val"
    files = [one / predictions_file(split) for one in (folder, other)]
    flips, cards = section("Clips that flip", [NO_DEV]), []
    if all(file.is_file() for file in files):
        pairs = zip(*paired_rows(*(RunResult(f.parent, {}, read_predictions(f)) for f in files)), strict=True)
        cards = _flip_cards(
            [(a, b) for a, b in pairs if a["hypothesis"] != b["hypothesis"]], split, sound, clips, megabytes
        )
        kinds = [card["tags"][0] for card in cards]
        counts = [
            {"clips": str(kinds.count(kind)), "which": answers.linked(kind, kind)}
            for kind in dict.fromkeys(kinds)
        ]
        flips = section(f"Clips that flip ({NAMES[split]})", (), counts)
    title = f"Paired comparison on {NAMES[scored]}, with 95 % intervals"
    return write_sections(
        folder / f"report_against_{other.name}.html",
        f"{folder.name} against {other.name}",
        f"{folder.name} {other.name}",
        flips_sentence(found),
        [section(title, (), comparison_table(found)), flips],
        cards=cards,
    )


def _flip_cards(
    flips: Sequence[tuple[Any, Any]], split: str, sound: Sound | None, clips: int, megabytes: float
) -> list[Any]:
    shelf = Shelf.for_clips(sound, [(split, a["id"]) for a, _ in flips[:clips]], megabytes)
    cards = []
    for number, (a, b) in enumerate(flips[: answers.LISTED]):
        right = [row["hypothesis"] == row["reference"] for row in (a, b)]
        kind = {(True, False): "only the run is right", (False, True): "only the other is right"}.get(
            (right[0], right[1]), "both are wrong"
        )
        media = shelf.take(split, a["id"]) if number < clips else {}
        said = [f"other: {b['hypothesis'] or '(nothing)'}", kind]
        cards.append(
            answers.card(a["id"], split, a["reference"], a["hypothesis"], scores=said, tags=[kind], **media)
        )
    return cards
