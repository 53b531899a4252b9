"""The samples themselves as a front end."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_audio.frontend.base import options_repr


class Waveform(nn.Module):
    """The samples themselves, as `(B, 1, T)`: for networks that learn their own front end."""

    shape = (1, 1)

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def extra_repr(self) -> str:
        return options_repr(self)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        return lengths

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waveforms[:, None], lengths
