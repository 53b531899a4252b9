"""A look at every clip of a corpus: what its file holds, and the sums over its splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from lightning_audio.data.batch import INT16_SCALE
from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.decode import AudioError, decode

SILENT_PEAK = 1e-3  # of full scale: -60 dB


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What one clip holds; `problem` says why it can't be read, and then the rest is empty.

    `seconds` is its true duration; `rate` in Hz, `channels` and `format` are those of the file; `peak` is the
    largest sample, 1 at full scale; `clipped` the share of samples at full scale. `digest` names the samples
    at the file's own rate, as one channel of 16 bits: equal audio in WAV and FLAC has an equal one.
    """

    clip: Clip
    problem: str | None = None
    rate: int = 0
    channels: int = 0
    format: str = ""
    seconds: float = 0.0
    peak: float = 0.0
    clipped: float = 0.0
    digest: str = ""

    @property
    def is_silent(self) -> bool:
        return self.peak < SILENT_PEAK


def inspect_clip(clip: Clip) -> ClipReport:
    """What the clip holds, its file decoded once at its own rate."""
    try:
        info = soundfile.info(clip.path)
        samples = decode(clip.path, info.samplerate, clip.start, clip.duration, whole=True)
    except soundfile.LibsndfileError:
        return ClipReport(clip, _why_not(clip))
    except AudioError as error:
        return ClipReport(clip, error.reason)
    peak = max(int(samples.max()), -int(samples.min()))
    full = np.count_nonzero((samples == INT16_SCALE - 1) | (samples == -INT16_SCALE))
    return ClipReport(
        clip,
        rate=info.samplerate,
        channels=info.channels,
        format=f"{info.format} {info.subtype}",
        seconds=len(samples) / info.samplerate,
        peak=peak / INT16_SCALE,
        clipped=full / len(samples),
        digest=hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest(),
    )


def _why_not(clip: Clip) -> str:
    """The words of the decoder that training uses, so that both say the same of a file."""
    try:
        decode(clip.path, 1, clip.start, clip.duration)
    except AudioError as error:
        return error.reason
    raise AssertionError(f"{clip.path} is decoded, but has no header")


def summary(heard: Sequence[ClipReport], clips: Sequence[Clip], labels: Sequence[str]) -> dict[str, object]:
    """Counts, durations in seconds, sources and classes, by split; `heard` and `clips` are of one corpus."""
    of = {one.clip.id: one for one in heard}
    places = [split for split in (*SPLITS, None) if any(c.split == split for c in clips)]
    rows = {split or "unused": [clip for clip in clips if clip.split == split] for split in places}
    sources = Counter((one.rate, one.channels, one.format) for one in heard if not one.problem)
    folds = Counter(clip.fold for clip in clips if clip.fold is not None)
    return {
        "splits": {name: _of_split(chosen, of) for name, chosen in rows.items()},
        "sources": [
            {"rate": rate, "channels": channels, "format": format_, "clips": n}
            for (rate, channels, format_), n in sources.most_common()
        ],
        "labels": {
            label: {name: sum(label in clip.labels for clip in chosen) for name, chosen in rows.items()}
            for label in labels
        },
        "folds": {str(fold): n for fold, n in sorted(folds.items())},
    }


def _of_split(clips: Sequence[Clip], heard: dict[str, ClipReport]) -> dict[str, object]:
    seconds = [heard[clip.id].seconds for clip in clips if not heard[clip.id].problem]
    quantiles = np.quantile(seconds or [0.0], [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).round(3).tolist()
    return {
        "clips": len(clips),
        "groups": len({clip.group for clip in clips if clip.group is not None}),
        "words": sum(len((clip.text or "").split()) for clip in clips),
        "hours": sum(seconds) / 3600,
        "seconds": dict(zip(("min", "5%", "25%", "50%", "75%", "95%", "max"), quantiles, strict=True)),
    }
