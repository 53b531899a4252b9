"""Voices of eSpeak NG, by its library and not by its program (https://github.com/espeak-ng/espeak-ng)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.errors import UserError

# Of speak_lib.h.
SYNCHRONOUS, DONT_EXIT, UTF8, FROM_CHARACTER = 2, 0x8000, 1, 1
RATE, PITCH, RANGE = 1, 3, 4
TAKES_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """Reads text aloud, some minutes of it in a second.

    A process has one, and its samples depend on all that it has read before: only a new process repeats them.

    Raises:
        UserError: its library is not installed, or does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise UserError(
                "Reading texts aloud needs eSpeak NG, which is not installed: run pip install "
                "'lightning-audio[synthesis]'."
            ) from None
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._data, self._said = Path(espeakng_loader.get_data_path()), list[np.ndarray]()
        place = str(self._data).encode()
        self.sample_rate: int = self._library.espeak_Initialize(SYNCHRONOUS, 0, place, DONT_EXIT)  # in Hz
        if self.sample_rate <= 0:
            raise UserError(
                f"eSpeak NG does not start with its data in {self._data}: run pip install --force-reinstall "
                "espeakng-loader."
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # otherwise of the clock; voices flutter by it
        self._take = TAKES_SAMPLES(self._taken)  # kept: the library holds no reference to it
        self._library.espeak_SetSynthCallback(self._take)

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int) -> np.ndarray:
        """float32 `(T,)` in [-1, 1] at `sample_rate`; pitch and its range are from 0 to 100, 50 is usual.

        Args:
            voice: a language of eSpeak NG, and behind a plus one of its variants: en-us+f3.

        Raises:
            UserError: there is no such voice.
        """
        self._said = []
        variant = voice.partition("+")[2]
        known = (
            not variant or (self._data / "voices" / "!v" / variant).is_file()
        )  # an unknown one it passes over
        if not known or self._library.espeak_SetVoiceByName(voice.encode()):
            raise UserError(
                f"eSpeak NG has no voice {voice!r}: set data.voices to such as [en-us+f3, de+m1]."
            )
        for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        spoken = text.encode()
        self._library.espeak_Synth(spoken, len(spoken) + 1, 0, FROM_CHARACTER, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate([*self._said, np.zeros(0, np.int16)]).astype(np.float32) / 2**15

    def _taken(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._said.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on
