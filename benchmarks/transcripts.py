"""Cost of transcripts at a start, by the utterance: learning a vocabulary, encoding, gathering batches.

The texts are made: words of eight thousand, as frequent as words are, 180 characters in each. Bytes are those
that are kept beside the tokens themselves.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from itertools import pairwise

from timing import arguments, report

from lightning_audio.data.clip import Clip
from lightning_audio.data.clip_table import ClipTable, Column, Texts, uncollected
from lightning_audio.data.targets import Tokens

ALPHABETS = {"English": "etaoinshrdlucmfwypvbgk", "Russian": "оеаинтсрвлкмдпуяыьгзбчй"}
TOKENIZERS = {"characters": {}, "bpe": {"size": 500}}
LENGTH = 180  # characters
WORDS = 8000
BATCH_SIZE = 32


def made(count: int, alphabet: str) -> ClipTable:
    rng = random.Random(0)
    words = ["".join(rng.choices(alphabet, k=rng.randint(2, 9))) for _ in range(WORDS)]
    weights = [1 / (10 + rank) for rank in range(WORDS)]
    texts = [" ".join(rng.choices(words, weights, k=40))[:LENGTH].capitalize() for _ in range(count)]
    splits = ("train",) * 19 + ("test",)
    clips = ClipTable.of(
        Clip(f"{n:08d}", "a.wav", text=text, split=splits[n % 20]) for n, text in enumerate(texts)
    )
    text = clips.column("text")
    return clips.replaced("text", Column(Texts.of(text.values), text.codes))  # as they are kept


@uncollected()
def measure(clips: ClipTable, tokenizer: dict[str, object]) -> Sequence[float]:
    """CPU seconds of the vocabulary, of encoding, and of a batch; bytes beside the tokens of an utterance."""
    gc.collect()
    times = [time.process_time()]
    tokens = Tokens((), clips, {"tokenizer": tokenizer})
    times.append(time.process_time())
    assert not tokens.unfit(clips)
    splits = [tokens.encode(clips.take(clips.column("split").equals(split))) for split in ("train", "test")]
    times.append(time.process_time())
    for first in range(0, 200 * BATCH_SIZE, BATCH_SIZE):
        tokens.gather(splits[0], range(first, first + BATCH_SIZE))
    times.append(time.process_time())
    kept = splits[0].ends.nbytes + sum(rows.texts.nbytes for rows in splits) + tokens.texts.places.nbytes
    learned, encoded, gathered = (after - before for before, after in pairwise(times))
    return learned, encoded, gathered / 200 / BATCH_SIZE * len(clips), kept / len(clips)


def main() -> None:
    options = arguments(__doc__ or "", repeats=5)
    count = 10_000 if options.quick else 200_000
    for language, alphabet in ALPHABETS.items():
        clips = made(count, alphabet)
        for kind, more in TOKENIZERS.items():
            found = [measure(clips, {"kind": kind, **more}) for _ in range(options.repeats)]
            learned, encoded, gathered, kept = map(list, zip(*found, strict=True))
            seconds = {"the vocabulary is learned": learned, "encoded": encoded, "gathered": gathered}
            title = f"{language} transcripts of {LENGTH} characters as {kind}"
            report(title, seconds, count, columns={"bytes beside the tokens": {"encoded": kept}})


if __name__ == "__main__":
    main()
