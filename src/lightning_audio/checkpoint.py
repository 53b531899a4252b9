"""What a checkpoint holds, and how a task that is ready to use comes out of it.

Beside Lightning's state a checkpoint carries, under `lightning_audio`, the configuration of the parts that
answer (front end, normalisation, network, task) and the facts of the data (labels, sample rate, clip length):
it needs no other file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_audio import build
from lightning_audio.checkpoint_files import BEST, LAST, verify
from lightning_audio.errors import UserError
from lightning_audio.results import read_metrics
from lightning_audio.tasks.base import AudioTask


def find_checkpoint(place: str | Path) -> Path:
    """The checkpoint of a run folder that its scores are of; a checkpoint file is itself.

    Raises:
        UserError: there is none.
    """
    place = Path(place).expanduser()
    if place.is_file():
        return place
    folder = place / "checkpoints"
    tested = [read_metrics(place).get("checkpoint")] if (place / "metrics.json").is_file() else []
    for name in [*tested, BEST, LAST]:
        if name and (folder / name).is_file():
            return folder / name
    raise UserError(
        f"There is no checkpoint at {place}: give a run folder (logs/NAME/DATE...) or a .ckpt file."
    )


def load(place: str | Path, device: str | torch.device = "cpu", allow: Sequence[str] = ()) -> AudioTask:
    """A trained task from a run folder or a checkpoint, in eval mode.

    Args:
        place: run folder or checkpoint file.
        device: where it is to run.
        allow: packages of your own whose modules the checkpoint may build, such as `my_project.networks`.

    Raises:
        UserError: there is no checkpoint, it is damaged or not one of this project, or it wants to build
            what is not on the allow list.
    """
    path = find_checkpoint(place)
    verify(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, since the bytes may be anything
        raise UserError(
            f"{path} can't be read as a checkpoint: it is cut short or of another kind."
        ) from error
    description = checkpoint.get("lightning_audio") if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict):
        raise UserError(f"{path} is no checkpoint of lightning_audio: give one that `train` wrote.")
    build.refuse_unknown(description["config"], allow)
    if "weights" in description["config"]["network"]:
        description["config"]["network"]["weights"] = None  # the checkpoint has them
    task = build.assemble(description["config"], description["facts"])
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"{path} holds weights that do not fit the network that it describes: it is damaged, or was "
            "written by another version of lightning_audio."
        ) from error
    return task.to(device).eval()
