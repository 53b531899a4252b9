"""Writes a folder for a model hub: weights, configuration and a model card; `load` reads it.

lightning-audio card logs/demo/2026-01-31_12-00-00_a1b2 demo_model
lightning-audio card RUN FOLDER --licence cc-by-4.0 --push OWNER/NAME
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from markupsafe import Markup

from lightning_audio.checkpoint import find_checkpoint, load, publish
from lightning_audio.cli import arguments
from lightning_audio.errors import UserError, cli_errors
from lightning_audio.io import sync
from lightning_audio.metrics.intervals import Score, unit_of
from lightning_audio.reports.html.page import write_page
from lightning_audio.reports.results import changed_results, read_metrics, read_overrides, score_text
from lightning_audio.tasks.base import AudioTask
from lightning_audio.training import saved_config

README = "README.md"
SPLITS = {"test": "test", "val": "dev", "train": "train"}
FEW = 200  # clips: of fewer an interval is wide, which the card says
# By the class of a task: the tag of a hub, and what it does.
KINDS = {
    "Classification": ("audio-classification", "names the one sound of a clip"),
    "MultiLabel": ("audio-classification", "names all sounds of a clip"),
    "Trigger": ("audio-classification", "detects words in a stream, and names the one of a clip"),
    "WindowTrigger": ("audio-classification", "detects words in a stream, and names the one of a clip"),
}
SPEECH = ("automatic-speech-recognition", "transcribes speech")


@cli_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the folder, and publishes it where that is asked for."""
    options = arguments.card(argv)
    folder: Path = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists, and nothing in it is overwritten: name a new or an empty folder.")
    hub = logged_in() if options.push else None  # refused before anything is written
    if problem := changed_results(options.run):
        raise UserError(problem)
    metrics, cfg = read_metrics(options.run), saved_config.saved_config(options.run, options.allow)
    task = load(options.run, allow=options.allow)
    folder.mkdir(parents=True, exist_ok=True)
    publish(task, folder)
    licence = options.data_licence or str(getattr(get_class(cfg.data._target_), "licence", ""))
    content = card_content(options.run, task, metrics, cfg)
    write_page(folder / README, "card.md", licence=options.licence, data_licence=licence, **content)
    sync(folder)
    load(folder, allow=options.allow)  # what can't be read is not said to be written
    print(f"Written: {folder} (try `lightning-audio predict {folder} AUDIO`)")
    if hub:
        print(f"Published: {pushed(hub, folder, options.push)}")


def card_content(run: Path, task: AudioTask, metrics: Mapping[str, Any], cfg: Any) -> dict[str, Any]:
    """What the template of a model card is filled with."""
    kind, does = SPEECH if task.transcribes else KINDS.get(type(task).__name__, KINDS["Classification"])
    scores = {name: Score(**score) for name, score in metrics["scores"].items()}
    data = metrics.get("data") or {}
    command = ["lightning-audio train", *(f"{key}={value}" for key, value in read_overrides(run).items())]
    return {
        "name": f"{cfg.name} ({run.name})",
        "kind": kind,
        "does": does,
        "network": type(task.network).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in task.parameters()):,}",
        "labels": [] if task.transcribes else list(task.labels),
        "info": task.info,
        "data": data,
        "scores": [
            {"split": SPLITS[split], "metric": metric, "score": score_text(metric, score), "n": score.n}
            | {"unit": unit}
            for split in SPLITS
            for metric, score, unit in _of_split(scores, split)
        ],
        "results": [
            {"type": metric, "value": round(score.value, 6)} for metric, score, _ in _of_split(scores, "test")
        ],
        "protocol": protocol(cfg, metrics, task),
        "limits": limits(scores, task),
        "command": Markup(" ".join(command).replace("`", "'")),  # within code nothing is marked up
        "checkpoint": find_checkpoint(run).name,
        "minutes": None if metrics.get("seconds") is None else f"{metrics['seconds'] / 60:.1f}",
        "versions": metrics.get("versions") or {},
        "commit": metrics.get("commit"),
    }


def _of_split(scores: Mapping[str, Score], split: str) -> list[tuple[str, Score, str]]:
    own = {name.partition("/")[2]: score for name, score in scores.items() if name.startswith(f"{split}/")}
    return [(metric, score, unit_of(metric, score)) for metric, score in own.items()]


def protocol(cfg: Any, metrics: Mapping[str, Any], task: AudioTask) -> list[str]:
    """How it was trained and tested, a sentence each."""
    data, clips = metrics.get("data") or {}, (metrics.get("data") or {}).get("clips") or {}
    said = []
    if data.get("fold"):
        said.append(f"Fold {data['fold']} of {len(data.get('folds') or ())} is the test.")
    said.append(
        f"The checkpoint was chosen by {task.monitor[0]} on {clips['val']} clips that nothing learned from."
        if clips.get("val")
        else "There were no validation clips: the last epoch counts."
    )
    tested = any(name.startswith("test/") for name in metrics["scores"])
    said.append("The test was looked at once, after training." if tested else "It was not tested.")
    if init := cfg.get("init"):
        names = [Path(place).name for place in ([init] if isinstance(init, str) else init)]
        said.append(f"It began with the weights of {' and '.join(names)}.")
    return said


def limits(scores: Mapping[str, Score], task: AudioTask) -> list[str]:
    """What a reader should not expect of it, as far as a program knows."""
    what = "words" if task.transcribes else "labels"
    said = [
        f"It knows the {what} and recording conditions of its training data alone: of other microphones, "
        "rooms, noises, speakers and languages these scores say nothing.",
        f"Audio is taken as one channel at {task.sample_rate} Hz; it learned from clips of "
        f"{task.clip_seconds:g} s (the longest {task.info.longest_seconds or task.clip_seconds:g} s).",
    ]
    if not task.transcribes:
        said.append("A sound that is none of its labels gets one of them all the same, or none of several.")
    tested = [score.n for name, score in scores.items() if name.startswith("test/")]
    if tested and min(tested) < FEW:
        said.append(f"It was tested on {min(tested)} clips: see the intervals.")
    return said


def logged_in() -> Any:
    """The hub's own client, where somebody is logged in.

    Raises:
        UserError: it is not installed, or nobody is.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "--push needs huggingface_hub, which is not installed: run pip install 'lightning-audio[hub]'."
        ) from error
    if not huggingface_hub.get_token():
        raise UserError("--push needs a login of yours to the Hugging Face hub: run `hf auth login` first.")
    return huggingface_hub


def pushed(hub: Any, folder: Path, repository: str) -> str:
    """Publishes the folder; returns its address.

    Raises:
        UserError: the hub refused or was not reached; the folder stays.
    """
    try:
        client = hub.HfApi()
        client.create_repo(repository, private=True, exist_ok=True)
        return str(client.upload_folder(repo_id=repository, folder_path=str(folder)))
    except Exception as error:  # of whatever kind the client raises for a network, a name or a right
        raise UserError(
            f"{repository} could not be published ({error}): {folder} is written, and stays."
        ) from error


if __name__ == "__main__":
    main()
