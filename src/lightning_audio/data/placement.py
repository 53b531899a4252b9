"""Where the samples of a store live: on the disk, in memory, or on the device; and batches gathered there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_audio.errors import UserError

WHERE = ("disk", "memory", "device", "auto")
SHARE = 0.25  # of what is free: so much of a device, or of the memory, `auto` gives to a store
CHUNK = 2**25  # values that travel to a device at a time


def residence(where: str, size: int, device: torch.device | str | None = None) -> str:
    """Where `size` bytes are read from: as asked for, or where they fit if that is "auto".

    Raises:
        UserError: `where` is none of WHERE.
    """
    if where not in WHERE:
        raise UserError(f"A store cannot be read from {where!r}: choose one of {', '.join(WHERE)}.")
    return fitting(size, free_on(device), free_memory()) if where == "auto" else where


def fitting(size: int, on_device: int, in_memory: int) -> str:
    """Where `size` bytes of samples go, given the free bytes of the device (0: there is none) and memory."""
    if size < SHARE * on_device:
        return "device"
    return "memory" if size < SHARE * in_memory else "disk"


def device_of(where: str) -> torch.device | None:
    """The device on which a store may be read there; None where it is not to be."""
    return own_accelerator() if where in ("device", "auto") else None


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


def gather_on_device(
    samples: Tensor, offsets: Tensor, lengths: Tensor, longest: int, ragged: bool
) -> tuple[Tensor, Tensor]:
    """Stretches of `samples` `(S,)` as int16 `(B, T)`, zeros behind the shorter ones, and their lengths.

    All of it on the device where samples, offsets and lengths lie.

    The greatest length, and whether there are others, come from the host: to ask the device for them would be
    to wait for all that it still has to do.
    """
    waveforms = samples.unfold(0, longest, 1)[offsets]
    if ragged:
        behind = torch.arange(longest, device=samples.device) >= lengths[:, None]
        waveforms.masked_fill_(behind, 0)
    return waveforms, lengths


def read_array(
    path: Path, dtype: type[np.generic], where: str, device: torch.device, spare: int = 0
) -> np.ndarray | Tensor:
    """What a file holds, flat: an array, or on a "device" a tensor with `spare` zeros more.

    It is sent to a device in parts, so that the memory of the host never holds all of it.
    """
    if where == "memory":
        return np.fromfile(path, dtype=dtype)
    # A plain array over the map: np.memmap's own slicing costs more than the copy of a short clip.
    mapped = np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    if where == "disk":
        return mapped
    kind = torch.from_numpy(np.zeros(0, dtype)).dtype
    values = torch.empty(len(mapped) + spare, dtype=kind, device=device)
    for start in range(0, len(mapped), CHUNK):
        part = np.array(mapped[start : start + CHUNK])
        values[start : start + len(part)] = torch.from_numpy(part)
    values[len(mapped) :] = 0
    return values
