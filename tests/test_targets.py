"""Labels as numbers."""

from __future__ import annotations

import pytest
import torch

from lightning_audio.data.clip import Clip
from lightning_audio.data.targets import ClassIndex
from lightning_audio.errors import UserError


def clip(*labels: str) -> Clip:
    return Clip("one", "a.wav", labels=labels)


def test_a_label_is_its_place_in_the_list() -> None:
    encoding = ClassIndex(["rain", "dog", "bell"])
    assert encoding.num_outputs == 3
    found = encoding.encode([clip("bell"), clip("rain"), clip("dog"), clip("bell")])
    assert found.dtype == torch.int64
    assert found.tolist() == [2, 0, 1, 2]
    assert [encoding.labels[index] for index in found] == ["bell", "rain", "dog", "bell"]


def test_no_clips_have_no_targets() -> None:
    assert ClassIndex(["rain"]).encode([]).shape == (0,)


@pytest.mark.parametrize("labels", [(), ("cat",), ("rain", "dog")])
def test_a_clip_without_exactly_one_known_label_is_named(labels: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"Clip 'one' has the labels .* exactly one of the 2 labels"):
        ClassIndex(["rain", "dog"]).encode([clip("dog"), clip(*labels)])
