"""FeatureStore: what a front end makes of every clip, computed once, from which a batch is a gather."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightning_audio.data.batch import samples_to_float, sent
from lightning_audio.data.placement import read_array, residence
from lightning_audio.data.wave_store import WaveStore, progress
from lightning_audio.io import build_once, write_file

VERSION = 1  # of the files below
FRAMES, LENGTHS, INDEX = "frames.float32", "lengths.int64", "index.json"
BYTES_PER_VALUE = 4
SAMPLES_AT_ONCE = 2**22  # 16 MB of float waveforms
CHECKED = 3  # clips that are computed again when a store is opened
DRIFT = 1e-3  # of a clip's deviation: mean differences below are rounding, on another machine too

_log = logging.getLogger(__name__)


class FrontEnd(Protocol):
    """Waveforms `(B, T)` and lengths -> features `(B, ..., T)` and lengths in frames; see frontend.py."""

    def __call__(self, waveforms: Tensor, lengths: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def output_lengths(self, lengths: Tensor, /) -> Tensor: ...


class FeatureStore:
    """The features of all clips of a WaveStore, in the order of its rows: one float32 file, frame by frame.

    Behind the frames of a clip stands one more: what its front end gives for the padding behind it. So the
    features of a padded batch are those that the front end gives for the padded waveforms.

    Float16 would halve the file, but decibels lose up to 0.03 in it (a relative error of 5e-4), more than the
    1e-4 to which front ends are held, and a batch would come no faster.

    A store is pickled as the folder it stands in, as a WaveStore is.

    Args:
        folder: a store that is whole; `open` finds or builds it.
        where, device: as of a WaveStore.
    """

    def __init__(self, folder: Path, where: str = "disk", device: torch.device | str | None = None) -> None:
        self.shape: tuple[int, ...] = tuple(_read_index(folder)["shape"])
        where = residence(where, (folder / FRAMES).stat().st_size, device)
        self.folder, self.where, self.device = folder, where, torch.device(device or "cpu")
        self.lengths = torch.from_numpy(np.fromfile(folder / LENGTHS, dtype=np.int64))
        self._offsets = (self.lengths + 1).cumsum(0) - (self.lengths + 1)
        if where == "memory":
            self._frames  # noqa: B018 - now, so that worker processes that are forked share it

    # Read when the first batch is: a store may be opened and no more, or moved to another device first.
    @cached_property
    def _frames(self) -> np.ndarray | Tensor:
        values = read_array(self.folder / FRAMES, np.float32, self.where, self.device)
        return values.reshape(-1, int(np.prod(self.shape)))

    @classmethod
    def open(
        cls,
        store: WaveStore,
        frontend: FrontEnd,
        options: Mapping[str, Any],
        cache: Path,
        where: str = "disk",
        device: torch.device | str | None = None,
    ) -> FeatureStore:
        """The features of all clips of a store under `cache`; built, by one process alone, where none are.

        All clips of a corpus, whatever their split: so all folds share one store. A few clips are computed
        again: features that are no longer what the front end gives, since its code has changed, are replaced.

        Args:
            store: the decoded clips.
            frontend: on the CPU.
            options: what the front end was built from, as JSON may hold it.
            where, device: as of a WaveStore.

        Raises:
            UserError: the cache cannot be written to or is full; `where` is no place.
        """
        residence(where, 0)
        folder = Path(cache) / "features" / _key(store, options)

        def is_current() -> bool:
            return _is_whole(folder) and _agrees(cls(folder), store, frontend)

        def write(unfinished: Path) -> None:
            _log.info("Computing the features of %d clips to %s", len(store), folder)
            _write(unfinished, store, frontend, options)

        def needed() -> float:
            one, _ = frontend(torch.zeros(1, store.sample_rate), torch.tensor([store.sample_rate]))
            frames = frontend.output_lengths(store.lengths) + 1
            return float(frames.sum()) * one.numel() / one.shape[-1] * BYTES_PER_VALUE

        if not is_current():
            build_once(folder, is_current, write, "feature store", needed)
        return cls(folder, where, device)

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore, (self.folder, self.where, self.device)

    def move(self, device: torch.device) -> None:
        """Features that live on a device go to this one; others stay where they are."""
        if self.where == "device" and device != self.device:
            self.device = device
            self.__dict__.pop("_frames", None)

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Features of the clips of `rows`, `(B, F, T)` or `(B, C, F, T)`, and their lengths `(B,)` in frames.

        They are padded as the front end's, and stand in memory frame by frame. Both lie on the CPU, or on the
        store's device.
        """
        rows = torch.as_tensor(rows).cpu()
        offsets, lengths = self._offsets[rows], self.lengths[rows]
        if isinstance(self._frames, Tensor):
            frames, lengths = _gather_on_device(self._frames, offsets, lengths)
        else:
            frames = _gather_in_memory(self._frames, offsets, lengths)
        return frames.unflatten(-1, self.shape).movedim(1, -1), lengths


def _gather_in_memory(frames: np.ndarray, offsets: Tensor, lengths: Tensor) -> Tensor:
    gathered = torch.empty(len(lengths), int(lengths.max()), frames.shape[1])
    spans = zip(offsets.tolist(), lengths.tolist(), strict=True)
    for clip, (offset, length) in zip(gathered.numpy(), spans, strict=True):
        clip[:length] = frames[offset : offset + length]
        clip[length:] = frames[offset + length]
    return gathered


def _gather_on_device(frames: Tensor, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    times = torch.arange(int(lengths.max()), device=frames.device)
    offsets, lengths = sent(offsets, frames.device), sent(lengths, frames.device)
    return frames[offsets[:, None] + torch.minimum(times, lengths[:, None])], lengths


def _key(store: WaveStore, options: Mapping[str, Any]) -> str:
    """Names the features by the samples, where they are cut into clips, and the front end's options."""
    digest = hashlib.sha256(f"{VERSION} {store.hash} {store.sample_rate} Hz\n".encode())
    digest.update(store.lengths.numpy().tobytes())
    digest.update(json.dumps(options, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))


def _is_whole(folder: Path) -> bool:
    try:
        width = int(np.prod(_read_index(folder)["shape"]))
        frames = np.fromfile(folder / LENGTHS, dtype=np.int64) + 1
        return (folder / FRAMES).stat().st_size == int(frames.sum()) * width * BYTES_PER_VALUE
    except (OSError, ValueError, KeyError):
        return False


def _agrees(features: FeatureStore, store: WaveStore, frontend: FrontEnd) -> bool:
    """Whether some clips, spread over the store, still give what is stored."""
    for row in torch.linspace(0, len(store) - 1, min(CHECKED, len(store))).long():
        stored, lengths = features.gather(row[None])
        computed, now = _computed(store, frontend, row[None])
        if not torch.equal(now, lengths) or computed.shape[1:-1] != stored.shape[1:-1]:
            return False
        difference = (computed[..., : int(lengths)] - stored).abs().mean()
        if not difference <= DRIFT * stored.std(correction=0) + torch.finfo(stored.dtype).eps:
            return False
    return True


@torch.inference_mode()
def _computed(store: WaveStore, frontend: FrontEnd, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The features of clips, with a frame or more of padding behind each, and their lengths in frames."""
    waveforms, lengths = (tensor.cpu() for tensor in store.gather(rows))
    longest, room = lengths.max(), 1
    while frontend.output_lengths(longest + room) <= frontend.output_lengths(longest):
        room *= 2
    return frontend(functional.pad(samples_to_float(waveforms), (0, room)), lengths)


def _write(folder: Path, store: WaveStore, frontend: FrontEnd, options: Mapping[str, Any]) -> None:
    shape: tuple[int, ...] = ()
    lengths: list[int] = []

    def clips() -> Iterator[memoryview]:
        nonlocal shape
        batches = _batches(store.lengths)
        for rows in progress(batches, "Computing features", len(batches)):
            features, frames = _computed(store, frontend, rows)
            shape = tuple(features.shape[1:-1])
            for clip, length in zip(features.movedim(-1, 1), frames.tolist(), strict=True):
                lengths.append(length)
                yield clip[: length + 1].contiguous().numpy().data

    write_file(folder / FRAMES, clips())
    write_file(folder / LENGTHS, [np.array(lengths, dtype=np.int64).data])
    index = {"shape": shape, "frontend": dict(options), "samples": store.hash}
    write_file(folder / INDEX, [json.dumps(index).encode()])


def _batches(lengths: Tensor) -> list[Tensor]:
    """All rows in their order, as many at a time as fit into SAMPLES_AT_ONCE with their padding."""
    cuts, start, longest = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > start and (row + 1 - start) * longest > SAMPLES_AT_ONCE:
            cuts.append(row)
            start, longest = row, length
    return list(torch.arange(len(lengths)).tensor_split(cuts))
