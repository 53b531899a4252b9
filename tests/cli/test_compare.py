"""Paired comparison: what is planted is found, what is the same is not, and other programs agree."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from lightning_audio.cli import compare
from lightning_audio.errors import UserError
from lightning_audio.io import terminal
from lightning_audio.metrics.base import metric, scores
from lightning_audio.metrics.intervals import Draws, Score
from lightning_audio.metrics.transcripts import Transcripts, cer, sentence_error_rate, wer
from lightning_audio.reports.comparison import (
    Difference,
    compare_runs,
    mcnemar,
    paired_difference,
    print_comparison,
)
from lightning_audio.reports.html.run import write_run_report
from lightning_audio.reports.results import RunResult, read_run, write_metrics, write_predictions

Rows = list[dict[str, Any]]
WORDS = ("one", "two", "three", "four", "five")


def run_of(folder: Path, rows: Rows, transcripts: bool = True) -> RunResult:
    """A run as it lies in its folder, read back."""
    write_predictions(folder / "predictions.jsonl", rows)
    name = "exact_match" if "hypothesis_labels" in rows[0] else "accuracy"
    found = {name: Score(0.5, 0.4, 0.6, len(rows))}
    if transcripts:
        found = scores([wer, cer, sentence_error_rate], Transcripts(rows))
    write_metrics(folder, {f"test/{name}": score for name, score in found.items()})
    return read_run(folder)


def difference_of(counts: np.ndarray, numbers: np.ndarray) -> Difference:
    """Of two runs' WER, from `(N, 2 runs, 2)`: errors and words of each utterance."""
    rows = [{"reference": "", "hypothesis": "", "group": str(number)} for number in numbers]
    sides = [Transcripts(rows), Transcripts(rows)]
    for i, side in enumerate(sides):
        side.words = counts[:, i]
    return paired_difference(wer, *sides)


def heard(rate: float, seed: int, count: int = 120) -> Rows:
    """Utterances whose references are always the same, of whose words a share is heard as another."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = [str(word) for word in truth.choice(WORDS, truth.integers(3, 8))]
        said = ["six" if noise.random() < rate else word for word in words]
        texts = {"reference": " ".join(words), "hypothesis": " ".join(said)}
        rows.append({"id": f"u{i}", "group": f"speaker {i % 12}", **texts})
    return rows


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    run, other = run_of(tmp_path / "a", heard(0.1, 1)), run_of(tmp_path / "b", heard(0.2, 2))
    found = compare_runs(run, other)
    wer, cer, sentences = found.differences
    assert (wer.name, cer.name, sentences.name) == ("wer", "cer", "sentence_error_rate")
    assert (wer.run, wer.other) == (run.scores["test/wer"].value, other.scores["test/wer"].value)
    assert wer.low < wer.difference < wer.high < 0
    assert wer.p < 0.01
    assert wer.better > 0.99
    assert found.clips == 120
    back = compare_runs(other, run)
    assert back.differences[0].difference == -wer.difference
    assert (back.differences[0].p, back.differences[0].better) == pytest.approx((wer.p, 1 - wer.better))
    assert (back.only_run, back.only_other) == (found.only_other, found.only_run)


def test_a_metric_of_ones_own_is_compared(tmp_path: Path) -> None:
    @metric(better="min", unit="points")
    def wrong_words(predictions: Transcripts, draws: Draws) -> np.ndarray:
        return draws.sums(predictions.words[:, 0].astype(float))

    runs = []
    for name, rate in (("a", 0.1), ("b", 0.2)):
        run = run_of(tmp_path / name, rows := heard(rate, 1))
        own = scores([wrong_words], Transcripts(rows))
        write_metrics(run.folder, {**run.scores, "test/wrong_words": own["wrong_words"]})
        runs.append(read_run(run.folder))
    assert "wrong_words" not in [row.name for row in compare_runs(runs[0], runs[1]).differences]
    found = compare_runs(runs[0], runs[1], [wrong_words]).differences[-1]
    assert (found.name, found.unit) == ("wrong_words", "points")
    assert (found.run, found.other) == tuple(run.scores["test/wrong_words"].value for run in runs)
    assert found.better > 0.99
    content = io.StringIO()
    print_comparison(compare_runs(runs[0], runs[1], [wrong_words]), terminal(file=content, width=120))
    assert f"{found.run:.2f}" in content.getvalue()  # no share of a hundred


def test_what_is_no_better_gets_a_large_p(tmp_path: Path) -> None:
    run, other = run_of(tmp_path / "a", heard(0.1, 3)), run_of(tmp_path / "b", heard(0.1, 4))
    wer = compare_runs(run, other).differences[0]
    assert wer.low < 0 < wer.high
    assert wer.p > 0.2
    assert 0.05 < wer.better < 0.95


def test_a_run_is_as_good_as_itself(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", heard(0.1, 1))
    found = compare_runs(run, run)
    assert (found.differing, found.only_run, found.only_other, found.mcnemar) == (0, 0, 0, 1.0)
    for row in found.differences:
        assert (row.difference, row.low, row.high, row.p, row.better) == (0.0, 0.0, 0.0, 1.0, 0.5)


def test_without_a_difference_five_of_a_hundred_are_found() -> None:
    generator, small = np.random.default_rng(5), 0
    for _ in range(300):
        rates, words = generator.beta(2, 18, 60), generator.integers(4, 12, 60)
        counts = [np.stack([generator.binomial(words, rates), words], axis=1) for _ in range(2)]
        found = difference_of(np.stack(counts, axis=1), np.arange(60) // 5)
        small += found.p < 0.05
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or found.p == pytest.approx(
            0.05, abs=0.01
        )
    assert 0.02 <= small / 300 <= 0.09


def test_the_p_value_agrees_with_matched_pairs() -> None:
    """Gillick and Cox (1989): a t-test on the differences of errors, here of utterances of one length."""
    generator = np.random.default_rng(6)
    words = np.full(200, 10)
    for rate in (0.1, 0.12, 0.13, 0.14):
        errors = np.stack([generator.binomial(words, 0.1), generator.binomial(words, rate)], axis=1)
        counts = np.stack([errors, np.stack([words, words], axis=1)], axis=-1)
        found = difference_of(counts, np.arange(200))
        assert found.p == pytest.approx(ttest_rel(*errors.T).pvalue, abs=0.05)


@pytest.mark.parametrize(("only_run", "only_other"), [(0, 0), (1, 0), (5, 5), (3, 12), (0, 9), (40, 62)])
def test_mcnemar_agrees_with_scipy(only_run: int, only_other: int) -> None:
    both = only_run + only_other
    expected = binomtest(only_run, both).pvalue if both else 1.0
    assert mcnemar(only_run, only_other) == pytest.approx(expected)
    assert mcnemar(only_other, only_run) == pytest.approx(expected)


def classes(hits: int, wrong: str = "dog") -> Rows:
    return [
        {"id": f"c{i}", "reference": "cat", "hypothesis": "cat" if i < hits else wrong} for i in range(50)
    ]


def test_classes_are_compared_by_accuracy(tmp_path: Path) -> None:
    run, other = (run_of(tmp_path / str(n), classes(n), transcripts=False) for n in (45, 35))
    found = compare_runs(run, other)
    (accuracy,) = found.differences
    assert (accuracy.name, accuracy.run, accuracy.other) == ("accuracy", 0.9, 0.7)
    assert accuracy.better > 0.99
    assert accuracy.low > 0
    assert (found.differing, found.only_run, found.only_other) == (10, 10, 0)
    assert found.mcnemar == pytest.approx(2 / 2**10)
    labelled, fewer = (
        run_of(
            tmp_path / f"several {hits}",
            [
                row
                | {f"{key}_labels": [row[key]] for key in ("reference", "hypothesis")}
                | {"scores": {"cat": 0.9, "dog": 0.1}}
                for row in classes(hits)
            ],
            transcripts=False,
        )
        for hits in (40, 30)
    )
    (exact,) = compare_runs(labelled, fewer).differences
    assert (exact.name, exact.difference) == ("exact_match", pytest.approx(0.2))
    with pytest.raises(UserError, match="another kind"):
        compare_runs(labelled, other)


def test_what_was_not_tested_on_the_same_is_refused(tmp_path: Path) -> None:
    rows = heard(0.1, 1, count=6)
    run, fewer = run_of(tmp_path / "run", rows), run_of(tmp_path / "fewer", rows[:4])
    others = [row | ({"reference": "eight"} if i == 2 else {}) for i, row in enumerate(rows)]
    unlike, single = run_of(tmp_path / "unlike", others), run_of(tmp_path / "single", rows[:1])
    cases = [
        ((run, fewer), r"2 clips were tested in only one of .*run and .*fewer, such as u4, u5: compare"),
        ((run, unlike), r"1 clips have another reference in .*unlike than in .*run, such as u2: evaluate"),
        ((single, single), "has answers to 1 clips"),
    ]
    for pair, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            compare_runs(*pair)


def test_the_program_prints_both_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = run_of(tmp_path / "a", heard(0.1, 1)), run_of(tmp_path / "b", heard(0.2, 2))
    screen = terminal(width=120, record=True, file=io.StringIO())
    print_comparison(compare_runs(run, other), screen)
    text = screen.export_text()
    for result in (run, other):
        assert f"{100 * result.scores['test/wer'].value:.2f}" in text
    assert "McNemar's exact p < 0.001" in text
    assert "of 120 clips; the run alone is right in" in text
    compare.main([str(run.folder), str(other.folder)])
    assert "McNemar's exact p" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        compare.main([str(run.folder), str(tmp_path / "nowhere")])
    assert ending.value.code == 2
    assert "There is no" in capsys.readouterr().err


def test_language_models_are_compared_by_their_losses(tmp_path: Path) -> None:
    runs = []
    for name, loss in (("one", 5.0), ("other", 6.0)):
        rows = [
            {"id": str(i), "reference": "three five", "hypothesis": "", "loss": loss + i / 10, "tokens": 5}
            for i in range(6)
        ]
        write_predictions(tmp_path / name / "predictions.jsonl", rows)
        found = Score(1.0, 1.0, 1.0, 30, "min", "per token")
        write_metrics(tmp_path / name, {"test/perplexity": found}, data={"labels": ["e", "f"]})
        runs.append(read_run(tmp_path / name))
    one, other = runs
    (row,) = compare_runs(one, other).differences
    assert (row.name, row.unit, row.better) == ("perplexity", "per token", 1.0)
    assert (row.run, row.other) == pytest.approx((np.exp(5.25 / 5), np.exp(6.25 / 5)))
    content = io.StringIO()
    print_comparison(compare_runs(one, other), terminal(file=content, width=120))
    assert "perplexity, per token" in content.getvalue()
    page = write_run_report(tmp_path / "one", None).read_text(encoding="utf-8")
    assert "Transcripts" not in page, "nothing was heard, so that no word is wrong"
    assert '<div class="clips"' not in page
