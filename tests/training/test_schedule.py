"""Learning-rate schedules: values worked out by hand, and their way through an optimizer."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from lightning_audio.training.schedule import constant, cosine, one_cycle

HALF = (1 + math.cos(math.pi / 4)) / 2  # a quarter of the way down a cosine: 0.853553


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.04),
        (5, 1 - HALF * 0.96),  # a quarter of the way from 0.04 to 1
        (10, 0.52),
        (15, 0.04 + HALF * 0.96),
        (20, 1.0),
        (40, 0.50005),  # half of the way from 1 to 0.0001
        (60, 1e-4),
        (61, 1e-4),  # Lightning asks once more when training has ended
    ],
)
def test_one_cycle(step: int, factor: float) -> None:
    assert one_cycle(step, 61, warmup=1 / 3) == pytest.approx(factor, rel=1e-12)


def test_one_cycle_has_its_own_start_end_and_peak() -> None:
    options = {"warmup": 0.2, "start": 0.5, "end": 0.1}
    factors = [one_cycle(step, 11, **options) for step in range(11)]
    assert factors[0] == 0.5
    assert factors[1] == pytest.approx(0.75)
    assert factors[2] == 1.0
    assert factors[6] == pytest.approx(0.55)
    assert factors[10] == pytest.approx(0.1)
    assert factors == sorted(factors[:3]) + sorted(factors[3:], reverse=True)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.2), (1, 0.4), (4, 1.0), (5, 1.0), (28, HALF), (51, 0.5), (97, 0.0), (98, 0.0)],
)
def test_cosine(step: int, factor: float) -> None:
    # 98 steps: 5 upward, then 93 from 1 to 0, which are 92 strides.
    assert cosine(step, 98, warmup=0.05) == pytest.approx(factor, abs=1e-12)


def test_cosine_ends_where_it_is_told() -> None:
    factors = [cosine(step, 9, warmup=0.0, end=0.2) for step in range(10)]
    assert factors[0] == 1.0
    assert factors[4] == pytest.approx(0.6)
    assert factors[8:] == pytest.approx([0.2, 0.2])


def test_constant() -> None:
    assert [constant(step, 100) for step in (0, 1, 50, 100)] == [1.0] * 4
    warm = [constant(step, 40, warmup=0.1) for step in range(6)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("factor", [one_cycle, cosine, constant])
@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_a_run_of_a_few_steps_is_within_its_bounds(factor: partial, total: int, warmup: float) -> None:
    factors = [factor(step, total, warmup=warmup) for step in range(total + 1)]
    assert all(0 <= value <= 1 for value in factors)
    assert max(factors[:total]) > 0


def test_groups_keep_their_own_rates_at_every_step() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.8}, {"params": weights[1:], "lr": 0.2}])
    schedule = LambdaLR(optimizer, lambda step: cosine(step, 10, warmup=0.2, end=0.5))
    for step in range(10):
        expected = cosine(step, 10, warmup=0.2, end=0.5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.8 * expected, 0.2 * expected]
        )
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.1])
