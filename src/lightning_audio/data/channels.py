"""Several channels to one: which is taken, and what their mean does to them."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from lightning_audio.errors import UserError

INT16_SCALE = 32768.0
CANCELLED_DB = 10.0  # that a mix may be below what channels without relation give
WINDOW = 512  # samples in which channels are compared
QUIET = 1e-4  # of the power of the loudest window: below it nothing is to be heard
PART = 0.05  # of the windows with sound, from which on cancelling channels are told


def channel_number(channel: int | str | None) -> int | None:
    """The number of one channel, None for the mean of all; raises UserError for what is neither."""
    if channel is None or channel == "mean":
        return None
    if not str(channel).isdecimal():
        raise UserError(f"channel={channel!r} is none: set it to mean, or to a number from 0 on.")
    return int(channel)


class Mix:
    """The mean of channels, block by block, and what it does to them.

    Attributes:
        peak: the largest sample of any channel, 1 at full scale; NaN or infinite if one is.
    """

    def __init__(self) -> None:
        self.peak = 0.0
        self.channels = 1
        self._mixed: list[np.ndarray] = []  # of each window, the energy of the mean of the channels
        self._apart: list[np.ndarray] = []  # and the mean of their energies
        self._products: np.ndarray | float = 0.0  # of all pairs of channels, where there are more than two

    def add(self, block: np.ndarray) -> np.ndarray:
        """One channel `(n,)` of a block `(n, channels)`: int16 where that is all it holds, else float32."""
        self.channels = block.shape[1]
        if block.dtype == np.int16 and self.channels == 1:
            self.peak = max(self.peak, int(block.max()) / INT16_SCALE, -int(block.min()) / INT16_SCALE)
            return block[:, 0]
        if block.dtype != np.float32:
            block = block / np.float32(-float(np.iinfo(block.dtype).min))
        self.peak = float(np.maximum(self.peak, np.maximum(block.max(), -block.min())))  # keeps NaN
        if self.channels == 1:
            return block[:, 0]
        mean = block @ np.full(self.channels, 1 / self.channels, np.float32)  # ten times as fast as mean()
        self._mixed.append(_energies(mean[:, None]))
        self._apart.append(_energies(block) / self.channels)
        if self.channels > 2:
            self._products = self._products + block.T @ block
        return mean

    @cached_property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        empty = np.zeros(1, np.float32)
        return np.concatenate(self._mixed or [empty]), np.concatenate(self._apart or [empty])

    @property
    def db(self) -> float:
        """Power of the mean of the channels against the mean of their powers."""
        mixed, apart = (float(energy.sum(dtype=np.float64)) for energy in self._windows)
        if not apart:
            return 0.0  # one channel, or nothing to cancel
        return 10 * math.log10(mixed / apart) if mixed else -math.inf

    @property
    def cancelling(self) -> str | None:
        """Which channels leave far less than ones without relation: all, for some time, or two of them."""
        limit = -10 * math.log10(self.channels) - CANCELLED_DB
        if self.db < limit:
            left = "nothing" if self.db == -math.inf else f"{self.db:.0f} dB"
            return f"{self.channels} channels cancel each other, their mean keeps {left}"
        mixed, apart = self._windows
        sounding = apart > QUIET * apart.max()
        part = np.mean(mixed[sounding] < 10 ** (limit / 10) * apart[sounding]) if sounding.any() else 0.0
        if part >= PART:
            return f"{self.channels} channels cancel each other in {part:.0%} of its sound"
        if self.channels > 2:
            one, other = np.triu_indices(self.channels, 1)
            products = np.asarray(self._products)
            powers = np.diag(products)[one] + np.diag(products)[other]
            left = (powers + 2 * products[one, other]) / 2 / np.maximum(powers, 1e-30)
            worst = int(left.argmin())
            if left[worst] < 10 ** (-CANCELLED_DB / 10) / 2 and powers[worst] > QUIET * powers.max():
                return f"channels {one[worst]} and {other[worst]} cancel each other"
        return None


def _energies(block: np.ndarray) -> np.ndarray:
    """Of each window of a block `(n, channels)`; an incomplete one at the end is left out."""
    window = min(WINDOW, len(block))
    rows = block[: len(block) // window * window].reshape(-1, window * block.shape[1])
    return np.einsum("ij,ij->i", rows, rows)
