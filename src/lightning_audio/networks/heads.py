"""Small networks behind a frozen encoder, which train in seconds; `bilstm` without strides is another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.errors import UserError
from lightning_audio.frontend.mask import frame_mask, mean_over_time
from lightning_audio.networks.base import Network
from lightning_audio.networks.layers import Dropout

LEAST_PROBABILITY = 1e-4  # of a label that no neighbour has


class PerFrame(Network):
    """What answers for each frame by itself; of a clip its task takes the mean."""

    layers: nn.Sequential

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, T, num_outputs)`."""
        return self.layers(x.flatten(1, -2).mT), lengths

    def step(self, x: Tensor, state: None) -> tuple[Tensor, None]:
        return self.layers(x.flatten(1, -2).mT), None


class LinearHead(PerFrame):
    """Logistic regression: dropout and a linear layer that begins near zero."""

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        linear = nn.Linear(in_shape[0] * in_shape[1], num_outputs)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.layers = nn.Sequential(Dropout(dropout), linear)


class MLPHead(PerFrame):
    """Linear, ReLU, dropout, linear."""

    def __init__(
        self, in_shape: tuple[int, int], num_outputs: int, hidden: int = 256, dropout: float = 0.3
    ) -> None:
        super().__init__()
        width = in_shape[0] * in_shape[1]
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, num_outputs)
        )


class AttentiveHead(Network):
    """A weighted mean and deviation over time, whose weights are learned, and a linear layer.

    Attentive statistics pooling (Okabe et al. 2018, arXiv:1803.10963).
    """

    def __init__(
        self, in_shape: tuple[int, int], num_outputs: int, hidden: int = 128, dropout: float = 0.3
    ) -> None:
        super().__init__()
        width = in_shape[0] * in_shape[1]
        self.attention = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.head = nn.Sequential(Dropout(dropout), nn.Linear(2 * width, num_outputs))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`."""
        x = x.flatten(1, -2)
        scores = self.attention(x.mT)[..., 0].float()
        weights = scores.masked_fill(~frame_mask(lengths, x.shape[-1]), -torch.inf).softmax(-1)[:, None]
        mean = (x * weights).sum(-1)
        variance = ((x - mean[..., None]).square() * weights).sum(-1)
        pooled = torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=-1)
        return self.head(pooled), torch.ones_like(lengths)


class PrototypeHead(Network):
    """The cosine between the mean of a clip and a learned prototype of each label, times a learned scale.

    For few examples a label (Chen et al. 2019, A Closer Look at Few-shot Classification, arXiv:1904.04232).
    """

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, scale: float = 10.0) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(num_outputs, in_shape[0] * in_shape[1]))
        self.scale = nn.Parameter(torch.tensor([float(scale)]))

    def named_stages(self) -> dict[str, list[nn.Module]]:
        return {"head": [self]}

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logits `(B, num_outputs)`."""
        mean = functional.normalize(mean_over_time(x.flatten(1, -2), lengths), dim=-1)
        cosine = mean @ functional.normalize(self.prototypes, dim=-1).T
        return self.scale * cosine, torch.ones_like(lengths)


class NeighbourHead(Network):
    """k nearest neighbours: the labels of the training clips whose means are most like that of a clip.

    Each of the k counts by the exponential of its cosine times a learned scale (Wu et al. 2018, Unsupervised
    Feature Learning via Non-parametric Instance Discrimination, arXiv:1805.01978). To a training clip the
    nearest one is left out: it is the clip itself, or what augmentation made it of. For labels that exclude
    one another; what it remembers goes into checkpoints.

    Args:
        k: neighbours that count.
        scale: that cosines begin with.
    """

    memory: Tensor
    classes: Tensor

    def __init__(self, in_shape: tuple[int, int], num_outputs: int, k: int = 5, scale: float = 20.0) -> None:
        super().__init__()
        self.k, self.num_outputs = k, num_outputs
        self.scale = nn.Parameter(torch.tensor([float(scale)]))
        self.register_buffer("memory", torch.zeros(0, in_shape[0] * in_shape[1]))
        self.register_buffer("classes", torch.zeros(0))  # not whole numbers, of which no average can be taken

    def named_stages(self) -> dict[str, list[nn.Module]]:
        return {"head": [self]}

    def remember(self, x: Tensor, lengths: Tensor, targets: Tensor) -> None:
        """Training clips, `(B, F, T)` or `(B, C, F, T)`, and their class indices `(B,)`.

        Raises:
            UserError: they have other targets.
        """
        if targets.dim() != 1 or targets.is_floating_point():
            raise UserError("network=neighbours knows one label of each clip: use task=classification.")
        self.memory = torch.cat([self.memory, self._unit(x, lengths)])
        self.classes = torch.cat([self.classes, targets.to(self.classes)])

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` or `(B, C, F, T)` -> logarithms of probabilities `(B, num_outputs)`."""
        cosines = self._unit(x, lengths) @ self.memory.T
        itself = int((self.training or self.knows_clips) and len(self.memory) > 1)
        nearest, rows = (x[:, itself:] for x in cosines.topk(min(self.k + itself, len(self.memory))))
        shares = (self.scale * nearest).softmax(-1)
        votes = functional.one_hot(self.classes[rows].long(), self.num_outputs).to(shares)
        probabilities = (shares[..., None] * votes).sum(1)
        return (probabilities + LEAST_PROBABILITY).log(), torch.ones_like(lengths)

    def _unit(self, x: Tensor, lengths: Tensor) -> Tensor:
        return functional.normalize(mean_over_time(x.flatten(1, -2), lengths), dim=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("memory", "classes"):  # as many as the run remembered
            if f"{prefix}{name}" in state_dict:
                setattr(self, name, torch.empty_like(state_dict[f"{prefix}{name}"]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
