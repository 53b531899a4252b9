"""What stands behind the network of a transducer or of attention, as graphs of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_audio.export.onnx import for_graphs, traced
from lightning_audio.tasks.attention import Attention
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transducer import Transducer

FRAMES, TOKENS, HYPOTHESES = 7, 2, 3  # of the example


class _Predictor(nn.Module):
    """The last outputs `(N,)` and the state -> `(N, width)` and the state."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, last: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        predicted, after = self.predictor.step(last, state)
        return predicted, *after


class _Begin(nn.Module):
    """States `(1, T, D)` -> what a decoder remembers of them, then what of the tokens before."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, states: Tensor) -> tuple[Tensor, ...]:
        memory = self.decoder.memory(states, torch.ones_like(states[:, :, 0], dtype=torch.long).sum(1))
        return *memory.values(), *self.decoder.start(memory).values()


class _Step(nn.Module):
    """The last outputs `(N,)` and what `_Begin` gives, of the tokens N times -> logits, what was
    attended to, what is remembered."""

    def __init__(self, decoder: Any, memory: list[str], state: list[str]) -> None:
        super().__init__()
        self.decoder, self.memory, self.state = decoder, memory, state

    def forward(self, last: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        memory = dict(zip(self.memory, given, strict=False))
        state = dict(zip(self.state, given[len(self.memory) :], strict=True))
        logits, after = self.decoder.step(last, memory, state)
        return logits, self.decoder.attended(memory, after), *(after[name] for name in self.state)


def parts_of(task: AudioTask, opset: int | None = None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The graphs behind that of the network, by name, and what the runtime has to know of them."""
    if isinstance(task, Transducer):
        return _transducer(for_graphs(task), opset)
    return _attention(for_graphs(task), opset) if isinstance(task, Attention) else ({}, {})


@torch.no_grad()
def _transducer(task: Any, opset: int | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    last, joiner = torch.zeros(1, dtype=torch.long), task.joiner
    predicted, after = task.predictor.step(last, None)
    names = [f"state{number}" for number in range(len(after))]
    then = ["predicted", *(f"{name} then" for name in names)]
    start = [torch.zeros_like(part) for part in after]  # which is where both kinds begin
    frames = torch.randn(FRAMES, predicted.shape[1])
    content = {
        "predictor": traced(_Predictor(task.predictor), (last, *start), ["last", *names], then, {}, opset),
        "joiner": traced(
            joiner, (frames, predicted), ["frames", "predicted"], ["log_probs"], {"frames": {0: "N"}}, opset
        ),
    }
    state = [{"shape": [*part.shape], "integer": not part.is_floating_point()} for part in start]
    told = {"kind": "transducer", "max_symbols": task.max_symbols, "state": state}
    return content, told | {"width": predicted.shape[1]}


@torch.no_grad()
def _attention(task: Any, opset: int | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    decoder, outputs = task.speller, len(task.labels) + 1
    width = task.norm.normalized_shape[0]
    states, last = torch.randn(1, FRAMES, width), torch.zeros(1, dtype=torch.long)
    memory = decoder.memory(states, torch.tensor([FRAMES]))
    state = decoder.start(memory)
    begun = [*memory, *(f"{name} before" for name in state)]
    content = {
        "begin": traced(_Begin(decoder), (states,), ["states"], begun, {"states": {1: "frames"}}, opset)
    }
    names = [*state]
    for _ in range(TOKENS):  # none of them is empty then
        _, state = decoder.step(last, memory, state)
    kept = [state[name].repeat(HYPOTHESES, *[1] * (state[name].dim() - 1)) for name in names]
    last = last.repeat(HYPOTHESES)
    axes = {"last": {0: "N"}} | {
        name: {axis: f"{name} {axis}" for axis in range(name in memory, part.dim())}
        for name, part in zip(begun, [*memory.values(), *kept], strict=True)
    }
    then = ["logits", "attended", *(f"{name} then" for name in names)]
    given = (last, *memory.values(), *kept)
    step = _Step(decoder, [*memory], names)
    content["step"] = traced(step, given, ["last", *begun], then, axes, opset)
    ctc = outputs if task.ctc is not None else 0
    told = {"kind": "attention", "fixed": len(memory), "ctc": ctc, "width": ctc + width}
    return content, told | {"search": dict(task.search)}
