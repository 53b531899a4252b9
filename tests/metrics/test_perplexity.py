"""Perplexity, whose interval is not that of a share."""

from __future__ import annotations

import math

import pytest

from lightning_audio.metrics.perplexity import TokenLosses, perplexity


def score_of(losses: list[float], group: str | None) -> tuple[float, float, float]:
    rows = [{"loss": loss, "tokens": 4, "group": group} for loss in losses]
    found = perplexity.score(TokenLosses(rows))
    assert found is not None
    return found.value, found.low, found.high


def test_texts_of_one_speaker_stand_each_for_itself() -> None:
    losses = [10.0, 11.0, 12.0, 13.0, 14.0]
    value, low, high = score_of(losses, "speaker")
    assert value == pytest.approx(math.exp(3))
    assert score_of(losses, None) == (value, low, high)
    assert math.exp(10 / 4) <= low < value < high


def test_a_single_text_tells_nothing_of_the_spread() -> None:
    assert score_of([12.0], None) == pytest.approx((math.exp(3),) * 3)
