"""Learning-rate schedules: values worked out by hand, and their way through an optimizer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from lightning_audio.errors import UserError
from lightning_audio.tasks.recipe import Schedule
from lightning_audio.training.schedule import (
    constant,
    cosine,
    exponential,
    inverse,
    inverse_sqrt,
    one_cycle,
    step_decay,
)

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
    options: dict[str, Any] = {"warmup": 0.2, "start": 0.5, "end": 0.1}
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


def test_momentum_goes_the_other_way() -> None:
    pairs = [one_cycle(step, 11, warmup=0.4, start=0.2, end=0.0, momentum=(0.95, 0.85)) for step in range(12)]
    expected = {
        0: (0.2, 0.95),
        2: (0.6, 0.9),
        4: (1.0, 0.85),
        7: (0.5, 0.9),
        10: (0.0, 0.95),
        11: (0.0, 0.95),
    }
    for step, pair in expected.items():
        assert pairs[step] == pytest.approx(pair, abs=1e-12)
    assert [factor for factor, _ in pairs] == [  # type: ignore[misc]
        one_cycle(step, 11, warmup=0.4, start=0.2, end=0.0) for step in range(12)
    ]


def test_step_decay() -> None:
    factors = [step_decay(step, 8, warmup=0.25, at=[0.5, 0.75], by=0.1) for step in range(9)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert [step_decay(step, 3, at=[], by=0.1) for step in range(3)] == [1.0] * 3


def test_exponential() -> None:
    factors = [exponential(step, 5, end=0.0081) for step in range(6)]
    assert factors == pytest.approx([1, 0.3, 0.09, 0.027, 0.0081, 0.0081])
    assert [exponential(step, 10, warmup=0.2, end=0.5) for step in (0, 1, 2, 9)] == pytest.approx(
        [0.5, 1, 1, 0.5]
    )


def test_inverse() -> None:
    # 1 / (1 + c t) with c = 1 in the fourth of five steps: end = 1 / 5.
    factors = [inverse(step, 5, end=0.2) for step in range(6)]
    assert factors == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 5])
    assert [inverse(step, 10, warmup=0.2, end=0.5) for step in (0, 1, 2, 9)] == pytest.approx(
        [0.5, 1, 1, 0.5]
    )


def test_inverse_sqrt() -> None:
    """d_model^-0.5 min(n^-0.5, n w^-1.5) of the paper, over its highest value; n counts from 1."""
    warm = 4
    paper = [min(n**-0.5, n * warm**-1.5) / warm**-0.5 for n in range(1, 41)]
    assert [inverse_sqrt(step, 40, warmup=0.1) for step in range(40)] == pytest.approx(paper)
    assert inverse_sqrt(15, 40, warmup=0.1) == pytest.approx(0.5)
    assert inverse_sqrt(0, 40, warmup=0.0) == 1.0


EVERY = [one_cycle, cosine, constant, step_decay, exponential, inverse, inverse_sqrt]


@pytest.mark.parametrize("factor", EVERY)
@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_a_run_of_a_few_steps_is_within_its_bounds(factor: partial, total: int, warmup: float) -> None:
    factors = [factor(step, total, warmup=warmup) for step in range(total + 1)]
    assert all(0 <= value <= 1 for value in factors)
    assert max(factors[:total]) > 0


def test_groups_keep_their_own_rates_at_every_step() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.8}, {"params": weights[1:], "lr": 0.2}])
    schedule = Schedule(optimizer, lambda step: cosine(step, 10, warmup=0.2, end=0.5))
    for step in range(10):
        expected = cosine(step, 10, warmup=0.2, end=0.5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.8 * expected, 0.2 * expected]
        )
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.1])


def cycling(optimizer: torch.optim.Optimizer) -> Schedule:
    return Schedule(optimizer, partial(one_cycle, total=11, warmup=0.4, momentum=(0.95, 0.85)))


def test_momentum_reaches_the_groups_of_an_optimizer_and_no_checkpoint_holds_a_function() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    adam = torch.optim.AdamW([{"params": [weight]} for weight in weights], lr=0.1, betas=(0.8, 0.99))
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.5)
    schedules = [cycling(optimizer) for optimizer in (adam, sgd)]
    for step in range(11):
        expected = one_cycle(step, 11, 0.4, momentum=(0.95, 0.85))[1]  # type: ignore[index]
        assert [group["betas"] for group in adam.param_groups] == [(expected, 0.99)] * 2
        assert sgd.param_groups[0]["momentum"] == expected
        for optimizer, schedule in zip((adam, sgd), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert set(schedules[0].state_dict()["lr_lambdas"]) == {None}
    assert "at" not in schedules[0].state_dict()


def test_a_schedule_that_is_restored_has_the_rate_and_momentum_of_its_step() -> None:
    def made() -> Schedule:
        return cycling(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1))

    whole, again = made(), made()
    settings = [{k: v for k, v in again.optimizer.param_groups[0].items() if k != "params"}]
    for _ in range(6):
        whole.optimizer.step()
        whole.step()
    again.load_state_dict(whole.state_dict())
    again.restore(settings)
    for name in ("lr", "betas"):
        assert again.optimizer.param_groups[0][name] == whole.optimizer.param_groups[0][name]


def test_an_optimizer_without_momentum_is_told() -> None:
    with pytest.raises(UserError, match=r"schedule\.momentum is for optimizers with momentum, and SGD"):
        cycling(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))
