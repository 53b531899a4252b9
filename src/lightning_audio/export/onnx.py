"""A trained task as one ONNX graph: float waveforms with lengths in, answers out.

torch's traced exporter is taken: it takes 0.3 to 2 s where its dynamo exporter takes 5 to 55 s, which fixes
the number of clips, or their length, in some graphs; what the graphs say is the same to 1e-6.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from lightning_audio.errors import UserError
from lightning_audio.inference.stream import Stream, streaming_frontend
from lightning_audio.tasks.base import AudioTask
from lightning_audio.tasks.transcription import Transcription

OPSET = 17  # of ONNX 1.12: what runtimes of all kinds read
OPSETS = range(17, 21)
EXAMPLE = (1.0, 0.7)  # lengths of the two clips that are traced, in those of a training clip


class Graph(nn.Module):
    """Waveforms `(B, T)` and lengths `(B,)` -> what `answer` of the task gives."""

    def __init__(self, task: AudioTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return self.task.answer(waveforms, lengths)


def onnx_graph(task: AudioTask, opset: int | None = None) -> bytes:
    """The task as an ONNX file, with free axes for clips and time.

    Raises:
        UserError: something of it can't be put into a graph, or the exporter is not installed.
    """
    axes = {"waveforms": {0: "clips", 1: "samples"}, "lengths": {0: "clips"}}
    axes |= {n: {0: "clips"} | ({1: "frames"} if n in ("log_probs", "states") else {}) for n in task.answers}
    return traced(Graph(for_graphs(task)), example(task), ["waveforms", "lengths"], task.answers, axes, opset)


def for_graphs(task: AudioTask) -> AudioTask:
    """A copy on the CPU, in eval mode, that the exporter understands."""
    copied = copy.deepcopy(task).cpu().float().eval().requires_grad_(False)
    for module in copied.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is None:
            # Without weights of its own the number of its channels would be unknown.
            module.weight = nn.Parameter(torch.ones(module.num_features), requires_grad=False)
            module.bias = nn.Parameter(torch.zeros(module.num_features), requires_grad=False)
    return copied


def traced(
    graph: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
    opset: int | None = None,
) -> bytes:
    """A module as the bytes of an ONNX file, simplified.

    Args:
        arguments: an example of what goes in, by which it is traced.
        inputs, outputs: their names.
        axes: the names of the axes of each that are free, by number.
        opset: `OPSET` by default.

    Raises:
        UserError: the opset is none that is written here, the module has no graph, or the exporter is not
            installed.
    """
    opset = OPSET if opset is None else opset
    if opset not in OPSETS:
        raise UserError(f"--opset {opset} is not written here: choose {OPSETS[0]} to {OPSETS[-1]}.")
    refuse_missing_packages()
    file: Any = io.BytesIO()  # which the traced exporter writes to
    try:
        with without_output(), torch.no_grad():
            torch.onnx.register_custom_op_symbolic("aten::mT", _transposed, 9)
            torch.onnx.export(
                graph.eval(),
                arguments,
                file,
                input_names=[*inputs],
                output_names=[*outputs],
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
            return simplified(file.getvalue())
    except UserError:
        raise
    except Exception as error:  # of many kinds, as operators are missing
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The run can't be put into an ONNX graph: {reason}") from error


def refuse_missing_packages() -> None:
    """Raises UserError where what writes ONNX files is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            "An ONNX file is written by onnx and onnxruntime, and one is not installed: run pip install "
            "'lightning-audio[export]'."
        ) from error


def simplified(content: bytes) -> bytes:
    """The graph without what does nothing or depends on no input: half of the nodes, opened in half the time.
    What is left are ONNX's own operators."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in model.graph.node}
    for version in [one for one in model.opset_import if one.domain not in used]:
        model.opset_import.remove(version)
    return model.SerializeToString()


class ChunkGraph(nn.Module):
    """Samples `(1, n)` and what the network remembers -> scores `(k, C)` and what it remembers then.

    Of one that transcribes, the scores are what its decoders take.

    Args:
        task: that runs on a stream.
        state: of the network behind a chunk; the tensors in it are inputs and outputs.
    """

    def __init__(self, task: AudioTask, state: Any) -> None:
        super().__init__()
        self.task, self.chunked = task, hasattr(task.network, "whole_chunk")
        self.state, self.layout = tree_flatten(state)

    def forward(self, samples: Tensor, *remembered: Tensor) -> tuple[Tensor, ...]:
        tensors = iter(remembered)
        state = [next(tensors) if isinstance(part, Tensor) else part for part in self.state]
        scores, state = self.step(samples, tree_unflatten(state, self.layout))
        then = zip(tree_flatten(state)[0], self.state, strict=True)
        return scores, *(part for part, before in then if isinstance(before, Tensor))

    def step(self, samples: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The scores of a chunk and the state behind it."""
        features = self.task.frontend.frames(samples)  # type: ignore[operator]
        features, _ = self.task.normalize(features, torch.tensor([features.shape[-1]]))
        network: Any = self.task.network
        if self.chunked:
            logits, *state = network.whole_chunk(features, *state)
        else:
            logits, state = network.step(features, state)
        return self.task.stream_scores(logits.float())[0], state

    def start(self, samples: Tensor) -> Any:
        """What the network remembers before the first chunk: tensors of zeros."""
        if self.chunked:
            features = self.task.frontend.frames(samples)  # type: ignore[operator]
            return [*self.task.network.start(features)[:2]]  # type: ignore[operator]
        return tree_map_only(Tensor, torch.zeros_like, self.step(samples, None)[1])


def stream_graph(task: AudioTask, opset: int | None = None) -> tuple[bytes, dict[str, Any]]:
    """The task as an ONNX file that takes a chunk of a stream, and what `RuntimeStream` has to know of it.

    A chunk is as many frames as the network takes from one row of scores to the next, or as its `chunk` has.

    Raises:
        UserError: the task does not run on a stream.
    """
    stream, frontend = Stream(task), streaming_frontend(task)  # refuse what does not
    if isinstance(task, Transcription):
        task.greedy.stream()  # as well
    graph, hop, n_fft = ChunkGraph(for_graphs(task), None), frontend.hop_length, frontend.n_fft
    frames = max(round(stream.frame_seconds * task.sample_rate / hop), 1)
    if graph.chunked:
        frames *= int(task.network.chunk)  # type: ignore[arg-type]
    samples = 0.1 * torch.randn(1, (frames - 1) * hop + n_fft, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        start = graph.start(samples)
        scores, state = graph.step(samples, start)
    graph = ChunkGraph(graph.task, state)
    before, remembered = ([x for x in tree_flatten(s)[0] if isinstance(x, Tensor)] for s in (start, state))
    names = [f"state{number}" for number in range(len(remembered))]
    outputs = ["scores", *(f"{name} then" for name in names)]
    axes = {"samples": {1: "samples"}, "scores": {0: "rows"}} if graph.chunked else {}
    for name, *pair in zip(names, before, remembered, strict=True):
        free = {i: f"{name} {i}" for i in range(pair[0].dim()) if pair[0].shape[i] != pair[1].shape[i]}
        axes |= {name: free, f"{name} then": free}
    content = traced(graph, (samples, *remembered), ["samples", *names], outputs, axes, opset)
    shapes = [list(part.shape) for part in before]
    told = {"frames": frames, "rows": len(scores), "hop": hop, "n_fft": n_fft, "states": shapes}
    # Chunks whose rows know those behind them: the last one must not be filled up.
    return content, {"frame_seconds": stream.frame_seconds, "stream": told | {"short_last": graph.chunked}}


def example(task: AudioTask) -> tuple[Tensor, Tensor]:
    """Waveforms of noise and their lengths, which the graph is traced with."""
    lengths = torch.tensor([max(round(share * task.clip_seconds * task.sample_rate), 1) for share in EXAMPLE])
    if not is_ragged(task):
        lengths[:] = lengths[0]
    waveforms = 0.1 * torch.randn(len(lengths), int(lengths[0]), generator=torch.Generator().manual_seed(0))
    return waveforms, lengths


def is_ragged(task: AudioTask) -> bool:
    """Whether clips of several lengths run together in its graph."""
    return all(getattr(module, "ragged", True) for module in task.modules())


def _transposed(g: Any, x: Any) -> Any:
    """`aten::mT`, which the traced exporter does not know."""
    order = list(range(x.type().dim()))
    return g.op("Transpose", x, perm_i=[*order[:-2], order[-1], order[-2]])


@contextlib.contextmanager
def without_output() -> Iterator[None]:
    """Without what exporters print, partly past Python: deprecations, and whole graphs where it fails."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
