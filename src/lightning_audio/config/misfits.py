"""Why a part can't be built from its options, and which of them it does not have."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import hydra

from lightning_audio.errors import UserError, did_you_mean


def why(cause: BaseException, node: dict[str, Any], where: str, arguments: Mapping[str, Any]) -> str:
    """A sentence on what was raised while `node`, the part `where`, was built with these arguments."""
    reason = " ".join(str(cause).split())
    extra = where.rpartition(".")[2]
    if isinstance(cause, ImportError) and extra in _extras():
        return f"{where} needs a package that is not installed: run pip install 'lightning-audio[{extra}]'."
    if "unexpected keyword argument" not in reason:
        return f"{where} can't be built: {reason.rstrip('.!')}; mend its options."
    option = reason.split("'")[1]
    place, part, wrong = next(_unread(node, where, option), (where, node, [option]))
    return _sentence(place, part, wrong, arguments)


def refuse_unread(node: Any, where: str, arguments: Sequence[str] = ()) -> None:
    """Raises UserError where a part, or one within it, is given options that its class does not have."""
    for place, part, wrong in _unread(node, where):
        raise UserError(_sentence(place, part, wrong, arguments))


def _sentence(place: str, part: dict[str, Any], wrong: list[str], arguments: Any) -> str:
    known, takes_more = _options(part)
    # What the part hands on to another one is not named in its signature, but in its YAML.
    options = [*dict.fromkeys([*known, *part])] if takes_more else known
    options = [name for name in options if name not in (*arguments, *wrong) and not name.startswith("_")]
    names = ", ".join(f"{place}.{name}" for name in wrong)
    what = "is no option" if len(wrong) == 1 else "are no options"
    meant = did_you_mean(wrong[0], options) if len(wrong) == 1 else ""
    without = " ".join(f"~{place}.{name}" for name in wrong)
    mend = "" if meant else f"; where an experiment sets {'it' if len(wrong) == 1 else 'them'}, add {without}"
    return f"{names} {what}{meant}: {place} takes {', '.join(options)}{mend}."


def _options(node: dict[str, Any]) -> tuple[list[str], bool]:
    """The options that a target names, and whether it takes others."""
    parameters = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return named, len(named) < len(parameters)


def _unread(node: Any, where: str, option: str = "") -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """The parts within `node` that are given options that they do not have, with dotted names and options.

    One that hands options on to another class shows only the `option` at which that failed.
    """
    if isinstance(node, dict) and "_target_" in node:
        try:
            known, takes_more = _options(node)
            target = hydra.utils.get_object(node["_target_"])
        except Exception:  # of any kind, since importing runs what is there: building tells
            return
        if not (option or inspect.isclass(target) or inspect.isfunction(target)):
            return  # no part at all
        wrong = [name for name in node if name not in known and not name.startswith("_")]
        if takes_more:
            wrong = [name for name in wrong if name == option]
        if wrong:
            yield where, node, wrong
    children = node.items() if isinstance(node, dict) else enumerate(node if isinstance(node, list) else ())
    for name, child in children:
        yield from _unread(child, f"{where}.{name}", option)


def _extras() -> Sequence[str]:
    """The extras of this package; each is named as the option that needs it, such as wandb in `logger`."""
    try:
        return metadata.metadata("lightning-audio").get_all("Provides-Extra") or ()
    except metadata.PackageNotFoundError:  # the sources are on the path, but not installed
        return ()
