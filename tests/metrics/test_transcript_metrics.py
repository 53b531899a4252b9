"""Error rates against hand-worked cases and a brute-force distance; intervals against known distributions."""

from __future__ import annotations

import json
from typing import Any

import jiwer
import numpy as np
import pytest

from lightning_audio.metrics.base import metrics_of, named_metrics, scores, values
from lightning_audio.metrics.intervals import (
    Draws,
    Score,
    bootstrap_interval,
    expanded_tail,
    resampled_groups,
)
from lightning_audio.metrics.transcripts import (
    ErrorSources,
    Transcripts,
    align_characters,
    align_words,
    aligned_pairs,
    edit_counts,
    error_sources,
    errors_and_lengths,
    oracle_wer,
    per_group,
    ratios,
    transcript_counts,
    wer,
    word_counts,
)


def transcript_scores(rows: list[dict[str, Any]]) -> dict[str, Score]:
    return scores(named_metrics(Transcripts, ("wer", "cer", "sentence_error_rate")), Transcripts(rows))


def transcript_values(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = values(list(metrics_of(Transcripts).values()), Transcripts(rows))
    return {name: value for name, value in found.items() if not np.isnan(value)}


def ratio_score(counts: np.ndarray, numbers: np.ndarray) -> Score:
    """WER of utterances with these errors and words, said by these speakers."""
    rows = Transcripts(rows_of(*[("", "")] * len(counts), groups=numbers.tolist()))
    rows.words = counts
    found = wer.score(rows)
    assert found is not None
    return found


def rows_of(*texts: tuple[str, str], groups: Any = None) -> list[dict[str, Any]]:
    """Rows of (reference, hypothesis); `groups` has a letter for each."""
    named = groups or [None] * len(texts)
    return [
        {"id": f"u{i}", "reference": reference, "hypothesis": hypothesis, "group": group}
        for i, ((reference, hypothesis), group) in enumerate(zip(texts, named, strict=True))
    ]


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Edit distance by the plain recursion, as a table."""
    table = np.zeros((len(reference) + 1, len(hypothesis) + 1), dtype=int)
    table[:, 0], table[0] = np.arange(len(reference) + 1), np.arange(len(hypothesis) + 1)
    for i, true in enumerate(reference, start=1):
        for j, said in enumerate(hypothesis, start=1):
            swapped = table[i - 1, j - 1] + (true != said)
            table[i, j] = min(swapped, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    # Hits, substitutions, deletions and insertions, worked by hand.
    [
        ("one two three", "one two three", [3, 0, 0, 0], [13, 0, 0, 0]),
        ("one two three", "one too three", [2, 1, 0, 0], [12, 1, 0, 0]),
        ("one two three", "one three", [2, 0, 1, 0], [9, 0, 4, 0]),
        ("one three", "one two three", [2, 0, 0, 1], [9, 0, 0, 4]),
        ("a b c d e", "x b d e f", [3, 1, 1, 1], None),
        ("", "", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("", "um er", [0, 0, 0, 2], [0, 0, 0, 5]),
        ("two words", "", [0, 0, 2, 0], [0, 0, 9, 0]),
        ("größer über Öl", "grösser über öl", [1, 2, 0, 0], [12, 2, 0, 1]),
        ("日本 語", "日木 語", [1, 1, 0, 0], [3, 1, 0, 0]),
        ("e\u0301t\u00e9", "\u00e9t\u00e9", [0, 1, 0, 0], [2, 1, 1, 0]),
        (" two\u00a0 spaces\n", "two spaces", [2, 0, 0, 0], [10, 0, 0, 0]),
    ],
)
def test_edits_by_hand(
    reference: str, hypothesis: str, words: list[int], characters: list[int] | None
) -> None:
    rows = rows_of((reference, hypothesis))
    assert edit_counts(align_words(rows)).tolist() == [words]
    if characters is not None:
        assert edit_counts(align_characters(rows)).tolist() == [characters]


def test_rates_are_of_the_corpus_and_no_mean_over_utterances() -> None:
    # 1 error in 1 word and 1 in 9: 2 in 10, where the mean over utterances is 0.56.
    rows = rows_of(("one", "won"), ("a b c d e f g h i", "a b c d e f g h"), ("", "um"), ("", ""))
    values = transcript_values(rows)
    assert values["wer"] == pytest.approx(3 / 10)
    assert values["sentence_error_rate"] == pytest.approx(3 / 4)
    assert values["wer"] == jiwer.wer([r["reference"] for r in rows], [r["hypothesis"] for r in rows])
    assert values["cer"] == jiwer.cer([r["reference"] for r in rows], [r["hypothesis"] for r in rows])
    counts = transcript_counts(rows)
    kinds = {"hits": 8, "substitutions": 1, "deletions": 1, "insertions": 1}
    assert counts["words"] == {"reference": 10, "errors": 3, **kinds}
    assert counts["utterances"] == {"reference": 4, "errors": 3, "hits": 1}
    scores = transcript_scores(rows)
    assert {name: score.value for name, score in scores.items()} | {"per": values["wer"]} == values
    assert {name: score.n for name, score in scores.items()} == {
        "wer": 10,
        "cer": 20,
        "sentence_error_rate": 4,
    }
    assert all(0 <= score.low <= score.value <= score.high for score in scores.values())


def test_without_a_reference_word_there_is_no_rate_but_the_insertions_are_counted() -> None:
    rows = rows_of(("", "um er"), ("", ""))
    assert transcript_values(rows) == {"sentence_error_rate": 0.5}
    assert set(transcript_scores(rows)) == {"sentence_error_rate"}
    assert transcript_counts(rows)["words"]["insertions"] == 2
    with pytest.raises(ValueError, match="one utterance"):
        transcript_values([])


def test_more_errors_than_words() -> None:
    score = transcript_scores(rows_of(("a", "x y z"), ("b", "x y z")))["wer"]
    assert score.value == score.high == 3.0
    assert score.low <= 1.0


def test_edits_agree_with_a_brute_force_distance() -> None:
    generator = np.random.default_rng(0)

    def text() -> str:
        return "".join(generator.choice(list("ab c"), generator.integers(0, 9)))

    texts = [(text(), text()) for _ in range(300)]
    rows = rows_of(*texts)
    words = errors_and_lengths(edit_counts(align_words(rows)))
    assert words.tolist() == [[distance(r.split(), h.split()), len(r.split())] for r, h in texts]
    tidied = [(" ".join(r.split()), " ".join(h.split())) for r, h in texts]
    characters = errors_and_lengths(edit_counts(align_characters(rows)))
    assert characters.tolist() == [[distance(list(r), list(h)), len(r)] for r, h in tidied]


def test_pairs_spell_both_sides() -> None:
    rows = rows_of(("one two three four six", "won two four six five"), ("", "um"), ("a", ""))
    first, *others = aligned_pairs(align_words(rows))
    assert [pair[1:] for pair in first if not pair[0]] == [(w, w) for w in ("two", "four", "six")]
    assert ("S", "one", "won") in first
    assert ("D", "three", "") in first
    assert ("I", "", "five") in first
    assert others == [[("I", "", "um")], [("D", "a", "")]]


def test_perfect_runs_keep_their_doubt() -> None:
    scores = transcript_scores(rows_of(*[("one two", "one two")] * 20, groups="ab" * 10))
    # Wilson of 0 of 20: z^2 / (20 + z^2).
    assert (scores["wer"].value, scores["wer"].low, scores["wer"].n) == (0.0, 0.0, 40)
    assert scores["wer"].high == scores["cer"].high == pytest.approx(0.16113, abs=1e-5)
    assert scores["sentence_error_rate"].high == pytest.approx(0.16113, abs=1e-5)


def test_one_speaker_counts_by_utterances_and_several_by_speaker() -> None:
    texts = [("one two", "one two" if i % 4 else "one too") for i in range(40)]
    alone, single = transcript_scores(rows_of(*texts)), transcript_scores(rows_of(*texts, groups="a" * 40))
    assert alone == single
    sure = [("one two", "one too" if i < 10 else "one two") for i in range(40)]
    clustered = transcript_scores(rows_of(*sure, groups="".join("abcd"[i // 10] for i in range(40))))
    assert clustered["wer"].value == alone["wer"].value
    assert clustered["wer"].high > 2 * alone["wer"].high


def test_expanded_levels() -> None:
    # Hesterberg (2015): Phi(-sqrt(n / (n - 1)) t); of 6 groups t is 2.5706, so Phi(-2.8160) = 0.00243.
    assert expanded_tail(0.025, 6) == pytest.approx(0.002432, abs=2e-6)
    assert expanded_tail(0.025, 10**6) == pytest.approx(0.025, abs=1e-5)
    assert bootstrap_interval(50.0, np.arange(101.0), 10**6, 1) == pytest.approx((2.5, 97.5), abs=1e-3)


def linearised_error(errors: np.ndarray, words: np.ndarray) -> float:
    """The standard error of a ratio of sums over independent utterances."""
    return float(np.sqrt(np.sum((errors - errors.sum() / words.sum() * words) ** 2)) / words.sum())


def test_intervals_agree_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(1)
    words = generator.integers(3, 20, 500)
    errors = generator.binomial(words, generator.beta(2, 18, 500))
    score = ratio_score(np.stack([errors, words], axis=1), np.arange(500))
    rate, error = errors.sum() / words.sum(), linearised_error(errors, words)
    assert (score.value, score.n) == (rate, words.sum())
    expected = (rate - 1.96 * error, rate + 1.96 * error)
    assert (score.low, score.high) == pytest.approx(expected, abs=0.1 * error)


@pytest.mark.parametrize(("group_count", "strength"), [(6, 20), (30, 4)])
def test_intervals_cover_the_truth(group_count: int, strength: float) -> None:
    """Speakers with error rates of their own, beta-distributed around 10 %: 95 % is meant.

    Of six speakers percentiles that were not moved outwards cover 83 %, utterances taken as independent 70 %.
    """
    generator, truth, runs = np.random.default_rng(2), 0.1, 200
    numbers = np.repeat(np.arange(group_count), 10)
    covered = plain = 0
    for _ in range(runs):
        rates = generator.beta(strength * truth, strength * (1 - truth), group_count)
        words = generator.integers(4, 12, len(numbers))
        errors = generator.binomial(words, rates[numbers])
        score = ratio_score(np.stack([errors, words], axis=1), numbers)
        covered += score.low <= truth <= score.high
        plain += abs(score.value - truth) <= 1.96 * linearised_error(errors, words)
    assert 0.89 <= covered / runs <= 0.99
    assert plain / runs < 0.85


def test_resamples_keep_groups_together() -> None:
    counts = np.array([[1, 2], [3, 4], [5, 6]])
    draws = next(iter(resampled_groups(np.array([0, 1, 0]))))
    drawn = draws.sums(counts)
    assert {tuple(row) for row in drawn.tolist()} == {(12, 16), (9, 12), (6, 8)}
    assert (np.einsum("rn,nk->rk", draws.of_clips(), counts) == drawn).all()
    assert np.isnan(ratios(np.array([[1.0, 0.0], [1.0, 2.0]]))).tolist() == [True, False]
    assert Draws(np.array([[0, 2]]), np.array([0, 1, 0])).sums(counts).tolist() == [[6, 8]]


def test_groups_worst_first() -> None:
    rows = rows_of(("a b", "a b"), ("a b", "a x"), ("", "um"), ("a", "a"), groups="xyzx")
    found = per_group(rows)
    assert [(row["group"], row["wer"], row["words"], row["utterances"]) for row in found] == [
        ("y", 0.5, 2, 1),
        ("x", 0.0, 3, 2),
        ("z", None, 0, 1),
    ]
    assert (found[0]["substitutions"], found[2]["insertions"]) == (1, 1)


def test_search_and_model_errors() -> None:
    rows = rows_of(("a", "a"), ("b", "x"), ("c", "x"), ("d", "x"), ("e", "x"), ("f", "x"))
    scores = [(-1.0, -0.5), (-5.0, -4.0), (-5.0, -6.0), (-5.0, None), (-5.0, -5.0 + 1e-5), (-5.0, -np.inf)]
    for row, (score, reference) in zip(rows, scores, strict=True):
        row |= {"score": score, "reference_score": reference}
    found = error_sources(rows)
    assert found == ErrorSources(wrong=5, search=1, model=3, unknown=1, oracle_wer=None)
    assert error_sources(rows_of(("a", "x"))).unknown == 1


def test_the_oracle_takes_the_best_of_each_list() -> None:
    rows = rows_of(("a b c", "x y z"), ("a b", "a"), ("", "um"), ("a", "a"))
    lists = [["x y z", "a y c", "a b"], ["x"], ["um", ""], None]
    for row, texts in zip(rows, lists, strict=True):
        row["nbest"] = texts and [{"text": text, "score": -1.0} for text in texts]
    # 1 error of "a y c" or "a b", 1 of the hypothesis itself, none of the empty text: 2 in 6 words.
    assert oracle_wer(rows) == pytest.approx(2 / 6)
    assert transcript_values(rows)["wer"] == pytest.approx(5 / 6)
    assert oracle_wer(rows_of(("a", "x"))) is None
    assert oracle_wer([rows[0] | {"nbest": [{"text": "x y z"}]}]) is None


def test_scores_are_plain_values() -> None:
    scores = transcript_scores(rows_of(("a b", "a"), ("c", "c")))
    assert all(isinstance(score, Score) for score in scores.values())
    assert json.loads(json.dumps(scores["wer"].as_dict()))["n"] == 3


def test_words_are_counted_as_said_found_and_false() -> None:
    rows = [
        {"reference": "anna met bo and anna", "hypothesis": "anna met bob and"},
        {"reference": "who", "hypothesis": "bo who anna bo"},
        {"reference": "bo", "hypothesis": "bo"},
    ]
    assert word_counts(rows, ["anna", "bo"]) == {"said": 4, "found": 2, "false": 3}
    assert word_counts(rows, ["nobody"]) == {"said": 0, "found": 0, "false": 0}
