"""A trained task as a program of `torch.export`: for torch without this package, C++, ExecuTorch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._C import DispatchKey
from torch.export import Dim

from lightning_audio.errors import UserError
from lightning_audio.export.card import PROGRAM, understood
from lightning_audio.export.onnx import Graph, example, for_graphs, without_output
from lightning_audio.export.runtime import Runtime
from lightning_audio.tasks.base import AudioTask


def exported_program(task: AudioTask) -> bytes:
    """The task as a file of `torch.export.save`, with free axes for clips and, from `least_samples` on, time.

    Raises:
        UserError: something of it can't be put into a program.
    """
    file = io.BytesIO()
    free = {"waveforms": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "lengths": {0: Dim.DYNAMIC}}
    try:
        with without_output(), torch.no_grad(), _whole_recurrent_layers():
            graph = Graph(for_graphs(task)).eval()
            program = torch.export.export(graph, example(task), dynamic_shapes=free, strict=False)
            torch.export.save(program, file)
    except UserError:
        raise
    except Exception as error:  # of many kinds, as control flow is met
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torch.export makes no program of the run, take --format onnx: {reason}") from error
    return file.getvalue()


def least_samples(task: AudioTask) -> int:
    """Samples that a batch has at least, filled up with zeros: fewer may be no frame in some layer."""
    return example(task)[0].shape[1]


@contextlib.contextmanager
def _whole_recurrent_layers() -> Iterator[None]:
    """LSTMs and GRUs as one step of the program, of which only the shapes are asked for.

    torch finds these by walking from frame to frame, which fixes how many there are.
    """
    operators = torch.ops.aten.lstm.input, torch.ops.aten.gru.input
    keys = DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd
    with contextlib.ExitStack() as patches:
        for operator in operators:
            shapes = dict.fromkeys(keys, _recurrent_shapes)
            patches.enter_context(mock.patch.dict(operator.py_kernels, shapes))
            operator._dispatch_cache.clear()
        yield
    for operator in operators:
        operator._dispatch_cache.clear()


def _recurrent_shapes(
    x: Tensor,
    state: Any,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """What `torch.lstm` and `torch.gru` give, without values."""
    states = [state] if isinstance(state, Tensor) else [*state]
    width = states[0].shape[2] * (2 if bidirectional else 1)
    return x.new_empty(*x.shape[:2], width), *(part.new_empty(part.shape) for part in states)


class Program(Runtime):
    """Such a file at work, asked as a `Runtime` is; of one's own, since loading may run what it brings."""

    def __init__(self, content: bytes, card: dict[str, Any]) -> None:
        self._take(Path(f"model{PROGRAM}"), understood(content, card))
        self.least = card["least_samples"]
        self._module = torch.export.load(io.BytesIO(content)).module()

    @torch.no_grad()
    def run(self, feeds: dict[str, np.ndarray]) -> list[Any]:
        try:
            return [found.numpy() for found in self._module(*map(torch.from_numpy, feeds.values()))]
        except (AssertionError, RuntimeError) as error:  # lengths that it was not made for
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"The program does not take all clips, take --format onnx: {reason}") from error
