"""Where the samples of a store live: on the disk, in memory, or on the device; and batches gathered there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WHERE = ("disk", "memory", "device", "auto")
SHARE = 0.25  # of what is free: so much of a device, or of the memory, `auto` gives to a store
CHUNK = 2**25  # samples that travel to a device at a time


def fitting(size: int, on_device: int, in_memory: int) -> str:
    """Where `size` bytes of samples go, given the free bytes of the device (0: there is none) and memory."""
    if size < SHARE * on_device:
        return "device"
    return "memory" if size < SHARE * in_memory else "disk"


def own_accelerator() -> torch.device | None:
    """The accelerator of this process, one for each of several on a machine; None where there is none."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return None
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", 0)) % torch.accelerator.device_count())


def free_on(device: torch.device | str | None) -> int:
    """Free bytes of an accelerator; 0 where there is none, or it does not tell."""
    if device is None or torch.device(device).type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0]


def free_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)


def gather_in_memory(samples: np.ndarray, offsets: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Stretches of `samples` `(S,)` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths."""
    waveforms = torch.empty(len(lengths), int(lengths.max()), dtype=torch.int16)
    spans = zip(offsets.tolist(), lengths.tolist(), strict=True)
    for waveform, (offset, length) in zip(waveforms.numpy(), spans, strict=True):
        waveform[:length] = samples[offset : offset + length]
        waveform[length:] = 0
    return waveforms, lengths


def gather_on_device(
    samples: Tensor, offsets: Tensor, lengths: Tensor, longest: int, ragged: bool
) -> tuple[Tensor, Tensor]:
    """The same on the device where all three lie.

    The greatest length, and whether there are others, come from the host: to ask the device for them would be
    to wait for all that it still has to do.
    """
    waveforms = samples.unfold(0, longest, 1)[offsets]
    if ragged:
        behind = torch.arange(longest, device=samples.device) >= lengths[:, None]
        waveforms.masked_fill_(behind, 0)
    return waveforms, lengths


def samples_on(device: torch.device, path: Path, longest: int) -> Tensor:
    """The samples of a file on a device, sent there in parts: the memory of the host never holds all of them.

    Zeros stand at the end, so that a window of any clip's length can begin at the last clip.
    """
    mapped = np.memmap(path, dtype=np.int16, mode="r")
    samples = torch.empty(len(mapped) + longest, dtype=torch.int16, device=device)
    for start in range(0, len(mapped), CHUNK):
        part = np.array(mapped[start : start + CHUNK])
        samples[start : start + len(part)] = torch.from_numpy(part)
    samples[len(mapped) :] = 0
    return samples
