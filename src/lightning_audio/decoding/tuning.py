"""The weight of a language model and the word bonus, found on validation utterances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_audio.decoding.alignment import Rows
from lightning_audio.decoding.hypothesis import Hypothesis
from lightning_audio.errors import UserError
from lightning_audio.metrics.base import values
from lightning_audio.metrics.transcripts import Transcripts, cer, wer

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
BONUSES = (0.0, -1.0, 1.0, 2.0)  # of equally good ones the first is taken: none
Row = dict[str, float]
Decode = Callable[[Rows], list[Hypothesis]]


def tune(
    utterances: Sequence[Rows],
    references: Sequence[str],
    make: Callable[[float, float], Decode],
    weights: Sequence[float] = WEIGHTS,
    bonuses: Sequence[float] = BONUSES,
    rounds: int = 2,
    as_scored: Callable[[str], str] = str,
) -> tuple[float, float, list[Row]]:
    """The LM weight and word bonus with the lowest corpus WER, then the lowest CER, then tried first.

    Tries a grid, and then `rounds` times the neighbours of the best at half the distance of the time before;
    weights stay at 0 or above.

    Args:
        utterances: what the decoder takes of each, such as log-probabilities `(T, C)`.
        references: their transcripts, normalised.
        make: a decoder with this LM weight and word bonus, such as `LMDecoder.weighted`.
        weights: LM weights of the grid.
        bonuses: word bonuses of the grid.
        rounds: of refinement.
        as_scored: what references and hypotheses become before they are held against each other.

    Returns:
        weight, bonus, and all that was tried: rows of `lm_weight`, `word_bonus`, `wer` and `cer`, in order.

    Raises:
        UserError: no reference has a word.
    """
    if not any(reference.split() for reference in references):
        raise UserError("There are no words to tune a decoder on: give validation clips a `text`.")
    tried: dict[tuple[float, float], Row] = {}

    def attempt(weight: float, bonus: float) -> None:
        key = (round(weight, 6), round(bonus, 6))
        if key not in tried and weight >= 0:
            rates = _rates(utterances, references, make(*key), as_scored)
            tried[key] = {"lm_weight": key[0], "word_bonus": key[1], **rates}

    for weight in weights:
        for bonus in bonuses:
            attempt(weight, bonus)
    steps = [_spacing(weights) / 2, _spacing(bonuses) / 2]
    for _ in range(rounds):
        best_weight, best_bonus = _best(tried)
        for away in (-1, 0, 1):
            for aside in (-1, 0, 1):
                attempt(best_weight + away * steps[0], best_bonus + aside * steps[1])
        steps = [step / 2 for step in steps]
    return *_best(tried), [*tried.values()]


def _rates(
    utterances: Sequence[Rows], references: Sequence[str], decoder: Decode, as_scored: Callable[[str], str]
) -> Row:
    found = [decoder(rows)[0].text for rows in utterances]
    pairs = zip(map(as_scored, references), map(as_scored, found), strict=True)
    rows = [{"reference": reference, "hypothesis": hypothesis} for reference, hypothesis in pairs]
    return values((wer, cer), Transcripts(rows))


def _best(tried: dict[tuple[float, float], Row]) -> tuple[float, float]:
    return min(tried, key=lambda key: (tried[key]["wer"], tried[key]["cer"]))


def _spacing(values: Sequence[float]) -> float:
    """The mean distance of neighbours in a grid; 0 where there is only one value, which then stays."""
    return (max(values) - min(values)) / max(len(values) - 1, 1)
