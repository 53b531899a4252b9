"""Clips to hear and to see within a page: audio and log-mel as data, within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Self

import numpy as np
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image

from lightning_audio.data.batch import INT16_SCALE
from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.data.decode import resample
from lightning_audio.frontend.log_mel import LogMel

Samples = np.ndarray  # (T,) int16
Sound = Callable[[str, str], tuple[Samples, int] | None]  # split and id -> samples and rate in Hz

HIGHEST_RATE = 16000  # Hz, of clips that are compressed
COLUMNS = 320  # of a picture at most
MELS = 64
PICTURE = 16_000  # bytes
SHARE, TEXT = 0.9, 100_000  # of a page that clips may take; bytes that it has without any
LONGEST = 30.0  # seconds of a clip that are played


def sounds_of(data: AudioDataModule) -> Sound:
    """Gives the samples of clips as a network hears them; None for one that the data do not have."""
    rows = {
        split: {clip.id: row for row, clip in enumerate(found.clips)} for split, found in data.splits.items()
    }

    def sound(split: str, name: str) -> tuple[Samples, int] | None:
        if name not in rows.get(split, {}):
            return None
        found = data.splits[split]
        waveforms, lengths = found.store.gather(found.rows[[rows[split][name]]])
        return waveforms[0, : int(lengths[0])].cpu().numpy(), data.sample_rate

    return sound


class Shelf:
    """Clips as data within a page, as long as there is room.

    Args:
        sound: gives their samples; None: there are none.
        room: bytes of all clips together.
        compress: Vorbis, up to 16 kHz, in place of FLAC.

    Of the next `explained` clips `explain` gives a picture of what the answer hangs on, and words.
    """

    explain: Callable[[Samples, int], tuple[str, str]] | None = None
    explained = 0

    def __init__(self, sound: Sound | None, room: float, compress: bool = False) -> None:
        self.sound, self.room, self.compress = sound, room, compress

    @classmethod
    def for_clips(cls, sound: Sound | None, clips: Sequence[tuple[str, str]], megabytes: float) -> Self:
        """One for a page of so many megabytes: FLAC where all of the clips, `(split, id)`, are likely to fit,
        by the first of them, and otherwise Vorbis for all, so that they sound alike."""
        room = max(SHARE * megabytes * 1e6 - TEXT, 0.0)
        first = [found for clip in clips[:5] if sound and (found := sound(*clip))]
        sizes = [len(audio_uri(samples, rate)) + PICTURE for samples, rate in first]
        return cls(sound, room, compress=bool(sizes) and float(np.mean(sizes)) * len(clips) > room)

    def take(self, split: str, name: str) -> dict[str, str]:
        """`audio` and `picture` as data URIs; nothing where the clip is not to be had or there is no room.

        With them, of clips that are explained, the picture `why` and what it shows, `reason`.
        """
        found = self.sound(split, name) if self.sound and self.room > 0 else None
        if found is None or not len(found[0]):
            return {}
        samples, rate = found[0][: int(LONGEST * found[1])], found[1]
        made = {"audio": audio_uri(samples, rate, self.compress), "picture": picture_uri(samples, rate)}
        if self.explain and self.explained > 0:
            self.explained -= 1
            made["why"], made["reason"] = self.explain(samples, rate)
        size = sum(map(len, made.values()))
        self.room -= size  # the first one that does not fit is the last that is made
        return made if self.room >= 0 else {}


def audio_uri(samples: Samples, rate: int, compress: bool = False) -> str:
    """Samples `(T,)` as a FLAC file, or Ogg Vorbis, in a data URI."""
    content = io.BytesIO()
    if compress:
        if rate > HIGHEST_RATE:
            samples, rate = resample(samples, rate, HIGHEST_RATE), HIGHEST_RATE
        # Opus would be a little smaller, and takes ten times as long to be made.
        soundfile.write(content, samples, rate, format="OGG", subtype="VORBIS")
    else:
        soundfile.write(content, samples, rate, format="FLAC")
    return data_uri("audio/ogg" if compress else "audio/flac", content.getvalue())


def picture_uri(samples: Samples, rate: int) -> str:
    """The log-mel of samples `(T,)`, 80 dB of it, as a PNG in a data URI."""
    shade = ((log_mel_of(samples, rate, COLUMNS) / 80.0 + 1) * 255).astype(np.uint8)
    image = Image.fromarray(shade[::-1].copy(), mode="L")
    image = image.convert("P") if image.mode != "L" else image
    image.putpalette(_palette())
    content = io.BytesIO()
    image.save(content, format="PNG")
    return data_uri("image/png", content.getvalue())


@torch.no_grad()
def log_mel_of(samples: Samples, rate: int, columns: int) -> np.ndarray:
    """The log-mel `(F, T)` of samples, in dB from its maximum down to -80, in at most so many columns."""
    waveform = torch.from_numpy(samples.astype(np.float32) / INT16_SCALE)[None]
    log_mel, _ = _log_mel(rate)(waveform, torch.tensor([len(samples)]))
    if log_mel.shape[-1] > columns:
        log_mel = torch.nn.functional.adaptive_max_pool1d(log_mel, columns)
    return (log_mel[0] - log_mel.max()).clamp(-80, 0).numpy()


@cache
def _log_mel(rate: int) -> LogMel:
    size = 2 ** max(round(rate * 0.032) - 1, 1).bit_length()
    return LogMel(rate, n_fft=size, hop_length=max(rate // 100, 1), n_mels=MELS)


@cache
def _palette() -> list[int]:
    return (colormaps["magma"](np.arange(256), bytes=True)[:, :3]).ravel().tolist()


def data_uri(kind: str, content: bytes) -> str:
    """Bytes of a kind, such as `image/png`, within a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
