"""The JSON beside an exported model: what its numbers mean, and how well it agrees with its run."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_audio import onnx_file
from lightning_audio.data.audio_file import HIGHEST_RATE
from lightning_audio.data.info import DataInfo
from lightning_audio.errors import UserError
from lightning_audio.inference.detections import detector_by
from lightning_audio.inference.labels import LabelRule, rule_of
from lightning_audio.io import expanded, from_json, plain
from lightning_audio.text.tokenizers import Tokenizer, tokenizer_of

SUFFIX, PROGRAM = ".onnx", ".pt2"  # of exported models
VERSION = 1  # of what stands in it
LONGEST_CLIP = 1e6  # seconds
LARGEST_CHUNK = 2**20  # numbers of a piece of a stream, and of what is remembered of it

WIDEST_BEAM = 2**10
SEARCHED = {"beam", "nbest", "word_bonus", "length_norm", "prune", "ctc_weight", "coverage"}  # of a decoder


def card_of(file: Path) -> Path:
    """Where the JSON of an exported model stands."""
    return file.with_name(f"{file.name}.json")


@dataclass(frozen=True)
class Exported:
    """An exported model that has been read: its bytes, what the data knew, and what its answers mean.

    Of one that names sounds there is a `rule`, of one that transcribes a `tokenizer`.
    """

    content: bytes
    card: dict[str, Any]
    info: DataInfo
    rule: LabelRule | None
    tokenizer: Tokenizer | None
    parts: dict[str, bytes] = field(default_factory=dict)  # graphs behind it, which decoders ask


def read_exported(file: str | Path) -> Exported:
    """The model and its card.

    Raises:
        UserError: one of the two is missing, they do not belong together, or one is damaged or hostile.
    """
    path = expanded(file)
    content = onnx_file.read(file)
    try:
        card = from_json(card_of(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"There is no {card_of(path)} beside the model ({error.strerror}): `lightning-audio export` "
            "writes both."
        ) from error
    except ValueError as error:
        raise UserError(f"{card_of(path)} is no JSON: it is damaged.") from error
    card = plain(card, str(card_of(path)), 2**40)
    if not isinstance(card, dict) or card.get("version") != VERSION:
        raise UserError(
            f"{card_of(path)} is no card of an exported model: `lightning-audio export` writes one."
        )
    if card.get("sha256") != hashlib.sha256(content).hexdigest():
        raise UserError(
            f"{path} is not the model that {card_of(path).name} is of: copy both, or export again."
        )
    try:
        found = understood(content, card)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(
            f"{card_of(path)} does not say what the model gives ({error}): it is damaged."
        ) from error
    return replace(found, parts=_read_parts(path, card))


def part_of(file: Path, name: str) -> Path:
    """Where a graph behind an exported model stands."""
    return file.with_name(f"{file.stem}.{name}{file.suffix}")


def _read_parts(file: Path, card: dict[str, Any]) -> dict[str, bytes]:
    """The graphs behind a model, by name.

    Raises:
        UserError: one is missing, hostile, or belongs to another model.
    """
    parts = {}
    for name, digest in card["parts"]["sha256"].items() if "parts" in card else ():
        place = part_of(file, name)
        if not place.is_file():
            raise UserError(f"{place}, a part of {file.name}, is not there: copy all of its files.")
        parts[name] = onnx_file.read(place)
        if hashlib.sha256(parts[name]).hexdigest() != digest:
            raise UserError(f"{place.name} is no part of {file.name}: copy all of its files.")
    return parts


def _count(shape: Any) -> int:
    """The numbers of a tensor of this shape; raises ValueError where it is none."""
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("shape")
    return math.prod(shape)


def _refuse_odd_parts(told: dict[str, Any]) -> None:
    """Raises ValueError for numbers of a decoder that none has."""
    kinds = {"transducer": {"predictor", "joiner"}, "attention": {"begin", "step"}}
    names = kinds[told["kind"]]
    state = told["state"] if told["kind"] == "transducer" else []
    sizes = [told["width"], *(_count(part["shape"]) for part in state)]
    sizes += [told["max_symbols"]] if told["kind"] == "transducer" else [told["fixed"], told["ctc"] + 1]
    if not all(isinstance(part["integer"], bool) for part in state):
        raise ValueError("state")
    search = told.get("search", {})
    numbers = all(isinstance(value, int | float) for value in search.values())
    if set(search) - SEARCHED or not numbers or search.get("beam", 1) > WIDEST_BEAM:
        raise ValueError("search")
    if set(told["sha256"]) != names or not all(isinstance(n, int) and 0 < n <= LARGEST_CHUNK for n in sizes):
        raise ValueError("parts")


def _refuse_odd_stream(told: dict[str, Any]) -> None:
    """Raises ValueError for numbers of a stream that none has."""
    sizes = [told[name] for name in ("frames", "rows", "hop", "n_fft")]
    sizes += [_count(shape) + 1 for shape in told["states"]]
    if not all(isinstance(size, int) and 0 < size <= LARGEST_CHUNK for size in sizes):
        raise ValueError("stream")
    if not isinstance(told.get("short_last", False), bool):
        raise ValueError("stream")
    if any(isinstance(value, bool) for value in told["detection"].values()):
        raise ValueError("detection")
    if set(told["detection"]) - {"on", "off", "release", "min_gap", "smooth", "ignore"}:
        raise ValueError("detection")


def understood(content: bytes, card: dict[str, Any]) -> Exported:
    """A model by its card; raises errors of many kinds where that is odd."""
    facts = card["facts"]
    info = DataInfo.from_facts(facts)
    if not info.labels or not all(isinstance(label, str) for label in info.labels):
        raise ValueError("labels")
    if not (isinstance(info.sample_rate, int) and 0 < info.sample_rate <= HIGHEST_RATE):
        raise ValueError("sample_rate")
    for name in ("clip_seconds", "longest_seconds"):
        seconds = facts.get(name, 1.0)
        if not (isinstance(seconds, int | float) and math.isfinite(seconds) and 0 < seconds <= LONGEST_CLIP):
            raise ValueError(name)
    if not isinstance(card["ragged"], bool):
        raise ValueError("ragged")
    checkpoint = card.get("checkpoint") or {"sha256": "", "name": ""}
    told = (card["task"], card["run"], checkpoint["sha256"], checkpoint["name"])
    if not all(isinstance(one, str) for one in told):
        raise ValueError("task, run or checkpoint")
    if len(set(info.labels)) < len(info.labels):
        raise ValueError("labels")
    if ("stream" in card or "rule" not in card) and not 0 < float(card["frame_seconds"]) <= LONGEST_CLIP:
        raise ValueError("frame_seconds")
    if "stream" in card:
        _refuse_odd_stream(card["stream"])
        detector_by(card["stream"]["detection"], info.labels, float(card["frame_seconds"]))
    if "parts" in card:
        _refuse_odd_parts(card["parts"])
    if "rule" in card:
        rule = rule_of(card["rule"])
        thresholds = card["rule"].get("thresholds", [0.5] * len(info.labels))
        if len(thresholds) != len(info.labels) or not all(0 <= one <= 1 for one in thresholds):
            raise ValueError("thresholds")
        if not all(0 <= i < len(info.labels) for i in card["rule"].get("background", ())):
            raise ValueError("background")
        return Exported(content, card, info, rule, None)
    return Exported(content, card, info, None, tokenizer_of(dict(info.vocabulary or {})))
