"""What a checkpoint holds, and how a task that is ready to use comes out of it.

Beside Lightning's state a checkpoint carries, under `lightning_audio`, the configuration of the parts that
answer (front end, normalisation, network, task) and the facts of the data (labels, sample rate, clip length):
it needs no other file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.utils import deterministic

from lightning_audio import build
from lightning_audio.config import CONF, trust
from lightning_audio.config.renamed import up_to_date
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError, refuse_address
from lightning_audio.io import expanded, from_json, plain, sha256_of, to_json, write_atomically
from lightning_audio.reports.results import read_metrics
from lightning_audio.tasks.base import AudioTask

LAST, PREVIOUS, BEST, AVERAGE = "last.ckpt", "previous.ckpt", "best.ckpt", "average.ckpt"
HIGHEST_RATE = 1_000_000  # Hz
LONGEST_CLIP = 1e6  # seconds
BESIDE = 2_000_000  # numbers that a module may hold beside its weights: filters, windows
MODULES_BESIDE = 10_000  # modules without weights
# What `card` writes into a folder: the weights, and beside them what a checkpoint says of itself.
PUBLISHED, DESCRIPTION = "model.safetensors", "config.json"


def find_checkpoint(place: str | Path) -> Path:
    """The checkpoint of a run folder that its scores are of, or what `card` wrote; a file is itself.

    Raises:
        UserError: there is none, or it is an address.
    """
    refuse_address(place)
    place = expanded(place)
    if place.is_file():
        return place
    if (place / PUBLISHED).is_file():
        return place / PUBLISHED
    folder = place / "checkpoints"
    tested = [read_metrics(place).get("checkpoint")] if (place / "metrics.json").is_file() else []
    for name in [*tested, BEST, LAST]:
        if isinstance(name, str) and Path(name).name == name and (folder / name).is_file():
            return folder / name
    raise UserError(
        f"There is no checkpoint at {place}: give a run folder (logs/NAME/DATE...), a .ckpt file, or what "
        f"needs no training ({', '.join(pretrained())})."
    )


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds: tensors and plain values, and no object of any other kind.

    Raises:
        UserError: its bytes are not those that were saved, it is not one that `torch.save` wrote, or there is
            something else in it.
    """
    verify(path)
    try:
        if path.suffix == Path(PUBLISHED).suffix:
            checkpoint = _published(path)
        elif not is_unpacked_zip(path):
            raise ValueError("no archive of torch")
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # of any kind, since the bytes may be anything
        raise UserError(
            f"{path} can't be read as a checkpoint: it is cut short or of another kind."
        ) from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not isinstance(checkpoint.get("lightning_audio"), dict):
        raise UserError(f"{path} is no checkpoint of lightning_audio: give one that `train` wrote.")
    if not all(isinstance(name, str) and is_plain_tensor(tensor) for name, tensor in weights.items()):
        raise UserError(f"{path} holds what are no weights: it is damaged.")
    size = path.stat().st_size  # a tensor of more numbers is one number many times, and fits no network
    floats = {n: t for n, t in weights.items() if t.is_floating_point() and t.numel() <= size}
    if lost := [name for name, tensor in floats.items() if tensor.isnan().any()]:
        raise UserError(f"{path} holds NaN in {len(lost)} weights such as {lost[0]}: use another checkpoint.")
    return checkpoint


def _published(path: Path) -> dict[str, Any]:
    """What `card` wrote, in the form of a checkpoint.

    Raises:
        UserError: the description is not of these weights, or there is none.
    """
    try:
        described = from_json(path.with_name(DESCRIPTION).read_text(encoding="utf-8"))
        known = described.pop("sha256")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"There is no {DESCRIPTION} beside {path} that `lightning-audio card` wrote: copy both."
        ) from error
    if known != sha256_of(path):
        raise UserError(f"{path} is not what {DESCRIPTION} is of (SHA-256 mismatch): copy both again.")
    return {"state_dict": load_file(path), "lightning_audio": described}


def publish(task: AudioTask, folder: Path) -> None:
    """Writes the weights of a task and its description into a folder, of which `load` makes an equal one."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in task.state_dict().items()}
    content = save(weights)
    write_atomically(folder / PUBLISHED, content)
    described = {**task.description, "sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(folder / DESCRIPTION, to_json(described, 2) + "\n")


def load(place: str | Path, device: str | torch.device = "cpu", allow: Sequence[str] = ()) -> AudioTask:
    """A trained task from a run folder or a checkpoint, in eval mode.

    Args:
        place: run folder, checkpoint file, or a folder that `card` wrote; or the name of a network that
            answers without training, one of those in conf/pretrained.
        device: where it is to run.
        allow: packages of your own whose modules the checkpoint may build, such as `my_project.networks`.

    Raises:
        UserError: there is no checkpoint, it is not one of this project, or it wants to build what is not
            on the allow list or is larger than the weights that it holds.
    """
    if not Path(place).exists() and str(place) in pretrained():
        return load_pretrained(pretrained()[str(place)]).to(device).eval()
    path = find_checkpoint(place)
    checkpoint = read(path)
    answering, facts = description_of(checkpoint, path)
    signed = signed_description(checkpoint["lightning_audio"])
    if allow:
        trust.find_own_packages()
    if own := all(
        trust.is_own(path.absolute().parent.parent, name, content) for name, content in signed.items()
    ):
        trust.find_own_packages()
        bounds: AbstractContextManager[None] = nullcontext()
    else:
        build.refuse_unknown(answering, allow)
        bounds = modules_within(path.stat().st_size, len(checkpoint["state_dict"]))
    try:
        with bounds:
            task = build.assemble(build.without_weights(answering), DataInfo.from_facts(facts))
    except UserError:
        raise
    except Exception as error:  # of any kind, since the description may say anything
        why = f": {error}" if own else ": it is damaged"
        raise UserError(f"{path} describes a network that can't be built{why}.") from error
    try:
        task.load_state_dict(merged(checkpoint, path))
    except RuntimeError as error:
        raise UserError(
            f"{path} holds weights that do not fit the network that it describes: it is damaged, or was "
            "written by another version of lightning_audio."
        ) from error
    if lost := [name for name, weight in task.named_parameters() if not weight.isfinite().all()]:
        raise UserError(f"{path} holds infinite weights such as {lost[0]}: use another checkpoint.")
    return task.to(device).eval()


def merged(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, with what LoRA adds to them: base + scale B A.

    Raises:
        UserError: what it adds does not fit.
    """
    weights, scale = checkpoint["state_dict"], checkpoint["lightning_audio"].get("lora")
    if scale is None:
        return weights
    found = {}
    for name, value in weights.items():
        layer, base, kind = name.rpartition(".base_layer.")
        if base and kind == "weight":
            try:
                a, b = (weights[f"{layer}.lora_{side}.default.weight"] for side in "AB")
                value = value + scale * (b @ a)
            except (LookupError, RuntimeError, TypeError) as error:
                raise UserError(f"{path} has additions that do not fit {layer}: it is damaged.") from error
        if ".lora_" not in name:
            found[f"{layer}.{kind}" if base else name] = value
    return found


def pretrained() -> dict[str, Path]:
    """The networks that answer without training, by name: their files in conf/pretrained."""
    return {file.stem: file for file in sorted((CONF / "pretrained").glob("*.yaml"))}


def load_pretrained(file: Path) -> AudioTask:
    """The task that such a file describes, as checkpoints do; its labels are the last column of a CSV file.

    Raises:
        UserError: the weights or the labels are not there.
    """
    described: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    facts = described["facts"]
    try:
        with Path(facts["labels"]).expanduser().open(newline="", encoding="utf-8") as table:
            facts["labels"] = [row[-1] for row in csv.reader(table)][1:]
    except OSError as error:
        raise UserError(
            f"There is no file of labels {facts['labels']} ({error.strerror}): put it and the weights of "
            f"{file.stem} into one folder, and name that by LIGHTNING_AUDIO_MODELS."
        ) from error
    return build.assemble(described["config"], DataInfo.from_facts(facts))


def description_of(checkpoint: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts that answer, and the facts of the data, as plain values.

    Raises:
        UserError: they are not what `train` writes.
    """
    description = plain(checkpoint["lightning_audio"], f"The description in {path}", path.stat().st_size)
    answering, facts = up_to_date(description.get("config")), description.get("facts")
    if isinstance(answering, dict):
        answering.pop("finetune", None)  # options of an older network, which answers without them
    if (
        not isinstance(answering, dict)
        or set(answering) != set(build.ANSWERING)
        or not isinstance(facts, dict)
    ):
        raise UserError(f"{path} does not describe its network: give a checkpoint that `train` wrote.")
    labels, rate, seconds = (facts.get(name) for name in ("labels", "sample_rate", "clip_seconds"))
    longest = facts.get("longest_seconds", seconds)  # older checkpoints do not say
    if (
        not (isinstance(labels, list) and all(isinstance(label, str) for label in labels))
        or not (isinstance(rate, int) and 0 < rate <= HIGHEST_RATE)
        or not (isinstance(seconds, float | int) and 0 < seconds <= LONGEST_CLIP)
        or not (isinstance(longest, float | int) and 0 < longest <= LONGEST_CLIP)
    ):
        raise UserError(f"{path} does not say what it was trained on: give a checkpoint that `train` wrote.")
    return answering, facts


def signed_description(description: dict[str, Any]) -> dict[str, bytes]:
    """What a run signs of the description in its checkpoints, by name: what it makes of the configuration."""
    return {"checkpoint": json.dumps(description.get("config"), sort_keys=True, default=str).encode()}


@contextmanager
def modules_within(numbers: int, tensors: int) -> Iterator[None]:
    """Raises UserError as soon as the modules that this thread builds hold far more than a file does.

    A tensor is counted when it is registered, and torch has not yet filled or even touched it then: a layer
    that asks for more memory than there is ends in this sentence.

    Args:
        numbers: those that the file may hold: its bytes.
        tensors: how many there are in it.
    """
    thread, held, made = threading.get_ident(), 0, 0

    def count(_: nn.Module, name: str, added: Tensor | nn.Module | None) -> None:
        nonlocal held, made
        if threading.get_ident() == thread and added is not None:
            held += added.numel() if isinstance(added, Tensor) else 0
            made += isinstance(added, nn.Module)
            if held > numbers + BESIDE or made > 100 * tensors + MODULES_BESIDE:
                raise UserError(
                    "The checkpoint describes a far larger network than it holds weights of: it is damaged."
                )

    name = "fill_uninitialized_memory"  # a property of a module, which type checkers do not see
    fills = getattr(deterministic, name)
    with ExitStack() as hooks:
        # Deterministic algorithms would write to all of a tensor before it is registered.
        setattr(deterministic, name, False)
        hooks.callback(setattr, deterministic, name, fills)
        for register in (
            registration.register_module_parameter_registration_hook,
            registration.register_module_buffer_registration_hook,
            registration.register_module_module_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield


def is_unpacked_zip(path: Path) -> bool:
    """Whether it is a zip archive as `torch.save` writes them: nothing in it gets larger when it is read."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    return stored and sum(member.file_size for member in members) <= path.stat().st_size


def is_plain_tensor(value: Any) -> bool:
    """Whether it is a dense tensor of real numbers on the CPU, as weights are."""
    dense = isinstance(value, Tensor) and value.layout is torch.strided
    return dense and not value.is_quantized and not value.is_complex()


def sidecar(path: Path) -> Path:
    """The file that holds the SHA-256 of a checkpoint."""
    return path.with_name(f"{path.name}.sha256")


def recorded(path: Path) -> list[str]:
    """The digests that a checkpoint may have: two after a kill while it was replaced, none if unknown."""
    try:
        lines = sidecar(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in lines if line.strip()]


def verify(path: Path) -> None:
    """Raises UserError where the bytes of a checkpoint are not those that were written.

    Without a record of its SHA-256, the checksums of the archive (CRC-32) tell; torch itself skips them.
    """
    known = recorded(path)
    if not known and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except Exception:  # of any kind, since the bytes may be anything
            broken = "its directory"
        if broken:
            raise UserError(f"{path} is corrupt (CRC-32 mismatch in {broken}): use another checkpoint.")
    if known and (found := sha256_of(path)) not in known:
        raise UserError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]}, and {sidecar(path).name} records "
            f"{known[0][:8]}; use another checkpoint, or put back a copy of this one."
        )
