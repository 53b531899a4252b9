"""What comes out of a file that somebody sent: plain values, and modules no larger than the file."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.utils import deterministic

from lightning_audio.errors import UserError, is_control

DEEPEST = 20  # values within values
MOST_VALUES = 300_000  # large vocabularies have tens of thousands
MOST_OPTIONS = 5_000  # in a configuration; one for each class may be among them
ANY_NUMBER = 1_000_000  # such as a sample rate: up to this, whatever the size of the file
BESIDE = 2_000_000  # numbers that a module may hold beside its weights: filters, windows
MODULES_BESIDE = 10_000  # modules without weights


def plain(value: Any, what: str, largest: int, most: int = MOST_VALUES) -> Any:
    """A copy in dicts, lists, text, numbers and None; names what is no such thing by `what`.

    Args:
        largest: that a whole number may be; what counts something is no larger than the file that has it.
        most: values in all.

    Raises:
        UserError: other kinds of values, too many or too deep ones, text that a terminal would obey.
    """
    left = most

    def copied(node: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise UserError(f"{what} is larger or deeper than any that `train` writes: it is damaged.")
        if isinstance(node, dict):
            return {copied(key, depth): copied(child, depth + 1) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return [copied(child, depth + 1) for child in node]
        if isinstance(node, str) and not node.isprintable() and any(map(is_control, node)):
            raise UserError(f"{what} holds control characters ({node[:40]!r}), which no terminal should get.")
        if type(node) is int and abs(node) > max(largest, ANY_NUMBER):
            raise UserError(
                f"{what} holds the number {node:.3g}, far too large for its weights: it is damaged."
            )
        if node is not None and type(node) not in (str, bool, int, float):
            raise UserError(f"{what} holds a {type(node).__name__}, which is no plain value: it is damaged.")
        return node

    return copied(value, 0)


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
    """Whether it is a dense tensor on the CPU, as weights are."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
