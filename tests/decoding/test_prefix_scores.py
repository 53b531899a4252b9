"""CTC prefix scores against the sum over all paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from lightning_audio.decoding import ctc_log_probs
from lightning_audio.decoding.prefix_scores import PrefixScores


def spelled(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(output for output, _ in itertools.groupby(path) if output)


def brute_force(log_probs: Tensor, prefix: tuple[int, ...], whole: bool = False) -> float:
    """The logarithm of the sum over all paths whose text begins with the prefix, or is it."""
    total = 0.0
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = spelled(path)
        if text == prefix or (not whole and text[: len(prefix)] == prefix):
            total += math.exp(sum(float(log_probs[t, output]) for t, output in enumerate(path)))
    return math.log(total) if total else -math.inf


def test_prefixes_and_whole_texts_have_the_probability_of_all_their_paths() -> None:
    """Of utterances of 5, 3 and 1 frames together, all texts of up to three tokens of two."""
    generator = torch.Generator().manual_seed(0)
    log_probs = (2 * torch.randn(3, 5, 3, generator=generator).double()).log_softmax(-1)
    lengths = np.array([5, 3, 1])
    scores = PrefixScores([own[:length].numpy() for own, length in zip(log_probs, lengths, strict=True)])
    everyone = np.arange(3)
    known: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {
        (): (scores.start(everyone), np.zeros(3, np.int64))
    }
    for _ in range(3):
        longer: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        for prefix, (state, last) in known.items():
            outputs = np.array([[1, 2]] * 3)
            begun = scores.begun(state, everyone, last, outputs)
            for k, output in enumerate((1, 2)):
                text = (*prefix, output)
                longer[text] = scores.extended(state, everyone, last, outputs[:, k]), outputs[:, k]
                for row, length in enumerate(lengths.tolist()):
                    expected = brute_force(log_probs[row, :length], text)
                    found = float(begun[row, k])
                    assert math.isclose(found, expected, abs_tol=1e-9) or (expected < -1e9 and found < -1e3)
        known = longer
        for text, (state, _) in known.items():
            for row, length in enumerate(lengths.tolist()):
                expected = ctc_log_probs(log_probs[row, :length], [[output - 1 for output in text]])[0]
                found = float(scores.whole(state)[row])
                assert math.isclose(found, expected, abs_tol=1e-6) or (expected < -1e9 and found < -1e3)


def test_ten_seconds_of_unlikely_tokens_lose_no_digits() -> None:
    """Cumulative sums over 500 frames, of tokens of which most are improbable, against torch's CTC loss."""
    generator = torch.Generator().manual_seed(1)
    log_probs = (6 * torch.randn(1, 500, 30, generator=generator)).log_softmax(-1)
    scores, text = PrefixScores([log_probs[0].double().numpy()]), list[int]()
    state, one = scores.start(np.array([0])), np.array([0])
    for _ in range(60):
        output = torch.randint(1, 30, (1, 1), generator=generator).numpy()
        last = np.array(text[-1:] or [0])
        begun = scores.begun(state, one, last, output)
        state, text = scores.extended(state, one, last, output[:, 0]), [*text, int(output[0, 0])]
        assert float(begun[0, 0]) >= float(scores.whole(state)[0]) - 1e-9
    expected = ctc_log_probs(log_probs[0], [[output - 1 for output in text]])[0]
    assert math.isclose(float(scores.whole(state)[0]), expected, rel_tol=1e-9)
