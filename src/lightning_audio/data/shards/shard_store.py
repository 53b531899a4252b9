"""ShardStore: the clips of a set of shards, from which a batch is a gather as from a WaveStore."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_audio.data.audio_file import AudioError, read_audio
from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import Column
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.decode import at_rate
from lightning_audio.data.duration_sampler import DurationSampler
from lightning_audio.data.quarantine import Quarantined, refuse_many
from lightning_audio.data.sampler import BatchSampler
from lightning_audio.data.shards import table as tables
from lightning_audio.data.shards.cache import ShardCache
from lightning_audio.data.shards.sampler import WINDOW, ShardDurationSampler, ShardSampler
from lightning_audio.data.shards.shard_set import ShardSet, read_index, sample_counts
from lightning_audio.data.shards.storage import Storage, as_file
from lightning_audio.data.shards.tars import read_tars
from lightning_audio.data.splits import hold_out, split_by_fold
from lightning_audio.errors import UserError

GIGABYTE = 1e9


class ShardStore:
    """Clips in the order of their ids, read from shards by way of a cache on the disk.

    Attributes:
        hash: a digest of the samples, by those of the shards.
        quarantined: clips that could not be read when the set was made.
        lengths: `(N,)` in samples, of all others.
        sample_rate: in Hz.
        shards: `(N,)`, the shard that each clip is in.

    Args:
        shards: the set.
        sample_rate: in Hz; samples have one already, files are brought to it.
        cache: folder on this machine.
        cache_gb: that its files may fill.

    Raises:
        UserError: the samples have another rate, or the cache is too small for the shards of a window.
    """

    where, remarks = "disk", ()

    def __init__(self, shards: ShardSet, sample_rate: int, cache: Path, cache_gb: float) -> None:
        storage = shards.storage
        if shards.index.sample_rate not in (0, sample_rate):
            raise UserError(
                f"{storage} holds samples at {shards.index.sample_rate} Hz: set data.sample_rate to that, or "
                f"shard again at {sample_rate} Hz."
            )
        _refuse_small(cache_gb, shards.sizes, str(storage), storage.is_local)
        self.set, self.sample_rate, self.hash = shards, sample_rate, shards.hash
        self.folder = Path(cache) / "shards"
        sound = np.flatnonzero(shards.is_sound) if shards.reasons else slice(None)
        self.rows: Any = sound if shards.reasons else range(len(shards.clips))  # in the set
        self.shards = shards.shards[sound]
        self.lengths = torch.from_numpy(np.array(sample_counts(shards, sample_rate)[sound]))
        self.cache = ShardCache(
            storage, shards.names, shards.sizes, shards.digests, self.folder, cache_gb * GIGABYTE
        )
        self._unchecked = np.array(shards.checksums[sound])

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def quarantined(self) -> tuple[Quarantined, ...]:
        bad = self.set.clips.take(~self.set.is_sound) if self.set.reasons else ()
        return tuple(
            Quarantined(clip.id, clip.path, reason)
            for clip, reason in zip(bad, self.set.reasons, strict=True)
        )

    def confirm_files(self) -> None:
        """As of a WaveStore: shards do not change, and each clip is held against its checksum."""

    def move(self, device: torch.device) -> None:
        """As of a store on the disk: its values stay there."""

    def plan(self, rows: np.ndarray) -> None:
        """The rows that will be gathered from now on, in their order."""
        self.cache.plan(self.shards[rows])

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """The clips of `rows` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths `(B,)`."""
        rows = torch.as_tensor(rows)
        lengths, places = self.lengths[rows].long(), rows.numpy()
        gathered = np.empty((len(places), int(lengths.max())), np.int16)
        for clip, length in zip(gathered, lengths.tolist(), strict=True):
            clip[length:] = 0
        shards = self.shards[places]
        for shard in np.unique(shards).tolist():
            those = np.flatnonzero(shards == shard)
            self._read(shard, places[those], gathered, those)
        return torch.from_numpy(gathered), lengths

    def _read(self, shard: int, rows: np.ndarray, gathered: np.ndarray, places: np.ndarray) -> None:
        """Puts clips of one shard into their places; one that is damaged on this disk is fetched again."""
        with self.cache.reading(shard, len(rows)) as data:
            bad = [row for row in rows[self._unchecked[rows]].tolist() if not self._is_sound(data, row)]
            if not bad:
                for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                    samples = self._samples(data, row)
                    gathered[place, : len(samples)] = samples
                return
        name, again = self.set.names[shard], self.cache.discard(shard)
        if again:
            with self.cache.reading(shard, 0) as data:
                bad = [row for row in bad if not self._is_sound(data, row)]
        if bad:
            raise UserError(
                f"{self.set.storage}/{name} is damaged: clip {self._name(bad[0])} is not what was "
                "written; put the shard back."
            )
        self._read(shard, rows, gathered, places)

    def _is_sound(self, data: np.ndarray, row: int) -> bool:
        sound = zlib.crc32(self._bytes(data, row).data) == self.set.crc32[self.rows[row]]
        self._unchecked[row] = not sound
        return sound

    def _bytes(self, data: np.ndarray, row: int) -> np.ndarray:
        at = self.rows[row]
        first = int(self.set.offset[at])
        return data[first : first + int(self.set.bytes[at])]

    def _name(self, row: int) -> str:
        return self.set.clips.column("id")[int(self.rows[row])]

    def _samples(self, data: np.ndarray, row: int) -> np.ndarray:
        found = self._bytes(data, row)
        if self.set.index.content == "int16":
            return found.view(np.int16)
        with as_file(found) as path:
            try:
                audio = read_audio(path, *self._stretch(row))
            except AudioError as error:
                raise self._unreadable(row, error.reason) from None
        samples = at_rate(audio.samples, audio.rate, self.sample_rate)
        if len(samples) != self.lengths[row]:
            said = f"it has {len(samples)} samples, not {int(self.lengths[row])} as is said of it"
            raise self._unreadable(row, said)
        return samples

    def _stretch(self, row: int) -> tuple[float, float | None, int | str | None]:
        """Start, duration and channel of a clip in its file."""
        clip = self.set.clips[int(self.rows[row])]
        return clip.start, clip.duration, clip.channel

    def _unreadable(self, row: int, reason: str) -> UserError:
        shard = self.set.names[self.shards[row]]
        return UserError(
            f"Clip {self._name(row)} in {self.set.storage}/{shard} can't be read: {reason}; mend it or leave "
            "it out."
        )


def _refuse_small(cache_gb: float, sizes: np.ndarray, place: str, is_local: bool) -> None:
    """Raises UserError where not all shards of a window fit, and one that is on its way."""
    largest = np.sort(sizes)[::-1][: WINDOW + 2]
    if not is_local and cache_gb * GIGABYTE < largest.sum():
        raise UserError(
            f"loader.cache_gb={cache_gb:g} is too little for {place}: {len(largest)} of its shards, which "
            f"are read side by side, take {largest.sum() / GIGABYTE:.3g} GB; raise it, or write smaller "
            "shards (lightning-audio shard --megabytes)."
        )


class ShardedCorpus(Corpus):
    """A corpus whose clips stand in the table of a set of shards; what else is to be known of it, it says
    itself. Neither its files nor its tables need be there."""

    def __init__(self, corpus: Corpus, store: ShardStore) -> None:
        super().__init__(str(corpus.root), str(corpus.cache), corpus.sample_rate)
        self.corpus, self.store = corpus, store
        self.title, self.labels, self.scored_as = corpus.title, corpus.labels, corpus.scored_as
        self.fold, self.validation_fold = corpus.fold, corpus.validation_fold
        if store.set.index.folds:
            folds = store.set.clips.column("fold").different()
            self.folds = tuple(sorted(fold for fold in folds if fold is not None))
        elif corpus.split_from_table:
            corpus.shard_rows = store.set.clips
            self.folds = corpus.folds
        if getattr(corpus, "num_folds", None) not in (None, len(self.folds)):
            raise UserError(
                f"{store.set.storage} has {len(self.folds) or 'no'} folds: set data.num_folds to "
                f"{len(self.folds) or 'null'}, or shard again with it."
            )

    @property
    def name(self) -> str:
        return self.corpus.name

    def clips(self) -> Sequence[Clip]:
        """Those of the index, split as the corpus has it, by fold or by a share that is drawn."""
        if self.corpus.shard_rows is not None:
            return self.corpus.clips()
        rows = self.store.set.clips
        if self.folds:
            return split_by_fold(rows, self.fold)
        share, seed = (getattr(self.corpus, name, 0) for name in ("test_share", "split_seed"))
        if any(rows.column("split").different()) or not share:
            return rows
        train = rows.replaced("split", Column.constant("train", len(rows)))
        return hold_out(train, share, seed, "test", self.root)

    def remarks(self) -> list[str]:
        """Of what is split here; a release's own files need not be there."""
        return [] if self.corpus.shard_rows is None else self.corpus.remarks()

    def draw_validation(self, clips: Sequence[Clip], share: float, seed: int) -> Sequence[Clip]:
        return self.corpus.draw_validation(clips, share, seed)

    def draw(self, clips: Sequence[Clip], rng: np.random.Generator) -> np.ndarray:
        return self.corpus.draw(clips, rng)


def refuse_beside_shards(store: str, **options: Any) -> None:
    """Raises UserError for options of the loader that take all clips at once."""
    taken = [name for name, value in options.items() if value]
    if taken or store not in ("disk", "auto"):
        name = (taken or ["store"])[0]
        raise UserError(f"loader.{name} takes all clips at once, loader.shards a few: leave one out.")


def open_set(address: str, cache: Path) -> ShardSet:
    """The set at an address, by its own index, or by a table of the tars that lie there.

    Raises:
        UserError: there is neither, or it is not whole.
    """
    storage = Storage(address)
    if read_index(storage) is None and (found := read_tars(storage, cache)):
        return ShardSet(storage, *found)
    return ShardSet.open(address)


def samplers(store: Any, rows: Tensor) -> tuple[tuple[Any, Any], tuple[Any, ...]]:
    """The classes that put the clips of `rows` in order, by number or duration, and what they take first."""
    if not isinstance(store, ShardStore):
        return (BatchSampler, DurationSampler), ()
    places = rows.numpy()
    return (ShardSampler, ShardDurationSampler), (store, places, store.shards[places])


def sharded(
    corpus: Corpus, address: str, cache_gb: float, max_bad_fraction: float
) -> tuple[ShardedCorpus, ShardStore]:
    """The corpus by the shards at an address, and their store.

    Raises:
        UserError: there are none, they are not whole, or more clips than `max_bad_fraction` can't be read.
    """
    found = open_set(address, corpus.cache)
    tables.pyarrow().default_memory_pool().release_unused()  # what Arrow keeps back of the table
    store = ShardStore(found, corpus.sample_rate, corpus.cache, cache_gb)
    if bad := store.quarantined:
        refuse_many(bad, len(found.is_sound), max_bad_fraction, str(found.storage))
    return ShardedCorpus(corpus, store), store
