"""ONNX files that somebody sent: what reads other files, brings code or wants all memory is not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_audio import onnx_file
from lightning_audio.errors import UserError

onnx = pytest.importorskip("onnx", reason="pip install 'lightning-audio[export]'")
pytest.importorskip("onnxruntime")


def model(*nodes: Any, tensors: tuple[Any, ...] = (), functions: tuple[Any, ...] = ()) -> Any:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        list(nodes),
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n"])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        list(tensors),
    )
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("own", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)


def node(operator: str, *inputs: str, domain: str = "", **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)


def tensor(name: str, values: Any) -> Any:
    return onnx.numpy_helper.from_array(np.array(values), name)


def elsewhere() -> Any:
    weights = tensor("w", np.ones(4, np.float32))
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../../etc/passwd")
    return weights


def larger_than_its_file() -> Any:
    weights = tensor("w", np.ones(4, np.float32))
    weights.dims[0] = 10**12
    return weights


def within_a_branch(inner: Any) -> Any:
    made = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([inner], "branch", [], [made])
    return onnx.helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)


HOSTILE = {
    "reads weights from another file": lambda: model(node("Add", "x", "w"), tensors=(elsewhere(),)),
    r"brings an operator of its own \(evil\.Run\)": lambda: model(node("Run", "x", domain="evil")),
    r"more than it has bytes": lambda: model(node("Add", "x", "w"), tensors=(larger_than_its_file(),)),
    r"more than 268435456 numbers \(ConstantOfShape\)": lambda: model(
        node("ConstantOfShape", "s"), tensors=(tensor("s", [10**6, 10**6]),)
    ),
    r"numbers \(Expand\)": lambda: model(node("Expand", "x", "s"), tensors=(tensor("s", [10**9]),)),
    r"numbers \(Tile\)": lambda: model(node("Tile", "x", "s"), tensors=(tensor("s", [10**9]),)),
    r"an operator of its own \(deep\.Run\)": lambda: model(
        within_a_branch(onnx.helper.make_node("Run", ["x"], ["z"], domain="deep")),
        tensors=(tensor("c", True),),
    ),
}


@pytest.mark.parametrize("sentence", HOSTILE)
def test_hostile_files_are_refused_in_a_sentence(sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(HOSTILE[sentence]().SerializeToString())
    with pytest.raises(UserError, match=sentence) as error:
        onnx_file.read(tmp_path / "a.onnx")
    assert str(error.value).startswith(str(tmp_path / "a.onnx"))


def made_of_constants(operator: str, *constants: Any, **attributes: Any) -> Any:
    names = [f"constant{number}" for number in range(len(constants))]
    return model(
        onnx.helper.make_node(operator, names, ["made"], **attributes),
        onnx.helper.make_node("ReduceMax", ["made"], ["most"], keepdims=0),
        node("Add", "x", "most"),
        tensors=tuple(map(tensor, names, constants)),
    )


ROW = np.ones((1, 2**13), np.float32)
GROWING = {  # each 256 MB
    "Range": lambda: made_of_constants("Range", np.float32(0), np.float32(2**26), np.float32(1)),
    "Pad": lambda: made_of_constants("Pad", np.ones(1, np.float32), [0, 2**26]),
    "Add": lambda: made_of_constants("Add", ROW, ROW.T),
    "Gather": lambda: made_of_constants("Gather", ROW, np.zeros(2**13, np.int64)),
}
OPEN_AND_RUN = """
import sys
import numpy as np
from lightning_audio import onnx_file
onnx_file.MOST_MEMORY = 2**27
try:
    onnx_file.session(open(sys.argv[1], "rb").read(), "it", 1).run(None, {"x": np.ones(1, np.float32)})
except Exception as error:
    print(error)
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))  # kB at most
"""


@pytest.mark.parametrize("operator", GROWING)
def test_what_grows_out_of_constants_ends_at_a_limit(operator: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(GROWING[operator]().SerializeToString())
    command = [sys.executable, "-c", OPEN_AND_RUN, str(tmp_path / "a.onnx")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Available memory of" in said
    assert int(said.split()[-2]) < 250_000


def test_a_harmless_file_runs_with_operators_of_functions_that_it_brings() -> None:
    double = onnx.helper.make_function(
        "own", "Double", ["a"], ["b"], [onnx.helper.make_node("Add", ["a", "a"], ["b"])],
        [onnx.helper.make_opsetid("", 17)],
    )  # fmt: skip
    content = model(node("Double", "x", domain="own"), functions=(double,)).SerializeToString()
    onnx_file.refuse_hostile(content, "it")
    (found,) = onnx_file.session(content, "it", 1).run(None, {"x": np.array([1, 2], np.float32)})
    assert found.tolist() == [2, 4]


def test_onnxruntime_reports_nothing_and_keeps_no_number_of_the_machine(tmp_path: Path) -> None:
    """It does, unless told otherwise, from 1.29 on: of each model, with its name, to its makers."""
    double = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    (tmp_path / "a.onnx").write_bytes(model(double).SerializeToString())
    code = "import sys; from lightning_audio import onnx_file as f; f.session(f.read(sys.argv[1]), 'it')"
    quiet = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME"}  # also quiet by these
    settings = {name: value for name, value in os.environ.items() if name not in quiet}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.onnx")],
        env=settings | {"HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
    )
    assert not list(tmp_path.glob("home/**/*"))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    whole = model(node("Add", "x", "w"), tensors=(tensor("w", np.ones(400, np.float32)),)).SerializeToString()
    (tmp_path / "a.onnx").write_bytes(b"no model at all")
    with pytest.raises(UserError, match="is no ONNX file: it is damaged"):
        onnx_file.read(tmp_path / "a.onnx")
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UserError, match="is no ONNX file"):
            onnx_file.refuse_hostile(whole[:size], "it")
    with pytest.raises(UserError, match=r"There is no ONNX file .*b\.onnx"):
        onnx_file.read(tmp_path / "b.onnx")
    with pytest.raises(UserError, match="is an address"):
        onnx_file.read("https://example.org/a.onnx")
