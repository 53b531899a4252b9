"""Several trained tasks as one that answers with the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_audio.data.batch import pad_waveforms
from lightning_audio.data.decode import resample
from lightning_audio.errors import UserError
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.clip_task import ClipTask
from lightning_audio.tasks.ctc import CTC
from lightning_audio.tasks.multilabel import MultiLabel

Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ensemble(tasks: Sequence[AudioTask]) -> AudioTask:
    """The task with the highest sample rate, whose answers become the mean of those of all.

    Of clips it is the mean of the probabilities that each gives in a test, of speech that of the posteriors
    of each frame. Waveforms come at the rate of the task that is returned; the others hear them at their own.

    Raises:
        UserError: they are of different kinds, or their labels, tokens or frames are not the same.
    """
    lead = max(tasks, key=lambda task: task.sample_rate)
    others = [task for task in tasks if task is not lead]
    for other in others:
        in_frames = isinstance(lead, ClipTask) and not lead.pools_time
        if type(other) is not type(lead) or not isinstance(lead, ClipTask | CTC) or in_frames:
            raise UserError(
                f"{type(lead).__name__} and {type(other).__name__} make no ensemble: give runs of one task, "
                "classification, multilabel or ctc."
            )
        if other.labels != lead.labels:
            what = "tokens" if isinstance(lead, CTC) else "labels"
            raise UserError(
                f"The runs do not have the same {what}, in the same order: they make no ensemble."
            )
        if isinstance(lead, CTC) and isinstance(other, CTC) and _frames(other) != _frames(lead):
            raise UserError("The runs do not have frames of the same length: they make no ensemble.")
    if isinstance(lead, MultiLabel):
        thresholds = [task.thresholds for task in tasks if isinstance(task, MultiLabel)]
        lead.thresholds.copy_(torch.stack(thresholds).mean(0))
    lead.members = nn.ModuleList(others)  # so that they move to its device
    if isinstance(lead, ClipTask):
        answers = [at_own_rate(task, task.forward_tta, lead.sample_rate) for task in (lead, *others)]
        lead.forward_tta = _mean_of_clips(lead, answers)  # type: ignore[method-assign, assignment]
    else:
        answers = [at_own_rate(task, task.forward, lead.sample_rate) for task in (lead, *others)]
        lead.forward = _mean_of_frames(answers)  # type: ignore[method-assign, assignment]
    return lead


def _frames(task: CTC) -> tuple[float, int]:
    return task.frame_seconds, task.sample_rate


def at_own_rate(task: AudioTask, answer: Answer, rate: int) -> Answer:
    """What a task says of waveforms `(B, T)` at another rate."""

    def answered(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if task.sample_rate != rate:
            rows = zip(waveforms.cpu().numpy(), lengths.tolist(), strict=True)
            own = [torch.from_numpy(resample(row[:length], rate, task.sample_rate)) for row, length in rows]
            padded, counts = pad_waveforms(own)
            waveforms, lengths = padded.to(waveforms.device), counts.to(lengths.device)
        return answer(waveforms, lengths)

    return answered


def _mean_of_clips(lead: ClipTask, answers: Sequence[Answer]) -> Answer:
    def answered(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        found = [answer(waveforms, lengths) for answer in answers]
        probabilities = torch.stack([lead.label_scores(logits.float()) for logits, _ in found])
        return lead.as_logits(probabilities.mean(0)), found[0][1]

    return answered


def _mean_of_frames(answers: Sequence[Answer]) -> Answer:
    def answered(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        found = [answer(waveforms, lengths) for answer in answers]
        frames = min(logits.shape[1] for logits, _ in found)
        rows = torch.stack([logits[:, :frames].float().log_softmax(-1) for logits, _ in found])
        counts = torch.stack([lengths for _, lengths in found]).amin(0)
        return rows.logsumexp(0) - torch.log(torch.tensor(float(len(found)))), counts

    return answered
