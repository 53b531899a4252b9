"""Releases of the true size and layout whose audio is made up: to see a command through, not a score."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from lightning_audio.data.corpora.speech_commands_rules import DIGITS, KEYWORDS, NEW_IN_002, OTHERS

VARIETIES = 64  # different sounds of a release: they are written under many names


def esc50(folder: Path) -> int:
    """2,000 clips of 5 s at 44.1 kHz in 50 categories and five folds, as FLAC; how many there are."""
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    sounds = _sounds(5.0, 44100, "FLAC")
    rows = []
    for number in range(2000):
        fold, target = number % 5 + 1, number // 5 % 50
        name = f"{fold}-{number:06d}-A-{target}"
        (folder / "audio" / f"{name}.flac").write_bytes(sounds[target % VARIETIES])
        category = f"category_{target:02d}"
        rows.append([f"{name}.wav", fold, target, category, str(target < 10), f"{number:06d}", "A"])
    with (folder / "meta" / "esc50.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        writer.writerows(rows)
    return len(rows)


def speech_commands(folder: Path, seconds: float = 1.0) -> int:
    """The 105,829 clips of v0.02 of 2,618 speakers, with the two lists and six recordings of noise."""
    words, sounds = (*KEYWORDS, *DIGITS, *OTHERS, *NEW_IN_002), _sounds(seconds, 16000, "WAV")
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    for word in words:
        (folder / word).mkdir(parents=True)
    for number in range(105_829):
        word, speaker = words[number % len(words)], hashlib.sha1(str(number // 40).encode()).hexdigest()
        name = f"{word}/{speaker[:8]}_nohash_{number // len(words) % 40}.wav"
        path = folder / name
        while path.exists():  # of a speaker who says a word again
            name = f"{name.rpartition('_')[0]}_{int(name.rpartition('_')[2][:-4]) + 1}.wav"
            path = folder / name
        path.write_bytes(sounds[number % VARIETIES])
        share = int(speaker, 16) % 10
        if share < 2:
            lists[("validation_list.txt", "testing_list.txt")[share]].append(name)
    for file, names in lists.items():
        (folder / file).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")
    (folder / "_background_noise_").mkdir()
    for number, noise in enumerate(_sounds(60.0, 16000, "WAV", count=6)):
        (folder / "_background_noise_" / f"noise_{number}.wav").write_bytes(noise)
    return 105_829


def _sounds(seconds: float, rate: int, kind: str, count: int = VARIETIES) -> list[bytes]:
    return list(_encoded(seconds, rate, kind, count))


def _encoded(seconds: float, rate: int, kind: str, count: int) -> Iterator[bytes]:
    rng, time = np.random.default_rng(0), np.arange(round(seconds * rate)) / rate
    for number in range(count):
        tone = 0.3 * np.sin(2 * np.pi * 100 * 1.05**number * time) + 0.01 * rng.standard_normal(len(time))
        file = io.BytesIO()
        soundfile.write(file, tone, rate, "PCM_16", format=kind)
        yield file.getvalue()


# By the name of the corpus' class.
RELEASES: dict[str, Callable[[Path], int]] = {"ESC50": esc50, "SpeechCommands": speech_commands}
