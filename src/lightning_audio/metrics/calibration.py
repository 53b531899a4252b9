"""Whether probabilities mean what they say, and which labels they contradict.

Predictions give `confidence` and `hits`, `(N,)` or `(N, C)`: what was claimed of each answer, and whether it
came true.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_audio.metrics.base import metric
from lightning_audio.metrics.intervals import Draws

BINS = 15  # of equal width, as Guo et al. have them


@metric(bias=2.0)
def ece(predictions: Any, draws: Draws, bins: int = BINS) -> NDArray:
    """Expected calibration error: how far confidence and the share of right answers are apart, over bins of
    equal confidence, weighted by their answers.

    Of labels that do not exclude one another it counts every probability against its label. Source: Guo et
    al., ICML 2017, https://arxiv.org/abs/1706.04599.
    """
    confidence, hits = predictions.confidence, predictions.hits
    if confidence is None or not np.isfinite(confidence).all():  # of a training that diverges, say
        return np.full(draws.weights.shape[0], np.nan)
    clips, answers = len(confidence), confidence.reshape(len(confidence), -1)
    excess = np.zeros((clips, bins))
    rows = np.broadcast_to(np.arange(clips)[:, None], answers.shape)
    np.add.at(excess, (rows, _bin_of(answers, bins)), answers - hits.reshape(clips, -1))
    return np.abs(draws.sums(excess)).sum(-1) / (draws.sums(np.ones(clips)) * answers.shape[1])


def _bin_of(confidence: NDArray, bins: int) -> NDArray[np.intp]:
    return np.clip((confidence * bins).astype(np.intp), 0, bins - 1)


def reliability(confidence: ArrayLike, hits: ArrayLike, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Of each bin that has answers: their mean confidence, the share that came true, how many they are."""
    confidence, hits = np.ravel(confidence), np.ravel(hits)
    number = _bin_of(confidence, bins)
    inside = ((number == n) for n in range(bins))
    return [
        (float(confidence[own].mean()), float(hits[own].mean()), int(own.sum()))
        for own in inside
        if own.any()
    ]


def label_errors(probabilities: ArrayLike, labels: ArrayLike) -> list[tuple[int, int]]:
    """Clips whose label is likely wrong, the likeliest first, each with the class that it may be of.

    Confident learning: a clip is taken for class j where its probability of j reaches the mean that the clips
    labelled j have, their self-confidence; where that class is not its label, the label is in doubt. They are
    ranked by how much more probable it is. Source: Northcutt, Jiang and Chuang, JAIR 70 (2021) 1373-1411.

    Args:
        probabilities: `(N, C)`, of a network that has not learned from these clips.
        labels: class indices `(N,)`.
    """
    probabilities, labels = np.asarray(probabilities, dtype=float), np.asarray(labels)
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=own, minlength=len(counts))
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    taken = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = taken.argmax(1)
    margin = taken.max(1) - own
    doubtful = np.flatnonzero((taken.max(1) >= 0) & (likely != labels) & (margin > 0))
    return [(int(i), int(likely[i])) for i in doubtful[np.argsort(-margin[doubtful], kind="stable")]]
