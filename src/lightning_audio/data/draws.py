"""Which training clips make an epoch: the corpus decides, then balance."""

from __future__ import annotations

import numpy as np

from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.sampler import balanced, balanced_chances
from lightning_audio.data.strata import Strata


class EpochDraw:
    """The positions of the clips of an epoch, drawn from its generator.

    Args:
        corpus: of the clips.
        clips: of the training split.
        balance: true: every label comes up about as often.
        views: of each clip, of which one or the clip itself is drawn; position `v * len(clips) + n` is view v
            of clip n.

    Attributes:
        strata: by which balanced clips are drawn, once `stratify` was asked for.
    """

    def __init__(self, corpus: Corpus, clips: ClipTable, balance: bool = False, views: int = 0) -> None:
        self.corpus, self.clips, self.balance, self.views = corpus, clips, balance, views
        self.strata: Strata | None = None

    def stratify(self, seconds: np.ndarray, pools: np.ndarray | None = None) -> Strata | None:
        """From now on every epoch has clips of the same durations, as far as `Strata` says; None, and nothing
        of the kind, where nothing is balanced or the corpus draws other clips for every epoch."""
        drawn, other = (self.corpus.draw(self.clips, np.random.default_rng(seed)) for seed in (0, 1))
        if self.balance and np.array_equal(drawn, other):
            chances = balanced_chances(self.clips.column("labels").at(drawn))
            self.strata = Strata(chances, seconds[drawn], None if pools is None else pools[drawn])
        return self.strata

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        drawn = self.corpus.draw(self.clips, rng)
        if self.strata is not None:
            drawn = drawn[self.strata.draw(rng)]
        elif self.balance:
            drawn = drawn[balanced(self.clips.column("labels").at(drawn), rng)]
        if self.views:
            drawn = drawn + len(self.clips) * rng.integers(self.views + 1, size=len(drawn))
        return drawn
