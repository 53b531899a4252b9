"""The CTC doctor: what keeps a network at giving all frames to the blank, and how to mend it.

A plateau at the start is normal: while nothing is known of the letters, blanks alone are the best answer. A
network that stays there has one of a few known causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PLATEAU = 0.95  # blank rate from which on a network says nothing
PATIENCE = 400  # updates after which a plateau is no longer normal


@dataclass(frozen=True)
class Symptoms:
    """What is known of a training that stands at a plateau.

    Args:
        blank_rate: share of the frames whose best output is the blank.
        updates: how many there have been.
        rising: how many updates the learning rate rises for.
        lr: its peak.
        mean, deviation: of the features that the network takes; 0 and 1 are best.
        masked_early: whether masks or changes of speed were on from the start.
        tokens_per_frame: of the training transcripts, 0 where they are empty.
        tightest: the largest share of an utterance's frames that its tokens need.
        seconds: of the median utterance.
    """

    blank_rate: float
    updates: int
    rising: int
    lr: float
    mean: float
    deviation: float
    masked_early: bool
    tokens_per_frame: float
    tightest: float
    seconds: float


def on_plateau(blank_rate: float, updates: int) -> bool:
    """Whether there have been enough updates for a network that still says nothing to be called stuck."""
    return blank_rate > PLATEAU and updates >= PATIENCE


def causes(s: Symptoms) -> Iterator[str]:
    """The known causes that fit, the likeliest first, each with what mends it."""
    if abs(s.mean) > 1 or not 0.3 < s.deviation < 3:
        yield (
            f"the features have mean {s.mean:.2g} and deviation {s.deviation:.2g} instead of 0 and 1: set "
            "normalize=per_feature"
        )
    if s.tokens_per_frame < 0.01:
        yield (
            f"there are {s.tokens_per_frame:.3f} tokens a frame, hardly any: check that the transcripts are "
            "whole and belong to their audio"
        )
    if s.updates < 2 * s.rising:
        yield (
            f"the learning rate rises for {s.rising} updates, and {s.updates} have been made: shorten "
            "schedule.warmup"
        )
    if s.lr > 5e-3:
        yield f"optimizer.lr={s.lr:g} is much for a recurrent network: try 1e-3"
    if s.lr < 2e-4:
        yield f"optimizer.lr={s.lr:g} is meant for larger batches or longer training: try 1e-3"
    if s.masked_early:
        yield "masks or changes of speed hide the speech from the start: name them in augment.delayed"
    if s.tightest > 0.8:
        yield (
            f"the tokens of an utterance need {100 * s.tightest:.0f} % of its frames: lower "
            "frontend.hop_length or network.strides"
        )
    if s.seconds > 20:
        yield f"the median utterance lasts {s.seconds:.0f} s: cut them, or set loader.curriculum_epochs=3"


OTHERWISE = (
    "no known cause shows: see with `lightning-audio doctor` whether one batch can be learned by heart"
)


def verdict(s: Symptoms, otherwise: str = OTHERWISE) -> str:
    """What the doctor says of training that got nowhere, in one sentence."""
    found = list(causes(s)) or [otherwise]
    return (
        f"CTC doctor: after {s.updates} updates {100 * s.blank_rate:.0f} % of the frames are blank; "
        f"{'; or '.join(found)}."
    )
