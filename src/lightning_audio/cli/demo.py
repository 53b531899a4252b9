"""Opens a page on this machine in which a trained run hears files and the microphone.

lightning-audio demo logs/demo/2026-01-31_12-00-00_a1b2
lightning-audio demo RUN --port 8000 --max-seconds 60
lightning-audio demo model.onnx                       (of `export`)

It needs the extra `demo` (Gradio), listens on the loopback address alone, makes no public link, counts
nothing, and asks nothing of any other machine. What is recorded or uploaded is removed when it ends.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lightning_audio.cli import arguments
from lightning_audio.cli.demo_answers import Listener, listens, shown_of, write_examples
from lightning_audio.cli.predict import is_exported, loaded, runs_of
from lightning_audio.errors import UserError, cli_errors

HOST = "127.0.0.1"
TOP = 10  # labels whose probabilities are shown
KEPT = 3600  # seconds after which a recording is removed while the page is open
EVERY = 0.5  # seconds of a piece of the microphone
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "run"}
TABLE = ["from (s)", "to (s)", "what", "score"]


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Opens the page, says where it is, and waits for Ctrl-C."""
    options = arguments.demo(argv)
    if not options.max_seconds > 0 or not options.max_megabytes > 0 or options.examples < 0:
        raise UserError(
            "--max-seconds and --max-megabytes are limits above 0, --examples a number from 0 on."
        )
    with tempfile.TemporaryDirectory(prefix="lightning_audio_demo_") as folder:
        gradio = imported(Path(folder))
        task = loaded(runs_of(options), options)
        examples = examples_of(options, Path(folder))
        page = built(gradio, task, options, examples)
        print(f"Demo of {options.run}: {opened(page, options)}   (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def imported(folder: Path) -> Any:
    """Gradio, which neither counts nor asks anything elsewhere, and keeps its files in this folder.

    Raises:
        UserError: it is not installed.
    """
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder),
    }
    warnings.filterwarnings("ignore", module="gradio")  # of its own use of pandas
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            "The demo needs gradio, which is not installed: run pip install 'lightning-audio[demo]'."
        ) from error
    return gradio


def examples_of(options: argparse.Namespace, folder: Path) -> list[tuple[Path, str]]:
    """Clips of the data of one run; none, and a sentence, where they are not here."""
    if not options.examples or is_exported(options.run):
        return []
    from lightning_audio.cli.report import data_of

    data = data_of(Path(options.run), options.allow, "no examples")
    return list(write_examples(data, folder, options.examples)) if data else []


def built(gradio: Any, task: Any, options: argparse.Namespace, examples: Sequence[tuple[Path, str]]) -> Any:
    """The page: a recording and what is said of it; for runs that can, the microphone as it is heard."""
    what = "transcribes speech" if task.transcribes else f"names {len(task.labels)} sounds"
    with gradio.Blocks(analytics_enabled=False, title="lightning_audio", delete_cache=(KEPT, KEPT)) as page:
        name = Path(options.run).resolve()
        gradio.HTML(f"<h1>{escape(f'{name.parent.name} / {name.name}')}</h1><p>It {what}.</p>")
        if not listens(task):
            recording_tab(gradio, task, options, examples)
            return page
        with gradio.Tab("Recording"):
            recording_tab(gradio, task, options, examples)
        with gradio.Tab("Live"):
            live_tab(gradio, task)
    return page


def recording_tab(
    gradio: Any, task: Any, options: argparse.Namespace, examples: Sequence[tuple[Path, str]]
) -> None:
    """A file or a stretch of the microphone, and below it the answer."""
    audio = gradio.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],
        label=f"recording, up to {options.max_seconds:g} s and {options.max_megabytes:g} MB",
    )
    if examples:
        files, names = zip(*examples, strict=True)
        gradio.Examples(
            [[str(file)] for file in files], audio, example_labels=list(names), label="Clips of its data"
        )
    sentence = gradio.Textbox(label="answer", interactive=False, lines=1, elem_id="answer")
    scores = gradio.Label(
        label="probabilities", num_top_classes=TOP, show_heading=False, visible=not task.transcribes
    )
    picture = gradio.Image(
        label="spectrogram and time line",
        show_label=False,
        buttons=["download"],
        alt_text="log-mel spectrogram, and what is heard when",
    )
    table = gradio.Dataframe(headers=TABLE, label="what is heard when", interactive=False, max_height=400)

    def answer(file: str | None) -> tuple[str, dict[str, float] | None, np.ndarray | None, list[list[Any]]]:
        if file is None:
            return "", None, None, []
        shown = shown_of(task, file, options.max_seconds)
        rows = [
            [f"{start:.2f}", f"{end:.2f}", what, f"{score:.2f}"] for start, end, what, score in shown.rows
        ]
        return shown.sentence, shown.scores or None, shown.picture, rows

    audio.change(answer, audio, [sentence, scores, picture, table], api_name="answer", **ONE_AT_A_TIME)


def live_tab(gradio: Any, task: Any) -> None:
    """The microphone, what was detected in it, and the scores of the last piece."""
    audio = gradio.Audio(
        sources=["microphone"], type="filepath", streaming=True, label="microphone", buttons=[]
    )
    scores = gradio.Label(label="heard now", num_top_classes=TOP, show_heading=False)
    table = gradio.Dataframe(
        headers=["time (s)", "what", "score"],
        label="detected, the latest first",
        interactive=False,
        elem_id="detected",
    )
    state = gradio.State(None)

    def shown(listener: Listener) -> tuple[Listener, dict[str, float], list[list[str]]]:
        rows = [[f"{time:.2f}", label, f"{score:.2f}"] for time, label, score in reversed(listener.found)]
        return listener, listener.scores, rows

    def push(file: str, listener: Listener | None) -> tuple[Listener, dict[str, float], list[list[str]]]:
        listener = listener or Listener(task)
        try:
            listener.push(file)
        except UserError as error:
            raise gradio.Error(str(error)) from error
        return shown(listener)

    def finish(listener: Listener | None) -> tuple[Listener, dict[str, float], list[list[str]]]:
        listener = listener or Listener(task)
        listener.finish()
        return shown(listener)

    told = [state, scores, table]
    audio.start_recording(lambda: None, None, state)
    audio.stream(push, [audio, state], told, stream_every=EVERY, time_limit=None, **ONE_AT_A_TIME)
    audio.stop_recording(finish, state, told, **ONE_AT_A_TIME)


def opened(page: Any, options: argparse.Namespace) -> str:
    """Starts to serve the page; returns its address.

    Raises:
        UserError: the port is not free.
    """
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=options.port,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=round(options.max_megabytes * 1e6),
        )
    except OSError as error:
        raise UserError(f"There is no free port for the page ({error}): name another by --port.") from error
    return str(address)


if __name__ == "__main__":
    main()
