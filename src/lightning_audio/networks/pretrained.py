"""A pretrained encoder that learns, and a network on its states; frontend=frozen is one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.normalize import Normalize
from lightning_audio.networks.base import Network
from lightning_audio.networks.encoders.base import Encoder


class Pretrained(Network):
    """An encoder on waveforms, then another network, the head, on its states.

    `init=RUN` of a run on the same encoder by `frontend=frozen` goes on where that one ended: with its head,
    and with the mean and deviation by which it normalised the states.

    Args:
        encoder: one of conf/encoder.
        head: makes the network of the shape of the states and the number of outputs.

    Raises:
        UserError: there is no encoder, it does not learn, or the front end is another one than
            `frontend=waveform`.
    """

    # What the weights of a run with a frozen encoder are called here.
    frozen_names: ClassVar[dict[str, str]] = {
        "frontend.encoder.": "network.encoder.",
        "normalize.": "network.normalize.",
        "network.": "network.head.",
    }

    def __init__(
        self,
        in_shape: tuple[int, int],
        num_outputs: int,
        head: Callable[..., Network],
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        if encoder is None or in_shape != (1, 1):
            raise UserError("network=pretrained takes frontend=waveform and an encoder, as encoder=whisper.")
        if not encoder.named_stages():
            raise UserError(f"{type(encoder).__name__} does not learn: use it by frontend=frozen.")
        self.encoder, self.normalize = encoder, Normalize(encoder.shape, "per_feature")
        self.head = head(in_shape=encoder.shape, num_outputs=num_outputs)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.head.output_lengths(self.encoder.output_lengths(lengths))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples `(B, 1, T)` -> what the head gives."""
        states, lengths = self.encoder(x[:, 0], lengths)
        return cast(tuple[Tensor, Tensor], self.head(*self.normalize(states, lengths)))

    def named_stages(self) -> dict[str, list[nn.Module]]:
        return {**self.encoder.named_stages(), "head": [self.head]}


class WeightedLayers(Network):
    """A learned weighted sum of the channels of features, then another network, as in SUPERB.

    For all layers of a frozen encoder: `encoder.layer=all` (Yang et al. 2021, arXiv:2105.01051).
    """

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, head: Callable[..., Network]) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(in_shape[0])) if in_shape[0] > 1 else None
        self.head = head(in_shape=(1, in_shape[1]), num_outputs=num_outputs)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.head.output_lengths(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, F, T)` -> what the head gives."""
        if self.mix is not None:
            x = (x * self.mix.softmax(0)[:, None, None]).sum(1)
        return cast(tuple[Tensor, Tensor], self.head(x, lengths))
