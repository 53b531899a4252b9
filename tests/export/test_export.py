"""An exported run says what the run says, without torch; what does not is not written."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, edit, sine, trained, write_wav

import lightning_audio
from lightning_audio import Runtime, build
from lightning_audio.cli import arguments, export, predict
from lightning_audio.cli import evaluate as evaluate_program
from lightning_audio.data.info import DataInfo
from lightning_audio.decoding import Beam
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.export import agreement as agreement_module
from lightning_audio.export.card import _refuse_odd_parts, card_of
from lightning_audio.export.onnx import onnx_graph, stream_graph
from lightning_audio.export.parts import parts_of
from lightning_audio.export.program import Program, exported_program, least_samples
from lightning_audio.export.quantize import quantized
from lightning_audio.export.streaming import RuntimeStream
from lightning_audio.inference.events import timelines
from lightning_audio.inference.live import LiveText, LiveWord
from lightning_audio.inference.stream import Stream
from lightning_audio.inference.transcribe import transcribe
from lightning_audio.metrics.intervals import Score
from lightning_audio.reports.html.run import exported_scores, score_rows
from lightning_audio.tasks.base import AudioTask

onnx = pytest.importorskip("onnx", reason="pip install 'lightning-audio[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'lightning-audio[export]'")

RATE = 8000
LOG_MEL = {
    "_target_": "lightning_audio.frontend.log_mel.LogMel",
    "n_fft": 256,
    "hop_length": 80,
    "n_mels": 16,
}
LINEAR = {"_target_": "lightning_audio.networks.heads.LinearHead"}
CNN = {"_target_": "lightning_audio.networks.cnn2d.CNN2d", "widths": [4, 8]}
CLASSES = {"_target_": "lightning_audio.tasks.classification.Classification"}
YAMNET = {"_target_": "lightning_audio.networks.encoders.yamnet.YAMNet"}


def test_what_is_no_number_never_agrees() -> None:
    number, none = np.ones((3, 2), np.float32), np.full((3, 2), np.nan, np.float32)
    for pair in ((number, none), (none, number), (none, none)):
        assert max(0.0, agreement_module._largest(*pair)) == np.inf
    assert agreement_module._largest(number, number) == 0


def task_of(rate: int = RATE, **parts: Any) -> Any:
    torch.manual_seed(0)
    answering = {"frontend": LOG_MEL, "normalize": "corpus", "network": LINEAR, "task": CLASSES} | parts
    encoding = {"vocabulary": {"kind": "characters", "vocabulary": list(" abc")}}
    return build.assemble(answering, DataInfo(tuple(" abc"), rate, 0.6, encoding=encoding)).eval()


PARTS: dict[str, Callable[[], Any]] = {
    **{by: partial(task_of, normalize=by) for by in ("per_feature", "per_clip", "per_clip_cmn", "none")},
    "mfcc": lambda: task_of(
        frontend=LOG_MEL | {"_target_": "lightning_audio.frontend.mfcc.MFCC", "n_mfcc": 9}
    ),
    "three windows": lambda: task_of(frontend=LOG_MEL | {"win_length": [64, 128, 200]}, network=CNN),
    "waveform": lambda: task_of(
        frontend={"_target_": "lightning_audio.frontend.waveform.Waveform"},
        network={
            "_target_": "lightning_audio.networks.waveform_cnn.WaveformCNN",
            "filters": 8,
            "widths": [8, 8, 8],
        },
    ),
    "states of yamnet": lambda: task_of(
        16000, frontend={"_target_": "lightning_audio.frontend.frozen.Frozen", "encoder": YAMNET}
    ),
    "yamnet pooled": lambda: task_of(
        16000,
        frontend={
            "_target_": "lightning_audio.frontend.frozen.Frozen",
            "encoder": YAMNET,
            "pool": ["mean", "max", "std"],
        },
    ),
    "shifts": lambda: task_of(network=CNN, task=CLASSES | {"shifts": 3}),
    "multilabel": lambda: task_of(task={"_target_": "lightning_audio.tasks.multilabel.MultiLabel"}),
    "trigger": lambda: task_of(
        frontend=LOG_MEL | {"top_db": None},
        network={"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True},
        task={"_target_": "lightning_audio.tasks.trigger.Trigger", "background": [" ", "b"]},
    ),
    "ctc": lambda: task_of(
        network={
            "_target_": "lightning_audio.networks.bilstm.BiLSTM",
            "channels": 4,
            "hidden": 8,
            "layers": 2,
            "stack": 2,
        },
        task={"_target_": "lightning_audio.tasks.ctc.CTC", "text": {"steps": ["lower"]}},
    ),
}


def program(task: AudioTask) -> Program:
    card = export.described(task, Path("none")) | {"least_samples": least_samples(task)}
    return Program(exported_program(task), card)


def written(task: AudioTask, folder: Path) -> Runtime:
    export.write(folder / "model.onnx", onnx_graph(task), export.described(task, folder / "none"))
    return Runtime(folder / "model.onnx", threads=1)


@pytest.mark.parametrize("name", PARTS)
def test_front_ends_and_tasks_say_the_same_in_a_graph(name: str, tmp_path: Path) -> None:
    """Of clips of all lengths, in batches and alone; the clips are those that `export` makes for itself."""
    task = PARTS[name]()
    found = agreement_module.agreement(task, written(task, tmp_path), [])
    assert found.clips == found.same_answers == len(agreement_module.MADE)
    assert max(found.difference, found.by_padding) < 1e-5


@pytest.mark.parametrize(
    "name", ["per_clip", "mfcc", "three windows", "waveform", "shifts", "trigger", "ctc"]
)
def test_front_ends_and_tasks_say_the_same_in_a_program(name: str) -> None:
    task = PARTS[name]()
    found = agreement_module.agreement(task, program(task), [])
    assert found.clips == found.same_answers == len(agreement_module.MADE)
    assert max(found.difference, found.by_padding) < 1e-5


def test_what_has_no_program_is_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"torch\.export makes no program of the run, take --format onnx: "):
        program(PARTS["states of yamnet"]())


@pytest.mark.parametrize("options", [{}, {"stride": 3, "layers": 1}, {"stem": 0}])
def test_a_stream_is_heard_as_by_the_run(options: dict[str, Any], tmp_path: Path) -> None:
    """In pieces of any size; rows, times and detections are those of the task."""
    network = {"_target_": "lightning_audio.networks.gru.GRU", "hidden": 8, "per_frame": True, **options}
    trigger = {"_target_": "lightning_audio.tasks.trigger.Trigger", "background": [" "], "threshold": 0.26}
    task = task_of(frontend=LOG_MEL | {"top_db": None}, network=network, task=trigger)
    content, told = stream_graph(task)
    told["stream"]["detection"] = task.detection
    export.write(tmp_path / "a.onnx", content, export.described(task, tmp_path / "none") | told)
    runtime = Runtime(tmp_path / "a.onnx", threads=1)
    found = agreement_module.stream_agreement(task, runtime)
    assert found.clips == found.same_answers == len(agreement_module.MADE)
    assert found.difference < 1e-5
    stream, own = RuntimeStream(runtime), Stream(task)
    assert stream.frame_seconds == own.frame_seconds
    samples = (3000 * np.random.default_rng(0).standard_normal(5 * RATE)).astype(np.int16)
    for rules in (dict[str, float](), {"on": 0.252, "min_gap": 0.1}):
        heard = stream.detector(**rules).push(np.concatenate([stream.push(samples), stream.finish()]))
        scores = torch.cat([own.push(samples), own.finish()])
        expected = task.detector(**rules).push(scores.numpy())
        assert [(one.time, one.label) for one in heard] == [(one.time, one.label) for one in expected]
    assert len(heard) > 0
    with pytest.raises(UserError, match="exported for streams"):
        runtime.predict(samples, sample_rate=RATE)
    # Its scores are those of the run: of clips, each a stream of its own, and of long audio.
    lengths = torch.tensor([RATE, RATE // 3, 500])
    waveforms = torch.randn(3, RATE) / 10 * (torch.arange(RATE) < lengths[:, None])
    with torch.no_grad():
        clips, long = task.forward_tta(waveforms, lengths)[0], task.listen(samples)
        agreement_module.answer_by(task, runtime)
        torch.testing.assert_close(task.forward_tta(waveforms, lengths)[0], clips, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(task.listen(samples), long, atol=1e-5, rtol=0)


CHUNKED: dict[str, dict[str, Any]] = {
    "bilstm": {"hidden": 8, "layers": 2, "chunk": 4},
    "conformer": {"width": 16, "heads": 2, "feedforward": 16, "layers": 2, "kernel": 5, "chunk": 3}
    | {"left_chunks": 2},
}


def speech_of(kind: str, name: str) -> Any:
    """A task that transcribes chunk by chunk, of drawn weights that say much."""
    network = {"bilstm": "bilstm.BiLSTM", "conformer": "conformer.Conformer"}[kind]
    task = task_of(
        frontend=LOG_MEL | {"top_db": None},
        network={"_target_": f"lightning_audio.networks.{network}", "channels": 4, **CHUNKED[kind]},
        task=BEHIND.get(name, {"_target_": "lightning_audio.tasks.ctc.CTC", "text": {"steps": ["lower"]}}),
    )
    with torch.no_grad():
        behind = task.network.head if name == "ctc" else task.joiner.output
        behind.bias.zero_()
        behind.weight.mul_(8)
    return task


def tones(size: int, rng: np.random.Generator) -> np.ndarray:
    """Ten a second, int16."""
    pitch = np.repeat(rng.uniform(100, RATE / 2, size // 800 + 1), 800)[:size]
    return (9000 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)).astype(np.int16)


@pytest.mark.parametrize("kind", CHUNKED)
@pytest.mark.parametrize("name", ["ctc", "lstm", "stateless"])
def test_words_of_a_stream_are_those_of_the_run(kind: str, name: str, tmp_path: Path) -> None:
    """In pieces of any size, chunk by chunk, with what the run knows of the whole; a short chunk ends it."""
    task = speech_of(kind, name)
    export.write_streaming(task, export_options(tmp_path / "a.onnx"))
    runtime = Runtime(tmp_path / "a.onnx", threads=1)
    assert runtime.card["agreement"]["same_answers"] == len(agreement_module.MADE)
    assert runtime.card["agreement"]["difference"] < 1e-5
    rng, own, other = np.random.default_rng(1), LiveText(task), LiveText(runtime)
    for size in (3 * RATE, 2 * RATE + 77, RATE // 50, 3):  # one after another: each begins anew
        samples = tones(size, rng)
        pieces = np.split(samples, np.sort(rng.integers(0, size, 20)))
        heard, expected = (
            [one for piece in pieces for one in text.push(piece)] + text.finish() for text in (other, own)
        )
        assert news_of(heard) == news_of(expected)
        whole = task.greedy(task.frame_outputs([samples])[0])[0].text
        said = "".join(one.word.text for one in heard if one.final)
        assert said == "".join(whole.split())
        assert said or size < 3 * RATE
    with pytest.raises(UserError, match="exported for streams"):
        runtime.predict(samples, sample_rate=RATE)
    with pytest.raises(UserError, match="no numbers"):
        other.push(np.full(10, np.nan))


def export_options(output: Path) -> argparse.Namespace:
    return arguments.export(["none", "--output", str(output), "--streaming"])


def news_of(news: list[LiveWord]) -> list[tuple[Any, ...]]:
    return [(one.heard, one.final, one.joins, one.word.text, one.word.start, one.word.end) for one in news]


def test_predict_prints_the_words_of_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, model, raw = speech_of("bilstm", "lstm"), tmp_path / "a.onnx", tmp_path / "a.raw"
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, tmp_path / "a.ckpt")
    export.main([str(tmp_path / "a.ckpt"), "--output", str(model), "--streaming"])
    assert "a.predictor.onnx, a.joiner.onnx, a.onnx.json" in capsys.readouterr().out
    raw.write_bytes(tones(RATE, np.random.default_rng(0)).tobytes())
    lines = []
    for file in (tmp_path / "a.ckpt", model):
        predict.main([str(file), str(raw), "--stream", "--format", "jsonl"])
        lines.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(lines[0]) > 1
    for own, other in zip(*lines, strict=True):
        assert other == {**own, "score": pytest.approx(own["score"], abs=1e-4)}
    with pytest.raises(SystemExit):
        predict.main([str(model), str(raw), "--stream", "--beam", "4"])
    assert "without --beam" in capsys.readouterr().err
    attention = task_of(
        frontend=LOG_MEL | {"top_db": None}, network=STATES | {"chunk": 4}, task=BEHIND["transformer"]
    )
    with pytest.raises(UserError, match="hears an utterance to its end"):
        stream_graph(attention)


STATES = {
    "_target_": "lightning_audio.networks.bilstm.BiLSTM",
    "channels": 4,
    "hidden": 8,
    "layers": 1,
    "stack": 2,
}
ATTENTION = {
    "_target_": "lightning_audio.tasks.attention.Attention",
    "text": {"steps": ["lower"]},
    "width": 16,
}


def decoder_of(name: str, layers: int = 1) -> dict[str, Any]:
    made = {"_target_": f"lightning_audio.tasks.decoders.{name}", "_partial_": True}
    return made | {"hidden": 16, "heads": 2, "layers": layers}


BEHIND: dict[str, dict[str, Any]] = {
    kind: {
        "_target_": "lightning_audio.tasks.transducer.Transducer",
        "text": {"steps": ["lower"]},
        "width": 16,
        "predictor": {"kind": kind, "hidden": 8},
        "max_symbols": 2,
    }
    for kind in ("lstm", "stateless")
}
BEHIND["attention by an LSTM"] = ATTENTION | {"decoder": decoder_of("LSTMDecoder", 2)}
BEHIND["attention without CTC"] = ATTENTION | {"decoder": decoder_of("LSTMDecoder"), "ctc_weight": 0.0}
BEHIND["attention that expects"] = ATTENTION | {"decoder": decoder_of("LSTMDecoder") | {"ahead": 2.0}}
BEHIND["attention to pairs"] = ATTENTION | {"decoder": decoder_of("LSTMDecoder") | {"pool": 2}}
BEHIND["transformer"] = ATTENTION | {"decoder": decoder_of("TransformerDecoder", 2)}


@pytest.mark.parametrize("name", BEHIND)
def test_what_stands_behind_the_frames_is_asked_step_by_step(name: str, tmp_path: Path) -> None:
    """Answers, scores and times are those that the decoders of torch find, of drawn weights that say much."""
    task = task_of(network=STATES, task=BEHIND[name])
    with torch.no_grad():
        if name in ("lstm", "stateless"):
            task.joiner.output.bias.zero_()[0] = -1.0
            task.joiner.output.weight.mul_(8)
        else:
            task.speller.embedding.weight.mul_(3)
            linear = [one for one in task.speller.head.modules() if isinstance(one, torch.nn.Linear)]
            linear[-1].weight.mul_(6)
    parts, told = parts_of(task, 17)
    card = export.described(task, tmp_path / "none")
    card["parts"] = told | {"sha256": {n: hashlib.sha256(part).hexdigest() for n, part in parts.items()}}
    export.write(tmp_path / "a.onnx", onnx_graph(task), card, parts)
    runtime = Runtime(tmp_path / "a.onnx", threads=1)
    found = agreement_module.agreement(task, runtime, [])
    assert found.clips == found.same_answers == len(agreement_module.MADE)
    assert max(found.difference, found.by_padding) < 1e-5
    own = task.decoder
    said = set()
    for rows in task.frame_outputs(agreement_module.made_clips(task)):
        (best,), (other,) = own(rows), runtime.decoder(rows)
        said.add(other.tokens)
        assert (other.tokens, other.text) == (best.tokens, best.text)
        assert other.acoustic == pytest.approx(best.acoustic, rel=1e-4, abs=1e-4)
        assert runtime.decoder.score_of(rows, (1, 2)).score == pytest.approx(
            own.score_of(rows, (1, 2)).score, rel=1e-4, abs=1e-4
        )
        spans = [(one.start, one.end) for one in runtime.decoder.token_frames(rows, other.tokens, "it")]
        assert spans == [(one.start, one.end) for one in own.token_frames(rows, best.tokens, "it")]
        np.testing.assert_allclose(runtime.decoder.silence(rows), own.silence(rows), atol=1e-5)
    samples = (3000 * np.random.default_rng(3).standard_normal(20000)).astype(np.int16)
    assert runtime.predict(samples, sample_rate=RATE)[0].seconds == 2.5
    searches: list[dict[str, Any]] = [{"beam": 1}, {"beam": 4, "nbest": 3}]
    searches += [{"beam": 2, "word_bonus": 2.0, "length_norm": 0.3}]
    searches += [{"beam": 3, "ctc_weight": 0.3, "coverage": 0.2}] if told.get("ctc") else []
    for options in searches:
        for rows in task.frame_outputs(agreement_module.made_clips(task)):
            wanted, given = task.beam(**options)(rows), runtime.beam(**options)(rows)
            said.update(one.tokens for one in given)
            assert [one.tokens for one in given] == [one.tokens for one in wanted]
            assert [one.score for one in given] == pytest.approx([one.score for one in wanted], rel=1e-4)
    assert max(map(len, said)) >= 2
    (tmp_path / f"a.{next(iter(parts))}.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(UserError):
        Runtime(tmp_path / "a.onnx")


@pytest.mark.parametrize("search", [{"beam": 10**9}, {"model": 1}, {"ctc_weight": "0.3"}])
def test_a_card_with_an_odd_search_is_refused(search: dict[str, Any]) -> None:
    told = {"kind": "attention", "sha256": {"begin": "", "step": ""}, "width": 20, "fixed": 3, "ctc": 4}
    _refuse_odd_parts(told | {"search": {"beam": 8, "ctc_weight": 0.3}})
    with pytest.raises(ValueError, match="search"):
        _refuse_odd_parts(told | {"search": search})


# The programs.


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    samples = np.concatenate(
        [sine(400, 0.7, 22050), 0.1 * rng.standard_normal(22050), sine(3000, 0.9, 22050)]
    )
    return write_wav(tmp_path_factory.mktemp("audio") / "long.wav", samples, 22050)


def test_the_card_says_what_the_file_is(exported: Path, tiny_run: Path) -> None:
    card = json.loads(exported.with_name("demo.onnx.json").read_text())
    assert card["facts"]["sample_rate"] == 16000
    assert card["agreement"]["same_answers"] == card["agreement"]["clips"] == 64 + len(agreement_module.MADE)
    assert card["agreement"]["difference"] < 1e-5
    names = [value.name for value in onnx.load(exported).graph.input]
    assert names == ["waveforms", "lengths"]


def test_the_runtime_answers_as_the_run(exported: Path, tiny_run: Path, recording: Path) -> None:
    model: Any = lightning_audio.load(tiny_run)
    runtime = Runtime(exported)
    noise = (3000 * np.random.default_rng(1).standard_normal(5000)).astype(np.int16)
    cases: tuple[tuple[Any, dict[str, Any]], ...] = (
        ([recording, str(recording)], {}),
        (noise, {"sample_rate": 16000}),
        (recording, {"window": 1.0, "hop": 0.3}),
    )
    for audio, options in cases:
        for own, other in zip(
            model.predict(audio, **options), runtime.predict(audio, **options), strict=True
        ):
            assert (other.id, other.hypothesis, other.seconds) == (own.id, own.hypothesis, own.seconds)
            assert other.scores == pytest.approx(own.scores, abs=1e-6)
            assert [window[:3] for window in other.windows] == [window[:3] for window in own.windows]
    samples = [("long", (3000 * np.random.default_rng(2).standard_normal(40000)).astype(np.int16))]
    found = [next(iter(timelines(one, samples, on=0.12, off=0.1)))[1] for one in (model, runtime)]
    times = [[(event.start, event.end, event.label) for event in heard] for heard in found]
    assert times[0] == times[1]


def test_speech_is_transcribed_as_by_the_run(
    exported_speech: Path, speech_run: Path, recording: Path
) -> None:
    model: Any = lightning_audio.load(speech_run)
    runtime = Runtime(exported_speech)
    samples = [("r", (3000 * np.random.default_rng(3).standard_normal(90000)).astype(np.int16))]
    for decoder in (None, Beam(model.tokenizer, beam=8, nbest=4)):
        if decoder:
            model.decoder = runtime.decoder = decoder
        own, other = (next(transcribe(one, samples, longest=4.0)) for one in (model, runtime))
        assert other.text == own.text
        assert [[h.text for h in n] for n in other.nbest] == [[h.text for h in n] for n in own.nbest]
        assert [word.start for word in other.words] == [word.start for word in own.words]
    (answer,) = runtime.predict(recording)
    assert answer.hypothesis == model.predict(recording)[0].hypothesis


def test_predict_takes_the_file_without_torch(
    exported: Path, tiny_run: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process that can't import it, nor any other package that the runtime does not need."""
    wanted = ("torch", "pytorch_lightning", "scipy", "hydra", "omegaconf", "rich", "filelock", "librosa")
    code = (
        f"import sys\nfor name in {wanted!r}: sys.modules[name] = None\n"
        "from lightning_audio.cli import predict\n"
        f"options = [{str(exported)!r}, {str(recording)!r}, '--windows']\n"
        "predict.main([*options, '--format', 'csv'])\npredict.main(options)\n"
    )
    source = {"PYTHONPATH": str(Path(lightning_audio.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **source}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "A table needs rich, which is not installed: take --format csv" in done.stderr
    predict.main([str(tiny_run), str(recording), "--format", "csv", "--windows"])
    assert done.stdout == capsys.readouterr().out


def test_a_program_is_loaded_by_torch_alone(tiny_run: Path, tmp_path: Path) -> None:
    """In a process that does not know this package, with the answers of the run."""
    file = tmp_path / "demo.pt2"
    export.main([str(tiny_run), "--output", str(file), "--format", "torch_export"])
    card = json.loads(card_of(file).read_text())
    assert card["format"] == "torch_export"
    assert card["agreement"]["same_answers"] == card["agreement"]["clips"] == 64 + len(agreement_module.MADE)
    clips = [(3000 * np.random.default_rng(n).standard_normal(n)).astype(np.int16) for n in (5000, 9000, 700)]
    assert card["least_samples"] <= 9000
    np.savez(tmp_path / "clips.npz", *clips)
    code = f"""if True:
        import sys, numpy, torch
        sys.modules["lightning_audio"] = None
        module = torch.export.load({str(file)!r}).module()
        clips = [*numpy.load({str(tmp_path / "clips.npz")!r}).values()]
        waveforms = torch.zeros(len(clips), 9000)
        for row, clip in zip(waveforms, clips):
            row[: len(clip)] = torch.from_numpy(clip / 32768)
        (scores,) = module(waveforms, torch.tensor([len(clip) for clip in clips]))
        print(scores.tolist())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = lightning_audio.load(tiny_run).clip_scores(clips)
    np.testing.assert_allclose(json.loads(done.stdout), own, atol=1e-5)


def test_evaluate_gives_the_scores_of_the_run(
    exported_speech: Path, speech_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "exported")]
    evaluate_program.main([str(exported_speech), "--run", str(speech_run), *output])
    assert "The same numbers as when it was trained" in capsys.readouterr().out
    found, own = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "exported", speech_run)
    )
    assert {n: s["value"] for n, s in found["scores"].items()}.items() <= {
        n: s["value"] for n, s in own["scores"].items()
    }.items()
    assert found["exported"]["file"] == str(exported_speech)
    # The page of a run shows them beside those of the run.
    scores = {name: Score(**score) for name, score in own["scores"].items()}
    rows = score_rows(scores, exported_scores(tmp_path))
    assert {row["exported"] == row["test"] for row in rows if "exported" in row} == {True}
    assert not any("exported" in row for row in score_rows(scores, exported_scores(speech_run)))


def test_clips_run_together_while_they_are_small(exported: Path) -> None:
    """Sorted by length, each once, and the answers stay in the order of the clips."""
    runtime = Runtime(exported, threads=1)
    rng = np.random.default_rng(0)
    clips = [(3000 * rng.standard_normal(n)).astype(np.int16) for n in (900, 130000, 16000, 40000, 16000, 1)]
    assert sorted(map(sorted, runtime._together(clips))) == [[0, 5], [1], [2, 3, 4]]
    runtime.card["ragged"] = False
    assert sorted(map(sorted, runtime._together(clips))) == [[0], [1], [2, 4], [3], [5]]
    alone = np.concatenate([runtime.clip_scores([clip]) for clip in clips])
    np.testing.assert_allclose(runtime.clip_scores(clips), alone, atol=1e-6)


@pytest.mark.long
def test_eight_bits_keep_the_score_and_are_refused_where_they_lose_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "network.widths=[32,32]", "loader.val_fraction=0.25", "trainer.max_epochs=1"]
    run = trained(tmp_path / "run", tmp_path_factory.getbasetemp() / "cache", options)
    clip = (3000 * np.random.default_rng(0).standard_normal(8000)).astype(np.int16)
    task: Any = lightning_audio.load(run)
    own = task.clip_scores([clip])[0]
    for kind, how, within in (("int8", "static", 0.1), ("int8_weights", "weights", 0.02)):
        file = tmp_path / f"{kind}.onnx"
        export.main([str(run), "--output", str(file), "--format", kind, "--max-loss", "25"])
        assert "lost" in capsys.readouterr().out
        card = json.loads(card_of(file).read_text())
        assert card["format"] == f"{kind} ({how})"
        low, high = card["validation"]["interval"]
        assert low <= card["validation"]["lost_points"] <= high
        kinds = [tensor.data_type for tensor in onnx.load(file).graph.initializer]
        assert kinds.count(onnx.TensorProto.INT8) >= 4
        assert kinds.count(onnx.TensorProto.UINT8) == (8 if kind == "int8" else 0)  # zeros of activations
        assert 0 < np.abs(own - Runtime(file).clip_scores([clip])[0]).max() < within
    with pytest.raises(SystemExit):
        export.main(
            [str(run), "--output", str(tmp_path / "b.onnx"), "--format", "int8", "--max-loss", "-101"]
        )
    assert "more than --max-loss -101 points" in capsys.readouterr().err
    assert not (tmp_path / "b.onnx").exists()


def test_fourier_transforms_keep_their_precision() -> None:
    """The only large matrices that are halved are mel filters: they are mostly zeros. A tone is heard
    beside one 70 dB above it as in float."""
    task = task_of(frontend=LOG_MEL | {"n_fft": 4096, "hop_length": 1024})
    content = quantized(onnx_graph(task), "int8_weights")[0]
    small = onnx.load_from_string(content).graph.initializer
    halves = [onnx.numpy_helper.to_array(one) for one in small if one.data_type == onnx.TensorProto.FLOAT16]
    assert [(half == 0).mean() > 0.8 for half in halves] == [True]
    turns = [onnx.numpy_helper.to_array(one) for one in small if one.data_type == onnx.TensorProto.INT16]
    assert [np.abs(turn.astype(int)).max() for turn in turns] == [2**15 - 1] * 2
    time = np.arange(RATE) / RATE
    tones = (np.sin(2 * np.pi * 440 * time) + 10**-3.5 * np.sin(2 * np.pi * 3000 * time)) / 2
    given = {"waveforms": tones[None].astype(np.float32), "lengths": np.array([RATE])}
    own, found = (
        onnxruntime.InferenceSession(graph).run(None, given)[0] for graph in (onnx_graph(task), content)
    )
    np.testing.assert_allclose(found, own, atol=1e-3)


def test_recurrent_layers_are_measured_as_they_come(speech_run: Path, tmp_path: Path) -> None:
    export.main(
        [str(speech_run), "--output", str(tmp_path / "a.onnx"), "--format", "int8", "--max-loss", "100"]
    )
    card = json.loads((tmp_path / "a.onnx.json").read_text())
    assert card["format"] == "int8 (dynamic)"
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node}


# What is refused.


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        export.main([*arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_does_not_say_the_same_is_not_written(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(task: AudioTask, opset: int) -> bytes:
        with torch.no_grad():
            task.network.head.bias[0] += 0.1  # type: ignore[union-attr, index, operator]
            try:
                return onnx_graph(task, opset)
            finally:
                task.network.head.bias[0] -= 0.1  # type: ignore[union-attr, index, operator]

    monkeypatch.setattr(export, "onnx_graph", other)
    sentence = refused(capsys, str(tiny_run), "--output", str(tmp_path / "a.onnx"))
    assert "does not say what the run says: probabilities differ by up to 0.0" in sentence
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_sentence(
    tiny_run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "a.onnx")]
    assert "let it end in .onnx" in refused(capsys, str(tiny_run), "--output", str(tmp_path / "a.bin"))
    (tmp_path / "b.onnx.json").mkdir()
    assert "b.onnx.json is a folder" in refused(capsys, str(tiny_run), "--output", str(tmp_path / "b.onnx"))
    (tmp_path / "b.onnx.json").rmdir()
    torch_export = ["--format", "torch_export"]
    assert "let it end in .pt2" in refused(capsys, str(tiny_run), *output, *torch_export)
    program_output = ["--output", str(tmp_path / "a.pt2"), *torch_export]
    assert "--opset is of ONNX" in refused(capsys, str(tiny_run), *program_output, "--opset", "17")
    assert "--opset 3 is not written here" in refused(capsys, str(tiny_run), *output, "--opset", "3")
    assert "There is no checkpoint" in refused(capsys, str(tmp_path / "none"), *output)
    assert "--opset 0 is not written here" in refused(capsys, str(tiny_run), *output, "--opset", "0")
    assert "is exported already" in refused(capsys, str(exported), *output)
    assert "One run becomes one file" in refused(capsys, str(tiny_run), str(tiny_run), *output)
    assert "changes no option" in refused(capsys, str(tiny_run), *output, "dta.root=elsewhere")
    assert "data can't be built" in refused(capsys, str(tiny_run), *output, "data.seed=x")
    checkpoint = str(tiny_run / "checkpoints" / "last.ckpt")
    assert "an option of a run folder" in refused(capsys, checkpoint, *output, "data.seed=1")
    assert "add --format int8" in refused(capsys, str(tiny_run), *output, "--max-loss", "1")
    assert "--max-loss nan" in refused(
        capsys, str(tiny_run), *output, "--format", "int8", "--max-loss", "nan"
    )
    assert "train with frontend.top_db=null" in refused(capsys, str(tiny_run), *output, "--streaming")
    with pytest.raises(UserError, match="answers for whole recordings: export the run with --streaming"):
        RuntimeStream(Runtime(exported))
    assert "has none here" in refused(capsys, str(tiny_run), *output, "--format", "int8")
    with pytest.raises(SystemExit):
        evaluate_program.main([str(tmp_path / "a.onnx")])
    assert "give both, FILE.onnx --run RUN" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_belong_together_are_refused(exported: Path, tmp_path: Path) -> None:
    model, card = tmp_path / "a.onnx", tmp_path / "a.onnx.json"
    model.write_bytes(exported.read_bytes())
    with pytest.raises(UserError, match=r"There is no .*a\.onnx\.json beside the model"):
        Runtime(model)
    told = exported.with_name("demo.onnx.json").read_text()
    card.write_text(told)
    assert Runtime(model).labels == Runtime(exported).labels
    for old, new in (
        ('"sample_rate": 16000', '"sample_rate": -1'),
        ('"kind": "best"', '"kind": "worst"'),
        ('"ragged": true', '"ragged": 3'),
        ('"clip_seconds": 0.5', '"clip_seconds": 1e300'),
    ):
        card.write_text(told)
        edit(card, old, new)
        with pytest.raises(UserError, match="does not say what the model gives"):
            Runtime(model)
    card.write_text(told)
    edit(card, '"engine",', "")
    with pytest.raises(UserError, match=r"gives scores of shape \(1, 10\), not of its 9 labels"):
        Runtime(model).predict(np.zeros(800, np.int16), sample_rate=16000)
    for damaged in (told[:100], "[" * 9_000):
        card.write_text(damaged)
        with pytest.raises(UserError, match="is no JSON"):
            Runtime(model)
    card.write_text(told)
    model.write_bytes(exported.read_bytes() + b"\x00")
    with pytest.raises(UserError, match=r"is not the model that|is no ONNX file"):
        Runtime(model)


@pytest.mark.slow
def test_an_environment_of_four_packages_is_enough(
    exported: Path, exported_speech: Path, recording: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """NumPy, soundfile, soxr and onnxruntime, with what these bring; there is no torch."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    packages = ["numpy", "soundfile", "soxr", "onnxruntime"]
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", *packages], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip can't install them here: {done.stderr[-200:]}")
    environment = {"PYTHONPATH": str(Path(lightning_audio.__file__).parents[1]), "PATH": ""}

    def answered(model: Path, form: str) -> str:
        command = [
            str(python),
            "-m",
            "lightning_audio",
            "predict",
            str(model),
            str(recording),
            "--format",
            form,
        ]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    (own,) = lightning_audio.load(tiny_run).predict(recording)
    assert json.loads(answered(exported, "jsonl"))["scores"] == pytest.approx(own.scores, abs=1e-6)
    assert answered(exported_speech, "text").startswith(str(recording))
    assert subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode == 1


def test_a_full_disk_leaves_what_was_there(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of before and its card, which belong together, and nothing half written."""
    model, card = tmp_path / "a.onnx", json.loads(card_of(exported).read_text())
    content, whole = exported.read_bytes(), Path.open
    export.write(model, content, card)
    before = [model.read_bytes(), card_of(model).read_bytes()]

    def full(path: Path, mode: str = "r") -> Any:
        if ".onnx.json" not in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return whole(path, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SystemExit):
        cli_errors(export.write)(model, content, card | {"run": "another"})
    monkeypatch.undo()
    assert f"The disk of {model} is full" in capsys.readouterr().err
    assert [model.read_bytes(), card_of(model).read_bytes()] == before
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_installed_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"run pip install 'lightning-audio\[export\]'"):
        onnx_graph(task_of())


def test_scores_of_an_exported_file_are_not_those_of_another_run(
    exported: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where labels and rate are the same."""
    other = trained(tmp_path / "other", tmp_path / "cache", [*TINY, "seed=7"])
    with pytest.raises(SystemExit):
        evaluate_program.main([str(exported), "--run", str(other)])
    told = capsys.readouterr().err
    assert f"was exported from last.ckpt of the run {tiny_run.name}, which {other} does not have" in told
    assert not (other / "exported").exists()
    evaluate_program.main([str(exported), "--run", str(tiny_run), "--output", str(tmp_path / "own")])
    assert "The same numbers as when it was trained" in capsys.readouterr().out
    shutil.copytree(other, tmp_path / "renamed")
    model = tmp_path / "a.onnx"
    export.main([str(other), "--output", str(model)])
    evaluate_program.main([str(model), "--run", str(tmp_path / "renamed")])
    card = json.loads(card_of(model).read_text()) | {"task": "multilabel"}
    card_of(model).write_text(json.dumps(card))
    with pytest.raises(SystemExit):
        evaluate_program.main([str(model), "--run", str(other)])
    assert "its labels, its rate or its task are others" in capsys.readouterr().err
