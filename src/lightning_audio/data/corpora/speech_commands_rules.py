"""What the release of Speech Commands prescribes, and how its unknown and silent clips are drawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lightning_audio.data.download import Release

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OTHERS = ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow")
NEW_IN_002 = ("backward", "follow", "forward", "learn", "visual")
UNKNOWN, SILENCE = "_unknown_", "_silence_"

# The rule of the release's README: percent of the speakers, by a number of 27 bits out of a SHA-1.
HELD_OUT_PERCENT = {"val": 10, "test": 10}
MAX_NUM_WAVS_PER_CLASS = 2**27 - 1

# A stretch of silence is a second long, and one begins every 1/20 s: enough for an epoch of the full release.
STEPS_PER_SECOND = 20

_URL = "https://storage.googleapis.com/download.tensorflow.org/data"
RELEASES = {
    "0.01": Release(
        f"{_URL}/speech_commands_v0.01.tar.gz",
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        1_489_096_277,
        folder="speech_commands_v0.01",
        sign=KEYWORDS[0],
    ),
    "0.02": Release(
        f"{_URL}/speech_commands_v0.02.tar.gz",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        2_428_923_189,
        folder="speech_commands_v0.02",
        sign=KEYWORDS[0],
    ),
}
# No checksum of the one for v0.01 is known, so that one is put there by hand.
TEST_SETS = {
    "0.02": Release(
        f"{_URL}/speech_commands_test_set_v0.02.tar.gz",
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        112_563_277,
        folder="speech_commands_test_set_v0.02",
        sign=KEYWORDS[0],
    )
}


def speaker_of(name: str) -> str:
    """`0a2b400e` of `bed/0a2b400e_nohash_1.wav`, also of `bed_0a2b400e_nohash_1.wav.wav`."""
    return name.rpartition("/")[2].partition("_nohash_")[0].rpartition("_")[2]


def split_by_hash(filename: str) -> str:
    """The split of a file by the rule of the release's README, which keeps the clips of a speaker together.

    What stands before `_nohash_` counts, as a SHA-1 of which 27 bits make a percentage: below 10 val, below
    20 test, otherwise train.
    """
    digest = hashlib.sha1(filename.partition("_nohash_")[0].encode(), usedforsecurity=False).hexdigest()
    percentage = int(digest, 16) % (MAX_NUM_WAVS_PER_CLASS + 1) * (100 / MAX_NUM_WAVS_PER_CLASS)
    if percentage < HELD_OUT_PERCENT["val"]:
        return "val"
    return "test" if percentage < HELD_OUT_PERCENT["val"] + HELD_OUT_PERCENT["test"] else "train"


def silence_stretches(seconds: float) -> list[tuple[float, str]]:
    """Start in seconds and split of each one-second stretch of a noise recording; splits share no sample.

    A tenth at the end is for test, a tenth before for val; of short recordings 3 s, but at most a third.
    """
    steps = int(seconds * STEPS_PER_SECOND)
    held = max(steps // 10, min(steps // 3, 3 * STEPS_PER_SECOND))
    ends = {
        "train": (0, steps - 2 * held),
        "val": (steps - 2 * held, steps - held),
        "test": (steps - held, steps),
    }
    return [
        (step / STEPS_PER_SECOND, split)
        for split, (begin, end) in ends.items()
        for step in range(begin, end - STEPS_PER_SECOND + 1)
    ]


def draw_evenly(sources: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` positions, evenly over the sources as far as these reach; none twice before all came once."""
    if not sources:
        return np.empty(0, dtype=np.int64)
    order = rng.permutation(len(sources))
    seen: Counter[str] = Counter()
    rounds = []
    for position in order:
        rounds.append(seen[sources[position]])
        seen[sources[position]] += 1
    # The first of every source come before the second of any.
    return np.resize(order[np.argsort(rounds, kind="stable")], count)
