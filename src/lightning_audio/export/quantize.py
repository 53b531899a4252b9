"""Eight bits for weights, or weights and activations, of the network; the front end stays in float."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.data.channels import INT16_SCALE
from lightning_audio.errors import UserError

FLOAT = ("/task/frontend", "/task/normalize")  # nodes of these parts stay as they are
SUMMED = frozenset(("Conv", "MatMul", "Gemm"))
LEAST_SUMMED = 256  # products for an output of a layer that is faster in eight bits
CALIBRATED_BY = 128  # training clips
SMALL, LARGE = 64, 2**13  # numbers of a layer, and of a filter bank
TURN = 2**15 - 1  # a whole one, of the sines and cosines of a Fourier transform
HALVED = frozenset(
    ("Conv", "Mul", "Add")
)  # layers that take half precision where they do not take eight bits
LEAST = 512  # numbers of a weight that is worth a scale for each channel
CHANNELS = {"Conv": 0, "Gemm": 0, "MatMul": -1, "LSTM": 1, "GRU": 1}  # the axis of a weight's channels


def quantized(content: bytes, kind: str, clips: Sequence[np.ndarray] = ()) -> tuple[bytes, str]:
    """The ONNX file with a network in eight bits, and how.

    `int8` computes in eight bits, too, where that is faster: layers that sum up many products, `static`, by
    what their activations are on training clips, and LSTMs, `dynamic`, by what they are as they come. What
    is left, and all of `int8_weights`, has weights in eight bits, one scale for each channel, and computes in
    float.

    Args:
        content: of a float file, as `onnx_graph` makes it.
        kind: `int8` or `int8_weights`.
        clips: int16 `(T,)`, which calibrate the activations.

    Raises:
        UserError: onnx is not installed.
    """
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(
            f"--format {kind} needs onnx and onnxruntime: run pip install 'lightning-audio[export]'."
        ) from error
    how = []
    with tempfile.TemporaryDirectory() as folder, _without_advice():
        source, small = Path(folder) / "float.onnx", Path(folder) / "small.onnx"
        source.write_bytes(content)
        quantization.quant_pre_process(source, small, skip_symbolic_shape=True)
        layers = _that_gain(onnx.load(small)) if kind == "int8" else []
        if layers:
            how.append("static")
            quantization.quantize_static(
                small,
                small,
                _Calibration(clips),
                nodes_to_quantize=layers,
                quant_format=quantization.QuantFormat.QOperator,
                # Of both signs, onnxruntime multiplies without a processor's instructions for it.
                activation_type=quantization.QuantType.QUInt8,
                per_channel=True,
                reduce_range=True,  # or sums overflow on processors without such instructions
            )
        if kind == "int8" and any(node.op_type == "LSTM" for node in onnx.load(small).graph.node):
            how.append("dynamic")
            quantization.quantize_dynamic(small, small, op_types_to_quantize=["LSTM"], per_channel=True)
        return slim(with_small_weights(onnx.load(small))), " and ".join(how) or "weights"


def _that_gain(model: Any) -> list[str]:
    """The layers of the network that eight bits make faster: each output sums up many products. Where there
    are few, as in convolutions of some channels by themselves, packing numbers takes longer than it saves."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        dims = (
            weights.get(node.input[1]) if node.op_type in SUMMED and not node.name.startswith(FLOAT) else None
        )
        # A weight is (outputs, inputs, ...) of convolutions and of most Gemm, (inputs, outputs) of MatMul.
        if dims and math.prod(dims) // dims[CHANNELS[node.op_type]] >= LEAST_SUMMED:
            found.append(node.name)
    return found


def with_small_weights(model: Any) -> Any:
    """The model with the weights of its layers as int8 and a scale for each channel."""
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        for name in node.input if node.op_type in CHANNELS and not node.name.startswith(FLOAT) else ():
            values = numpy_helper.to_array(weights[name]) if name in weights else np.zeros(0)
            if values.size < LEAST or values.dtype != np.float32:
                continue
            axis = CHANNELS[node.op_type] % values.ndim
            others = tuple(other for other in range(values.ndim) if other != axis)
            scales = np.maximum(np.abs(values).max(others, keepdims=True) / 127, np.float32(1e-12))
            small = np.rint(values / scales).astype(np.int8)
            graph.initializer.remove(weights.pop(name))
            graph.initializer.append(numpy_helper.from_array(small, f"{name} in eight bits"))
            graph.initializer.append(numpy_helper.from_array(scales.ravel(), f"{name} scales"))
            inputs = [f"{name} in eight bits", f"{name} scales"]
            graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], axis=axis))
    return model


def slim(model: Any) -> bytes:
    """The file with what is left of the network's weights, and large filters, in half precision, and turns
    of a large Fourier transform as int16; with short names, and no shapes noted in between: names are half of
    a small network.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    del graph.value_info[:]
    layers = (n for n in graph.node if n.op_type in HALVED and not n.name.startswith(FLOAT))
    weights = {name for node in layers for name in node.input}
    products = [node.input for node in graph.node if node.op_type == "MatMul"]
    first_steps, others = ({names[side] for names in products} for side in (0, 1))
    for tensor in [one for one in graph.initializer if one.name not in first_steps]:
        least = SMALL if tensor.name in weights else LARGE
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) <= least:
            continue
        values: np.ndarray = numpy_helper.to_array(tensor)
        half, name = f"{tensor.name} in half", tensor.name
        if name in others and values.ndim == 3:  # in half precision, quiet bins would hear loud ones
            values, name = np.rint(values * TURN).astype(np.int16), f"{half}, whole"
            scale = numpy_helper.from_array(np.full((), 1 / TURN, np.float32), f"{half}, scale")
            graph.initializer.append(scale)
            graph.node.insert(0, helper.make_node("Mul", [name, scale.name], [tensor.name]))
        else:
            values = values.astype(np.float16)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values, half))
        graph.node.insert(0, helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    outside = {value.name for value in (*graph.input, *graph.output)}
    short_names: dict[str, str] = {"": ""}

    def short(name: str) -> str:
        return name if name in outside else short_names.setdefault(name, f"{len(short_names):x}")

    for tensor in graph.initializer:
        tensor.name = short(tensor.name)
    for node in graph.node:
        node.name = node.doc_string = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    return model.SerializeToString()


class _Calibration:
    """Training clips as onnxruntime asks for them, one after another."""

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        self.left = iter(clips)

    def get_next(self) -> dict[str, Any] | None:
        clip = next(self.left, None)
        if clip is None:
            return None
        waveform = clip[None].astype(np.float32) / INT16_SCALE
        return {"waveforms": waveform, "lengths": np.array([len(clip)])}


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without what onnxruntime logs of models that it would like to be prepared otherwise."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
