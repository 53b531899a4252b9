"""Exported models against torch: answers by one core, log-mel in the graph, the first answer of a process.

Networks as the experiments have them, with weights as drawn: how fast they answer does not depend on what
they have learned. Every contender runs in one thread, on batches of clips as long as those of the experiment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf
from timing import arguments, interleaved, report

from lightning_audio import build
from lightning_audio.cli.export import described, write
from lightning_audio.config import compose_config
from lightning_audio.data.info import DataInfo
from lightning_audio.export.onnx import onnx_graph, stream_graph
from lightning_audio.export.quantize import quantized
from lightning_audio.export.runtime import Runtime
from lightning_audio.export.streaming import RuntimeStream
from lightning_audio.inference.stream import Stream
from lightning_audio.tasks.base import AudioTask

# Seconds of a clip, labels or tokens, and the targets of float and of int8, as times of torch.
MODELS: dict[str, tuple[float, int, str, str]] = {
    "esc10_cnn2d": (5.0, 10, "<= 1.0", "<= 0.5"),
    "speech_commands_bc_resnet": (1.0, 12, "<= 0.77", "<= 0.5"),
    "digits_bilstm": (3.0, 24, "<= 1.0", "<= 0.5"),
}
FLOAT, INT8, WEIGHTS = "onnxruntime, float", "onnxruntime, int8", "onnxruntime, int8_weights"
FIRST = {"predict model.onnx": "<= 0.6 s"}
# A small process that starts another one, and says how much memory and time of a core that took.
SMALL = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss, sum(used[:2]))"
)


def task_of(experiment: str) -> AudioTask:
    """The task of an experiment, as drawn, in eval mode."""
    seconds, labels, _, _ = MODELS.get(experiment, (1.0, 12, "", ""))
    cfg = compose_config([f"experiment={experiment}"])
    parts: Any = OmegaConf.to_container(cfg, resolve=True)
    own = parts["task"].get("background") or []
    names = [*own, *(chr(ord("a") + number) for number in range(labels - len(own)))]
    vocabulary = {"vocabulary": {"kind": "characters", "vocabulary": names}}
    info = DataInfo(tuple(names), cfg.data.sample_rate, seconds, seconds, encoding=vocabulary)
    torch.manual_seed(0)
    return build.assemble({part: parts[part] for part in build.ANSWERING}, info).eval()


def noise(task: AudioTask, count: int) -> list[np.ndarray]:
    size = round(task.clip_seconds * task.sample_rate)
    return list((3000 * np.random.default_rng(0).standard_normal((count, size))).astype(np.int16))


def answers(one: Any, clips: list[np.ndarray]) -> Any:
    return one.frame_outputs(clips) if one.transcribes else one.clip_scores(clips)


def compare(experiment: str, folder: Path, repeats: int, count: int) -> None:
    """Times the answers of torch and of both kinds of files, which have to be alike, and says their sizes."""
    task = task_of(experiment)
    clips, card = noise(task, count), described(task, folder / "none")
    content = onnx_graph(task)
    small = {name: quantized(content, name.split()[1], clips)[0] for name in (INT8, WEIGHTS)}
    files = {FLOAT: content, **small}
    runtimes = {}
    for number, (name, model) in enumerate(files.items()):
        write(folder / f"{experiment}{number}.onnx", model, {**card, "format": name.split()[1]})
        runtimes[name] = Runtime(folder / f"{experiment}{number}.onnx", threads=1)
    for own, other in zip(answers(task, clips), answers(runtimes[FLOAT], clips), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-3)
    contenders = {"torch, eval mode": task, **runtimes}
    seconds = interleaved({n: partial(answers, one, clips) for n, one in contenders.items()}, repeats)
    _, _, for_float, for_int8 = MODELS[experiment]
    sizes = {name: [len(model) / 1000] * repeats for name, model in files.items()}
    targets = {FLOAT: for_float, INT8: for_int8}
    report(f"Answers by one core, {experiment}", seconds, count, targets, {"kB": sizes})
    print()


def compare_log_mel(folder: Path, repeats: int, count: int) -> None:
    """Times `LogMel` itself and in a graph, each with nothing but a linear layer behind it."""
    task = task_of("esc10_cnn2d")
    head = {"_target_": "lightning_audio.networks.heads.LinearHead"}
    simple = {"_target_": "lightning_audio.tasks.classification.Classification"}
    parts = {**task.description["config"], "network": head, "task": simple}
    small: Any = build.assemble(parts, task.info).eval()
    write(folder / "mel.onnx", onnx_graph(small), described(small, folder / "none"))
    runtime, clips = Runtime(folder / "mel.onnx", threads=1), noise(small, count)
    np.testing.assert_allclose(small.clip_scores(clips), runtime.clip_scores(clips), atol=1e-4)
    contenders = {
        "LogMel": lambda: small.clip_scores(clips),
        "in the graph": lambda: runtime.clip_scores(clips),
    }
    seconds = interleaved(contenders, repeats)
    report("Log-mel of 5 s at 22050 Hz, and a linear layer", seconds, count, {"in the graph": "<= 1.5"})
    print()


def compare_streams(folder: Path, repeats: int, seconds: float) -> None:
    """Times a run and its file on a stream that comes 20 ms at a time."""
    task = task_of("speech_commands_trigger")
    content, told = stream_graph(task)
    told["stream"]["detection"] = {}
    write(folder / "stream.onnx", content, {**described(task, folder / "none"), **told})
    own, exported = Stream(task), RuntimeStream(Runtime(folder / "stream.onnx", threads=1))
    samples = (3000 * np.random.default_rng(0).standard_normal(round(seconds * task.sample_rate))).astype(
        np.int16
    )
    chunks = np.split(samples, range(task.sample_rate // 50, len(samples), task.sample_rate // 50))

    def hear(stream: Any) -> Any:
        return [stream.push(chunk) for chunk in chunks]

    contenders = {"torch": lambda: hear(own), "onnxruntime": lambda: hear(exported)}
    share = f"<= {0.05 * seconds:g} s"  # 5 % of a core
    title = f"{seconds:g} s of a stream in chunks of 20 ms, speech_commands_trigger (a clip is a chunk)"
    report(title, interleaved(contenders, repeats), len(chunks), {"onnxruntime": share})
    print()


def run(command: list[str]) -> tuple[float, float]:
    """The memory in MB that a process took at most, which begins with that of the process which started it,
    and its seconds of a core, which tell more than the clock where others are at work."""
    program = [sys.executable, "-m", "lightning_audio", *command]
    # Compiled by the first round, as an installed package is.
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    small = [sys.executable, "-c", SMALL, *program]
    done = subprocess.run(small, stdout=subprocess.PIPE, check=True, env=compiled)
    most, used = done.stdout.split()
    return int(most) / 1000, float(used)


def first_answers(folder: Path, repeats: int) -> None:
    """Times a process from its start to its answer for one file."""
    task = task_of("esc10_cnn2d")
    torch.save({"state_dict": task.state_dict(), "lightning_audio": task.description}, folder / "model.ckpt")
    write(folder / "model.onnx", onnx_graph(task), described(task, folder / "none"))
    soundfile.write(folder / "a.wav", noise(task, 1)[0], task.sample_rate)
    files = {f"predict {file}": folder / file for file in ("model.ckpt", "model.onnx")}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in files}

    def answer(name: str) -> None:
        taken[name].append(run(["predict", str(files[name]), str(folder / "a.wav")]))

    seconds = interleaved({name: partial(answer, name) for name in files}, repeats)
    columns = {
        heading: {name: [one[place] for one in values[1:]] for name, values in taken.items()}
        for place, heading in enumerate(("MB", "s of a core"))
    }
    report("The first answer of a process, esc10_cnn2d", seconds, 1, FIRST, columns)


def main() -> None:
    options = arguments(__doc__ or "", repeats=20)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for experiment in MODELS:
            compare(experiment, folder, options.repeats, 4 if options.quick else 16)
        compare_log_mel(folder, options.repeats, 4 if options.quick else 16)
        compare_streams(folder, options.repeats, 2 if options.quick else 10)
        first_answers(folder, max(options.repeats // 3, 3))


if __name__ == "__main__":
    main()
