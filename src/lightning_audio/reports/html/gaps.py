"""Where the error comes from: train, train-dev, dev and test side by side, and what their gaps say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from lightning_audio.metrics.intervals import Score, direction, unit_of

NAMES = {"train": "train", "train_dev": "train-dev", "val": "dev", "test": "test"}

LEVERS = {
    "avoidable bias": (
        "a larger network (network=..., wider or deeper), or one that was pretrained",
        "longer training, another learning rate (lightning-audio find-lr) or schedule",
        "less regularisation: weaker augment, lower optimizer.weight_decay, dropout or label_smoothing",
        "training clips that stay wrong: are their labels right?",
        "features that hold what matters: frontend.n_mels, hop_length, data.sample_rate",
    ),
    "variance": (
        "more training clips; predict --pseudo-labels makes some of recordings without labels",
        "more augmentation (augment=..., mix, masks, speed), which costs train score and may buy dev score",
        "more regularisation: optimizer.weight_decay, dropout, task.label_smoothing, callbacks=ema",
        "a pretrained encoder (network=pretrained or frontend=frozen), or a smaller network",
        "an ensemble of seeds (lightning-audio evaluate RUN OTHER ...)",
    ),
    "mismatch": (
        "error analysis of dev below: what do its wrong clips have that training clips lack?",
        "training clips of that kind, or made like it: noise, rooms, codecs and levels in augment",
        "normalize=per_clip or per_feature, so that levels and channels count less",
    ),
    "over-tuned dev": (
        "a larger dev split (loader.val_fraction), or other clips for it",
        "fewer choices made by looking at dev; report the test, not dev",
        "test clips that differ from dev (other recordings, speakers): then it is mismatch",
    ),
}


@dataclass(frozen=True)
class Gap:
    """How much more error a split has than the one before it, with a 95 % interval, in percentage points."""

    kind: str
    between: str
    value: float
    low: float
    high: float
    remark: str = ""

    @property
    def clear(self) -> bool:
        return self.low > 0

    @property
    def levers(self) -> tuple[str, ...]:
        return LEVERS[self.kind]


def error_of(name: str, score: Score) -> tuple[float, float, float]:
    """The error behind a score with its interval, in percent: of an accuracy what it lacks to 100."""
    found = 100 * score.value, 100 * score.low, 100 * score.high
    return found if direction(name, score) == "min" else (100 - found[0], 100 - found[2], 100 - found[1])


def gaps_of(
    scores: Mapping[str, Score], metric: str, target: float | None = None, drawn_from_train: bool = False
) -> list[Gap]:
    """The gaps from the target to train, dev and test by one metric.

    Args:
        scores: by split and metric, such as `train/accuracy`.
        metric: the name behind the split.
        target: the score to reach, such as that of people, as a fraction; None counts any error as avoidable.
        drawn_from_train: dev clips are training clips that were held out, of the same distribution.
    """
    errors = {s: error_of(metric, scores[f"{s}/{metric}"]) for s in NAMES if f"{s}/{metric}" in scores}
    if "train" not in errors or unit_of(metric, scores[f"train/{metric}"]) != "percent":
        return []
    least = 0.0
    if target is not None:
        least = error_of(metric, Score(float(target), float(target), float(target), n=0))[0]
    value, low, high = errors["train"]
    told = f"target {least:.1f} %" if target is not None else "no target is stated, so any error counts"
    found = [Gap("avoidable bias", "target → train", value - least, low - least, high - least, told)]
    splits = list(errors)
    for before, after in pairwise(splits):
        kind, remark = _kind(before, after, drawn_from_train)
        a, b = errors[before], errors[after]
        difference = b[0] - a[0]
        # Two intervals joined (MOVER): Newcombe, Statistics in Medicine 17 (1998) 873-890.
        low = difference - math.hypot(b[0] - b[1], a[2] - a[0])
        high = difference + math.hypot(b[2] - b[0], a[0] - a[1])
        found.append(Gap(kind, f"{NAMES[before]} → {NAMES[after]}", difference, low, high, remark))
    return found


def _kind(before: str, after: str, drawn_from_train: bool) -> tuple[str, str]:
    if before == "train":
        if after == "train_dev" or (after == "val" and drawn_from_train):
            return "variance", "held out of the training clips: of the same distribution"
        if after == "val":
            return "variance", "dev may be of another kind than train: mismatch is part of it"
        return "variance", "without dev: mismatch is part of it; loader.val_fraction=0.1 makes a dev split"
    if before == "train_dev":
        return "mismatch", f"train-dev is of the training's distribution, {NAMES[after]} may not be"
    return "over-tuned dev", "or the test is of another kind than dev"


def verdict(gaps: list[Gap]) -> str:
    """What to work on first, in a sentence."""
    if not gaps:
        return "There are no scores of training clips, so bias and variance can't be told apart."
    largest = max(gaps, key=lambda gap: gap.value)
    if not any(gap.clear for gap in gaps):
        return "No gap is clear of its interval: more dev clips would tell more than another change."
    if not largest.clear:
        largest = max((gap for gap in gaps if gap.clear), key=lambda gap: gap.value)
    return (
        f"Work on {largest.kind} first: {largest.between} costs {largest.value:.1f} points "
        f"({largest.low:.1f} to {largest.high:.1f}), the largest gap that is clear of 0; {largest.remark}."
    )
