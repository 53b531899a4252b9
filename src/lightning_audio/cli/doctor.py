"""Asks whether a speech experiment can learn at all: a few utterances, learned by heart without augmentation.

lightning-audio doctor experiment=digits_bilstm
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from omegaconf import DictConfig

from lightning_audio import build, config
from lightning_audio.data.batch import Batch
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.ctc_doctor import verdict
from lightning_audio.training.normalizer import fit_normalizer
from lightning_audio.training.run import quiet

UTTERANCES = 8
UPDATES = 400
REPORT_EVERY = 50
LEARNED = 0.05  # word error rate on the batch itself
OTHERWISE = (
    "no known cause shows: listen whether the transcripts belong to their audio, or try a larger network or "
    "another optimizer.lr"
)


def learn_by_heart(task: CTC, batch: Batch, updates: int) -> float:
    """Trains on one batch, at the full learning rate and without augmentation; returns its word error rate.

    It stops as soon as `LEARNED` is reached.
    """
    assert task.recipe is not None
    task.train()
    task.augment.eval()
    groups = task.network.parameter_groups(0.0)
    optimizer = task.recipe.optimizer([{**group, "lr": task.recipe.lr} for group in groups])
    error_rate = 1.0
    for update in range(1, updates + 1):
        loss = task.loss(*task.training_logits(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 5.0)
        optimizer.step()
        if update % REPORT_EVERY == 0:
            error_rate = word_error_rate(task, batch)
            print(
                f"update {update}  loss {loss.item():.3f}  blank rate {float(task.blank_rate):.2f}  "
                f"WER {100 * error_rate:.1f} %"
            )
            if error_rate <= LEARNED:
                break
    return error_rate


@torch.inference_mode()
def word_error_rate(task: CTC, batch: Batch) -> float:
    """Of a batch, by greedy decoding; the task trains on afterwards."""
    task.eval()
    logits, lengths = task(batch.waveforms, batch.lengths)
    task.observe("val", logits, lengths, batch)
    task.train()
    task.augment.eval()
    return task.summarise("val")["wer"]


def examine(cfg: DictConfig) -> float:
    """The word error rate of a few utterances learned by heart.

    Raises:
        UserError: the task is another one, or they could not be learned; then with the causes that fit.
    """
    quiet()
    data = build.datamodule(cfg)
    data.prepare_data()
    data.setup()
    task = build.task(cfg, data)
    if not isinstance(task, CTC):
        raise UserError("The doctor knows speech recognition only: choose an experiment with task=ctc.")
    task.check(data)
    fit_normalizer(task, data)
    clips = data.splits["train"]
    # Utterances of like length: those in the middle.
    order = clips.seconds.argsort()
    middle = max(len(order) // 2 - UTTERANCES // 2, 0)
    batch = clips[order[middle : middle + UTTERANCES].tolist()]
    print(f"{data.describe()}; {len(batch)} utterances are learned by heart")
    error_rate = learn_by_heart(task, batch, UPDATES)
    if error_rate > LEARNED:
        symptoms = replace(task.symptoms(data, UPDATES), masked_early=False)  # nothing was augmented
        raise UserError(
            f"The network could not learn {len(batch)} utterances by heart (WER {100 * error_rate:.0f} % "
            f"after {UPDATES} updates). {verdict(symptoms, OTHERWISE)}"
        )
    return error_rate


@cli_errors
def main() -> None:
    cfg = config.compose_config(sys.argv[1:])
    if config.is_sweep(sys.argv[1:]):
        raise UserError("The doctor sees one patient at a time: give one value for every option.")
    error_rate = examine(cfg)
    print(f"Learned by heart (WER {100 * error_rate:.1f} %): the path from audio to transcript is sound.")


if __name__ == "__main__":
    main()
