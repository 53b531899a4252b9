"""What all tasks of speech recognition do with the data they are given."""

from __future__ import annotations

import pytest
import torch

from lightning_audio import build
from lightning_audio.config import compose_config

# An own recogniser as somebody would begin it, with the augmentation of environmental sounds, which is usual.
OWN = (
    *("data=demo_dtmf", "data.train_utterances=8", "data.val_utterances=4", "data.test_utterances=4"),
    *("frontend=speech_8k", "network=bilstm", "network.channels=4", "network.hidden=8", "logger=none"),
)


@pytest.mark.parametrize("task", ["ctc", "attention"])
def test_augmentation_behind_which_no_transcript_fits_is_left_out_and_told(
    task: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, learner = build.data_and_task(compose_config([*OWN, f"task={task}"]))
    assert "Left out: augment.waveform.roll and augment.mix, behind which" in caplog.text
    assert learner.augment.of_waveforms == ["waveform.gain", "waveform.polarity"]
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(learner.training_logits(batch)[2], batch.targets)
    caplog.clear()
    build.data_and_task(compose_config([*OWN, f"task={task}", "augment=speech"]))
    assert "Left out" not in caplog.text
