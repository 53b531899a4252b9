"""What a row of logits of the CRNN depends on, with and without LSTM layers, and its frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_audio.errors import UserError
from lightning_audio.networks.crnn import CRNN

BINS, FRAMES = 20, 120
# On either side, in frames: 2 of the stem, then of kernels of 3, two at steps of 2, one of 2, three of 4.
REACH = 2 + 2 + 2 + 2 + 4 + 4 + 4


def built(**options: object) -> CRNN:
    torch.manual_seed(0)
    return CRNN((1, BINS), 7, widths=[4, 6, 8], **options).eval()  # type: ignore[arg-type]


def rows_that_change(network: CRNN, frame: int) -> list[int]:
    """The rows of logits that differ once a frame of a clip does."""
    x = torch.randn(1, BINS, FRAMES, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[..., frame] += 3.0
    with torch.no_grad():
        one, other = (network(either, torch.tensor([FRAMES]))[0][0] for either in (x, changed))
    return torch.nonzero((one != other).any(-1)).flatten().tolist()


def test_without_lstm_layers_a_row_depends_on_its_receptive_field_alone() -> None:
    for frame in (0, 57, 60, 119):
        near = [row for row in range(FRAMES // 4) if abs(4 * row - frame) <= REACH]
        assert rows_that_change(built(), frame) == near


def test_lstm_layers_read_the_whole_clip() -> None:
    assert rows_that_change(built(layers=1, hidden=8), 57) == list(range(FRAMES // 4))


@pytest.mark.parametrize(
    ("strides", "divisor"), [([[1, 1], [2, 1], [2, 1]], 2), ([[1, 1], [2, 2], [2, 1]], 4), ([[2, 2]] * 3, 16)]
)
def test_there_are_as_many_rows_as_it_says(strides: list[list[int]], divisor: int) -> None:
    network = built(strides=strides)
    lengths = torch.arange(1, 40)
    rows: Tensor = network.output_lengths(lengths)
    assert rows.tolist() == [-(-length // divisor) for length in lengths.tolist()]
    for length in (1, 17, 32, 39):
        logits, _ = network(torch.zeros(1, BINS, length), torch.tensor([length]))
        assert logits.shape == (1, rows[length - 1], 7)


def test_a_stage_without_its_stride_ends_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"network\.widths has 3 stages and network\.strides 2"):
        built(strides=[[1, 1], [2, 2]])
