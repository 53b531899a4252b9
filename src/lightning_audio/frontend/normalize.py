"""Normalisation of features by the mean and deviation of the corpus or of the clip."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import options_repr
from lightning_audio.frontend.mask import mask_frames

NORMALIZERS = ("corpus", "per_feature", "per_clip", "per_clip_cmn", "none")
FITTED = ("corpus", "per_feature")  # those that training clips have to be looked at for


class Normalize(nn.Module):
    """Takes features to mean 0 and deviation 1, and to 0 behind the end of every clip.

    Args:
        shape: `(channels, features per frame)` of the front end.
        by: `corpus`: one mean and deviation for each channel, over the training clips; `per_feature`: one
            for each feature; `per_clip`: every clip by its own; `per_clip_cmn`: the same, but each feature
            from its own mean, which takes away how a microphone and a room colour (for speech: CMN by
            utterance); `none`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, int], by: str = "corpus") -> None:
        super().__init__()
        if by not in NORMALIZERS:
            raise UserError(f"normalize.by={by} is unknown: set it to one of {', '.join(NORMALIZERS)}.")
        self.by, self.per_clip = by, by.startswith("per_clip")
        self.shape = shape
        sizes = (shape[0], shape[1] if by == "per_feature" else 1, 1)
        self.register_buffer("mean", torch.zeros(sizes if shape[0] > 1 else sizes[1:]))
        self.register_buffer("std", torch.ones_like(self.mean))

    def extra_repr(self) -> str:
        return options_repr(self)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Mean and deviation of `(features, lengths)` batches, counting only frames within their clips."""
        if self.by not in FITTED:
            return
        over = [0, -1] if self.by == "per_feature" else [0, -2, -1]
        count, total, squares = (
            0.0,
            torch.zeros_like(self.mean).double(),
            torch.zeros_like(self.mean).double(),
        )
        for features, lengths in batches:
            x = mask_frames(features, lengths).double()
            count += float(lengths.sum()) * (1 if self.by == "per_feature" else x.shape[-2])
            total += x.sum(over).view_as(total)
            squares += x.square().sum(over).view_as(total)
        mean = total / count
        self.mean.copy_(mean)
        # A band that never changes (a silent one) keeps its scale instead of being blown up.
        self.std.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.by == "none":
            return mask_frames(features, lengths), lengths
        mean, std = self.mean, self.std
        if self.per_clip:
            mean, std = clip_statistics(features, lengths, by_bin=self.by == "per_clip_cmn")
        return mask_frames((features - mean) / std, lengths), lengths


def clip_statistics(features: Tensor, lengths: Tensor, by_bin: bool = False) -> tuple[Tensor, Tensor]:
    """Mean of every clip (and channel, and bin) over its own frames, and one deviation from it for the clip
    (and channel), shaped to broadcast.

    A deviation for each bin would blow up the noise of bins in which a clip has nothing else.
    """
    frames, bins = lengths.view(-1, *[1] * (features.dim() - 1)), features.shape[-2]
    over, count = ((-1,), frames) if by_bin else ((-2, -1), frames * bins)
    mean = mask_frames(features, lengths).sum(over, keepdim=True) / count
    squares = mask_frames(features - mean, lengths).square().sum((-2, -1), keepdim=True)
    return mean, (squares / (frames * bins)).clamp(min=1e-8).sqrt()
