"""Corpus: what a corpus has to say. One file beside this one for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_audio.data.clip import Clip
from lightning_audio.data.splits import deal_out
from lightning_audio.errors import UserError


class Corpus(ABC):
    """Where the audio of a corpus is and what its official split is; no audio is read here.

    A subclass sets `labels` in the order of the class indices. Where the protocol is cross-validation it
    also sets `folds` and takes `fold`, the one that is tested on.

    Args:
        root: folder of the release, in the release's own layout; it may be read-only.
        cache: folder that may be written to, for what is made or fetched.
        sample_rate: the rate in Hz at which the clips are to be read.
        download: fetch the release where it is not there.
    """

    labels: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    fold: int = 0  # the test fold, where there are folds

    def __init__(self, root: str, cache: str, sample_rate: int, download: bool = False) -> None:
        self.root = Path(root).expanduser()
        self.cache = Path(cache).expanduser()
        if not isinstance(sample_rate, int) or sample_rate < 1:
            raise UserError(f"data.sample_rate={sample_rate} is no rate: set it to a whole number of Hz.")
        self.sample_rate = sample_rate
        self.wants_download = download

    def prepare(self) -> None:  # noqa: B027 - most corpora have nothing to make
        """Makes or fetches what is not there yet; called once, by one process, before `clips`."""

    @abstractmethod
    def clips(self) -> list[Clip]:
        """All clips, each with its split, in any order.

        Raises:
            UserError: the release is not where it should be, or is not whole.
        """

    def draw_validation(self, clips: Sequence[Clip], share: float, seed: int) -> list[Clip]:
        """The clips with this share of those of training, whole groups, in the split `val`."""
        return deal_out(clips, share, seed)

    def with_validation(self, clips: list[Clip], val_fraction: float, seed: int) -> list[Clip]:
        """The clips with a share of those of training moved to val, where there is none.

        Raises:
            UserError: the share is less than any group of clips.
        """
        if not val_fraction or any(clip.split == "val" for clip in clips):
            return clips
        clips = self.draw_validation(clips, val_fraction, seed)
        if not any(clip.split == "val" for clip in clips):
            raise UserError(
                f"loader.val_fraction={val_fraction} is less than one clip (or group of clips) of any label: "
                "raise it, or set it to 0."
            )
        return clips

    def remarks(self) -> list[str]:
        """What a user should know of the tables or folders that the clips come from, a sentence each."""
        return []

    def draw(self, clips: Sequence[Clip], rng: np.random.Generator) -> np.ndarray:
        """The positions in `clips`, those of the training split, that make one epoch, in any order.

        All of them, unless a corpus draws a part afresh; then it is one of equal size in every epoch.
        """
        return np.arange(len(clips))
