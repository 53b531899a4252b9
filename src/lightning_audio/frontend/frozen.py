"""A pretrained encoder as a front end: its states as features, from weights that stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Self, cast

import torch
from torch import Tensor, nn

from lightning_audio.errors import UserError
from lightning_audio.frontend.base import shape_of
from lightning_audio.frontend.mask import frame_mask, mask_frames, mean_over_time


def max_over_time(x: Tensor, lengths: Tensor) -> Tensor:
    """`(B, ...)`: the greatest value of `x` `(B, ..., T)` over the frames of each clip."""
    # Not len(x), which would be the same number for all batches of a graph.
    inside = frame_mask(lengths, x.shape[-1]).view(x.shape[0], *[1] * (x.dim() - 2), -1)
    return x.masked_fill(~inside, -torch.inf).amax(-1)


def std_over_time(x: Tensor, lengths: Tensor) -> Tensor:
    """`(B, ...)`: the deviation of `x` `(B, ..., T)` over the frames of each clip; 0 of a single frame."""
    deviations = x - mean_over_time(x, lengths)[..., None]
    return mean_over_time(deviations.square(), lengths).clamp(min=1e-8).sqrt()


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_over_time,
    "max": max_over_time,
    "std": std_over_time,
}


class Frozen(nn.Module):
    """States `(B, F, T)` of an encoder, or what is pooled of them `(B, F, 1)`; nothing of it learns.

    Args:
        sample_rate: of the waveforms in Hz.
        encoder: one of conf/encoder, or any front end.
        pool: null: all states; otherwise some of `mean`, `max` and `std` over the time of each clip, one
            behind the other.

    Raises:
        UserError: there is no encoder, it takes another rate or has a sum to learn, or `pool` names something
            else.
    """

    zero_behind = True  # what it gives behind a clip is zero, and need not be computed

    def __init__(
        self, sample_rate: int, encoder: nn.Module | None = None, pool: str | Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if encoder is None:
            raise UserError("frontend=frozen has no encoder: choose one, as encoder=yamnet.")
        if getattr(encoder, "mix", None) is not None:
            raise UserError(
                "encoder.layer=weighted is a sum that is learned, and frontend=frozen learns nothing: set "
                "encoder.layer=all and network=weighted_layers."
            )
        rate = getattr(encoder, "sample_rate", sample_rate)
        if rate != sample_rate:
            raise UserError(
                f"{type(encoder).__name__} takes {rate} Hz and data.sample_rate is {sample_rate}: set "
                f"data.sample_rate={rate}."
            )
        self.pools = [pool] if isinstance(pool, str) else list(pool or ())
        if unknown := [name for name in self.pools if name not in POOLS]:
            raise UserError(f"frontend.pool={unknown[0]} is unknown: name some of {', '.join(POOLS)}.")
        self.sample_rate, self.encoder = sample_rate, encoder.requires_grad_(False).eval()
        channels, width = shape_of(encoder)
        self.shape = (channels, width * max(len(self.pools), 1))
        if hasattr(encoder, "frames") and not self.pools:  # it runs on a stream
            self.n_fft, self.hop_length, self.top_db = encoder.n_fft, encoder.hop_length, None
            self.frames = torch.no_grad()(cast(Callable[[Tensor], Tensor], encoder.frames))

    def extra_repr(self) -> str:
        return f"pool={self.pools}" if self.pools else ""

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 of all weights."""
        digest = hashlib.sha256()
        for name, weight in self.encoder.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames of clips of these lengths in samples."""
        if self.pools:
            return torch.ones_like(lengths)
        return cast(Tensor, self.encoder.output_lengths(lengths))  # type: ignore[operator]

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        states, lengths = self.encoder(waveforms, lengths)
        if not self.pools:
            return mask_frames(states, lengths), lengths
        pooled = torch.cat([POOLS[name](states, lengths) for name in self.pools], dim=-1)
        return pooled[..., None], torch.ones_like(lengths)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self
