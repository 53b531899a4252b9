"""ONNX files: looked at before anything runs them, and opened by onnxruntime."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_audio.errors import UserError, refuse_address
from lightning_audio.io import expanded

LARGEST_FILE = 2**31  # bytes: what a Protocol Buffer may have
MOST_THREADS = 1024
MOST_NUMBERS = 2**28  # that a node may be told to make: 1 GB
MOST_MEMORY = 2**32  # bytes that all sessions of a process take, weights among them
DEEPEST = 20  # graphs within graphs
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))  # of operators that are onnxruntime's own
# The input that tells an operator how many numbers to make, or how often to repeat them.
SHAPED_BY = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}

# Numbers of fields in onnx.proto.
GRAPH, FUNCTIONS = 7, 25  # of ModelProto
FUNCTION_NODES, FUNCTION_DOMAIN = 7, 10
NODES, INITIALIZERS, SPARSE = 1, 5, 15  # of GraphProto
INPUTS, OUTPUTS, OPERATOR, ATTRIBUTES, DOMAIN = 1, 2, 4, 5, 7  # of NodeProto
TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS = 5, 6, 10, 11  # of AttributeProto
SIZES, TYPE, INT64S, NAME, RAW, EXTERNAL, LOCATION = 1, 2, 7, 8, 9, 13, 14  # of TensorProto
INT64 = 7


def read(file: str | Path) -> bytes:
    """The bytes of an ONNX file; raises UserError where there is none, or `refuse_hostile` does."""
    refuse_address(file)
    path = expanded(file)
    if not path.is_file():
        raise UserError(f"There is no ONNX file {path}: name one.")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has more than 2 GB, which no ONNX file has.")
    content = path.read_bytes()
    refuse_hostile(content, str(path))
    return content


def session(content: bytes, name: str, threads: int = 0, unpack: bool = False) -> Any:
    """A session of onnxruntime on the CPU, in so many threads (0: one for each core).

    With `unpack`, weights of eight bits become float once, when it is opened, and all is computed in float.

    Raises:
        UserError: onnxruntime is not installed, or refuses the content; or there are no such threads.
    """
    if not 0 <= threads <= MOST_THREADS:
        raise UserError(f"{threads} threads are none: set them to 1, up to {MOST_THREADS}, or to 0 for all.")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "Running an ONNX file needs onnxruntime, which is not installed: run pip install onnxruntime."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    # Threads that wait for work would keep their core busy, twice what the work itself takes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _limit_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # What depends on no input is computed when a file is opened, and not from the arena.
    largest = str(MOST_MEMORY // 16)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", largest)
    if unpack:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, which onnxruntime does not export
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is no ONNX file that onnxruntime can run: {reason}") from error


@functools.cache
def _limit_memory() -> None:
    """Sessions take their memory from one arena, which ends: what a file, or a clip, makes of its numbers
    when it is opened and run is not known from the file."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg({"max_mem": MOST_MEMORY}))


def refuse_hostile(content: bytes, name: str) -> None:
    """Raises UserError for a file that reads others, brings operators of its own, or wants a lot of memory,
    as far as it says so; what it takes when it is run is limited by `session`."""
    try:
        _Look(len(content)).model(memoryview(content))
    except UserError as error:
        raise UserError(f"{name} {error}: it is not run.") from None
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise UserError(f"{name} is no ONNX file: it is damaged, or of another kind.") from error


def fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """`(number, value)` of a Protocol Buffer: a whole number, or the bytes of all that is longer.

    Raises:
        ValueError, IndexError: it is none.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = message[at], at + 1
        if key >= 0x80:  # of more bytes than the one that nearly all have
            key, at = _varint(message, at - 1)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind, -1)
        if kind == 2:
            size, at = message[at], at + 1
            if size >= 0x80:
                size, at = _varint(message, at - 1)
        if size < 0 or at + size > end:
            raise ValueError("no Protocol Buffer")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no whole number")


def _numbers(value: Any) -> list[int]:
    """Of a repeated field, packed or not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8")


@dataclass
class _Look:
    """A walk through a model of so many bytes."""

    size: int
    domains: set[str] = field(default_factory=lambda: set(DOMAINS))
    shapes: dict[str, list[int]] = field(default_factory=dict)  # small constants, by name

    def model(self, message: memoryview) -> None:
        parts = list(fields(message))
        functions = [value for number, value in parts if number == FUNCTIONS]
        own = [_text(value) for one in functions for n, value in fields(one) if n == FUNCTION_DOMAIN]
        self.domains.update(own)
        graphs = [value for number, value in parts if number == GRAPH]
        if len(graphs) != 1:
            raise ValueError("no graph")
        self.graph(graphs[0], 0)
        for one in functions:
            self.nodes([value for number, value in fields(one) if number == FUNCTION_NODES], 1)

    def graph(self, message: memoryview, depth: int) -> None:
        if depth > DEEPEST:
            raise UserError("nests graphs too deeply")
        parts = list(fields(message))
        for number, value in parts:
            if number == INITIALIZERS:
                self.tensor(value)
            elif number == SPARSE:
                raise UserError("has sparse weights")
        self.nodes([value for number, value in parts if number == NODES], depth)

    def nodes(self, messages: list[memoryview], depth: int) -> None:
        for message in messages:
            parts = list(fields(message))
            domain = next((_text(value) for number, value in parts if number == DOMAIN), "")
            operator = next((_text(value) for number, value in parts if number == OPERATOR), "")
            if domain not in self.domains:
                raise UserError(f"brings an operator of its own ({domain}.{operator})")
            outputs = [_text(value) for number, value in parts if number == OUTPUTS]
            for number, value in parts:
                if number == ATTRIBUTES:
                    self.attribute(value, outputs[0] if operator == "Constant" and outputs else "", depth)
            inputs = [_text(value) for number, value in parts if number == INPUTS]
            place = SHAPED_BY.get(operator) if domain in ("", "ai.onnx") else None
            shape = self.shapes.get(inputs[place], []) if place is not None and place < len(inputs) else []
            if math.prod(shape) > MOST_NUMBERS:
                raise UserError(f"makes a tensor of more than {MOST_NUMBERS} numbers ({operator})")

    def attribute(self, message: memoryview, name: str, depth: int) -> None:
        for number, value in fields(message):
            if number in (TENSOR, TENSORS):
                self.tensor(value, name)
            elif number in (SUBGRAPH, SUBGRAPHS):
                self.graph(value, depth + 1)

    def tensor(self, message: memoryview, name: str = "") -> None:
        sizes: list[int] = []
        values: list[int] = []
        kind, raw = 0, memoryview(b"")
        for number, value in fields(message):
            if number == EXTERNAL or (number == LOCATION and value):
                raise UserError("reads weights from another file")
            if number == SIZES:
                sizes += _numbers(value)
            elif number == TYPE:
                kind = value
            elif number == INT64S:
                values += _numbers(value)
            elif number == RAW:
                raw = value
            elif number == NAME:
                name = name or _text(value)
        if math.prod(sizes) > 8 * self.size:  # the smallest numbers take an eighth of a byte
            raise UserError(f"says that a tensor has {math.prod(sizes):.3g} numbers, more than it has bytes")
        if kind == INT64 and name and math.prod(sizes) <= DEEPEST:
            values = values or [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]
            self.shapes[name] = values
