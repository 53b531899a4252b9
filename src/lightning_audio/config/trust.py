"""Files of one's own, and files that somebody sent: a keyed signature tells them apart.

The key lies in the user's own configuration folder and never leaves it. What it signs is what a run folder
wants to build, so that a run of one's own may build one's own classes without being asked again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_audio.errors import UserError
from lightning_audio.io import from_json, to_json, write_atomically

SIGNATURE = "signature.json"  # in a run folder: the digest of each thing that is signed, by its name
KEY_FILE = "LIGHTNING_AUDIO_KEY"  # environment variable: another file for the key
BYTES = 32
LARGEST_FILE, DEEPEST, MOST_NODES = 1_000_000, 30, 20_000  # of YAML; runs write 5 kB, 8 deep, 300
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is fifty times as fast


def sign(run_folder: Path, contents: Mapping[str, bytes]) -> None:
    """Signs what a run folder holds; where no key can be kept it stays unsigned."""
    if key := _key() or _make_key():
        signed = {name: _digest(key, name, content) for name, content in contents.items()}
        write_atomically(run_folder / SIGNATURE, to_json(signed))


def is_own(run_folder: Path, name: str, content: bytes) -> bool:
    """Whether this user signed the thing of this name in a run folder, and it is as it was."""
    try:
        signed = from_json((run_folder / SIGNATURE).read_bytes()[:10_000])[name]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    key = _key()
    return key is not None and hmac.compare_digest(str(signed).encode(), _digest(key, name, content).encode())


def find_own_packages() -> None:
    """Lets parts of one's own be imported from the folder where a program runs, as `python -m` does.

    Only where they are asked for: in a folder that somebody sent, what lies there is not to be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _digest(key: bytes, name: str, content: bytes) -> str:
    return hmac.new(key, name.encode() + b"\0" + content, hashlib.sha256).hexdigest()


def _key_file() -> Path:
    return Path(os.environ.get(KEY_FILE) or platformdirs.user_config_path("lightning_audio") / "key")


def _key() -> bytes | None:
    """The user's key; none where another user could have read or written it."""
    try:
        with _key_file().open("rb") as file:
            found = os.fstat(file.fileno())
            others = os.name == "posix" and (found.st_mode & 0o077 or found.st_uid != os.getuid())
            key = file.read(BYTES)
    except OSError:
        return None
    return key if len(key) == BYTES and not others else None


def _make_key() -> bytes | None:
    """A new key; none where the folder can't be written to, as the home of some clusters' nodes."""
    file = _key_file()
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(secrets.token_bytes(BYTES))
        try:
            os.link(temporary, file)  # of two processes that make one at once, the first one's is kept
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            temporary.replace(file)
        temporary.unlink(missing_ok=True)
    except OSError:
        pass
    return _key()


def read_yaml(file: Path) -> Any:
    """The plain values in a YAML file that Hydra or a run wrote.

    Raises:
        UserError: it can't be read, or no run wrote it.
    """
    try:
        text = _bounded(file, aliases=False)
        return OmegaConf.to_container(OmegaConf.create(text))
    except (
        OSError,
        ValueError,
        AssertionError,
        RecursionError,
        yaml.YAMLError,
        OmegaConfBaseException,
    ) as error:
        raise UserError(f"{file} is no configuration that a run wrote: it is damaged.") from error


def refuse_too_large(folder: Path) -> None:
    """Raises UserError for a YAML file in a conf folder that stands for more than any configuration holds."""
    for file in (file for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml") for file in folder.glob(pattern)):
        try:
            _bounded(file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            pass  # told where it is chosen
        except ValueError as error:
            raise UserError(f"{file} is no configuration: {error}.") from error


def _bounded(file: Path, aliases: bool = True) -> str:
    """The text of a YAML file; raises ValueError where it is larger or deeper than any configuration.

    A few lines of aliases can stand for more values than there is memory: each counts as what it repeats.
    """
    with file.open("rb") as opened:
        text = opened.read(LARGEST_FILE + 1).decode()
    if len(text) > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE} bytes")
    known: dict[str, int] = {}
    sizes, anchors = [0], [None]
    for event in yaml.parse(text, YAML_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            anchors.append(event.anchor)
            if len(sizes) > DEEPEST:
                raise ValueError(f"it is deeper than {DEEPEST} levels")
            continue
        size, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if not aliases or anchor not in known:
                raise ValueError("an alias stands in it")
            size = known[anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = 1 + sizes.pop(), anchors.pop()
        if anchor is not None:
            known[anchor] = size
        sizes[-1] += size
        if sizes[-1] > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES} values")
    return text
