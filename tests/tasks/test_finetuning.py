"""Freezing and rates by stage: which parameters and statistics a few steps change, and which they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_audio.errors import UserError
from lightning_audio.networks.base import Network
from lightning_audio.networks.cnn2d import CNN2d
from lightning_audio.networks.conformer import Conformer
from lightning_audio.tasks.finetuning import FineTuning

STAGES = ["stem", "stages.0", "stages.1", "head"]
HEAD = {"head.weight", "head.bias"}


def network() -> CNN2d:
    torch.manual_seed(0)
    return CNN2d((1, 16), 5, widths=[4, 8])


def finetuning(built: Network, **options: Any) -> FineTuning:
    return FineTuning([built], built.named_stages(), **options)


def stage_of(name: str) -> str:
    return next(stage for stage in ("stages.0", "stages.1", "stem", "head") if name.startswith(stage))


def moved(built: CNN2d, tuning: FineTuning, epochs: int, steps: int = 2) -> list[tuple[set[str], set[str]]]:
    """The stages whose weights, and those whose statistics, changed in each epoch of an AdamW."""
    optimizer = torch.optim.AdamW(tuning.groups(1e-2, 0.05))
    found = []
    for epoch in range(epochs):
        tuning.start_epoch(epoch)
        built.train()
        for norm in tuning.still:
            norm.eval()
        before = {name: value.clone() for name, value in built.state_dict().items()}
        for step in range(steps):
            x = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            built(x, torch.full((4,), 32))[0].square().sum().backward()
            optimizer.step()
        changed = {n for n, value in built.state_dict().items() if not torch.equal(value, before[n])}
        statistics = {n for n, _ in built.named_buffers()}
        weights = {stage_of(name) for name in changed - statistics}
        found.append((weights, {stage_of(name) for name in changed & statistics}))
    return found


@pytest.mark.parametrize(
    ("unfreeze", "begins"),
    [
        (0, [0, 0, 0, 0]),
        (2, [2, 2, 2, 0]),
        ({"head": 0, "stages": 1}, [None, 1, 1, 0]),
        ({"head": 0, "stages.1": 1, "rest": 2}, [2, 2, 1, 0]),
        ({"stages": 1, "stages.0": 2, "head": 0}, [None, 2, 1, 0]),
        ([0, 1], [None, None, 1, 0]),
        ([1, 0, 2], [None, 2, 0, 1]),
    ],
)
def test_stages_learn_from_their_epoch_on(unfreeze: Any, begins: list[int | None]) -> None:
    built = network()
    for epoch, (weights, statistics) in enumerate(moved(built, finetuning(built, unfreeze=unfreeze), 3)):
        learn = {s for s, begin in zip(STAGES, begins, strict=True) if begin is not None and epoch >= begin}
        assert weights == learn
        assert statistics == learn - {"head"}


@pytest.mark.parametrize("statistics", ["stage", "learned", "frozen"])
@pytest.mark.parametrize("weights", ["stage", "learned", "frozen"])
def test_statistics_and_weights_of_batch_norms_are_two_choices(statistics: str, weights: str) -> None:
    built = network()
    kinds = {"statistics": statistics, "weights": weights}
    tuning = finetuning(built, unfreeze={"head": 0, "stages.1": 0}, batch_norm=kinds)
    ((_, found),) = moved(built, tuning, 1)
    every = {"stem", "stages.0", "stages.1"}
    assert found == {"stage": {"stages.1"}, "learned": every, "frozen": set()}[statistics]
    norms = [name for name, part in built.named_modules() if isinstance(part, nn.BatchNorm2d)]
    learn = {stage_of(name) for name in norms if built.get_submodule(name).weight.requires_grad}
    assert learn == {"stage": {"stages.1"}, "learned": every, "frozen": set()}[weights]


def test_it_is_a_function_of_the_epoch_whichever_came_before() -> None:
    built = network()
    tuning = finetuning(built, unfreeze={"head": 0, "rest": 2})
    learning = lambda: {n for n, p in built.named_parameters() if p.requires_grad}  # noqa: E731
    every = {name for name, _ in built.named_parameters()}
    for epoch, expected in ((0, HEAD), (1, HEAD), (2, every), (0, HEAD)):
        tuning.start_epoch(epoch)
        assert learning() == expected
    # Where processes exchange them, all have gradients.
    tuning.start_epoch(0, exchanged=True)
    assert learning() == every
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    assert {names[id(parameter)] for parameter in tuning.dropped} == every - HEAD
    tuning.start_epoch(2, exchanged=True)
    assert tuning.dropped == []


def test_what_a_network_freezes_by_itself_is_never_unfrozen() -> None:
    built = network()
    built.stem.requires_grad_(False)
    finetuning(built).start_epoch(5)
    assert not built.stem.weight.requires_grad


def rates(built: Network, tuning: FineTuning, lr: float) -> dict[str, set[float]]:
    names = {id(p): stage_of(name) for name, p in built.named_parameters()}
    found: dict[str, set[float]] = {}
    for group in tuning.groups(lr, 0.05):
        for parameter in group["params"]:
            found.setdefault(names[id(parameter)], set()).add(group["lr"])
    return found


def test_rates_by_depth_and_by_name() -> None:
    built = network()
    assert rates(built, finetuning(built), 0.1) == {stage: {0.1} for stage in STAGES}
    decayed = rates(built, finetuning(built, lr_decay=0.5), 0.8)
    assert decayed == {"stem": {0.1}, "stages.0": {0.2}, "stages.1": {0.4}, "head": {0.8}}
    named = finetuning(built, lr_decay=0.5, lr={"stages": 0.7, "stages.0": 0.3, "head": 0.0})
    assert rates(built, named, 0.8) == {"stem": {0.1}, "stages.0": {0.3}, "stages.1": {0.7}, "head": {0.0}}


def test_groups_are_the_same_whatever_is_frozen() -> None:
    """A run that is rolled back in its first epochs builds its optimizer again there."""
    built = network()
    tuning = finetuning(built, unfreeze=2, lr_decay=0.9)
    groups = lambda: [[id(p) for p in group["params"]] for group in tuning.groups(0.1, 0.05)]  # noqa: E731
    before = groups()
    assert sum(map(len, before)) == len(list(built.parameters()))
    tuning.start_epoch(0)
    assert groups() == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"unfreeze": {"layr4": 0}}, r"names 'layr4', .* the stages are stem, stages\.0, stages\.1, head"),
        ({"unfreeze": {"stage": 0}}, "names 'stage'"),
        ({"lr": {"haed": 0.1}}, r"finetune\.lr names 'haed', which is no stage.*head"),
        ({"unfreeze": {"head": 1}}, "nothing learn in the first epoch"),
        ({"unfreeze": [0] * 5}, "5 epochs, and there are 4 stages"),
        ({"batch_norm": {"weights": "on"}}, r"batch_norm\.weights=on does not fit"),
    ],
)
def test_mistakes_are_sentences(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        finetuning(network(), **options)


def test_what_is_frozen_is_said_in_a_line() -> None:
    built = network()
    assert finetuning(built).describe() == ""
    assert finetuning(built, unfreeze=2).describe() == "Frozen: stem to stages.1 until epoch 2."
    named = finetuning(built, unfreeze={"head": 0, "stages": 3})
    assert named.describe() == "Frozen: stem for good, stages.0 to stages.1 until epoch 3."


def step_of(built: Network, tuning: FineTuning) -> tuple[int, list[torch.Tensor]]:
    """How many bytes a training step keeps for its gradients, and these."""
    tuning.start_epoch(0)
    built.train()
    for norm in tuning.still:
        norm.eval()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(1)
    x = torch.randn(2, 16, 200, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits, _ = built(x, torch.tensor([200, 180]))
    logits.square().sum().backward()
    return sum(kept.values()), [p.grad for p in built.parameters() if p.grad is not None]


def test_gradients_are_the_same_with_fewer_activations_kept() -> None:
    """Also those of dropout, which draws the same again."""
    found = []
    for twice in (False, True):
        torch.manual_seed(0)
        built = Conformer((1, 16), 5, width=16, feedforward=64, layers=4, dropout=0.2)
        frozen = {"statistics": "frozen"}
        found.append(step_of(built, finetuning(built, gradient_checkpointing=twice, batch_norm=frozen)))
    (plain, grads), (less, again) = found
    assert less < 0.5 * plain
    assert len(grads) == len(again) > 20
    for one, other in zip(grads, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_batch_norm_does_not_follow_a_batch_twice() -> None:
    with pytest.raises(UserError, match=r"no stage to compute twice.*statistics=frozen"):
        finetuning(network(), gradient_checkpointing=True)
    torch.manual_seed(0)
    built = Conformer((1, 16), 5, width=16, feedforward=64, layers=2)  # the subsampling has no batch norm
    step_of(built, finetuning(built, gradient_checkpointing=True))
    counts = [int(value) for name, value in built.named_buffers() if name.endswith("tracked")]
    assert counts == [1, 1]
