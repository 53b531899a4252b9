"""Files below a folder: links are followed, each folder is looked through once, nothing hidden is taken."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_log = logging.getLogger(__name__)


def files_below(folder: str | Path) -> Iterator[Path]:
    """All files below a folder in the order of their names; what is left out for a reason is told.

    A link to a folder is followed unless it leads to one that was looked through already, or to one that
    `folder` lies in: below that stand the files of its neighbours. A folder that can't be read is left out.
    """
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, Path(folder).resolve().parents)}

    def unreadable(error: OSError) -> None:
        _warn_once(f"Left out: the folder {error.filename}, which can't be read ({error.strerror}).")

    def is_new(path: Path) -> bool:
        status = path.stat()
        known = (status.st_dev, status.st_ino) in seen
        seen.add((status.st_dev, status.st_ino))
        if known:
            _warn_once(
                f"Left out: the link {path}, since the folder that it leads to is looked through or holds it."
            )
        return not known

    is_new(Path(folder))
    for parent, within, names in os.walk(folder, onerror=unreadable, followlinks=True):
        # Real folders first, so that of a folder and a link to it the link is left out.
        visible = sorted(name for name in within if not name.startswith("."))
        links_last = sorted(visible, key=lambda name: Path(parent, name).is_symlink())
        new = {name for name in links_last if is_new(Path(parent, name))}
        within[:] = [name for name in visible if name in new]
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


@cache  # the same folder may be looked through for each fold
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)
