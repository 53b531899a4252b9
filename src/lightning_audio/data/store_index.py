"""The index of a store: which clips it holds and how long each is; read in no time, however many they are."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.quarantine import QUARANTINE
from lightning_audio.io import write_file

SAMPLES, INDEX, LENGTHS, IDS = "samples.int16", "index.json", "lengths.npy", "ids.json"
BYTES_PER_SAMPLE = 2


@dataclass(frozen=True)
class Index:
    """What stands beside the samples of a store that is whole.

    Attributes:
        digest: of the samples.
        sample_rate: in Hz.
        lengths: `(N,)` int64, in samples.
    """

    folder: Path
    digest: str
    sample_rate: int
    lengths: np.ndarray

    def ids(self) -> tuple[str, ...]:
        """Of the clips, in the order of the rows; read anew at each call, for most readers never ask."""
        return tuple(json.loads((self.folder / IDS).read_text(encoding="utf-8")))


def read_index(folder: Path) -> Index | None:
    """The index of a store that is whole, else None.

    Whole is a store whose files have the sizes that its `index.json` says, and as many samples as its clips
    are long: a look at four files, not at every clip.
    """
    try:
        told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in told["bytes"].items()):
            return None
        lengths = np.load(folder / LENGTHS)
        whole = told["bytes"][SAMPLES] == int(lengths.sum()) * BYTES_PER_SAMPLE
        return Index(folder, told["digest"], told["sample_rate"], lengths) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def write_index(
    folder: Path, digest: str, sample_rate: int, ids: Sequence[str], lengths: Sequence[int], **facts: Any
) -> None:
    """Puts an index beside the samples that lie in the folder already; `index.json` comes last.

    An array and a list, not an object a clip: those of a million clips are read in a tenth of a second.
    """
    array = io.BytesIO()
    np.save(array, np.asarray(lengths, dtype=np.int64))
    write_file(folder / LENGTHS, [array.getbuffer()])
    write_file(folder / IDS, [json.dumps([*ids]).encode()])
    files = [SAMPLES, LENGTHS, IDS, *([QUARANTINE] if (folder / QUARANTINE).is_file() else [])]
    sizes = {name: (folder / name).stat().st_size for name in files}
    told = {"digest": digest, "sample_rate": sample_rate, **facts, "bytes": sizes}
    write_file(folder / INDEX, [json.dumps(told, indent=1).encode()])
