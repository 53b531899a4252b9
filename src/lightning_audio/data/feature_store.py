"""FeatureStore: what a front end makes of every clip, computed once, from which a batch is a gather."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_audio.data.batch import samples_to_float, sent
from lightning_audio.data.placement import residence
from lightning_audio.data.store import Damaged, Store, read_index, write_index
from lightning_audio.data.wave_store import WaveStore, progress
from lightning_audio.io import build_once, write_file

VERSION = 2  # of what lies in a folder and of its key
FRAMES = "frames.float32"
SAMPLES_AT_ONCE = 2**22  # 16 MB of float waveforms
CHECKED = 3  # clips that are computed again when a store is opened
DRIFT = 1e-3  # of a clip's deviation: mean differences below are rounding, on another machine too

_log = logging.getLogger(__name__)


class FrontEnd(Protocol):
    """Waveforms `(B, T)` and lengths -> features `(B, ..., T)` and lengths in frames; see frontend.py."""

    def __call__(self, waveforms: Tensor, lengths: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def output_lengths(self, lengths: Tensor, /) -> Tensor: ...


class FeatureStore(Store):
    """The features of all clips of a WaveStore, in the order of its rows: one float32 file, frame by frame.

    Behind the frames of a clip stands one more: what its front end gives for the padding behind it. So the
    features of a padded batch are those that the front end gives for the padded waveforms.

    Float16 would halve the file, but decibels lose up to 0.03 in it (a relative error of 5e-4), more than the
    1e-4 to which front ends are held, and a batch would come no faster.
    """

    file, dtype, tail = FRAMES, np.float32, 1

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

        def is_whole() -> bool:
            return read_index(folder, FRAMES) is not None

        def is_current() -> bool:
            try:
                return is_whole() and _agrees(cls(folder), store, frontend)
            except Damaged:
                return False

        def write(unfinished: Path) -> None:
            _log.info("Computing the features of %d clips to %s", len(store), folder)
            _write(unfinished, store, _on_cpu(frontend), options)

        def needed() -> float:
            second = torch.zeros(1, store.sample_rate), torch.tensor([store.sample_rate])
            one, _ = _on_cpu(frontend)(*second)
            frames = frontend.output_lengths(store.lengths) + 1
            return float(frames.sum()) * one.numel() / one.shape[-1] * np.float32().itemsize

        build = partial(build_once, folder, write=write, what="feature store", needed=needed)
        if not is_current():
            build(is_whole=is_current)
        return cls(folder, where, device, partial(build, is_whole=is_whole)).checked_if_small()

    def gather(self, rows: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Features of the clips of `rows`, `(B, F, T)` or `(B, C, F, T)`, and their lengths `(B,)` in frames.

        They are padded as the front end's, and stand in memory frame by frame. Both lie on the CPU, or on the
        store's device.
        """
        frames, lengths = self._gather(rows)
        return frames.unflatten(-1, self.shape).movedim(1, -1), lengths

    def _gather_on_device(self, values: Tensor, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        times = torch.arange(int(lengths.max()), device=values.device)
        offsets, lengths = sent(self._offsets[rows], values.device), sent(lengths, values.device)
        return values[offsets[:, None] + torch.minimum(times, lengths[:, None])], lengths


def _on_cpu(frontend: FrontEnd) -> FrontEnd:
    """The front end itself, or a copy of one that has gone to a device since."""
    if isinstance(frontend, nn.Module) and any(buffer.device.type != "cpu" for buffer in frontend.buffers()):
        return copy.deepcopy(frontend).cpu()
    return frontend


def _key(store: WaveStore, options: Mapping[str, Any]) -> str:
    """Names the features by the samples, where they are cut into clips, and the front end's options."""
    digest = hashlib.sha256(f"{VERSION} {store.hash} {store.sample_rate} Hz\n".encode())
    digest.update(store.lengths.numpy().tobytes())
    digest.update(json.dumps(options, sort_keys=True).encode())
    return digest.hexdigest()[:16]


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
    checksums: list[int] = []

    def clips() -> Iterator[memoryview]:
        nonlocal shape
        batches = _batches(store.lengths)
        for rows in progress(batches, "Computing features", len(batches)):
            features, frames = _computed(store, frontend, rows)
            shape = tuple(features.shape[1:-1])
            for clip, length in zip(features.movedim(-1, 1), frames.tolist(), strict=True):
                values = clip[: length + 1].contiguous().numpy()
                lengths.append(length)
                checksums.append(zlib.crc32(values))
                yield values.data

    digest = write_file(folder / FRAMES, clips())
    facts = {"digest": digest, "shape": shape, "frontend": dict(options), "samples": store.hash}
    write_index(folder, FRAMES, lengths, checksums, **facts)


def _batches(lengths: Tensor) -> list[Tensor]:
    """All rows in their order, as many at a time as fit into SAMPLES_AT_ONCE with their padding."""
    cuts, start, longest = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > start and (row + 1 - start) * longest > SAMPLES_AT_ONCE:
            cuts.append(row)
            start, longest = row, length
    return list(torch.arange(len(lengths)).tensor_split(cuts))
