"""Real lossy codecs: clips are written and read again by libsndfile, clip by clip on the CPU.

That is for a test (`evaluate --codec`) and for views of clips that are kept (`loader.views`); in training by
the step, `spectral.Codec` and `channel.Telephone` are models of it on the device.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor

from lightning_audio.augment.base import Transform, random_below
from lightning_audio.data.decode import at_rate
from lightning_audio.errors import UserError

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MP3_DELAY = 1105  # samples that LAME and a decoder put in front, where no header tells of them
# Lowest and highest kbit/s by the rate from which they count, which libsndfile's compression level spans.
MP3_KBPS = {32000: (32, 320), 16000: (8, 160), 0: (8, 64)}
OPUS_RATES, OPUS_KBPS = (8000, 12000, 16000, 24000, 48000), (6, 256)
GSM_RATE, GSM_KBPS = 8000, 13


@dataclass(frozen=True)
class Recoder:
    """One codec at one rate of bits."""

    name: str
    kbps: float

    @classmethod
    def parse(cls, text: str) -> Recoder:
        """`mp3@32k`, `opus@12k` or `gsm`; raises UserError where it is none of them."""
        name, _, rate = text.strip().lower().partition("@")
        kbps = rate.removesuffix("k") or (str(GSM_KBPS) if name == "gsm" else "")
        known = name in ("mp3", "opus") or (name == "gsm" and kbps == str(GSM_KBPS))
        if not known or not kbps.replace(".", "", 1).isdigit():
            raise UserError(f"{text!r} is no codec: name mp3@32k, opus@12k (any kbit/s) or gsm.")
        return cls(name, float(kbps))

    def __call__(self, samples: np.ndarray, rate: int) -> np.ndarray:
        """`samples` int16 `(T,)` at `rate` Hz as float32 `(T,)`, as a listener gets them."""
        own = self._own_rate(rate)
        # Encoders look ahead: what is short gets silence behind it, which is cut off again.
        source = at_rate(samples, rate, own)
        padded = np.pad(source, (0, own // 2))
        file = io.BytesIO()
        soundfile.write(file, padded, own, **self.options(rate))
        file.seek(0)
        heard, _ = soundfile.read(file, dtype="float32")
        if self.name == "mp3" and len(heard) > len(padded):
            heard = heard[MP3_DELAY:]
        # Half of a second longer at both rates, so that the cut below always has enough.
        heard = at_rate(heard, own, rate)[: len(samples)] / np.float32(32768)
        return np.pad(heard, (0, len(samples) - len(heard)))

    def _own_rate(self, rate: int) -> int:
        rates = {"mp3": MP3_RATES, "opus": OPUS_RATES, "gsm": (GSM_RATE,)}[self.name]
        return next((own for own in rates if own >= rate), rates[-1])

    def options(self, rate: int) -> dict[str, str | float]:
        """How soundfile writes what comes at `rate` Hz.

        Raises:
            UserError: the codec has no such number of kbit/s at this rate.
        """
        own = self._own_rate(rate)
        if self.name == "gsm":
            return {"format": "WAV", "subtype": "GSM610"}
        lowest, highest = OPUS_KBPS
        if self.name == "mp3":
            lowest, highest = next(span for least, span in MP3_KBPS.items() if own >= least)
        if not lowest <= self.kbps <= highest:
            raise UserError(
                f"{self.name}@{self.kbps:g}k is no rate of bits for {own} Hz: give {lowest} to {highest}."
            )
        level = min((highest - self.kbps) / (highest - lowest), 0.99)  # of 1.0 LAME makes nothing
        if self.name == "opus":
            return {"format": "OGG", "subtype": "OPUS", "compression_level": level}
        return {
            "format": "MP3",
            "subtype": "MPEG_LAYER_III",
            "bitrate_mode": "CONSTANT",
            "compression_level": level,
        }


class Recode(Transform):
    """Sends each clip through one of `codecs`, drawn by name: `[mp3@32k, opus@12k, gsm]`.

    A device has to be waited for, so that in training it belongs before views that are kept.

    Raises:
        UserError: a codec is not known, or has no such number of kbit/s at this rate.
    """

    def __init__(self, sample_rate: int, codecs: Sequence[str], p: float = 0.5) -> None:
        super().__init__(p)
        if not codecs:
            raise UserError("Recode has no codecs: name some, as [mp3@32k, opus@12k, gsm].")
        self.sample_rate, self.codecs = sample_rate, list(codecs)
        self._recoders = [Recoder.parse(name) for name in self.codecs]
        for recoder in self._recoders:
            recoder.options(sample_rate)

    def change(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.chosen(x[:, :0].cpu()).tolist()
        drawn = random_below(torch.full((len(x),), len(self._recoders))).tolist()
        heard = x.cpu().clone()
        for row, length, changed, codec in zip(heard, lengths.tolist(), chosen, drawn, strict=True):
            if changed and length:
                samples = at_rate(row[:length].numpy(), self.sample_rate, self.sample_rate)
                row[:length] = torch.from_numpy(self._recoders[codec](samples, self.sample_rate))
        return heard.to(x.device), lengths
