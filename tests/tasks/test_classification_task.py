"""Classification: its weighted loss against torch's, and what training makes of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_audio.augment import Augment
from lightning_audio.augment.mix import Mix
from lightning_audio.augment.waveform import Polarity
from lightning_audio.data.batch import Batch
from lightning_audio.data.info import DataInfo
from lightning_audio.frontend.log_mel import LogMel
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.networks.cnn2d import CNN2d
from lightning_audio.tasks.classification import Classification

RATE = 8000
ONES = torch.ones(4, dtype=torch.int64)  # lengths, which the loss of a clip does not read


def make(augment: Augment | None = None, **options: Any) -> Classification:
    torch.manual_seed(0)
    frontend = LogMel(RATE, n_fft=256, hop_length=160, n_mels=16)
    network = CNN2d(in_shape=frontend.shape, num_outputs=3, widths=[4])
    parts: dict[str, Any] = {"frontend": frontend, "normalize": Normalize(frontend.shape), "network": network}
    return Classification(
        **parts, augment=augment or Augment(), info=DataInfo(("a", "b", "c"), RATE, 0.5), **options
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_loss_of_whole_labels_is_that_of_torch(smoothing: float) -> None:
    task, weights = make(class_weights=[1.0, 5.0, 0.25], label_smoothing=smoothing), [1.0, 5.0, 0.25]
    logits, classes = torch.randn(4, 3), torch.tensor([0, 1, 1, 2])
    expected = functional.cross_entropy(
        logits, classes, weight=torch.tensor(weights), label_smoothing=smoothing
    )
    assert float(task.loss(logits, ONES, task.targets_for_training(classes))) == pytest.approx(
        float(expected)
    )


def test_weighted_loss_of_mixed_labels_is_divided_by_their_weights() -> None:
    """By hand: all logits 0, so that every label costs log 3, whatever the weights are."""
    task = make(class_weights=[1.0, 5.0, 0.25])
    mixed = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert float(task.loss(torch.zeros(4, 3), ONES, mixed)) == pytest.approx(1.0986123)
    # Weights that are all 7 change nothing.
    logits = torch.randn(4, 3)
    plain, sevens = (float(make(class_weights=w).loss(logits, ONES, mixed)) for w in (None, [7.0, 7.0, 7.0]))
    assert plain == pytest.approx(float(functional.cross_entropy(logits, mixed)))
    assert sevens == pytest.approx(plain)


def test_a_batch_of_classes_without_weight_costs_nothing() -> None:
    task = make(class_weights=[1.0, 0.0, 0.0])
    targets = task.targets_for_training(torch.tensor([1, 2, 1, 2]))
    assert float(task.loss(torch.randn(4, 3), ONES, targets)) == 0.0


def test_training_takes_a_batch_through_every_part_once() -> None:
    """With everything that augmentation may do turned off the logits are those of validation."""
    batch = Batch(torch.randn(4, 2000) / 9, torch.tensor([2000, 1500, 900, 2000]), torch.tensor([0, 1, 2, 0]))
    plain = make().eval()
    logits, _, targets = plain.training_logits(batch)
    torch.testing.assert_close(logits, plain(batch.waveforms, batch.lengths)[0], rtol=0, atol=0)
    assert targets.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    mixing = make(Augment([Polarity(1.0)], Mix("mixup"))).train()
    _, _, mixed = mixing.training_logits(batch)
    assert (mixed.max(1).values < 1).any()
    torch.testing.assert_close(mixed.sum(1), torch.ones(4))


def test_a_teacher_is_learned_from_beside_the_labels() -> None:
    """By hand: Hinton et al.'s sum, with the divergence of softened probabilities."""
    task = make(temperature=3.0, teacher_weight=0.25).train()
    told = torch.randn(4, 3)
    task.learn_from(told.flip(0), ["d", "c", "b", "a"])
    batch = Batch(
        torch.randn(4, 2000) / 9, torch.full((4,), 2000), torch.tensor([0, 1, 2, 0]), ids=("a", "b", "c", "d")
    )
    logits, lengths, targets = task.training_logits(batch)
    torch.testing.assert_close(targets[:, 3:], (told / 3).softmax(-1))
    divergence = functional.kl_div(
        (logits / 3).log_softmax(-1), (told / 3).softmax(-1), reduction="batchmean"
    )
    expected = 0.75 * functional.cross_entropy(logits, batch.targets) + 0.25 * 9 * divergence
    torch.testing.assert_close(task.loss(logits, lengths, targets), expected)
    # Validation has labels alone.
    whole = task.targets_for_training(batch.targets)
    torch.testing.assert_close(
        task.loss(logits, lengths, whole), functional.cross_entropy(logits, batch.targets)
    )


def test_what_a_teacher_says_is_mixed_as_labels_are() -> None:
    task = make(Augment(mix=Mix("mixup"))).train()
    told = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]])
    task.learn_from(told * 100, list("abcd"))
    batch = Batch(
        torch.randn(4, 2000) / 9, torch.full((4,), 2000), torch.tensor([0, 1, 2, 0]), ids=tuple("abcd")
    )
    _, _, targets = task.training_logits(batch)
    torch.testing.assert_close(targets[:, :3], targets[:, 3:])
    assert (targets.max(1).values < 1).any()
