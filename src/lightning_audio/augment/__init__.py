"""Augmentation on the device: batched modules that draw for each sample by itself, in train mode alone.

What is drawn per sample comes from torch's global generator on the CPU, so the same seed draws the same on
every device (noise of full size alone is drawn on the device). Seed before each step, and a step's
augmentation depends on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from lightning_audio.augment.base import Transform
from lightning_audio.augment.mix import Mix
from lightning_audio.augment.policy import RandomPolicy
from lightning_audio.errors import UserError

Transforms = Mapping[str, nn.Module | None] | Iterable[nn.Module | None] | None


def _by_name(transforms: Transforms) -> dict[str, nn.Module]:
    """Those that are there, by their names in YAML, or by their places."""
    if not isinstance(transforms, Mapping):
        transforms = {str(place): transform for place, transform in enumerate(transforms or ())}
    return {name: transform for name, transform in transforms.items() if transform is not None}


class Augment(nn.Module):
    """All augmentation of a task: waveform transforms in their order, then mixing; feature transforms.

    In eval mode every method returns what it was given. Transforms come in their order, or by name, so that
    YAML can change one of them or, with null, leave it out.

    Args:
        waveform, mix, features: the transforms.
        delayed: names of transforms that do nothing until a task sets `started`; those that are left out may
            be named too.

    Raises:
        UserError: `delayed` names what is neither there nor left out.
    """

    def __init__(
        self,
        waveform: Transforms = (),
        mix: Mix | None = None,
        features: Transforms = (),
        delayed: Sequence[str] = (),
    ) -> None:
        super().__init__()
        known = {*_names(waveform), *_names(features)}
        if unknown := [name for name in delayed if name not in known]:
            raise UserError(
                f"augment.delayed names {unknown[0]!r}, which is no transform: name some of "
                f"{', '.join(known)}."
            )
        self.waveform_transforms = nn.ModuleDict(_by_name(waveform))
        self.mix = mix
        self.feature_transforms = nn.ModuleDict(_by_name(features))
        self.delayed, self.started = frozenset(delayed), True
        self.progress = 0.0

    def extra_repr(self) -> str:
        return f"delayed={sorted(self.delayed)}" if self.delayed else ""

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1: set from outside; mixing and tasks go by it."""
        return self._progress

    @progress.setter
    def progress(self, share: float) -> None:
        self._progress = share
        if self.mix is not None:
            self.mix.progress = share

    @property
    def fastest(self) -> float:
        """The factor by which a waveform may become shorter."""
        return math.prod(
            getattr(transform, "fastest", 1.0) for transform in self.waveform_transforms.values()
        )

    @property
    def of_waveforms(self) -> list[str]:
        """The options below `augment` that change waveforms, such as `waveform.roll` and `mix`."""
        return [f"waveform.{name}" for name in self.waveform_transforms] + ["mix"] * (self.mix is not None)

    def leave_out(self, *kinds: type[nn.Module]) -> list[str]:
        """Takes waveform transforms of these kinds out, also of policies, and mixing; names their options."""
        found = {"": self.waveform_transforms}
        for name, transform in self.waveform_transforms.items():
            if isinstance(transform, RandomPolicy):
                found[f"{name}.transforms."] = transform.transforms
        left = [
            (own, place + name, name)
            for place, own in found.items()
            for name, transform in own.items()
            if isinstance(transform, kinds)
        ]
        for own, _, name in left:
            del own[name]
        mixes, self.mix = self.mix is not None, None
        return [f"waveform.{option}" for _, option, _ in left] + ["mix"] * mixes

    def refuse_misfit(self, frontend: nn.Module) -> None:
        """Raises UserError where a transform is for features of another front end."""
        for name, transform in self.feature_transforms.items():
            if isinstance(transform, Transform):
                transform.refuse_misfit(frontend, f"augment.features.{name}")

    def waveforms(self, x: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms `(B, T)`, zero beyond their lengths `(B,)` in samples, and soft labels `(B, C)`."""
        x, lengths = self.changed(x, lengths)
        return (x, lengths, targets) if self.mix is None else self.mix(x, lengths, targets)

    def changed(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same, not mixed."""
        return self._through(self.waveform_transforms, x, lengths)

    def features(self, f: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel in dB, not yet normalised, `(B, F, T)` or `(B, C, F, T)`, lengths `(B,)` in frames."""
        return self._through(self.feature_transforms, f, lengths)

    def _through(self, transforms: nn.ModuleDict, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        for name, transform in transforms.items():
            if self.started or name not in self.delayed:
                x, lengths = transform(x, lengths)
        return x, lengths


def _names(transforms: Transforms) -> Iterable[str]:
    return transforms if isinstance(transforms, Mapping) else ()


class NoAugment(Augment):
    """Nothing at all, whatever an experiment sets for single transforms."""

    def __init__(self, **ignored: object) -> None:
        super().__init__()
