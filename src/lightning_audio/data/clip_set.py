"""ClipSet: the clips of one split, from which whole batches are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from lightning_audio.data.batch import Batch, without_samples
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable
from lightning_audio.data.feature_store import FeatureViews
from lightning_audio.data.shards.shard_store import ShardStore
from lightning_audio.data.targets import Targets
from lightning_audio.data.wave_store import WaveStore


class ClipSet(Dataset):
    """The clips of one split; indexed by a list of positions it gathers a whole Batch at once.

    With `features`, those of all clips of the store, batches hold them in place of waveforms. Where there are
    several views of each clip, position `v * len(self) + n` is view v of clip n.

    Args:
        clips: of the split.
        rows: where each of them stands in the store, `(N,)`.
        store: of all clips.
        targets: the encoding of the answers.
    """

    def __init__(
        self, clips: Sequence[Clip], rows: Any, store: WaveStore | ShardStore, targets: Targets
    ) -> None:
        self.clips, self.store, self.targets = ClipTable.of(clips), store, targets
        self.features: FeatureViews | None = None
        self.encoded = targets.encode(self.clips)
        self.rows = torch.as_tensor(rows, dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, positions: list[int]) -> Batch:
        views = torch.tensor(positions) // len(self)
        positions = [position % len(self) for position in positions]
        rows = self.rows[positions]
        ids = tuple(self.clips.column("id").at(positions))
        targets, target_lengths = self.targets.gather(self.encoded, positions)
        if self.features is None:
            return Batch(*self.store.gather(rows), targets, ids, target_lengths)
        lengths, features = self.store.lengths[rows], self.features.gather(rows + views * len(self.store))
        return Batch(without_samples(lengths), lengths, targets, ids, target_lengths, *features)

    def take(self, positions: Any) -> ClipSet:
        """Some of them, without features."""
        return ClipSet(self.clips.take(positions), self.rows[positions], self.store, self.targets)

    def with_features(self, features: FeatureViews) -> ClipSet:
        """The same clips, whose batches hold these features."""
        clips = copy(self)
        clips.features = features
        return clips

    @property
    def source(self) -> WaveStore | ShardStore | FeatureViews:
        """What batches are gathered from."""
        return self.store if self.features is None else self.features

    @property
    def seconds(self) -> np.ndarray:
        """The duration of each clip `(N,)`."""
        return (self.store.lengths[self.rows] / self.store.sample_rate).numpy()
