"""Files of every format with bytes flipped, cut off or overwritten are read whole, told, or refused.

Never in part and in silence: neither by the reader nor by the programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lightning_audio.data.audio_file import Audio, AudioError, read_audio

RATE = 16000
KINDS = {
    "16.wav": ("WAV", "PCM_16"),
    "24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "gsm.wav": ("WAV", "GSM610"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "16.flac": ("FLAC", "PCM_16"),
    "24.flac": ("FLAC", "PCM_24"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "header.mp3": ("MP3", "MPEG_LAYER_III"),
    "bare.mp3": ("MP3", "MPEG_LAYER_III"),
    "a.aiff": ("AIFF", "PCM_16"),
    "a.au": ("AU", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.rf64": ("RF64", "PCM_16"),
    "a.caf": ("CAF", "PCM_16"),
}


def whole(folder: Path, name: str) -> bytes:
    form, subtype = KINDS[name]
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    soundfile.write(folder / name, noise.clip(-0.9, 0.9), RATE, format=form, subtype=subtype)
    content = (folder / name).read_bytes()
    return content[content.index(content[:2], 4) :] if name == "bare.mp3" else content


def cuts(content: bytes, rng: random.Random) -> Iterator[bytes]:
    for _ in range(10):
        yield content[: rng.randrange(len(content) // 10, len(content) - 2)]
    for missing in (2, 9, 40):
        yield content[:-missing]


def flips(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bits of the header, of the rest, and numbers of the header that lie."""
    for number in range(18):
        changed = bytearray(content)
        at = rng.randrange(4, 128 if number < 12 else len(content))
        width = 1 if number % 2 else 4
        by = bytes([content[at] ^ 1 << rng.randrange(8)]) if width == 1 else rng.choice([b"\xff", b"\0"]) * 4
        changed[at : at + width] = by
        yield bytes(changed[: len(content)])


def read(path: Path, content: bytes) -> Audio | None:
    """What the file holds; None where it is refused."""
    path.write_bytes(content)
    with contextlib.suppress(AudioError):
        return read_audio(path)
    return None


def in_silence(audio: Audio | None, samples: int) -> bool:
    """Whether a part was read without a word."""
    return audio is not None and not audio.remarks() and len(audio.samples) * audio.channels < samples


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_part_of_a_damaged_file_is_read_in_silence(name: str, tmp_path: Path) -> None:
    content, rng = whole(tmp_path, name), random.Random(name)
    original = read(tmp_path / name, content)
    assert original is not None
    samples = len(original.samples)
    assert samples >= 2 * RATE
    assert original.remarks() == {}
    for changed in [*cuts(content, rng), *flips(content, rng)]:
        audio = read(tmp_path / name, changed)
        assert not in_silence(audio, samples)
        assert audio is None or (np.isfinite(audio.samples).all() and abs(audio.samples).max() < 2**15 + 1)


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightning_audio", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_programs_go_on_past_damaged_files_and_name_them(tmp_path: Path, tiny_run: Path) -> None:
    """Of two labels that hold a whole, a cut and an overwritten file of every format."""
    rng, cut = random.Random(0), []
    for number, name in enumerate(KINDS):
        folder = tmp_path / "recordings" / ("one" if number % 2 else "two")
        folder.mkdir(parents=True, exist_ok=True)
        content = whole(folder, name)
        (folder / name).write_bytes(content)
        (folder / f"cut-{name}").write_bytes(content[: rng.randrange(len(content) // 2, len(content) - 99)])
        (folder / f"flipped-{name}").write_bytes(list(flips(content, rng))[rng.randrange(18)])
        cut.append(f"cut-{name}")
    # Names that are no UTF-8 are among them.
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    odd.write_bytes((tmp_path / "recordings" / "two" / "16.wav").read_bytes())
    data = ("data=audio_folder", f"data.root={tmp_path / 'recordings'}")

    found = program("check", *data, "--json", tmp_path / "check.json")
    assert found.returncode == 1
    clips = json.loads((tmp_path / "check.json").read_text())["clips"]
    assert len(clips) == 3 * len(KINDS) + 1
    silent = [
        row["id"] for row in clips if "cut-" in row["id"] and not (row.get("problem") or row["remarks"])
    ]
    assert silent == []
    bad = [row["path"] for row in clips if row.get("problem")]

    answered = program("predict", tiny_run, tmp_path / "recordings", "--format", "jsonl")
    assert answered.returncode == 2  # some could not be read
    answers = {Path(json.loads(line)["id"]).name for line in answered.stdout.splitlines()}
    assert {*KINDS, odd.name} <= answers
    for name in cut:
        assert name in answered.stderr

    small = ("network=cnn2d", "network.widths=[4,8]", "trainer.max_epochs=1", "logger=none")
    run = tmp_path / "run"
    trained = program("train", *data, *small, "loader.max_bad_fraction=0.9", f"hydra.run.dir={run}")
    assert trained.returncode == 0, trained.stderr
    rows = (run / "quarantine.jsonl").read_text().splitlines()
    assert {json.loads(row)["path"] for row in rows} == set(bad)
