"""Bidirectional LSTM behind strided convolutions, for CTC: one row of logits for every few frames.

The stack of Amodei et al. 2016, Deep Speech 2 (arXiv:1512.02595), small, with layer normalisation (Ba et al.
2016, arXiv:1607.06450) in place of batch normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lightning_audio.frontend import mask_frames
from lightning_audio.networks.base import Network


class Subsampling(nn.Module):
    """Two 3x3 convolutions that halve the features and divide the frames, then one vector for each frame.

    Args:
        in_shape: `(channels, features per frame)`.
        channels: of the convolutions.
        strides: of each in time.
    """

    def __init__(self, in_shape: tuple[int, int], channels: int, strides: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.strides = tuple(strides)
        inputs = (in_shape[0], *[channels] * (len(self.strides) - 1))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, channels, 3, (2, stride), padding=1)
            for width, stride in zip(inputs, self.strides, strict=True)
        )
        features = in_shape[1]
        for _ in self.strides:
            features = -(-features // 2)
        self.width = channels * features

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames in, frames out, both `(B,)`."""
        for stride in self.strides:
            lengths = -(-lengths // stride)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> `(B, T', width)` and lengths; padding does not leak into clips."""
        x = x if x.dim() == 4 else x[:, None]
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            lengths = -(-lengths // stride)
            x = mask_frames(functional.relu(convolution(x)), lengths)
        return x.flatten(1, 2).transpose(1, 2), lengths


class BiLSTM(Network):
    """Subsampling, LSTM layers that read both ways, each with layer norm and dropout, and a linear head.

    Utterances are packed, so that the layer that reads backwards starts at the end of each one.

    Args:
        in_shape: `(channels, features per frame)`.
        num_outputs: logits for each frame.
        channels: of the two convolutions.
        strides: of the two in time; frames of 10 ms become frames of 40 ms with [2, 2].
        hidden: units of a layer in each direction.
        layers: how many there are.
        dropout: behind the convolutions and behind each layer.
    """

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        channels: int = 32,
        strides: Sequence[int] = (2, 2),
        hidden: int = 256,
        layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.subsampling = Subsampling(in_shape, channels, strides)
        widths = [self.subsampling.width] + [2 * hidden] * layers
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.lstms = nn.ModuleList(
            nn.LSTM(width, hidden, batch_first=True, bidirectional=True) for width in widths[:-1]
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden, num_outputs)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.subsampling.output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T', num_outputs)`."""
        x, lengths = self.subsampling(x, lengths)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed = self._settled(packed, 0)
        for number, lstm in enumerate(self.lstms, start=1):
            packed = self._settled(lstm(packed)[0], number)
        logits = packed._replace(data=self.head(packed.data))
        return pad_packed_sequence(logits, batch_first=True, total_length=x.shape[1])[0], lengths

    def _settled(self, packed: PackedSequence, number: int) -> PackedSequence:
        """Norm and dropout of the frames alone: there is no padding among them."""
        data: Tensor = self.dropout(self.norms[number](packed.data))
        return packed._replace(data=data)
