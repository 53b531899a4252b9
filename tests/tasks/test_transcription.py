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


def test_a_policy_is_looked_into_and_crops_cut_transcripts(caplog: pytest.LogCaptureFixture) -> None:
    waveform = "lightning_audio.augment.waveform"
    roll = f"{{turn: {{_target_: {waveform}.TimeRoll}}}}"
    crop = f"{{_target_: {waveform}.RandomCrop,seconds: 0.2,sample_rate: 8000}}"
    policy = f"{{_target_: lightning_audio.augment.policy.RandomPolicy,n: 1,transforms: {roll}}}"
    options = ["task=ctc", "augment=speech", f"+augment.waveform.crop={crop}"]
    _, learner = build.data_and_task(compose_config([*OWN, *options, f"+augment.waveform.policy={policy}"]))
    assert (
        "Left out: augment.waveform.crop and augment.waveform.policy.transforms.turn, behind" in caplog.text
    )
    assert learner.augment.of_waveforms == [f"waveform.{n}" for n in ("dither", "gain", "speed", "policy")]
    assert learner.augment.fastest == 1.1
