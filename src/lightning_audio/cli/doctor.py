"""Asks whether an experiment can learn at all: one batch, learned by heart without augmentation.

lightning-audio doctor experiment=digits_bilstm
lightning-audio doctor experiment=esc10_cnn2d
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from lightning_audio import config
from lightning_audio.data.batch import Batch, samples_to_float
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.frontend.mask import frame_mask
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.multilabel import MultiLabel
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.training.run import quiet
from lightning_audio.training.updates import Learner, learner

CLIPS = 8
UPDATES = 400
REPORT_EVERY = 50
WRONG = 0.05  # of the batch, up to which it counts as learned: word errors, or what a score lacks of 1
OTHERWISE = (
    "no known cause shows: listen whether labels or transcripts belong to their audio, or try a larger "
    "network or another optimizer.lr"
)


def examine(cfg: DictConfig) -> float:
    """The score of a few clips learned by heart, that of `task.monitor`.

    Raises:
        UserError: they could not be learned; with the causes that fit.
    """
    quiet()
    if "clips_per_sequence" in cfg.task:
        cfg.task.clips_per_sequence = 1  # each by itself, as it is scored, and not one row as a whole
    learning = learner(cfg, Path())
    task, clips = learning.task, learning.data.splits["train"]
    task.start_epoch(UPDATES, UPDATES)  # nothing is frozen any more
    batch = clips[few_clips(learning)].to(task.device)
    print(f"{learning.data.describe()}; {len(batch)} of them are learned by heart")
    if isinstance(task, Transcription):
        task.decoder = task.judge()
    task.augment.eval()
    found = [*inputs(task, batch), *gradients(task, batch)]
    for remark in found:
        print(remark)
    score = learn_by_heart(learning, batch)
    if missed(task, score) <= WRONG:
        return score
    causes = "; ".join(found) or OTHERWISE
    if isinstance(task, Transcription):
        causes = task.verdict(learning.data, UPDATES * task.patience, causes)
    raise UserError(
        f"The network could not learn {len(batch)} clips by heart ({task.monitor[0][4:]} {score:.3f} after "
        f"{UPDATES * task.patience} updates): {causes}."
    )


def few_clips(learning: Learner) -> list[int]:
    """The positions of clips of like length, those in the middle, of as many labels as there are."""
    clips = learning.data.splits["train"]
    order = clips.seconds.argsort(stable=True).tolist()
    start = max(len(order) // 2 - CLIPS // 2, 0)
    if not any(clip.labels for clip in clips.clips):
        return order[start : start + CLIPS]
    by_label: dict[tuple[str, ...], list[int]] = {}
    for position in order[start:] + order[:start]:
        by_label.setdefault(clips.clips[position].labels, []).append(position)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_label.values()))
    return list(itertools.islice((position for position in rounds if position is not None), CLIPS))


@torch.no_grad()
def inputs(task: AudioTask, batch: Batch) -> Iterator[str]:
    """What is odd in the features that the network takes, and in the loss of weights that know nothing."""
    waveforms = samples_to_float(batch.waveforms)
    if silent := int((waveforms.abs().amax(1) == 0).sum()):
        yield f"{silent} of {len(batch)} clips are silence"
    features, lengths = task.normalize(*task.frontend(waveforms, batch.lengths))
    inside = features.transpose(1, -1)[frame_mask(lengths, features.shape[-1])]
    mean, deviation = float(inside.mean()), float(inside.std())
    print(f"input of the network: mean {mean:.2f}, deviation {deviation:.2f} (best 0 and 1)")
    if not (abs(mean) <= 1 and 0.3 < deviation < 3):
        yield (
            f"the features have mean {mean:.2g} and deviation {deviation:.2g} instead of 0 and 1: set "
            "normalize=per_feature"
        )


def gradients(task: AudioTask, batch: Batch) -> Iterator[str]:
    """What is odd in the first loss, and in the gradients that it has."""
    task.train()
    task.augment.eval()
    loss = task.loss(*task.training_logits(batch))
    task.zero_grad()
    loss.backward()
    if isinstance(task, Transcription):
        print(f"first loss {loss.item():.3f}")
    else:
        guess = math.log(2) if isinstance(task, MultiLabel) else math.log(len(task.labels))
        print(f"first loss {loss.item():.3f} (one that knows nothing: {guess:.3f})")
        if not loss.item() < 2 * guess + 0.5:
            yield f"the first loss is {loss.item():.3g}, a guess has {guess:.3g}: the weights start too large"
    learned = [(name, weight) for name, weight in task.network.named_parameters() if weight.requires_grad]
    unreached = [name for name, weight in learned if weight.grad is None or not weight.grad.any()]
    broken = [
        name for name, weight in learned if weight.grad is not None and not weight.grad.isfinite().all()
    ]
    frozen = sum(not weight.requires_grad for weight in task.network.parameters())
    print(f"gradients reach {len(learned) - len(unreached)} of {len(learned)} weights; {frozen} are frozen")
    if unreached:
        yield f"no gradient reaches {', '.join(unreached[:3])} ({len(unreached)} weights): are they used?"
    if broken:
        yield f"the gradient of {', '.join(broken[:3])} is NaN or infinite"
    task.zero_grad()


def learn_by_heart(learning: Learner, batch: Batch) -> float:
    """Trains on one batch, at the full learning rate and without augmentation; returns its score.

    It stops as soon as it is learned.
    """
    task = learning.task
    assert task.recipe is not None
    for group in learning.optimizer.param_groups:
        group["weight_decay"] = 0.0
    learning.trainer.gradient_clip_val = learning.trainer.gradient_clip_val or 5.0
    score = math.nan
    for update in range(1, UPDATES * task.patience + 1):
        task.train()
        task.augment.eval()
        loss = learning.update([batch], task.recipe.lr)
        if update % REPORT_EVERY == 0:
            score = score_of(task, batch)
            print(f"update {update}  loss {loss:.3f}  {task.monitor[0][4:]} {score:.3f}")
            if missed(task, score) <= WRONG:
                break
    return score


@torch.no_grad()
def score_of(task: AudioTask, batch: Batch) -> float:
    """The score that `task.monitor` names, of a batch."""
    task.eval()
    logits, lengths = task(batch.waveforms, batch.lengths)
    if task.monitor[0] == "val/loss":
        return float(task.loss(logits, lengths, task.targets_for_training(batch.targets)))
    task.observe("test", logits, lengths, batch)  # a validation would tune thresholds
    return task.summarise("test")[task.monitor[0].removeprefix("val/")]


def missed(task: AudioTask, score: float) -> float:
    """How far a score is from that of answers without a fault."""
    return score if task.monitor[1] == "min" else 1 - score


@cli_errors
def main() -> None:
    if config.is_sweep(sys.argv[1:]):
        raise UserError("The doctor sees one run at a time: give one value for every option.")
    cfg = config.compose_config(sys.argv[1:])
    print(f"Learned by heart (score {examine(cfg):.3f}): the path from audio to answer is sound.")


if __name__ == "__main__":
    main()
