"""The demo corpus: ten everyday-like sounds, synthesised here and now."""

from __future__ import annotations

from lightning_audio.data.corpora.synthesised import SynthesisedCorpus


class Demo(SynthesisedCorpus):
    """Ten classes in five folds, one sound a clip.

    Args:
        cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed: as of `SynthesisedCorpus`.
        clips_per_class: the clips of each class in each fold.
    """

    kind = "demo"

    def __init__(
        self,
        cache: str,
        sample_rate: int = 16000,
        fold: int = 1,
        clips_per_class: int = 16,
        seconds: float = 2.0,
        min_snr_db: float = -8.0,
        max_snr_db: float = 25.0,
        seed: int = 0,
    ) -> None:
        counts = {"clips_per_class": clips_per_class}
        super().__init__(cache, sample_rate, fold, seconds, min_snr_db, max_snr_db, seed, **counts)
