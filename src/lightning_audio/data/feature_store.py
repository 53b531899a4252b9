"""FeatureStore: what a front end makes of every clip, computed once, from which a batch is a gather."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.data.batch import samples_to_float, sent
from lightning_audio.data.growing_store import GrowingStore
from lightning_audio.data.placement import residence
from lightning_audio.data.store import Damaged, Store, read_index
from lightning_audio.data.wave_store import WaveStore, progress
from lightning_audio.errors import UserError
from lightning_audio.io import build_once

VERSION = 2  # of what lies in a folder and of its key
SAMPLES_AT_ONCE = 2**23  # 32 MB of float waveforms, whose features are held until they are written
SAMPLES_OF_BATCH = 2**19  # what an encoder makes of more, with its padding, no cache of a CPU holds
CHECKED = 3  # clips that are computed again when a store is opened
DRIFT = 1e-3  # of a clip's deviation: mean differences below are rounding, on another machine too

_log = logging.getLogger(__name__)


class FrontEnd(Protocol):
    """Waveforms `(B, T)`, lengths -> features `(B, ..., T)`, lengths in frames; see frontend/base.py."""

    def __call__(self, waveforms: Tensor, lengths: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def output_lengths(self, lengths: Tensor, /) -> Tensor: ...


# What is made of waveforms `(B, T)` and their lengths before the front end, given the rows of the clips: the
# same of a clip whatever else is in its batch.
View = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class FeatureStore(Store):
    """The features of all clips of a WaveStore, in the order of its rows: one float32 file, frame by frame.

    While it is computed it grows in a folder of its own: where that is killed, the next opening continues
    with the first clip that is not on the disk, and ends with the same bytes.

    Behind the frames of a clip stands one more: what its front end gives for the padding behind it. So the
    features of a padded batch are those that the front end gives for the padded waveforms.

    Decibels lose up to 0.03 in float16 (a relative error of 5e-4), more than the 1e-4 to which front ends are
    held: `HalfFeatureStore` is for the states of encoders, which are many more.
    """

    file, tail = "frames.float32", 1
    dtype: ClassVar[type[np.floating[Any]]] = np.float32

    @classmethod
    def open(
        cls,
        store: WaveStore,
        frontend: FrontEnd,
        options: Mapping[str, Any],
        cache: Path,
        where: str = "disk",
        device: torch.device | str | None = None,
        view: View | None = None,
    ) -> FeatureStore:
        """The features of all clips of a store under `cache`; built, by one process alone, where none are.

        All clips of a corpus, whatever their split: so all folds share one store. A few clips are computed
        again: features that are no longer what the front end gives, since its code has changed, are replaced.

        Args:
            store: the decoded clips.
            frontend: on the CPU, or where it is to compute.
            options: what the front end and the view were built from, as JSON may hold it.
            where, device: as of a WaveStore; view: what becomes of the waveforms before.

        Raises:
            UserError: the cache cannot be written to or is full; `where` is no place.
        """
        residence(where, 0)
        folder = Path(cache) / "features" / cls._key(store, options)
        compute = partial(_computed, store, frontend if _learns(frontend) else _on_cpu(frontend), view)

        def is_whole() -> bool:
            return read_index(folder, cls.file) is not None

        def is_current() -> bool:
            try:
                return is_whole() and _agrees(cls(folder), compute)
            except Damaged:
                return False

        def write(unfinished: Path) -> None:
            work = store.lengths * getattr(view, "learned", True)
            _write(folder, unfinished, cls, store, compute, options, work)

        def needed() -> float:
            one, _ = compute(torch.zeros(1, dtype=torch.int64))
            frames = frontend.output_lengths(store.lengths) + 1
            return float(frames.sum()) * one.numel() / one.shape[-1] * cls.dtype().itemsize

        build = partial(build_once, folder, write=write, what="feature store", needed=needed)
        if not is_current():
            build(is_whole=is_current)
        return cls(folder, where, device, partial(build, is_whole=is_whole)).checked_if_small()

    @classmethod
    def _key(cls, store: WaveStore, options: Mapping[str, Any]) -> str:
        """Names the features by the samples, where they are cut into clips, and the front end's options."""
        digest = hashlib.sha256(f"{VERSION} {store.hash} {store.sample_rate} Hz\n".encode())
        digest.update(store.lengths.numpy().tobytes())
        digest.update(json.dumps(options, sort_keys=True).encode())
        if cls is not FeatureStore:
            digest.update(cls.file.encode())
        return digest.hexdigest()[:16]

    def gather(self, rows: Sequence[int] | Tensor, longest: int | None = None) -> tuple[Tensor, Tensor]:
        """Features of the clips of `rows`, `(B, F, T)` or `(B, C, F, T)`, and their lengths `(B,)` in frames.

        They are padded as the front end's, to the longest of them or to `longest` frames, and stand in memory
        frame by frame. Both lie on the CPU, or on the store's device.
        """
        frames, lengths = self._gather(rows, longest)
        return frames.float().unflatten(-1, self.shape).movedim(1, -1), lengths

    def _gather_on_device(
        self, values: Tensor, rows: Tensor, lengths: Tensor, longest: int | None = None
    ) -> tuple[Tensor, Tensor]:
        times = torch.arange(longest or int(lengths.max()), device=values.device)
        offsets, lengths = sent(self._offsets[rows], values.device), sent(lengths, values.device)
        return values[offsets[:, None] + torch.minimum(times, lengths[:, None])], lengths


class HalfFeatureStore(FeatureStore):
    """The same in float16, which halves the file; batches are float32."""

    file, dtype = "frames.float16", np.float16


STORES = {"float32": FeatureStore, "float16": HalfFeatureStore}  # by loader.feature_dtype


class FeatureViews:
    """Several stores of the same clips, views of them: row `v * N + n` is view v of clip n."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = list(stores)
        self.where, self.clips = stores[0].where, len(stores[0])

    def move(self, device: torch.device) -> None:
        """As of a store."""
        for store in self.stores:
            store.move(device)

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As of a store."""
        views, clips = rows // self.clips, rows % self.clips
        if len(self.stores) == 1:
            return self.stores[0].gather(clips)
        places = [(views == number).nonzero().flatten() for number in range(len(self.stores))]
        found = [(place, store) for place, store in zip(places, self.stores, strict=True) if len(place)]
        longest = max(int(store.lengths[clips[place]].max()) for place, store in found)
        parts = [store.gather(clips[place], longest) for place, store in found]
        order = torch.cat([place for place, _ in found]).argsort()
        features, lengths = (torch.cat(part) for part in zip(*parts, strict=True))
        order = order.to(features.device)
        return features[order], lengths[order]


def _on_cpu(frontend: FrontEnd) -> FrontEnd:
    """The front end itself, or a copy of one that has gone to a device since."""
    if isinstance(frontend, nn.Module) and any(buffer.device.type != "cpu" for buffer in frontend.buffers()):
        return copy.deepcopy(frontend).cpu()
    return frontend


def _learns(frontend: FrontEnd) -> bool:
    """Whether it has weights, and so is worth a device."""
    return isinstance(frontend, nn.Module) and next(frontend.parameters(), None) is not None


def _agrees(features: FeatureStore, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> bool:
    """Whether some clips, spread over the store, still give what is stored."""
    for row in torch.linspace(0, len(features) - 1, min(CHECKED, len(features))).long():
        stored, lengths = features.gather(row[None])
        computed, now = compute(row[None])
        if not torch.equal(now, lengths) or computed.shape[1:-1] != stored.shape[1:-1]:
            return False
        difference = (computed[..., : int(lengths)] - stored).abs().mean()
        if not difference <= DRIFT * stored.std(correction=0) + torch.finfo(stored.dtype).eps:
            return False
    return True


@torch.inference_mode()
def _computed(store: WaveStore, frontend: FrontEnd, view: View | None, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The features of clips, with a frame of padding or more behind each, and their lengths in frames."""
    waveforms, lengths = (tensor.cpu() for tensor in store.gather(rows))
    waveforms = samples_to_float(waveforms)
    if view is not None:
        waveforms, lengths = view(waveforms, lengths, rows)
    if getattr(frontend, "zero_behind", False):  # what stands behind a clip need not be computed
        weights = next(frontend.parameters(), torch.zeros(()))  # type: ignore[attr-defined]
        device = weights.device
        features, frames = (found.cpu() for found in frontend(waveforms.to(device), lengths.to(device)))
        return functional.pad(features, (0, 1)), frames
    longest, room = lengths.max(), 1
    while frontend.output_lengths(longest + room) <= frontend.output_lengths(longest):
        room *= 2
    return frontend(functional.pad(waveforms, (0, room)), lengths)


def _write(
    folder: Path,
    unfinished: Path,
    kind: type[FeatureStore],
    store: WaveStore,
    compute: Callable[[Tensor], tuple[Tensor, Tensor]],
    options: Mapping[str, Any],
    work: Tensor,
) -> None:
    """Computes all clips beside `folder`, from where an earlier process was killed, for `unfinished`.

    `work` `(N,)` is what each clip costs, by which the time that is left is estimated.
    """
    with GrowingStore(folder.with_name(f".{folder.name}.growing"), kind.file) as growing:
        clips, first, told = len(store), len(growing.lengths), False
        start, begun = 0.0, 0  # when the first batch was done that is work: it takes longer than others
        kept = f" ({first} are there)" if first else ""
        _log.info("Computing the features of %d clips%s to %s", clips, kept, folder)
        # Saved behind a whole batch: from there on the batches are those that would have followed.
        left = [first + rows for rows in _batches(store.lengths[first:], SAMPLES_AT_ONCE)]
        for rows in progress(left, "Computing features", len(left)):
            for clip, length in _in_order(compute, rows, work[rows]):
                growing.append(_as_kind(clip, kind), length)
            there, saved = len(growing.lengths), growing.save_now_and_then()
            if not begun and work[first:there].any():
                start, begun = time.monotonic(), there
            elif begun and saved and not told and work[begun:there].any():
                told = True
                seconds = (time.monotonic() - start) * int(work[there:].sum()) / int(work[begun:there].sum())
                _log.info("%d of %d clips are computed: about %.0f s more", there, clips, seconds)
        growing.move_to(unfinished, frontend=dict(options), samples=store.hash)


def _as_kind(values: np.ndarray, kind: type[FeatureStore]) -> np.ndarray:
    """In the numbers of a store; raises UserError where they are larger than those hold."""
    with np.errstate(over="ignore"):
        cast = values.astype(kind.dtype, copy=False)
    if cast is not values and not np.isfinite(cast).all():
        raise UserError(
            f"Features up to {np.abs(values).max():.3g} do not fit into float16: set "
            "loader.feature_dtype=float32."
        )
    return cast


def _in_order(
    compute: Callable[[Tensor], tuple[Tensor, Tensor]], rows: Tensor, work: Tensor
) -> Iterator[tuple[np.ndarray, int]]:
    """The features `(length + 1, ...)` of each of the rows, and their length; those of like length are
    computed together, so that there is little padding."""
    found: dict[int, tuple[np.ndarray, int]] = {}
    work, order = work.clamp(min=1).sort(stable=True)
    for batch in _batches(work, SAMPLES_OF_BATCH):
        features, frames = compute(rows[order[batch]])
        for place, clip, length in zip(
            order[batch].tolist(), features.movedim(-1, 1), frames.tolist(), strict=True
        ):
            found[place] = clip[: length + 1].contiguous().numpy(), length
    return (found.pop(place) for place in range(len(rows)))


def _batches(lengths: Tensor, most: int) -> list[Tensor]:
    """The places of all in their order, as many at a time as have `most` samples with their padding."""
    if not len(lengths):
        return []
    cuts, start, longest = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > start and (row + 1 - start) * longest > most:
            cuts.append(row)
            start, longest = row, length
    return list(torch.arange(len(lengths)).tensor_split(cuts))
