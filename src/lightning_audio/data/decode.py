"""Audio files to int16 samples: decoded by soundfile, resampled by soxr, mono by mean."""

from __future__ import annotations

import glob
import logging
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lightning_audio.data.batch import INT16_SCALE
from lightning_audio.data.clip import Clip
from lightning_audio.data.threads import in_threads
from lightning_audio.data.truncated import missing_end
from lightning_audio.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
# Sound that libsndfile does not read; what telephones record is among it.
UNREADABLE = frozenset((".m4a", ".aac", ".mp4", ".3gp", ".amr", ".wma", ".webm", ".mka", ".wv", ".ape"))

# Whatever changes the samples that come out of a file stands in this name, and so in the key of every store.
DECODER_VERSION = 2
DECODER = (
    f"{DECODER_VERSION}, soundfile {soundfile.__version__}, "
    f"libsndfile {soundfile.__libsndfile_version__}, soxr {soxr.__version__}"
)

GROUP = 4  # clips that a thread decodes at once

# The number of frames that libsndfile gives a stream whose header leaves it open.
OPEN_ENDED = 2**63 - 1
# libsndfile's own text for this code speaks of a missing file, but it comes for any .mp3 without MPEG frames.
NOT_AN_MP3 = 7
SYSTEM = 2  # the file could not be opened or read at all

_log = logging.getLogger(__name__)


class AudioError(UserError):
    """An audio file that cannot be read: `path`, and the `reason` as a clause.

    `lasting` says whether it stays so until the file changes, unlike a missing permission or a broken disk.
    """

    def __init__(self, path: str | Path, reason: str, lasting: bool = True) -> None:
        super().__init__(path, reason)
        self.path, self.reason, self.lasting = path, reason, lasting

    def __str__(self) -> str:
        return f"Cannot read {self.path}: {self.reason}; put it right or leave it out."


def decode(
    path: str | Path,
    sample_rate: int,
    start: float = 0.0,
    duration: float | None = None,
    whole: bool = False,
) -> np.ndarray:
    """The int16 samples `(T,)` of a stretch of a file, at `sample_rate` in Hz, as one channel.

    Mono 16-bit PCM that has this rate already is kept bit for bit. All else goes through float32, is clipped
    to full scale and rounded, so that `samples_to_float` gives it back within half a step.

    Args:
        path: WAV, FLAC, Ogg, MP3, or what else libsndfile reads.
        start: seconds from the beginning of the file.
        duration: seconds, or None for all that follows; a file that ends earlier gives what it has.
        whole: refuse a stretch that lacks its end because the file was cut short.

    Raises:
        UserError: the file is missing or damaged, holds no samples, or ends before `start`.
    """
    try:
        status = Path(path).stat()  # once: short WAV files take little longer than this
    except OSError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise AudioError(path, "there is no such file", lasting=False)
    if status.st_size == 0:
        raise AudioError(path, "it is empty")
    try:
        with soundfile.SoundFile(path) as file:
            samples = _read(file, sample_rate, start, duration)
            source_rate = file.samplerate
            reaches_end = duration is None or len(samples) < round(duration * source_rate)
            if whole and reaches_end and (reason := missing_end(file)):
                raise AudioError(path, reason)
    except soundfile.LibsndfileError as error:
        reason = f"it cannot be decoded ({_reason(error)})"
        raise AudioError(path, reason, lasting=error.code != SYSTEM) from None
    if samples.dtype != np.int16:
        samples = to_int16(soxr.resample(samples, source_rate, sample_rate, quality="HQ"))
    if len(samples) == 0:
        raise AudioError(path, "it holds no samples")
    return samples


def _read(file: soundfile.SoundFile, sample_rate: int, start: float, duration: float | None) -> np.ndarray:
    """The stretch at the file's own rate `(T,)`: int16 where it can stay as it is, else float32."""
    first = round(start * file.samplerate)
    if 0 < file.frames <= first:
        end = file.frames / file.samplerate
        raise AudioError(file.name, f"it ends at {end:g} s, before the start at {start:g} s")
    frames = -1 if duration is None else round(duration * file.samplerate)
    if frames < 0 and file.frames == OPEN_ENDED:
        raise AudioError(file.name, "its header does not say how long it is, so it has to be written anew")
    if first > 0:
        file.seek(min(first, file.frames))
    if file.subtype == "PCM_16" and file.channels == 1 and file.samplerate == sample_rate:
        return file.read(frames, dtype="int16")
    samples = file.read(frames, dtype="float32")
    if not np.isfinite(samples).all():
        raise AudioError(file.name, "it holds samples that are no numbers (NaN or infinite)")
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16, clipped to full scale and rounded."""
    return np.clip(np.rint(samples * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def _reason(error: soundfile.LibsndfileError) -> str:
    if error.code == NOT_AN_MP3:
        return "Format not recognised"
    # It has no words for a FLAC file that was cut in the middle of a frame.
    return error.error_string.removeprefix("Error : ").rstrip(".") or "its data is damaged or cut short"


def resample(samples: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """int16 `(T,)` at `sample_rate` from `(T,)` or `(T, channels)`, float in [-1, 1] or int16, mono by mean.

    Raises:
        UserError: the array has another shape or type, holds no samples, or holds what is no number; or the
            rate is none.
    """
    if not source_rate > 0:
        raise UserError(f"sample_rate={source_rate} is no rate: give that of the array in Hz.")
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
    if samples.dtype == np.int16:
        samples = samples / np.float32(INT16_SCALE)
    if not np.isfinite(samples).all():
        raise UserError("The array holds samples that are no numbers (NaN or infinite): mend it.")
    mono = samples.astype(np.float32) if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)
    return to_int16(soxr.resample(mono, source_rate, sample_rate, quality="HQ"))


def decode_clips(clips: Iterable[Clip], sample_rate: int) -> Iterator[np.ndarray | AudioError]:
    """What decoding gives, in the order of the clips; only a few of them wait in memory for their turn."""
    # In groups, since handing a short WAV file to a thread takes as long as reading it.
    rows = iter(clips)
    groups = iter(lambda: list(islice(rows, GROUP)), [])
    for group in in_threads(
        lambda group: [_samples_or_error(c, sample_rate) for c in group], groups, ahead=2
    ):
        yield from group


def _samples_or_error(clip: Clip, sample_rate: int) -> np.ndarray | AudioError:
    try:
        return decode(clip.path, sample_rate, clip.start, clip.duration, whole=True)
    except AudioError as error:
        return error


def audio_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files, the audio files below folders, and those that globs match: sorted, each once.

    A file that is named itself is taken whatever its suffix; of folders and globs only `AUDIO_SUFFIXES`,
    and nothing hidden.

    Raises:
        UserError: one of `paths` gives no audio file.
    """
    found = {file.absolute(): file for path in paths for file in _files_of(Path(path).expanduser())}
    return sorted(found.values())


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    # A name that exists is meant as it stands, even with brackets in it. Path.glob takes no absolute pattern.
    names = [path] if path.is_dir() else glob.glob(str(path), recursive=True)  # noqa: PTH207
    matches = [Path(name) for name in names]
    files = [file for match in matches for file in ([match] if match.is_file() else match.rglob("*"))]
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
