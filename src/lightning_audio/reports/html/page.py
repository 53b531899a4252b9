"""Templates into one HTML file: what stands in results is shown as text, whatever it holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_audio.io import write_atomically
from lightning_audio.reports.tables import columns_of


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightning_audio.reports.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["columns"] = columns_of
    return environment


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Fills a template of `templates/` and writes it whole or not at all."""
    write_atomically(path, _templates().get_template(template).render(**content), to_disk=False)
    return path
