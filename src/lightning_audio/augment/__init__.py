"""Augmentation on the device: batched modules that draw for each sample by itself, in train mode alone.

What is drawn per sample comes from torch's global generator on the CPU, so the same seed draws the same on
every device (noise of full size alone is drawn on the device). Seed before each step, and a step's
augmentation depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lightning_audio.augment.mix import Mix

Transforms = Mapping[str, nn.Module | None] | Iterable[nn.Module | None] | None


def _those_there(transforms: Transforms) -> list[nn.Module]:
    every = transforms.values() if isinstance(transforms, Mapping) else transforms or ()
    return [transform for transform in every if transform is not None]


class Augment(nn.Module):
    """All augmentation of a task: waveform transforms in their order, then mixing; feature transforms.

    In eval mode every method returns what it was given. Transforms come in their order, or by name, so that
    YAML can change one of them or, with null, leave it out.
    """

    def __init__(self, waveform: Transforms = (), mix: Mix | None = None, features: Transforms = ()) -> None:
        super().__init__()
        self.waveform_transforms = nn.ModuleList(_those_there(waveform))
        self.mix = mix
        self.feature_transforms = nn.ModuleList(_those_there(features))

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1: set from outside, it tells mixing when to stop."""
        return self.mix.progress if self.mix is not None else 0.0

    @progress.setter
    def progress(self, share: float) -> None:
        if self.mix is not None:
            self.mix.progress = share

    def waveforms(self, x: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms `(B, T)`, zero beyond their lengths `(B,)` in samples, and soft labels `(B, C)`."""
        for transform in self.waveform_transforms:
            x, lengths = transform(x, lengths)
        return (x, lengths, targets) if self.mix is None else self.mix(x, lengths, targets)

    def features(self, f: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel in dB, not yet normalised, `(B, F, T)` or `(B, C, F, T)`, lengths `(B,)` in frames."""
        for transform in self.feature_transforms:
            f, lengths = transform(f, lengths)
        return f, lengths


class NoAugment(Augment):
    """Nothing at all, whatever an experiment sets for single transforms."""

    def __init__(self, **ignored: object) -> None:
        super().__init__()
