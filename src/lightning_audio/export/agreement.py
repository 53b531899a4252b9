"""Whether an exported model says what its run says: on clips, and by the scores of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_audio.data.datamodule import AudioDataModule
from lightning_audio.errors import UserError
from lightning_audio.export.runtime import Runtime
from lightning_audio.export.streaming import RuntimeStream
from lightning_audio.inference.stream import Stream
from lightning_audio.inference.windows import batches_of
from lightning_audio.metrics.base import Predictions
from lightning_audio.reports.comparison import Difference, paired_difference
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.clip_task import ClipTask
from lightning_audio.tasks.max_pooling import clip_probabilities
from lightning_audio.tasks.transcription import Transcription
from lightning_audio.tasks.trigger import Trigger
from lightning_audio.tasks.window_trigger import WindowTrigger

CLOSE = 1e-3  # of a probability, or of the logarithm of one
TOGETHER = 8  # clips in a batch
MADE = (0.05, 0.4, 0.73, 1.0, 1.0, 1.6)  # lengths of clips of noise, in those of a training clip
FLOOR = -30.0  # logarithms of probabilities below it are all alike


@dataclass(frozen=True)
class Agreement:
    """Of so many `clips`: the largest difference of a probability, or of its logarithm where text is read out
    of them; the largest between a clip alone and in a batch; and how many answers are the same."""

    clips: int
    made: int
    difference: float
    by_padding: float
    same_answers: int

    def refuse_other(self) -> None:
        """Raises UserError where the two do not say the same."""
        if not max(self.difference, self.by_padding) <= CLOSE or self.same_answers < self.clips:
            raise UserError(
                f"The exported model does not say what the run says: probabilities differ by up to "
                f"{self.difference:.2g}, by padding {self.by_padding:.2g}, and "
                f"{self.clips - self.same_answers} of {self.clips} answers are others. Nothing is written."
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def made_clips(task: AudioTask) -> list[np.ndarray]:
    """Noise of several lengths as int16 `(T,)`, some of it loud at one end: what no corpus need have."""
    rng = np.random.default_rng(0)
    clips = []
    for share in MADE:
        size = max(round(share * task.clip_seconds * task.sample_rate), 1)
        clips.append((3000 * rng.standard_normal(size) * np.linspace(0, 1, size)).astype(np.int16))
    return clips


def agreement(task: AudioTask, runtime: Runtime, clips: Sequence[np.ndarray]) -> Agreement:
    """How far the two agree on clips `(T,)`, int16 at the task's rate, and on made ones beside them."""
    made = made_clips(task)
    if not runtime.card["ragged"]:  # nothing can be filled up
        made, clips = ([clip for clip in few if len(clip) >= runtime.least] for few in (made, clips))
    difference = by_padding = 0.0
    same = 0
    for batch in batches_of([*clips, *made], TOGETHER):
        wanted, found = (_outputs(one, batch) for one in (task, runtime))
        alone = _outputs(runtime, batch[:1])[0]
        by_padding = max(by_padding, _largest(alone, found[0]))
        for own, other in zip(wanted, found, strict=True):
            difference = max(difference, _largest(own, other))
            same += _answer(task, task, own) == _answer(task, runtime, other)
    return Agreement(len(clips) + len(made), len(made), difference, by_padding, same)


def stream_agreement(task: AudioTask, runtime: Runtime) -> Agreement:
    """How far the two agree on streams of noise that come in pieces of all sizes; the answer to a stream are
    the best labels of all of its rows."""
    pieces = np.random.default_rng(0)
    difference, same, streams = 0.0, 0, made_clips(task)
    own, other = Stream(task), RuntimeStream(runtime)
    for samples in streams:
        wanted = torch.cat([own.push(samples), own.finish()]).numpy()
        parts = np.split(samples, np.sort(pieces.integers(0, len(samples) + 1, 9)))
        found = np.concatenate([*map(other.push, parts), other.finish()])
        if wanted.shape != found.shape:
            return Agreement(len(streams), len(streams), float("inf"), 0.0, same)
        difference = max(difference, _largest(wanted, found))
        same += bool((wanted.argmax(1) == found.argmax(1)).all())
    return Agreement(len(streams), len(streams), difference, 0.0, same)


def _outputs(one: Any, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
    return one.frame_outputs(batch) if one.transcribes else list(one.clip_scores(batch))


def _largest(own: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; infinite where there are other frames, or what is no number."""
    if own.shape != other.shape or np.isnan(own).any() or not np.isfinite(other).all():
        return float("inf")
    low = FLOOR if own.ndim == 2 else -np.inf
    return float(np.abs(np.maximum(own, low) - np.maximum(other, low)).max(initial=0.0))


def _answer(task: Any, one: Any, output: np.ndarray) -> Any:
    if not task.transcribes:
        return task.rule.chosen(output)
    return one.greedy(output)[0].text


def answer_by(task: AudioTask, runtime: Runtime) -> dict[str, object]:
    """From now on a task answers in tests with what an exported model of it says; which one, for its scores.

    Raises:
        UserError: it is not of this task, or its scores need a stream.
    """
    told = (runtime.labels, runtime.sample_rate, runtime.card["task"])
    if told != (task.labels, task.sample_rate, type(task).__name__.lower()):
        raise UserError(
            f"{runtime.file} was exported from another run: its labels, its rate or its task are others."
        )
    if isinstance(task, Trigger):
        _listen_by(task, runtime)
    else:
        _take_clips_by(task, runtime)
    return {"exported": {"file": str(runtime.file), "sha256": runtime.card["sha256"]}}


def _listen_by(task: Trigger, runtime: Runtime) -> None:
    """From now on a trigger hears clips and streams by a model that was exported for streams.

    Raises:
        UserError: it was not, or hears windows.
    """
    if isinstance(task, WindowTrigger):
        raise UserError(
            "An export of task=window_trigger answers for windows and is not scored on a stream: evaluate "
            "the run itself."
        )
    if "stream" not in runtime.card:
        raise UserError("A trigger is scored on a stream: export it with --streaming.")
    stream = RuntimeStream(runtime)

    def listen(samples: np.ndarray) -> Tensor:
        return torch.from_numpy(np.concatenate([stream.push(samples), stream.finish()]))

    def forward(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        heard = [listen(row[:n]) for row, n in zip(waveforms.cpu().numpy(), lengths.tolist(), strict=True)]
        counts = torch.tensor([len(scores) for scores in heard])
        scores = torch.nn.utils.rnn.pad_sequence(heard, batch_first=True)
        whole = clip_probabilities(scores, counts, task.columns, task.smooth)
        return task.as_logits(whole), torch.ones_like(lengths)

    task.listen, task.forward_tta = listen, forward  # type: ignore[method-assign]


def _take_clips_by(task: AudioTask, runtime: Runtime) -> None:
    """From now on a task says of clips what an exported model of it says."""
    task.forward_tta = _exported_logits(task, runtime)  # type: ignore[method-assign, assignment]
    if isinstance(task, Transcription):
        task.decoder = runtime.decoder
        task.outputs = task.forward_tta  # type: ignore[method-assign]
        task.decodable = lambda logits: logits  # type: ignore[method-assign]  # a file gives what decoders take


def _exported_logits(task: AudioTask, runtime: Runtime) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:

    def forward(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        rows = [row[:n] for row, n in zip(waveforms.cpu().numpy(), lengths.tolist(), strict=True)]
        if isinstance(task, ClipTask):
            return task.as_logits(torch.from_numpy(runtime.clip_scores(rows))), torch.ones_like(lengths)
        found = [torch.from_numpy(row) for row in runtime.frame_outputs(rows)]
        counts = torch.tensor([len(row) for row in found])
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), counts

    return forward


@torch.inference_mode()
def predictions_of(task: AudioTask, data: AudioDataModule, split: str) -> Predictions:
    """What is predicted of a split."""
    for batch in data.loader(split):
        logits, lengths = task.forward_tta(batch.waveforms, batch.lengths)
        task.observe("test", logits, lengths, batch)
    task.take_observed("test")
    return task.predictions(data.splits[split].clips)


def drop(task: AudioTask, data: AudioDataModule, runtime: Runtime) -> Difference:
    """The score that picks a checkpoint, on the validation clips: of the run beside the exported model, by
    which the task answers from then on."""
    name = task.monitor[0].removeprefix("val/")
    metric = next((one for one in task.metrics if one.name == name), task.metrics[0])
    own = predictions_of(task, data, "val")
    _take_clips_by(task, runtime)
    other = predictions_of(task, data, "val")
    return paired_difference(metric, own, other)
