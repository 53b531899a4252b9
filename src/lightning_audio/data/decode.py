"""Audio files and arrays to int16 samples at one rate, resampled by soxr; which files are audio."""

from __future__ import annotations

import glob
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lightning_audio.data.audio_file import (
    HIGHEST_RATE,
    LOWEST_RATE,
    Audio,
    AudioError,
    channels_of,
    read_audio,
)
from lightning_audio.data.channels import INT16_SCALE, Mix, channel_number
from lightning_audio.data.clip import Clip
from lightning_audio.data.folders import files_below
from lightning_audio.data.threads import in_threads
from lightning_audio.errors import UserError, counted, listed, printable
from lightning_audio.io import expanded

__all__ = ["AUDIO_SUFFIXES", "AudioError", "audio_files", "channels_of", "decode", "decode_clips", "resample"]

# What libsndfile reads, in the order in which they are named to a user.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64"),
    *(".rf64", ".wave", ".bwf", ".oga", ".mp2", ".sph", ".nist", ".voc"),
)
# Sound that libsndfile does not read; what telephones record is among it.
UNREADABLE = frozenset(
    (".m4a", ".aac", ".mp4", ".3gp", ".amr", ".wma", ".webm", ".mka", ".wv", ".ape", ".mov", ".mkv", ".ac3")
)

# Whatever changes the samples that come out of a file stands in this name, and so in the key of every store.
DECODER_VERSION = 3
DECODER = (
    f"{DECODER_VERSION}, soundfile {soundfile.__version__}, "
    f"libsndfile {soundfile.__libsndfile_version__}, soxr {soxr.__version__}"
)

GROUP = 4  # clips that a thread decodes at once
LATE_SECONDS = 0.05  # that a clip may end before its stated duration

_log = logging.getLogger(__name__)


def decode(
    path: str | Path,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    whole: bool = False,
    channel: int | str | None = None,
) -> np.ndarray:
    """The int16 samples `(T,)` of a stretch of a file, at `sample_rate` in Hz, as one channel.

    Mono 16-bit PCM that has this rate already is kept bit for bit. All else goes through float32 and is
    rounded, so that `samples_to_float` gives it back within half a step. What is odd about the file and does
    not keep it from being read is logged as a warning.

    Args:
        path, start, duration, channel: as for `read_audio`.
        whole: refuse a stretch that lacks its end because the file was cut short.

    Raises:
        AudioError: the file is missing or damaged, holds no samples, or ends before `start`.
    """
    audio = _read(path, start, duration, whole, channel)
    for remark in audio.remarks().values():
        _log.warning("%s: %s.", printable(str(path)), remark)
    return heard_at(path, audio, sample_rate)


def heard_at(path: str | Path, audio: Audio, sample_rate: int) -> np.ndarray:
    """int16 `(T,)` of what was read of a file; raises AudioError where nothing is left of it at this rate."""
    samples = at_rate(audio.samples, audio.rate, sample_rate)
    if not len(samples):
        raise AudioError(path, f"it is shorter than a sample at {sample_rate} Hz")
    return samples


def _read(
    path: str | Path, start: float, duration: float | None, whole: bool, channel: int | str | None
) -> Audio:
    audio = read_audio(path, start, duration, channel)
    if whole and audio.cut:
        raise AudioError(path, audio.cut)
    return audio


def at_rate(samples: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """int16 `(T,)` at `sample_rate` from int16 or float32 `(T,)`."""
    if samples.dtype == np.int16:
        if source_rate == sample_rate:
            return samples
        samples = samples / np.float32(INT16_SCALE)
    if source_rate != sample_rate:
        samples = soxr.resample(samples, source_rate, sample_rate, quality="HQ")
    return to_int16(samples)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16, clipped to full scale and rounded."""
    return np.clip(np.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def resample(
    samples: np.ndarray, source_rate: int, sample_rate: int, channel: int | str | None = None
) -> np.ndarray:
    """int16 `(T,)` at `sample_rate` from `(T,)` or `(T, channels)`, float in [-1, 1] or int16.

    Args:
        channel: as for `read_audio`.

    Raises:
        UserError: the array has another shape or type or no such channel, holds no samples, or holds what is
            no number; or the rate is none.
    """
    if not LOWEST_RATE <= source_rate <= HIGHEST_RATE:
        raise UserError(
            f"sample_rate={source_rate} is no rate between {LOWEST_RATE} and {HIGHEST_RATE} Hz: give that of "
            "the array."
        )
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise UserError(
            f"An array of {samples.dtype} has no full scale of its own: give int16, or float in [-1, 1]."
        )
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0] > 0:
        raise UserError(f"Audio of shape {samples.shape} has more channels than samples: give (T, channels).")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise UserError(
            f"Audio of shape {samples.shape} is no waveform: give (T,) or (T, channels), not empty."
        )
    if not np.isfinite(samples).all():
        raise UserError("The array holds samples that are no numbers (NaN or infinite): mend it.")
    if samples.dtype != np.int16:
        peak = float(np.abs(samples).max())
        if peak > 1 + 1 / INT16_SCALE:
            raise UserError(
                f"The array's samples reach {peak:.5g}, where float audio lies in [-1, 1]: divide it by "
                "what is its full scale (32768 for 16 bits), or by its peak."
            )
        samples = samples.astype(np.float32)
    mix, channels = Mix(), samples.reshape(len(samples), -1)
    number = channel_number(channel)
    if number is not None and number >= channels.shape[1]:
        raise UserError(f"The array has no channel {number}, but {channels.shape[1]}, counted from 0.")
    mono = mix.add(channels if number is None else channels[:, number, None])
    if mix.cancelling:
        _log.warning("The %s of an array: give one of them.", mix.cancelling)
    samples = at_rate(mono, source_rate, sample_rate)
    if not len(samples):
        raise UserError(f"The array is shorter than a sample at {sample_rate} Hz: give a longer one.")
    return samples


def decode_clips(
    clips: Iterable[Clip], sample_rate: int, remarks: list[str] | None = None
) -> Iterator[np.ndarray | AudioError]:
    """What decoding gives, in the order of the clips; only a few of them wait in memory for their turn.

    What is odd about clips that are read all the same goes to `remarks` at the end, a sentence for each kind,
    or is logged where there is no such list.
    """
    # In groups, since handing a short WAV file to a thread takes as long as reading it.
    rows = iter(clips)
    groups = iter(lambda: list(islice(rows, GROUP)), [])
    odd: dict[str, list[str]] = defaultdict(list)

    def decoded(clip: Clip) -> np.ndarray | AudioError:
        try:
            audio = _read(clip.path, clip.start, clip.duration, True, clip.channel)
            samples = heard_at(clip.path, audio, sample_rate)
        except AudioError as error:
            return error
        for kind, remark in audio.remarks().items():
            odd[kind].append(f"{clip.id}: {remark}")
        seconds = len(audio.samples) / audio.rate
        if clip.duration is not None and seconds < clip.duration - LATE_SECONDS:
            odd["ends_early"].append(f"{clip.id}: of {clip.duration:g} s there are {seconds:.2f}")
        return samples

    for group in in_threads(lambda group: [decoded(clip) for clip in group], groups, ahead=2):
        yield from group
    for sentence in odd_sentences(odd):
        if remarks is None:
            _log.warning("%s", sentence)
        else:
            remarks.append(sentence)


def odd_sentences(odd: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A sentence for each kind of what is odd about clips, of which each item names one."""
    for kind, told in odd.items():
        shown = printable(listed(sorted(told)))
        yield f"{counted(len(told), 'clips')} ({kind.replace('_', ' ')}): {shown}."


def audio_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files, the audio files below folders, and those that globs match: sorted, each once.

    A file that is named itself is taken whatever its suffix; of folders and globs only `AUDIO_SUFFIXES`,
    and nothing hidden.

    Raises:
        UserError: one of `paths` gives no audio file.
    """
    if "" in paths:  # which would be the folder that one is in
        raise UserError("One of the names is empty: name a file, a folder or a glob.")
    found = {file.absolute(): file for path in paths for file in _files_of(expanded(path))}
    return sorted(found.values())


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    # A name that exists is meant as it stands, even with brackets in it. Path.glob takes no absolute pattern.
    names = [path] if path.is_dir() else glob.glob(str(path), recursive=True)  # noqa: PTH207
    matches = [Path(name) for name in names]
    files = [file for match in matches for file in ([match] if match.is_file() else files_below(match))]
    warn_of_unreadable(files, path)
    audio = [file for file in files if _is_audio(file)]
    if not audio:
        raise UserError(
            f"{path} gives no audio: name a file, a folder or a glob that holds {', '.join(AUDIO_SUFFIXES)}."
        )
    return audio


def warn_of_unreadable(files: Iterable[Path], where: Path) -> None:
    """Says how many files of sound are left alone for their format: nobody would look for those clips."""
    left = Counter(file.suffix.lower() for file in files if not file.name.startswith("."))
    if told := ", ".join(f"{left[suffix]} {suffix}" for suffix in sorted(UNREADABLE & left.keys())):
        _warn_once(f"Left alone in {where}: {told}, which can't be read. Convert them to WAV or FLAC.")


@cache  # the same folder may be looked through for each fold
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)


def _is_audio(file: Path) -> bool:
    # Hidden ones are mostly the `._NAME.wav` that macOS leaves on foreign disks, which hold no audio.
    return file.suffix.lower() in AUDIO_SUFFIXES and not file.name.startswith(".") and file.is_file()
