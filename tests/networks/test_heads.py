"""Heads behind frozen encoders: what is remembered, pooled and compared, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import REPORTED, TINY
from torch import Tensor, nn

import lightning_audio
from lightning_audio.cli.evaluate import main as evaluate
from lightning_audio.config import compose_config
from lightning_audio.errors import UserError
from lightning_audio.networks.heads import AttentiveHead, LinearHead, NeighbourHead, PrototypeHead
from lightning_audio.reports.results import read_metrics, read_predictions
from lightning_audio.training.run import train


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_head_answers_for_each_frame_and_step_by_step() -> None:
    head, x, lengths = LinearHead((2, 3), 4).eval(), noise(2, 2, 3, 5), torch.tensor([5, 2])
    logits, counts = head(x, lengths)
    assert counts.tolist() == head.output_lengths(lengths).tolist() == [5, 2]
    linear = cast(nn.Linear, head.layers[1])
    weight, bias = linear.weight, linear.bias
    torch.testing.assert_close(logits[1, 3], weight @ x[1, :, :, 3].flatten() + bias)
    steps = [head.step(piece, None)[0] for piece in x.split(2, dim=-1)]
    torch.testing.assert_close(torch.cat(steps, 1), logits)


def test_attention_with_equal_scores_is_the_mean_and_deviation() -> None:
    head, x, lengths = AttentiveHead((1, 3), 2).eval(), noise(2, 3, 5), torch.tensor([5, 2])
    with torch.no_grad():
        nn.init.zeros_(cast(nn.Linear, head.attention[2]).weight)
    logits, _ = head(x, lengths)
    own = x[1, :, :2]
    pooled = torch.cat([own.mean(-1), own.std(-1, correction=0)])
    torch.testing.assert_close(logits[1], head.head[1](pooled), rtol=1e-4, atol=1e-5)


def test_prototypes_answer_by_cosine() -> None:
    head = PrototypeHead((1, 3), 2, scale=10.0).eval()
    with torch.no_grad():
        head.prototypes.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]))
    x = torch.tensor([[[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]]])  # its mean over one frame: (3, 4, 0)
    torch.testing.assert_close(head(x, torch.tensor([1]))[0], torch.tensor([[6.0, 8.0]]))


def remembering(k: int) -> NeighbourHead:
    head = NeighbourHead((1, 2), 3, k=k, scale=10.0)
    points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    head.remember(points[:2, :, None], torch.ones(2, dtype=torch.long), torch.tensor([0, 1]))
    head.remember(points[2:, :, None], torch.ones(2, dtype=torch.long), torch.tensor([2, 2]))
    return head


def test_neighbours_count_by_their_cosine_and_a_clip_is_none_of_its_own() -> None:
    x, one = torch.tensor([[[1.0], [0.0]]]), torch.tensor([1])
    head = remembering(k=2).eval()
    cosines = torch.tensor([1.0, 1 / 1.01**0.5])
    shares = (10 * cosines).softmax(0)
    torch.testing.assert_close(head(x, one)[0].exp()[0, :2], shares + 1e-4, rtol=1e-4, atol=1e-6)
    trained = head.train()(x, one)[0]
    assert trained.argmax() == 1
    assert head(torch.tensor([[[1.0], [-0.02]]]), one)[0].argmax() == 1  # augmented, it is its own still
    head.eval().knows_clips = True
    assert head(x, one)[0].argmax() == 1
    head.train().knows_clips = False
    trained.sum().backward()
    assert head.scale.grad is not None
    again = NeighbourHead((1, 2), 3, k=2)
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again.eval()(x, one)[0], head.eval()(x, one)[0])
    with pytest.raises(UserError, match="use task=classification"):
        head.remember(x, one, torch.zeros(1, 3))


def test_a_run_of_neighbours_remembers_every_training_clip(tmp_path: Path) -> None:
    tiny = [option for option in TINY if not option.startswith("network")]
    options = [*tiny, "network=neighbours", "network.k=3"]
    content = train(compose_config(options), tmp_path / "run")
    network = lightning_audio.load(tmp_path / "run").network
    assert isinstance(network, NeighbourHead)
    assert len(network.memory) == content["data"]["clips"]["train"] == 80
    assert sorted(network.classes.unique().tolist()) == list(range(len(content["data"]["labels"])))
    # Resumed, it has them from its checkpoint, once.
    resumed = train(compose_config([*options, "trainer.max_epochs=3"]), tmp_path / "run")
    assert resumed["epochs"] == 3
    assert torch.equal(lightning_audio.load(tmp_path / "run").network.state_dict()["memory"], network.memory)


def test_of_training_clips_that_are_scored_none_is_its_own_neighbour(tmp_path: Path) -> None:
    tiny = [option for option in REPORTED if not option.startswith("network")]
    content = train(compose_config([*tiny, "network=neighbours", "network.k=3"]), tmp_path / "run")
    evaluate([str(tmp_path / "run"), "--split", "train"])
    network = lightning_audio.load(tmp_path / "run").network
    assert isinstance(network, NeighbourHead)
    cosines = (network.memory @ network.memory.T).fill_diagonal_(-1)
    nearest, places = cosines.topk(3)
    votes = nn.functional.one_hot(network.classes[places].long(), len(content["data"]["labels"]))
    said = ((network.scale * nearest).softmax(-1)[..., None] * votes).sum(1).argmax(-1)
    right = float((said == network.classes).float().mean())
    scores = read_metrics(tmp_path / "run" / "evaluation")["scores"]
    assert scores["train/accuracy"]["value"] == pytest.approx(right)
    assert right < 0.95
    again = {row["id"]: row for row in read_predictions(tmp_path / "run/evaluation/predictions_train.jsonl")}
    for row in read_predictions(tmp_path / "run" / "predictions_train.jsonl"):
        assert row["scores"] == pytest.approx(again[row["id"]]["scores"], abs=1e-5)
