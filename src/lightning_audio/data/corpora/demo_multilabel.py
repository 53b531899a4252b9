"""The multi-label demo corpus: the demo's sounds, several of them at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lightning_audio.data.corpora.synthesised import SynthesisedCorpus, SyntheticClip
from lightning_audio.errors import UserError


class DemoMultilabel(SynthesisedCorpus):
    """Ten labels in five folds; in each clip one to `max_sounds` of the demo's sounds overlap.

    How many sound is drawn evenly, and so is which.

    Args:
        cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed: as of `SynthesisedCorpus`; the
            signal in the signal-to-noise ratio is the sum of the sounds.
        clips_per_fold: the clips of each fold.
        max_sounds: the most sounds in a clip, up to 10.

    Raises:
        UserError: an argument is out of its range.
    """

    kind = "demo_multilabel"

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        fold: int = 1,
        clips_per_fold: int = 160,
        max_sounds: int = 3,
        seconds: float = 2.0,
        min_snr_db: float = 0.0,
        max_snr_db: float = 30.0,
        seed: int = 0,
    ) -> None:
        if max_sounds > len(self.labels):
            raise UserError(
                f"data.max_sounds is {max_sounds}: there are {len(self.labels)}, set it to fewer."
            )
        counts = {"clips_per_fold": clips_per_fold, "max_sounds": max_sounds}
        super().__init__(cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed, **counts)

    def rows(self) -> Iterator[SyntheticClip]:
        """As many clips in each fold, of one label to `max_sounds`, each drawn from its own key."""
        choosing, sounding = len(self.labels), len(self.labels) + 1  # where the demo's keys have a label
        for fold in self.folds:
            for number in range(self.counts["clips_per_fold"]):
                rng = np.random.default_rng([self.seed, choosing, fold, number])
                count = int(rng.integers(1, self.counts["max_sounds"] + 1))
                chosen = sorted(rng.choice(len(self.labels), size=count, replace=False))
                labels = tuple(self.labels[index] for index in chosen)
                yield SyntheticClip(f"f{fold}-{number:04d}", fold, labels, (sounding, fold, number))
