"""A look at every clip of a corpus: what its file holds, and the sums over its splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lightning_audio.data.audio_file import AudioError, read_audio
from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.data.clip import SPLITS, Clip
from lightning_audio.data.decode import at_rate

SILENT_PEAK = 1e-3  # of full scale: -60 dB


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What one clip holds; `problem` says why it can't be read, and then the rest is empty.

    `seconds` is its true duration; `rate` in Hz, `channels` and `format` are those of the file; `peak` is the
    largest sample that training sees, 1 at full scale; `clipped` the share of samples at full scale. `digest`
    names the samples at the file's own rate, as one channel of 16 bits: equal audio in WAV and FLAC has an
    equal one. `remarks` are what is odd about the file, as clauses by their kind (see `Audio.remarks`).
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
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def is_silent(self) -> bool:
        return self.peak < SILENT_PEAK


def inspect_clip(clip: Clip) -> ClipReport:
    """What the clip holds, its file decoded once at its own rate."""
    try:
        audio = read_audio(clip.path, clip.start, clip.duration, clip.channel)
    except AudioError as error:
        return ClipReport(clip, error.reason)
    if audio.cut:
        return ClipReport(clip, audio.cut)
    samples = at_rate(audio.samples, audio.rate, audio.rate)
    peak = max(int(samples.max()), -int(samples.min()))
    full = np.count_nonzero((samples == INT16_SCALE - 1) | (samples == -INT16_SCALE))
    return ClipReport(
        clip,
        rate=audio.rate,
        channels=audio.channels,
        format=audio.format,
        seconds=len(samples) / audio.rate,
        peak=peak / INT16_SCALE,
        clipped=full / len(samples),
        digest=hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest(),
        remarks=audio.remarks(),
    )


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
