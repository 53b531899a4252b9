"""AudioDataModule: from the clips of a corpus to batches. The one LightningDataModule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from lightning_audio.config.ranges import refuse_out_of_range
from lightning_audio.data.clip import SPLITS, Clip, clips_digest, look_alikes
from lightning_audio.data.clip_set import ClipSet
from lightning_audio.data.clip_table import ClipTable, uncollected, validated
from lightning_audio.data.corpora.base import Corpus
from lightning_audio.data.draws import EpochDraw
from lightning_audio.data.feature_store import STORES, FeatureViews, FrontEnd, View
from lightning_audio.data.info import DataInfo
from lightning_audio.data.placement import WHERE, device_of
from lightning_audio.data.quarantine import QUARANTINE, named
from lightning_audio.data.sampler import BatchLoader, Reshuffles, balanced_chances
from lightning_audio.data.shards.sampler import POOL
from lightning_audio.data.shards.shard_store import ShardStore, refuse_beside_shards, samplers, sharded
from lightning_audio.data.splits import hold_out, refuse_leaks
from lightning_audio.data.targets import MEND_TEXT, Targets, describe_unfit
from lightning_audio.data.wave_store import WaveStore
from lightning_audio.errors import UserError

NAMED = (*SPLITS, "train_dev")  # the last one where it is asked for


@uncollected()
def clips_of(corpus: Corpus, val_fraction: float = 0.0, seed: int = 0) -> ClipTable:
    """The clips of a corpus, validated; a share of the training clips becomes val where there is none.

    Raises:
        UserError: a row is bad, or the share is less than any group of clips.
    """
    return corpus.with_validation(validated(corpus.clips(), str(corpus.root)), val_fraction, seed)


class AudioDataModule(pl.LightningDataModule):
    """Prepares a corpus, decodes it once, holds its splits apart and loads batches.

    Args:
        corpus: what is where.
        targets: makes the encoding of the answers from labels and clips; a task class names it.
        options: those of `loader` in conf/train.yaml, which says what they mean.
        seed: names the order of the clips and the draw of the validation clips.
        validates: false: the run looks at no validation clips, whether there are any or not.
        overfit_batches: number (or share) of the batches of an epoch that the run trains and validates on.
    """

    batches_per_step: int | None = None  # of all processes; of a run that is resumed, as it began

    def __init__(
        self,
        corpus: Corpus,
        targets: Callable[[Sequence[str], Sequence[Clip]], Targets],
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.0,
        train_dev_fraction: float = 0.0,
        store: str = "disk",
        features: bool = False,
        feature_dtype: str = "float32",
        views: int = 0,
        workers: int = 0,
        timeout: int = 25,
        balance: bool = False,
        max_batch_duration: float | None = None,
        jitter: float = 0.05,
        curriculum_epochs: int = 0,
        max_duration: float | None = None,
        outliers: str = "refuse",
        max_bad_fraction: float = 0.01,
        shards: str | None = None,
        cache_gb: float = 20.0,
        seed: int = 0,
        validates: bool = True,
        overfit_batches: float = 0,
    ) -> None:
        super().__init__()
        self.validates, self.overfit_batches = validates, overfit_batches
        self.corpus, self.encoding, self.batch_size = corpus, targets, batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.val_fraction, self.train_dev_fraction, self.where = val_fraction, train_dev_fraction, store
        self.features, self.feature_dtype, self.views = features, feature_dtype, views
        self.workers, self.timeout = workers, timeout
        self.balance, self.seed, self.max_bad_fraction = balance, seed, max_bad_fraction
        self.max_batch_duration, self.max_duration, self.jitter = max_batch_duration, max_duration, jitter
        self.curriculum_epochs, self.outliers = curriculum_epochs, outliers
        self.shards, self.cache_gb = shards, cache_gb
        ranged = "batch_size eval_batch_size val_fraction train_dev_fraction workers timeout views jitter"
        ranged += " max_bad_fraction max_batch_duration curriculum_epochs max_duration cache_gb"
        refuse_out_of_range({"loader": {name: getattr(self, name) for name in ranged.split()}})
        if outliers not in ("refuse", "drop"):
            raise UserError(f"loader.outliers={outliers} is unknown: set it to refuse or drop.")
        self.splits: dict[str, ClipSet] = {}
        self._prepared: tuple[ClipTable, WaveStore | ShardStore | None] | None = None
        self.featured: dict[str, ClipSet] = {}
        self.dropped = ""
        self.quarantined: Counter[str] = Counter()  # clips of each split that are in quarantine
        self.unscorable: dict[str, list[tuple[Clip, str]]] = {split: [] for split in SPLITS}  # and why
        self.reshuffles = Reshuffles()

    def prepare_data(self) -> None:
        """Makes, fetches and decodes what is missing; several processes wait for the first."""
        if self.splits:
            return
        if not self.shards:
            self.corpus.prepare()
        clips, store = self._read_corpus()
        self._prepared = clips, self._open_store(clips, where="disk", opened=store)

    def _read_corpus(self) -> tuple[ClipTable, ShardStore | None]:
        """The clips, and where they come from shards, the store of these."""
        if not self.shards:
            return clips_of(self.corpus), None
        refuse_beside_shards(self.where, features=self.features, curriculum_epochs=self.curriculum_epochs)
        self.corpus, store = sharded(self.corpus, self.shards, self.cache_gb, self.max_bad_fraction)
        return clips_of(self.corpus), store

    @uncollected()
    def setup(self, stage: str | None = None) -> None:
        """Reads the table of clips and splits it.

        Raises:
            UserError: the corpus is not whole, a split leaks, or there is nothing to train or test on.
        """
        if self.splits:
            return
        # A process that has prepared it all does not read a table, or look at its files, once more.
        clips, store = self._prepared or self._read_corpus()
        clips = self.corpus.with_validation(clips, self.val_fraction, self.seed)
        clips = hold_out(clips, self.train_dev_fraction, self.seed, "train_dev", self.corpus.root)
        refuse_leaks(clips)
        labels = self.corpus.labels or tuple(sorted(set().union(*clips.column("labels").different())))
        self.targets = self.encoding(labels, clips)
        self.labels = self.targets.labels
        where = "disk" if self.features or self.shards else self.where
        self.store = self._open_store(clips, where, store)
        self._prepared = None
        clips = self._without_quarantined(clips)  # the store's now, in the order of its rows
        places, outliers = clips.column("split"), self._outliers(clips)
        self.learned = torch.from_numpy(places.equals("train") | ~clips.column("fold").lacks())
        unfit = self.targets.unfit(clips.take(~places.lacks()))
        self._refuse_unscorable(unfit, len(clips), MEND_TEXT)
        for split in NAMED if self.train_dev_fraction else SPLITS:
            rows, self.unscorable[split] = np.flatnonzero(places.equals(split) & ~outliers), []
            if unfit:
                is_unfit = np.array([name in unfit for name in clips.column("id").at(rows)], dtype=bool)
                self.unscorable[split] = [(clip, unfit[clip.id]) for clip in clips.take(rows[is_unfit])]
                rows = rows[~is_unfit]
            if not len(rows) and split in ("train", "test"):
                raise UserError(f"The corpus in {self.corpus.root} has no {split} clips: check its split.")
            self.splits[split] = ClipSet(clips.take(rows), rows, self.store, self.targets)
        if self.overfit_batches:
            self._keep_few_batches()

    def _keep_few_batches(self) -> None:
        """Leaves the clips of the first batches of the first epoch, to train and to validate on."""
        batches, count = list(self.train_dataloader().sampler), self.overfit_batches
        if isinstance(count, float):
            count = max(round(count * len(batches)), 1)
        train = self.splits["train"]
        kept = sorted({position for batch in batches[:count] for position in batch})
        for split in ("train", "val"):
            self.splits[split] = train.take(kept)

    def leave_out(self, reasons: Mapping[str, str], mend: str) -> None:
        """Takes clips that a task finds it can't learn or score out of their splits, and into `unscorable`.

        Raises:
            UserError: there are more of them than `max_bad_fraction`; `mend` says what to do.
        """
        total = sum(len(found) + len(self.unscorable[split]) for split, found in self.splits.items())
        self._refuse_unscorable(reasons, total, mend)
        for split, found in self.splits.items():
            out = found.clips.column("id").mapped(reasons.__contains__, bool)
            self.unscorable[split] += [(clip, reasons[clip.id]) for clip in found.clips.take(out)]
            self.splits[split] = found.take(np.flatnonzero(~out))

    def _refuse_unscorable(self, reasons: Mapping[str, str], clips: int, mend: str) -> None:
        allowed = int(self.max_bad_fraction * clips + 1e-9)
        if len(reasons) > allowed:
            raise UserError(
                f"{describe_unfit(reasons)}, and loader.max_bad_fraction={self.max_bad_fraction:g} lets a "
                f"run go without {allowed}: {mend}, or raise it."
            )

    def _without_quarantined(self, clips: ClipTable) -> ClipTable:
        """Behind the check for leaks and the draw of validation clips: a mended file changes neither."""
        quarantined = {row.id for row in self.store.quarantined}
        if not quarantined:
            return clips
        is_bad = np.fromiter((name in quarantined for name in clips.column("id")), bool, len(clips))
        self.quarantined = Counter(clip.split for clip in clips.take(is_bad) if clip.split)
        return clips.take(~is_bad)

    def _outliers(self, clips: ClipTable) -> np.ndarray:
        """The training clips that are too long to be learned from, `(N,)` bool; named, and dropped."""
        if self.max_duration is None:
            return np.zeros(len(clips), bool)
        long = (self.store.lengths > self.max_duration * self.sample_rate).numpy()
        out = long & clips.column("split").equals("train")
        if not out.any():
            return out
        named = f"{out.sum()} training clips are longer than loader.max_duration={self.max_duration:g} s"
        named += f", such as {', '.join(clips.column('id').at(np.flatnonzero(out)[:5]))}"
        if self.outliers == "refuse":
            raise UserError(f"{named}: cut them, raise loader.max_duration, or set loader.outliers=drop.")
        self.dropped = f"; {named}: dropped"
        return out

    def _open_store(
        self, clips: Sequence[Clip], where: str, opened: WaveStore | ShardStore | None = None
    ) -> WaveStore | ShardStore:
        device = device_of(where)
        if opened is None or where not in WHERE:
            return WaveStore.open(
                clips, self.sample_rate, self.corpus.cache, where, device, self.max_bad_fraction
            )
        if where == "disk" or isinstance(opened, ShardStore):
            return opened
        return opened.placed(where, device)

    def keep_features(
        self, frontend: FrontEnd, options: Mapping[str, Any], views: Sequence[tuple[View, Any]] = ()
    ) -> None:
        """From now on training and validation read features in place of waveforms: `loader(features=True)`.

        Args:
            frontend: computes them, once, for all clips.
            options: what it was built from, as JSON may hold it.
            views: of the waveforms, beside the clips themselves, and what each was built from.
        """
        if self.feature_dtype not in STORES:
            known = ", ".join(STORES)
            raise UserError(
                f"loader.feature_dtype={self.feature_dtype} is unknown: set it to one of {known}."
            )
        assert isinstance(self.store, WaveStore), "features beside loader.shards are refused in setup"
        where, kind = self.where, STORES[self.feature_dtype]
        place = (self.corpus.cache, where, device_of(where))
        stores = [kind.open(self.store, frontend, options, *place)]
        for view, told in views:
            stores.append(kind.open(self.store, frontend, {**options, "view": told}, *place, view))
        features = FeatureViews(stores)
        self.featured = {split: clips.with_features(features) for split, clips in self.splits.items()}

    @property
    def sample_rate(self) -> int:
        return self.corpus.sample_rate

    @property
    def has_validation(self) -> bool:
        return self.validates and len(self.splits["val"]) > 0

    @cached_property
    def info(self) -> DataInfo:
        """What a task has to know of the data, which have been set up."""
        train = self.splits["train"]
        drawn = self.corpus.draw(train.clips, np.random.default_rng(self.seed))
        labels = train.clips.column("labels").take(drawn)
        times = len(drawn) * balanced_chances([*labels]) if self.balance else np.ones(len(drawn))
        counts: Counter[str] = Counter()
        for code, number in enumerate(np.bincount(labels.codes, times, len(labels.values)).tolist()):
            counts.update(dict.fromkeys(labels.values[code], number))
        counted = {split: len(clips) for split, clips in self.splits.items()} | {"train": len(drawn)}
        counted["val"] *= self.has_validation
        lengths = self.store.lengths[train.rows].float()
        encoding = self.targets.facts()
        return DataInfo(
            labels=tuple(encoding.pop("labels")),
            sample_rate=self.sample_rate,
            clip_seconds=float(lengths.median()) / self.sample_rate,
            longest_seconds=float(lengths.max()) / self.sample_rate,
            class_counts=tuple(counts[label] for label in self.labels),
            clip_counts=counted,
            encoding=encoding,
        )

    def facts(self) -> dict[str, object]:
        """What a reader of the scores has to know of the data; raises UserError where files have changed."""
        self.store.confirm_files()
        facts: dict[str, object] = {
            "hash": self.store.hash,
            "corpus": self.corpus.name,
            "sample_rate": self.sample_rate,
            "clips": dict(self.info.clip_counts),
            "labels": list(self.labels),
        }
        if self.corpus.folds:
            facts |= {"fold": self.corpus.fold, "folds": list(self.corpus.folds)}
        if self.quarantined:
            facts["quarantine"] = {split: self.quarantined[split] for split in self.splits}
        if any(self.unscorable.values()):
            facts["unscorable"] = {split: len(found) for split, found in self.unscorable.items()}
        return facts

    def describe(self) -> str:
        """The corpus and its splits in a few words."""
        counts = ", ".join(f"{count} {split}" for split, count in self.info.clip_counts.items() if count)
        corpus = f"{self.corpus.name} at {self.sample_rate} Hz"
        return f"{corpus}: {counts} clips of {self.targets.describe()}{self.dropped}"

    def remarks(self) -> list[str]:
        """What a user should know of the data before training, a sentence each."""
        different = (clips.clips.column("labels").different() for clips in self.splits.values())
        labels = {label for found in different for those in found for label in those}
        alike = [f"Labels that look alike are told apart: {names}." for names in look_alikes(sorted(labels))]
        if left_out := {clip.id: reason for found in self.unscorable.values() for clip, reason in found}:
            alike.append(f"{describe_unfit(left_out)}: left out of training; in a test they count as wrong.")
        return [*self.corpus.remarks(), *alike]

    def describe_quarantined(self) -> str:
        """A sentence on the clips in quarantine; nothing where there are none."""
        if not (quarantined := self.store.quarantined):
            return ""
        clips, store = len(quarantined) + len(self.store), self.store
        place = str(store.set.storage if isinstance(store, ShardStore) else store.folder / QUARANTINE)
        counts = ", ".join(f"{count} {split}" for split, count in self.quarantined.items()) or "unused"
        return (
            f"{len(quarantined)} of {clips} clips are in quarantine ({counts}): {named(quarantined, place)}"
        )

    def loader(
        self,
        split: str,
        shuffle: bool = False,
        batch_size: int | None = None,
        features: bool = False,
        drawn: bool = False,
    ) -> BatchLoader:
        """Batches of one split, this rank's share of them.

        Args:
            shuffle: in another order in every epoch, of those training clips that an epoch draws.
            batch_size: by default that of evaluation.
            features: in place of waveforms, where they are kept.
            drawn: of those training clips that the first epoch draws, in no order.
        """
        clips = self.featured.get(split, self.splits[split]) if features else self.splits[split]
        size, order = batch_size or self.eval_batch_size, dict[str, Any](shuffle=shuffle, seed=self.seed)
        if self.trainer:
            order |= {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
            clips.source.move(self.trainer.strategy.root_device)  # of this rank, or the CPU if so chosen
        kinds, place = samplers(self.store, clips.rows)
        draw = EpochDraw(self.corpus, clips.clips, self.balance, self.views if shuffle and features else 0)
        if shuffle:
            order |= {"draw": draw, "reshuffles": self.reshuffles, "per_step": self.batches_per_step}
        elif drawn:
            order |= {"draw": lambda rng: np.sort(draw(rng))}
        if self.max_batch_duration is None:
            sampler = kinds[0](*place, len(clips), size, **order)
        else:
            pools = place[2] // POOL if place else None
            strata = draw.stratify(clips.seconds, pools) if shuffle else None
            buckets = (self.max_batch_duration, self.jitter, self.curriculum_epochs, strata)
            sampler = kinds[1](*place, clips.seconds, size, *buckets, **order)
        return BatchLoader(
            clips,
            sampler,
            threads=0 if clips.source.where == "device" else self.workers,
            patience=0 if self.shards else self.timeout,  # its storage has a patience of its own
            pin_memory=torch.cuda.is_available(),
        )

    @cached_property
    def identity(self) -> dict[str, str]:
        """Digests of the samples, the labels and the clips of each split, by which data are known again."""
        splits = {split: clips_digest(clips.clips) for split, clips in self.splits.items()}
        return {"samples": self.store.hash, "labels": clips_digest(self.labels), **splits}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: what data these are, and where training went back."""
        per_step = self.batches_per_step or (self.trainer.world_size if self.trainer else 1)
        return {"identity": self.identity, "reshuffles": self.reshuffles.marks, "batches_per_step": per_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reshuffles.marks = state_dict["reshuffles"]

    def train_dataloader(self) -> BatchLoader:
        return self.loader("train", shuffle=True, batch_size=self.batch_size, features=True)

    def val_dataloader(self) -> BatchLoader | list:
        return self.loader("val", features=True) if self.has_validation else []

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test")
