"""Real-time factors on one core: the best path and beam search, with language models, and by a transducer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from timing import arguments, interleaved, report
from torch import Tensor

from lightning_audio.decoding import Beam, Decoder, Greedy, LMDecoder
from lightning_audio.decoding.lm import token_name
from lightning_audio.decoding.ngram import NGramModel
from lightning_audio.decoding.transducer import Joiner, TransducerBeam, TransducerGreedy, TransducerModel
from lightning_audio.reports.tables import markdown_table
from lightning_audio.tasks.predictors import LSTMPredictor
from lightning_audio.text.tokenizers import Characters

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
TOKENIZER = Characters(" " + LETTERS + "-")  # 29 tokens
FRAME_SECONDS = 0.04
FRAMES_PER_TOKEN = 2  # 12.5 characters a second, which is brisk
WORDS, SENTENCES = 2000, 3000
SURE = 12.0  # a joiner's logits lie between -SURE and SURE


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Sentences of 5 to 20 made-up words, whose frequencies fall as in Zipf's law."""
    lengths = rng.integers(2, 10, WORDS)
    words = ["".join(rng.choice([*LETTERS[1:]], length)) for length in lengths]
    weights = 1 / np.arange(1, WORDS + 1)
    return [" ".join(rng.choice(words, rng.integers(5, 21), p=weights / weights.sum())) for _ in range(count)]


def spoken(text: str, rng: np.random.Generator) -> Tensor:
    """Log-probabilities `(T, 30)` as of a network that errs: each token peaks in a frame, and blanks follow.

    In 7 of 10 frames of a token it is sure, in 2 it doubts between three tokens, in one it takes another.
    """
    count = len(TOKENIZER.vocabulary) + 1
    logits = rng.normal(0, 1, (FRAMES_PER_TOKEN * len(text), count))
    logits[:, 0] += 8
    for position, token in enumerate(TOKENIZER.encode(text)):
        row = logits[FRAMES_PER_TOKEN * position]
        kind, others = rng.random(), rng.integers(1, count, 2)
        row[0] -= 6
        row[token + 1] += 8 if kind < 0.7 else 6
        row[others] += 0 if kind < 0.7 else 5 if kind < 0.9 else 7
    return torch.from_numpy(logits).float().log_softmax(-1)


def transducer() -> TransducerModel:
    """One that takes what `spoken` gives, and whose joiner makes of it nearly the same again."""
    torch.manual_seed(0)
    outputs = len(TOKENIZER.vocabulary) + 1
    joiner = Joiner(outputs, outputs).requires_grad_(False)
    joiner.output.weight.copy_(SURE * torch.eye(outputs))
    joiner.output.bias.zero_()
    return TransducerModel(LSTMPredictor(outputs, outputs).eval().requires_grad_(False), joiner)


def decoders(texts: Sequence[str], folder: Path) -> dict[str, Decoder]:
    words, characters = folder / "words.arpa", folder / "characters.arpa"
    words.write_text(NGramModel((text.split() for text in texts), 3).arpa())
    parts = ([token_name(character) for character in text] for text in texts)
    characters.write_text(NGramModel(parts, 6).arpa())
    lexicon = sorted({word for text in texts for word in text.split()})
    model = transducer()
    return {
        "the best path": Greedy(TOKENIZER),
        "beam 16": Beam(TOKENIZER),
        "beam 16, 6-grams of characters": LMDecoder(TOKENIZER, characters),
        "beam 16, 3-grams of words": LMDecoder(TOKENIZER, words, unit="words"),
        "beam 16, 3-grams of words, lexicon": LMDecoder(TOKENIZER, words, lexicon),
        "transducer, the best path": TransducerGreedy(TOKENIZER, model, 1),
        "transducer, beam 8": TransducerBeam(TOKENIZER, model, 1, beam=8),
    }


def main() -> None:
    options = arguments(__doc__ or "", repeats=15)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    texts = sentences(rng, SENTENCES + 20)
    said = texts[SENTENCES:] if not options.quick else texts[SENTENCES : SENTENCES + 5]
    utterances = [spoken(text, rng) for text in said]
    with tempfile.TemporaryDirectory() as folder:
        contenders = decoders(texts[:SENTENCES], Path(folder))

    def work(decoder: Decoder) -> Callable[[], object]:
        return lambda: [decoder(rows) for rows in utterances]

    def together(decoder: Decoder) -> Callable[[], object]:
        return lambda: decoder.many(utterances)

    timed = {name: work(decoder) for name, decoder in contenders.items()}
    for name in [name for name in contenders if name.startswith("transducer")]:
        timed[f"{name}, {len(utterances)} at once"] = together(contenders[name])
    seconds = interleaved(timed, options.repeats)
    audio = FRAME_SECONDS * sum(map(len, utterances))
    report(f"Decoding {audio:.0f} s of speech, a row each 40 ms, 29 tokens", seconds, len(utterances))
    rows = [
        {"": name, "real-time factor": f"{median(own) / audio:.4f} (at most {max(own) / audio:.4f})"}
        for name, own in seconds.items()
    ]
    print(f"\n{markdown_table(rows)}")
    assert all(math.isfinite(decoder(utterances[0])[0].acoustic) for decoder in contenders.values())


if __name__ == "__main__":
    main()
