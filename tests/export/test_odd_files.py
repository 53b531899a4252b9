"""Exported files that were edited, mixed up or made elsewhere: an answer, or one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_audio import Runtime, onnx_file
from lightning_audio.cli import export, predict
from lightning_audio.errors import UserError
from lightning_audio.export.agreement import answer_by
from lightning_audio.export.card import card_of
from lightning_audio.export.onnx import onnx_graph, stream_graph
from lightning_audio.export.parts import parts_of
from lightning_audio.export.streaming import RuntimeStream
from lightning_audio.inference.live import LiveText
from lightning_audio.io import to_json

onnx = pytest.importorskip("onnx", reason="pip install 'lightning-audio[export]'")
pytest.importorskip("onnxruntime", reason="pip install 'lightning-audio[export]'")

from test_export import BEHIND, PARTS, speech_of, task_of  # noqa: E402

ODD: tuple[Any, ...] = (
    *(None, True, -1, 2**39, 1e308, math.nan, -math.inf, "", "abc", [], [None], [-1, -1], [2**30, 2**30]),
    *({}, {"a": 1}),
)
NOISE = np.random.default_rng(0).integers(-3000, 3000, 6_000).astype(np.int16)


def write(task: Any, file: Path, streaming: bool = False) -> None:
    parts, behind = parts_of(task)
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    card = export.described(task, Path("none")) | ({"parts": {**behind, "sha256": digests}} if parts else {})
    content, told = stream_graph(task) if streaming else (onnx_graph(task), {})
    if streaming:
        told["stream"]["detection"] = getattr(task, "detection", {})
    export.write(file, content, {**card, **told}, parts)


def behind(name: str) -> Any:
    network = {"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True}
    return task_of(network=network, task=BEHIND[name])


CARDS: dict[str, Callable[[Path], None]] = {
    "several labels": lambda file: write(PARTS["multilabel"](), file),
    "a trigger": lambda file: write(PARTS["trigger"](), file),
    "a trigger on a stream": lambda file: write(PARTS["trigger"](), file, streaming=True),
    "words on a stream": lambda file: write(speech_of("bilstm", "ctc"), file, streaming=True),
    "a transducer": lambda file: write(behind("lstm"), file),
    "attention": lambda file: write(behind("transformer"), file),
}


def answer(file: Path) -> str:
    """All that a file says of some noise, as JSON."""
    runtime = Runtime(file, threads=1)
    if "stream" not in runtime.card:
        return to_json([vars(one) for one in runtime.predict(NOISE, sample_rate=runtime.sample_rate)])
    if runtime.transcribes:
        text = LiveText(runtime)
        return to_json([vars(one) for one in text.push(NOISE) + text.finish()])
    stream = RuntimeStream(runtime)
    scores = np.concatenate([stream.push(NOISE), stream.finish()])
    return to_json([vars(one) for one in stream.detector().push(scores)])


def places(node: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a card: the first two of each list."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for name, value in items:
        if name != "versions":
            yield (*before, name)
            yield from places(value, (*before, name))


@pytest.mark.parametrize("name", CARDS)
def test_an_edited_card_answers_or_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in any place of it: never an error of Python's."""
    file = tmp_path / "a.onnx"
    known: dict[bytes, Any] = {}
    CARDS[name](file)
    session = onnx_file.session

    def opened_once(content: bytes, *arguments: Any) -> Any:
        key = hashlib.sha256(content).digest()
        known[key] = known.get(key) or session(content, *arguments)
        return known[key]

    monkeypatch.setattr(onnx_file, "session", opened_once)
    monkeypatch.setattr(sys, "stderr", None)
    card, refused = json.loads(card_of(file).read_text()), 0
    answer(file)
    for place in places(card):
        for odd in (*ODD, "left out"):
            edited = copy.deepcopy(card)
            node = edited
            for step in place[:-1]:
                node = node[step]
            if odd == "left out":
                del node[place[-1]]
            else:
                node[place[-1]] = odd
            card_of(file).write_text(json.dumps(edited))
            try:
                answer(file)
            except UserError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize(("old", "new"), [(0.5, math.nan), (0.5, 50.0), (0.5, -0.1)])
def test_thresholds_that_no_label_can_have_are_refused(old: float, new: float, tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    write(PARTS["multilabel"](), file)
    card = json.loads(card_of(file).read_text())
    assert card["rule"]["thresholds"][1] == old
    card["rule"]["thresholds"][1] = new
    card_of(file).write_text(json.dumps(card))
    with pytest.raises(UserError, match="thresholds"):
        Runtime(file)


def test_labels_that_are_alike_are_refused(exported: Path, tmp_path: Path) -> None:
    """They are the keys of the scores: one of two would be lost."""
    file = tmp_path / "a.onnx"
    shutil.copy(exported, file)
    card = json.loads(card_of(exported).read_text())
    card["facts"]["labels"][1] = card["facts"]["labels"][0]
    card_of(file).write_text(json.dumps(card))
    with pytest.raises(UserError, match="labels"):
        Runtime(file)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    write(behind("lstm"), tmp_path / "a.onnx")
    (tmp_path / "a.joiner.onnx").unlink()
    with pytest.raises(UserError, match=r"^\S*a\.joiner\.onnx, a part of a\.onnx, is not there: copy all"):
        Runtime(tmp_path / "a.onnx")
    shutil.copy(tmp_path / "a.predictor.onnx", tmp_path / "a.joiner.onnx")
    with pytest.raises(UserError, match=r"^a\.joiner\.onnx is no part of a\.onnx"):
        Runtime(tmp_path / "a.onnx")


def graph_of(scores: Any) -> Any:
    """A graph that gives these numbers for each clip; of None, a list of tensors."""
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    floats, ints = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    given = [info("waveforms", floats, ["N", "T"]), info("lengths", ints, ["N"])]
    if scores is None:
        nodes = [node("SequenceConstruct", ["waveforms"], ["scores"])]
        outputs, kept = [onnx.helper.make_tensor_sequence_value_info("scores", floats, None)], []
    else:
        nodes = [
            node("Shape", ["lengths"], ["n"]),
            node("Concat", ["n", "one"], ["times"], axis=0),
            node("Tile", ["row", "times"], ["scores"]),
        ]
        outputs = [info("scores", floats, ["N", len(scores)])]
        kept = [onnx.numpy_helper.from_array(np.array([1]), "one")]
        kept.append(onnx.numpy_helper.from_array(np.array([scores], np.float32), "row"))
    graph = onnx.helper.make_graph(nodes, "odd", given, outputs, kept)
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.1] * 9 + [math.nan], "no probabilities, or NaN"),
        ([math.inf] * 10, "no probabilities, or NaN"),
        ([-5.0] * 10, "no probabilities, or NaN"),
        (None, "its outputs are no tensors of numbers"),
    ],
)
def test_what_is_no_probability_is_never_an_answer(
    scores: Any, words: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in a table, and not as a label that one is sure of."""
    model, audio = tmp_path / "a.onnx", exported.with_name("noise.wav")
    import soundfile

    soundfile.write(audio, NOISE, 16000)
    card = json.loads(card_of(exported).read_text())
    export.write(model, graph_of(scores), card)
    for more in (["--format", "csv"], ["--events"], ["--pseudo-labels", "0.5"]):
        output = ["--output", str(tmp_path / "answers.jsonl")]
        with pytest.raises(SystemExit):
            predict.main([str(model), str(audio), *more, *output])
        assert words in capsys.readouterr().err
        assert not (tmp_path / "answers.jsonl").exists()
    export.write(model, graph_of([0.1] * 10), card)
    predict.main([str(model), str(audio), "--format", "csv"])
    assert "0.1000" in capsys.readouterr().out


def test_scores_of_a_stream_that_are_no_numbers_are_refused() -> None:
    from lightning_audio.inference.detections import Detector

    detector = Detector(("a", "b"), 0.01)
    assert [one.label for one in detector.push(np.array([[0.9, 0.1]], np.float32))] == ["a"]
    with pytest.raises(UserError, match="or NaN"):
        detector.push(np.array([[math.nan, 0.1]], np.float32))
    with pytest.raises(UserError, match="rows do not fit"):
        Detector(("a", "b"), 0.01, smooth=10**12)


@pytest.mark.parametrize("name", ["ctc", "lstm", "transformer"])
def test_weights_are_tuned_on_what_an_exported_file_gives(name: str, tmp_path: Path) -> None:
    """Log-probabilities, or states: what decoders take of the run, too."""
    task = PARTS["ctc"]() if name == "ctc" else behind(name)
    write(task, tmp_path / "a.onnx")
    waveforms = torch.from_numpy(NOISE / np.float32(32768))[None].repeat(2, 1)
    lengths = torch.tensor([6000, 6000])
    with torch.no_grad():
        rows, counts = task.outputs(waveforms, lengths)
        answer_by(task, Runtime(tmp_path / "a.onnx", threads=1))
        found, others = task.outputs(waveforms, lengths)
    torch.testing.assert_close(found, rows, atol=1e-4, rtol=1e-4)
    assert others.tolist() == counts.tolist()
